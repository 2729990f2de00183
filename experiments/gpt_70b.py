"""A GPT with the sizes of Llama 3 70B on random tokens: see what it takes before a cluster is booked.

    python -m experiments.gpt_70b --plan-memory --devices 8 64 512

Expected: 64 and 512 devices of 80 GB fit, with 46 and 23 GB of each taken at one row of 8192 tokens at a time; 8 do
not. Half a minute of processor time.
"""

import dataclasses

from experiments import gpt_7b
from research.core.mesh import MeshConfig
from research.data.synthetic import TokenData
from research.launch.launcher import launch
from research.train.optimizers import Optimizer

SIZES = {"depth": 80, "width": 8192, "heads": 64, "num_kv_heads": 8, "mlp_dim": 28672, "context": 8192}
CONFIG = dataclasses.replace(
    gpt_7b.CONFIG,
    data=TokenData(vocabulary=128256, length=8192, examples=1024),
    model=dataclasses.replace(gpt_7b.CONFIG.model, **SIZES),
    optimizer=Optimizer("adamw", learning_rate=1.5e-4, b2=0.95, weight_decay=0.1, clip=1.0),
    mesh=MeshConfig(fsdp=8, tensor=8),
    batch_size=512,
    accumulate=64,
)
EXPECTED: dict[str, tuple[float, float]] = {}

if __name__ == "__main__":
    launch(CONFIG)
