"""A character-level GPT with a mixture of experts: four MLPs in each block, of which every token uses two.

    python -m experiments.moe_austen

Expected: 1.5 nats per character on the validation chapters, where the 3-gram has 1.90. Two to four minutes on two
cores.
"""

import dataclasses

from experiments import gpt_austen
from research.launch.launcher import launch
from research.train.schedules import Schedule

CONFIG = dataclasses.replace(
    gpt_austen.CONFIG,
    model=dataclasses.replace(gpt_austen.CONFIG.model, depth=3, width=96, mlp_dim=192, experts=4, experts_per_token=2),
    schedule=Schedule("cosine", warmup=50, final=0.1),
    steps=600,
    evaluate_every=300,
    checkpoint_every=150,
    sample_every=300,
)
EXPECTED = {"validation.loss": (1.4, 1.6)}

if __name__ == "__main__":
    launch(CONFIG)
