"""`minilm_sentiment` with low-rank updates: fewer than two in a hundred parameters are trained.

    python -m experiments.lora_minilm

Expected: 88 % of the test sentences, where all parameters together reach 89 %. Weights as for `minilm_sentiment`; about
ten minutes on two cores.
"""

import dataclasses

from experiments import minilm_sentiment
from research.launch.launcher import launch
from research.models.wrappers.lora import LoRA
from research.train.optimizers import Optimizer

CONFIG = dataclasses.replace(
    minilm_sentiment.CONFIG,
    model=dataclasses.replace(minilm_sentiment.CONFIG.model, lora=LoRA(rank=8, trained="^(head|pooler)/")),
    optimizer=Optimizer("adamw", learning_rate=1e-3, clip=1.0),
)
EXPECTED = {"test.accuracy": (0.86, 0.9)}

if __name__ == "__main__":
    launch(CONFIG)
