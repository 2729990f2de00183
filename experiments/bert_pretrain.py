"""A small BERT learns English by masked language modelling on Jane Austen's novels, to be fine-tuned later.

    python -m experiments.bert_pretrain

Expected: 5.8 nats per masked token of the validation chapters, where the frequencies of the tokens alone have 6.3;
ten to fifteen minutes on two cores. `bert_sentiment` starts from it.
"""

from research.data.text.text_data import TextData
from research.data.text.tokenizers import TokenizerConfig
from research.evaluate.masked import MaskedEvaluator
from research.launch.launcher import launch
from research.models.bert import BERT
from research.tasks.masked_language_modelling import MaskedLanguageModelling
from research.train.experiment import Experiment
from research.train.optimizers import Optimizer
from research.train.schedules import Schedule

CONFIG = Experiment(
    data=TextData(dataset="austen", length=128, tokenizer=TokenizerConfig("wordpiece", vocabulary_size=8192)),
    model=BERT(depth=4, width=192, heads=6, context=256, dropout=0.1),
    task=MaskedLanguageModelling(),
    optimizer=Optimizer("muon", learning_rate=3e-3, b2=0.98, weight_decay=0.01, clip=1.0),
    schedule=Schedule("cosine", warmup=100, final=0.1),
    evaluators=(MaskedEvaluator(split="validation"),),
    steps=1500,
    batch_size=16,
    evaluate_every=500,
    checkpoint_every=250,
)
EXPECTED = {"validation.loss": (5.6, 6.0), "validation.accuracy": (0.11, 0.15)}

if __name__ == "__main__":
    launch(CONFIG)
