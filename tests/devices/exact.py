"""On eight virtual devices: the SHA-256 of the parameters after some exact steps on 1, 2, 4 and 8 of them, as JSON.

XLA_FLAGS=--xla_force_host_platform_device_count=8 NPROC=8 python tests/devices/exact.py
"""

import dataclasses
import json

import numpy as np

from research.core import trees
from research.core.mesh import MeshConfig
from research.core.shapes import Spec
from research.data.dataset import Data, Rows
from research.data.vision.augmentation import Augmentation
from research.models.gpt import GPT
from research.models.mlp import MLP
from research.models.model import Model
from research.models.wrappers.lora import LoRA, with_lora
from research.runtime import backend
from research.tasks.classification import Classification
from research.tasks.language_modelling import LanguageModelling
from research.train import exact
from research.train.experiment import Experiment, assemble
from research.train.loop import prepare_batches
from research.train.optimizers import Optimizer

STEPS = 6
RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.integers(0, 31, (64, 33)).astype(np.int32)
TEXT = Rows({"inputs": TOKENS[:, :-1], "targets": TOKENS[:, 1:], "mask": np.ones((64, 32), np.float32)})
PICTURES = RANDOM.integers(0, 256, (64, 8, 8, 3)).astype(np.uint8)
LABELLED = Rows({"inputs": PICTURES, "labels": (PICTURES[:, 0, 0, 0] % 4).astype(np.int32)})
TURNING = {"positions": "rotary", "activation": "swiglu", "norm": "rms", "bias": False}
SIZES = {"depth": 1, "width": 64, "heads": 4, "context": 32}
ADAM = Optimizer("adamw", learning_rate=1e-2, weight_decay=0.1, clip=1.0, ema=0.9)
PICTURE_TASK = Classification(augmentation=Augmentation(crop=1, flip=True))


@dataclasses.dataclass(frozen=True)
class Adapted:
    """An MLP with low-rank updates, whose kernels are fixed: they are no part of what the devices add up."""

    model: MLP = MLP((32, 32), dropout=0.2)
    lora: LoRA = LoRA(rank=4, pattern="kernel$", trained="bias$")

    def build(self, spec: Spec) -> Model:
        return with_lora(self.model.build(spec), self.lora)


CASES = {
    "gpt": Experiment(Data({"train": TEXT}, 31), GPT(dropout=0.2, **SIZES, **TURNING), LanguageModelling(), ADAM),
    "low-rank": Experiment(Data({"train": LABELLED}, 4), Adapted(), PICTURE_TASK, ADAM),
}


def trained(experiment: Experiment, devices: int, *, exactly: bool) -> str:
    """Returns the SHA-256 of the parameters after STEPS steps on so many devices."""
    experiment = dataclasses.replace(experiment, exact=exactly, mesh=MeshConfig(data=devices), steps=STEPS)
    assembly = assemble(experiment, experiment.data)
    step, batches, state = assembly.compiled_step(), prepare_batches(assembly), assembly.initial_state()
    for index in range(STEPS):
        state, _ = step(state, batches(index))
    return trees.digest(state)


def main() -> None:
    backend.start(exact.THREADS)
    counts = {"gpt": (1, 2), "low-rank": (1, 2, 4)}  # each one more compiles the programs again
    hashes = {name: [trained(case, devices, exactly=True) for devices in counts[name]] for name, case in CASES.items()}
    ordinary = [trained(CASES["low-rank"], devices, exactly=False) for devices in (1, 4)]
    print(json.dumps({"exact": hashes, "ordinary": ordinary}))


if __name__ == "__main__":
    main()
