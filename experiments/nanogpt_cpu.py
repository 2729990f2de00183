"""The public nanoGPT setting for a CPU, on Jane Austen: 4 layers, 4 heads, width 128, context 64, batch 12, 2000 steps.

    python -m experiments.nanogpt_cpu

Expected: 1.64 nats per character on the validation chapters. Two minutes on two cores.
PyTorch with the same setting on the same split: `make test-peer` (tests/parity).
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
    data=TextData(dataset="austen", length=64),
    model=GPT(depth=4, width=128, heads=4, context=64, bias=False),
    task=LanguageModelling(),
    optimizer=Optimizer("adamw", learning_rate=1e-3, b1=0.9, b2=0.99, weight_decay=0.1, clip=1.0),
    schedule=Schedule("cosine", warmup=100, final=0.1),
    evaluators=(LanguageEvaluator(),),
    steps=2000,
    batch_size=12,
    evaluate_every=500,
    sample_every=1000,
)
EXPECTED = {"validation.loss": (1.5, 1.8)}

if __name__ == "__main__":
    launch(CONFIG)
