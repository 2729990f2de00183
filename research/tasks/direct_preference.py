"""Direct preference optimisation (Rafailov et al. 2023): prefer the chosen answer, measured against where it began.

The reference is the model without its low-rank updates, so there is no second copy of the parameters. Data come from
`ChatData(preferences=True)`.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from research.core.errors import UserError
from research.core.ranges import Above0
from research.core.shapes import Batch, Params
from research.data.dataset import Data
from research.data.pipeline import gather
from research.models.model import Model
from research.models.wrappers.lora import BRANCH, LoRA
from research.tasks.packed_text import initial
from research.tasks.task import Context, Loss, Task, WeightedSum


@dataclasses.dataclass(frozen=True)
class DirectPreference:
    """Logistic loss on how much more the model has come to favour the chosen answer than the rejected one."""

    beta: Above0 = 0.1
    """how strongly a change from the reference counts (eq. 7)"""

    def build(self, model: Any, data: Data) -> Task:
        """Builds the task; raises UserError where the model has no low-rank updates, or the data no preferences."""
        example = data.splits["train"][0]
        if "weights" not in example:
            raise UserError("The data are no preferences: set --data.preferences, with lines of chosen and rejected.")
        if not getattr(model, "lora", LoRA()).rank:
            raise UserError("Preferences are learned against the model without its updates: set --model.lora.rank 8.")
        records, length = data.splits["train"], getattr(model, "context", 0)
        longest = 1 + int(gather(records, np.arange(len(records)))["positions"].max())
        if length and longest > length:
            raise UserError(
                f"A conversation of {longest} tokens is longer than the model's context of {length}: set "
                f"--data.length {length}."
            )
        functions = model.build(data.spec)
        reference = dataclasses.replace(model, lora=LoRA()).build(data.spec)

        init = partial(initial, functions, data)

        def rewards(params: Params, batch: Batch, context: Context) -> Float[Array, "batch pairs 2"]:
            base = {name: branch for name, branch in params.items() if name != BRANCH}  # fixed: it has no gradient
            policy = answer_scores(functions, params, batch, context)
            return self.beta * (
                policy - answer_scores(reference, base, batch, dataclasses.replace(context, train=False))
            )

        def loss(params: Params, batch: Batch, context: Context) -> Loss:
            reward = rewards(params, batch, context)
            margins = reward[..., 0] - reward[..., 1]
            weight = batch["mask"].sum()
            metrics = {"accuracy": (margins > 0), "margin": margins, "chosen_reward": reward[..., 0]}
            means = {name: WeightedSum((values * batch["mask"]).sum(), weight) for name, values in metrics.items()}
            return Loss((-jax.nn.log_sigmoid(margins) * batch["mask"]).sum(), weight, means)

        def predict(params: Params, batch: Batch, context: Context) -> dict[str, Any]:
            reward = rewards(params, batch, context)
            return {"logits": reward[..., 0] - reward[..., 1]}

        return Task(init, loss, predict)


def answer_scores(model: Model, params: Params, batch: Batch, context: Context) -> Float[Array, "batch pairs 2"]:
    """Returns the log-probabilities of the answers of each pair; its conversations are neighbouring segments."""
    logits, _ = model.apply(params, batch, train=context.train, key=context.key)
    scores = -optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), batch["targets"])
    pairs = batch["mask"].shape[1]
    of_segment = batch["segments"][..., None] == jnp.arange(1, 2 * pairs + 1)
    totals = jnp.einsum("bl,bls->bs", scores * batch["weights"], of_segment.astype(jnp.float32))
    return totals.reshape(-1, pairs, 2)
