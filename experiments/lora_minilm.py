"""`minilm_sentiment` with low-rank updates: fewer than two in a hundred parameters are trained.

    python -m experiments.lora_minilm

Not measured to its end yet. Weights as for `minilm_sentiment`.
"""

import dataclasses

from experiments import minilm_sentiment
from research.launch import launch
from research.models.lora import LORA_AND_HEAD_RATES, LoRA
from research.train.optimizers import Optimizer

CONFIG = dataclasses.replace(
    minilm_sentiment.CONFIG,
    model=dataclasses.replace(minilm_sentiment.CONFIG.model, lora=LoRA(rank=8)),
    optimizer=Optimizer("adamw", peak=1e-3, clip=1.0, rate_rules=LORA_AND_HEAD_RATES),
)
EXPECTED: dict[str, tuple[float, float]] = {}  # not measured to its end yet

if __name__ == "__main__":
    launch(CONFIG)
