"""A character-level GPT learns to write like Jane Austen, in at most five minutes on two CPU cores.

    python -m experiments.gpt_austen

Expected: 1.28 nats per character on the validation chapters, where the 3-gram has 1.90. Three to four minutes on two
cores.
"""

from research.data.text.text_data import TextData
from research.evaluate.language import LanguageEvaluator
from research.launch.launcher import launch
from research.models.gpt import GPT
from research.tasks.language_modelling import LanguageModelling
from research.train.experiment import Experiment
from research.train.optimizers import Optimizer
from research.train.schedules import Schedule

CONFIG = Experiment(
    data=TextData(dataset="austen", length=128),
    model=GPT(
        depth=4, width=128, heads=4, context=128, positions="rotary", activation="swiglu", norm="rms", bias=False
    ),
    task=LanguageModelling(sample_tokens=300),
    optimizer=Optimizer("adamw", learning_rate=3e-3, b2=0.99, weight_decay=0.1, clip=1.0),
    schedule=Schedule("cosine", warmup=100, final=0.1),
    evaluators=(LanguageEvaluator(split="validation"),),
    steps=1400,
    batch_size=16,
    evaluate_every=700,
    checkpoint_every=175,
    sample_every=350,
)
EXPECTED = {"validation.loss": (1.2, 1.5), "validation.bits_per_character": (1.7, 2.2)}

if __name__ == "__main__":
    launch(CONFIG)
