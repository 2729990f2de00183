"""A small BERT learns English by masked language modelling on Jane Austen's novels, to be fine-tuned later.

    python -m experiments.bert_pretrain

Not measured to its end yet; about ten minutes on two cores. `bert_sentiment` starts from it.
"""

from research.data.text import TextData
from research.data.tokenizers import TokenizerConfig
from research.evaluate.evaluators import Evaluator
from research.launch import launch
from research.models.bert import BERT
from research.tasks.masked_language_modelling import MaskedLanguageModelling
from research.train.experiment import Experiment
from research.train.optimizers import Optimizer
from research.train.schedules import Schedule

CONFIG = Experiment(
    data=TextData(dataset="austen", length=128, tokenizer=TokenizerConfig("wordpiece", vocabulary_size=8192)),
    model=BERT(depth=4, width=192, heads=6, context=256, dropout=0.1),
    task=MaskedLanguageModelling(),
    optimizer=Optimizer("muon", peak=3e-3, b2=0.98, weight_decay=0.01, clip=1.0),
    schedule=Schedule("cosine", warmup=100, final=0.1),
    evaluators=(Evaluator("masked", split="validation"),),
    steps=1500,
    batch_size=16,
    evaluate_every=500,
    checkpoint_every=250,
)
EXPECTED: dict[str, tuple[float, float]] = {}  # not measured to its end yet

if __name__ == "__main__":
    launch(CONFIG)
