"""A GPT with the sizes of Llama 2 7B on random tokens: see what it takes before a cluster is booked.

    python -m experiments.gpt_7b --plan-memory --devices 8 64 512

Expected: each of 8, 64 and 512 devices of 80 GB fits; 30, 12 and 10 GB of each are taken at one row of 4096 tokens at a
time. Half a minute of processor time.
"""

from research.core.mesh import MeshConfig
from research.data.synthetic import TokenData
from research.launch.launcher import launch
from research.models.gpt import GPT
from research.tasks.language_modelling import LanguageModelling
from research.train.experiment import Experiment
from research.train.optimizers import Optimizer
from research.train.schedules import Schedule

CONFIG = Experiment(
    data=TokenData(vocabulary=32000, length=4096, examples=1024),
    model=GPT(
        depth=32,
        width=4096,
        heads=32,
        mlp_dim=11008,
        context=4096,
        positions="rotary",
        activation="swiglu",
        norm="rms",
        tied=False,
        bias=False,
        remat=True,
        scan=True,
    ),
    task=LanguageModelling(),
    optimizer=Optimizer("adamw", learning_rate=3e-4, b2=0.95, weight_decay=0.1, clip=1.0),
    schedule=Schedule("cosine", warmup=2000, final=0.1),
    mesh=MeshConfig(fsdp=8),
    steps=500_000,
    batch_size=1024,
    accumulate=128,
    compute="bfloat16",
)
EXPECTED: dict[str, tuple[float, float]] = {}

if __name__ == "__main__":
    launch(CONFIG)
