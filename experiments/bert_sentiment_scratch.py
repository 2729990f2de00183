"""The network of `bert_sentiment` without its pretraining: what the pretraining is worth.

    python -m experiments.bert_sentiment_scratch

Expected: see RESULTS.md.
"""

import dataclasses

from experiments import bert_pretrain, bert_sentiment
from research.data.tokenizers import TokenizerConfig
from research.launch import launch

CONFIG = dataclasses.replace(
    bert_sentiment.CONFIG,
    data=dataclasses.replace(bert_sentiment.CONFIG.data, tokenizer=TokenizerConfig("wordpiece", vocabulary_size=8192)),
    model=dataclasses.replace(
        bert_pretrain.CONFIG.model, vocabulary=8192, head="sequence", pooling="mean", pooler=False
    ),
)

if __name__ == "__main__":
    launch(CONFIG)
