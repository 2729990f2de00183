"""A GPT with the sizes of Llama 3 70B on random tokens: see what it takes before a cluster is booked.

    python -m experiments.gpt_70b --explain-memory --devices 8 64 512

Expected: 64 and 512 devices of 80 GB fit, with 46 and 23 GB of each taken at one row of 8192 tokens at a time; 8 do
not. Half a minute of processor time.
"""

from research.core.mesh import MeshConfig
from research.data.synthetic import TokenData
from research.launch import launch
from research.models.gpt import GPT
from research.tasks.language_modelling import LanguageModelling
from research.train.experiment import Experiment
from research.train.optimizers import Optimizer
from research.train.schedules import Schedule

CONFIG = Experiment(
    data=TokenData(vocabulary=128256, length=8192, examples=1024),
    model=GPT(
        depth=80,
        width=8192,
        heads=64,
        groups=8,
        hidden=28672,
        context=8192,
        positions="rotary",
        activation="swiglu",
        norm="rms",
        tied=False,
        bias=False,
        remat=True,
        scan=True,
    ),
    task=LanguageModelling(),
    optimizer=Optimizer("adamw", peak=1.5e-4, b2=0.95, weight_decay=0.1, clip=1.0),
    schedule=Schedule("cosine", warmup=2000, final=0.1),
    mesh=MeshConfig(fsdp=8, tensor=8),
    steps=500_000,
    batch_size=512,
    accumulate=64,
    compute="bfloat16",
)
EXPECTED: dict[str, tuple[float, float]] = {}

if __name__ == "__main__":
    launch(CONFIG)
