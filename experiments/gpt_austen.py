"""A character-level GPT learns to write like Jane Austen, in at most five minutes on two CPU cores.

    python -m experiments.gpt_austen

Expected: see RESULTS.md.
"""

from research.data.text import TextData
from research.evaluate.evaluators import Evaluator
from research.launch import launch
from research.models.gpt import GPT
from research.tasks.language_modelling import LanguageModelling
from research.train.experiment import Experiment
from research.train.optimizers import Optimizer
from research.train.schedules import Schedule

CONFIG = Experiment(
    data=TextData(dataset="austen", length=64),
    model=GPT(depth=4, width=128, heads=4, context=64),
    task=LanguageModelling(),
    optimizer=Optimizer("adamw", peak=1e-3, b2=0.99, weight_decay=0.1, clip=1.0),
    schedule=Schedule("cosine", warmup=100, final=0.1),
    evaluators=(Evaluator("language", split="validation"),),
    steps=2000,
    batch_size=32,
    sample_every=500,
)

EXPECTED = {"validation.loss": (1.2, 1.5), "validation.bits_per_character": (1.7, 2.2)}

if __name__ == "__main__":
    launch(CONFIG)
