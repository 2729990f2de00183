"""A BERT with two labels, trained from scratch: the articles' example, and what pretraining has to beat.

    python -m experiments.bert_two_labels
    python -m research.predict runs/bert_two_labels --text "Hello, my dog is cute" --logits

Expected: 79 % of the test sentences, as many as TF-IDF with logistic regression; it is the network of `bert_sentiment`
without its pretraining. Three to five minutes on two cores.
"""

import dataclasses

from experiments import bert_pretrain, bert_sentiment
from research.data.text.tokenizers import TokenizerConfig
from research.launch.launcher import launch

CONFIG = dataclasses.replace(
    bert_sentiment.CONFIG,
    data=dataclasses.replace(bert_sentiment.CONFIG.data, tokenizer=TokenizerConfig("wordpiece", vocabulary_size=8192)),
    model=dataclasses.replace(
        bert_pretrain.CONFIG.model, vocabulary=8192, head="sequence", pooling="mean", pooler=False
    ),
)
EXPECTED = {"test.accuracy": (0.76, 0.82)}

if __name__ == "__main__":
    launch(CONFIG)
