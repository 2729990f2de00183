"""A small T5 learns English by span corruption: it writes the text that is missing in the gaps of a text.

    python -m experiments.t5_austen

Expected: 4.4 nats per token of the targets on the validation chapters, of which 28 % are guessed right; the frequencies
of the tokens have 6.2, and would have 4.5 if they knew the sentinels and the end, 7 of the 26 tokens of a target. So
few steps teach little more. About three minutes on two cores.
"""

from research.data.text.text_data import TextData
from research.data.text.tokenizers import TokenizerConfig
from research.evaluate.masked import MaskedEvaluator
from research.launch.launcher import launch
from research.models.t5 import T5
from research.tasks.span_corruption import SpanCorruption
from research.train.experiment import Experiment
from research.train.optimizers import Optimizer
from research.train.schedules import Schedule

CONFIG = Experiment(
    data=TextData(dataset="austen", length=128, tokenizer=TokenizerConfig("bpe", vocabulary_size=2048, special="t5")),
    model=T5(depth=2, width=128, heads=4, activation="geglu", tied=False),
    task=SpanCorruption(),
    optimizer=Optimizer("muon", learning_rate=3e-3, b2=0.98, weight_decay=0.01, clip=1.0),
    schedule=Schedule("cosine", warmup=50, final=0.1),
    evaluators=(MaskedEvaluator(split="validation"),),
    steps=600,
    batch_size=16,
    evaluate_every=300,
    checkpoint_every=150,
)
EXPECTED = {"validation.loss": (4.2, 4.5), "validation.accuracy": (0.26, 0.31)}

if __name__ == "__main__":
    launch(CONFIG)
