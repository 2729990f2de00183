"""The MLP on census records with an optimizer of its own: AdamW without a schedule, whose run may end at any step.

    python -m experiments.mlp_schedule_free

Expected: 85.3 % of the test rows classified correctly, as by `mlp_adult` with its cosine schedule. Twenty seconds on
two cores.
"""

import dataclasses
from typing import Annotated

import optax
import optax.contrib

from experiments import mlp_adult
from research.core.ranges import AtLeast0, Below1, Range
from research.core.shapes import Params
from research.launch.launcher import launch
from research.train.optimizers import OptimizerConfig
from research.train.schedules import Schedule


@dataclasses.dataclass(frozen=True)
class ScheduleFree(OptimizerConfig):
    """Schedule-free AdamW (Defazio et al. 2024). Evaluation, samples and exports use x, the average of its iterates."""

    learning_rate: Annotated[float, Range(0, 1e30)] = 2.5e-3
    """the highest; the schedule should be constant after its warm-up"""
    b1: Below1 = 0.9
    """gradients are taken at b1 x + (1 - b1) z, with z the iterates of AdamW without momentum"""
    weight_decay: AtLeast0 = 0.0

    def build(self, steps: int, params: Params, schedule: Schedule) -> optax.GradientTransformation:
        """Returns optax's own, at the logged learning rate."""
        rate = self.learning_rates(steps, schedule)["learning_rate"]
        return optax.contrib.schedule_free_adamw(rate, b1=self.b1, weight_decay=self.weight_decay)

    def learning_rates(self, steps: int, schedule: Schedule) -> dict[str, optax.Schedule]:
        """Returns the one learning rate."""
        factor = schedule.build(steps)
        return {"learning_rate": lambda step: self.learning_rate * factor(step)}


CONFIG = dataclasses.replace(
    mlp_adult.CONFIG, optimizer=ScheduleFree(weight_decay=1e-2), schedule=Schedule("constant", warmup=50)
)
EXPECTED = {"test.accuracy": (0.85, 0.87)}

if __name__ == "__main__":
    launch(CONFIG)
