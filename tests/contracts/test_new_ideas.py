"""New ideas are tasks and models: an adversary, a teacher, a queue, two inputs. Neither loop nor step knows of them.

Each is defined here, in full, and trains through `train(...)` as any experiment does.
"""

import dataclasses
import inspect
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from orbax.checkpoint import v1 as orbax

from research.core import configs, trees
from research.core.errors import UserError
from research.core.streams import stream
from research.data.dataset import Data, Rows
from research.models.mlp import MLP
from research.models.model import Model, beside, functional, within
from research.tasks.classification import Classification
from research.tasks.task import Context, Loss, Task, WeightedSum, row_keys
from research.train import exact, loop, step
from research.train.experiment import Experiment, assemble
from research.train.optimizer_groups import OptimizerGroup, OptimizerGroups
from research.train.optimizers import Optimizer
from research.train.pretrained import LoadReport
from research.train.recorded_run import load_run
from research.train.run import train
from research.train.schedules import Schedule

MODES = 8


@dataclasses.dataclass(frozen=True)
class Ring:
    """Points [2] of eight Gaussians on a ring; their labels are the Gaussians."""

    examples: int = 1024

    def build(self) -> Data:
        draw = np.random.default_rng(0)
        labels = draw.integers(0, MODES, self.examples).astype(np.int32)
        points = centres()[labels] + 0.1 * draw.standard_normal((self.examples, 2))
        return Data({"train": Rows({"inputs": points.astype(np.float32), "labels": labels})}, MODES)


def centres() -> np.ndarray:
    angles = 2 * np.pi * np.arange(MODES) / MODES
    return 2 * np.stack([np.cos(angles), np.sin(angles)], axis=1)


# A generator and a discriminator.


@dataclasses.dataclass(frozen=True)
class Players:
    """A generator of points from `latent` numbers, and a discriminator, which is what the model applies to a batch."""

    generator: MLP = MLP((128, 128), "relu")
    discriminator: MLP = MLP((128, 128), "relu")
    latent: int = 2

    def players(self, spec) -> tuple[Model, Model]:
        points = spec.batch["inputs"].shape[-1]
        generator, discriminator = (dataclasses.replace(spec, outputs=count) for count in (points, 1))
        return self.generator.build(generator), self.discriminator.build(discriminator)

    def build(self, spec) -> Model:
        generator, discriminator = self.players(spec)

        def init(key, batch):
            first, second = jax.random.split(key)
            latents = {"inputs": jnp.zeros((1, self.latent))}
            return {"generator": generator.init(first, latents), "discriminator": discriminator.init(second, batch)}

        def apply(params, batch, **options):
            return discriminator.apply(params["discriminator"], batch, **options)

        rules = (*within("generator", generator.sharding), *within("discriminator", discriminator.sharding))
        return Model(init, apply, rules)


@dataclasses.dataclass(frozen=True)
class Adversary:
    """Each real point against a made one, with penalties on the discriminator's slopes (Huang et al. 2024, R3GAN).

    One loss: where the generator learns the discriminator is constant, and the other way round.
    """

    penalty: float = 0.05

    def build(self, model: Players, data: Data) -> Task:
        generator, discriminator = model.players(data.spec)
        functions = model.build(data.spec)

        def score(params, point):
            return discriminator.apply(params, {"inputs": point[None]})[0][0, 0]

        def made(params, keys):
            latents = jax.vmap(lambda key: jax.random.normal(key, (model.latent,)))(keys)
            return generator.apply(params["generator"], {"inputs": latents})[0]

        def loss(params, batch, context):
            real, fake = batch["inputs"], made(params, row_keys(context, batch))
            fixed, judge = jax.lax.stop_gradient((fake, params["discriminator"]))
            own = params["discriminator"]
            scores = jax.vmap(jax.value_and_grad(score, argnums=1), in_axes=(None, 0))
            (right, right_slope), (wrong, wrong_slope) = scores(own, real), scores(own, fixed)
            slopes = jnp.square(right_slope).sum(-1) + jnp.square(wrong_slope).sum(-1)
            judging = jax.nn.softplus(wrong - right) + self.penalty * slopes
            margin = jax.vmap(score, (None, 0))(judge, real) - jax.vmap(score, (None, 0))(judge, fake)
            making = jax.nn.softplus(margin)
            weight = batch["mask"].sum()
            metrics = {"making": WeightedSum((making * batch["mask"]).sum(), weight)}
            return Loss(((judging + making) * batch["mask"]).sum(), weight, metrics)

        def predict(params, batch, context):
            return {"points": made(params, row_keys(context, batch))}

        return Task(lambda key: functions.init(key, data.spec.batch), loss, predict)


def test_two_players_with_an_optimizer_each_find_all_modes(tmp_path: Path) -> None:
    """Of 800 points nearly all are near a Gaussian, and every one of the eight has its share."""
    fast, slow = (
        Optimizer("adam", learning_rate, b1=0.0, b2=0.9, ema=0.99, weight_decay_multipliers=(("", 0.0),))
        for learning_rate in (2e-3, 1e-3)
    )
    groups = (OptimizerGroup("judge", "^discriminator/", fast), OptimizerGroup("maker", "^generator/", slow))
    experiment = Experiment(
        Ring(),
        Players(),
        Adversary(),
        optimizer=OptimizerGroups(groups),
        schedule=Schedule("linear", final=0.1),
        steps=900,
        batch_size=64,
        log_every=0,
    )
    run = train(experiment, name="ring", root=tmp_path)
    batch = {"index": jnp.arange(800)}
    found = run.assembly.task.predict(run.state.evaluated, batch, Context(stream(0, "sample"), 0, train=False))
    distances = np.linalg.norm(np.asarray(found["points"])[:, None] - centres(), axis=-1)
    near = distances.min(1) < 0.5
    assert near.mean() > 0.8
    assert (np.bincount(distances.argmin(1)[near], minlength=MODES) > 800 / MODES / 4).all()


# A teacher.


@dataclasses.dataclass(frozen=True)
class Distillation:
    """Cross entropy with a teacher's probabilities (Hinton et al. 2015); the teacher is another run's model."""

    teacher: MLP
    source: str

    def build(self, model: MLP, data: Data) -> Task:
        student, teacher = model.build(data.spec), self.teacher.build(data.spec)

        def init(key):
            return {**student.init(key, data.spec.batch), "teacher": teacher.init(key, data.spec.batch)}

        def loss(params, batch, context):
            known = jax.nn.softmax(teacher.apply(params["teacher"], batch)[0])
            logits, _ = student.apply(params, batch, train=context.train, key=context.key)
            losses = optax.softmax_cross_entropy(logits, known)
            return Loss((losses * batch["mask"]).sum(), batch["mask"].sum())

        def predict(params, batch, context):
            return {"logits": student.apply(params, batch)[0], "teacher": teacher.apply(params["teacher"], batch)[0]}

        rules = (*beside("teacher", student.sharding), *within("teacher", teacher.sharding))
        return Task(init, loss, predict, fixed=lambda path: path.startswith("teacher/"), sharding=rules)

    def start(self, params, shardings, mesh, spec) -> LoadReport:
        """Puts the source's parameters in the teacher's place."""
        taught = jax.device_put(load_run(Path(self.source)).state.evaluated, shardings["teacher"])
        return LoadReport({**params, "teacher": taught}, loaded=list(trees.flatten(taught)), new=[], left=[])


def test_a_student_learns_from_a_fixed_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The student agrees with it; the teacher stays to the bit, has no moments, and is in no periodic checkpoint."""
    monkeypatch.setattr(configs, "PACKAGES", (*configs.PACKAGES, __name__))  # for what is defined here
    labelled = Experiment(Ring(), MLP((32,)), Classification(), Optimizer("adam", 1e-2), steps=150, log_every=0)
    teacher = train(labelled, name="teacher", root=tmp_path)
    task = Distillation(labelled.model, str(teacher.folder))
    experiment = dataclasses.replace(labelled, model=MLP((8,)), task=task, checkpoint_every=50)
    run = train(experiment, name="student", root=tmp_path)
    batch = experiment.data.build().spec.batch | {"inputs": jnp.asarray(centres(), jnp.float32)}
    found = run.assembly.task.predict(run.state.merged, batch, Context(None, 0, train=False))
    assert (found["logits"].argmax(-1) == found["teacher"].argmax(-1)).all()
    assert trees.digest(run.state.fixed["teacher"]) == teacher.record["params_sha256"]
    saved = trees.flatten(orbax.metadata(run.folder / "checkpoints" / "00000150").metadata)
    assert not [path for path in [*saved, *trees.flatten(run.state.optimizer)] if "teacher" in path]
    assert trees.digest(load_run(run.folder).state.merged) == run.record["params_sha256"]


# A momentum encoder and a queue.


@dataclasses.dataclass(frozen=True)
class MomentumContrast:
    """Two noisy views of a point against the views of earlier ones, kept in a queue (He et al. 2020, MoCo)."""

    queue: int = 64
    momentum: float = 0.9

    def build(self, model: MLP, data: Data) -> Task:
        encoder = model.build(data.spec)

        def init(key):
            params = encoder.init(key, data.spec.batch)
            queue = jax.random.normal(key, (self.queue, data.outputs))
            return {**params, "momentum": params, "queue": queue / jnp.linalg.norm(queue, axis=1, keepdims=True)}

        def view(params, batch, key):
            noisy = batch["inputs"] + 0.1 * jax.random.normal(key, batch["inputs"].shape)
            vectors, _ = encoder.apply(params, {"inputs": noisy})
            return vectors / jnp.linalg.norm(vectors, axis=1, keepdims=True)

        def loss(params, batch, context):
            first, second = jax.random.split(context.key)
            own, other = view(params, batch, first), view(params["momentum"], batch, second)
            scores = jnp.concatenate([(own * other).sum(1, keepdims=True), own @ params["queue"].T], axis=1) / 0.2
            losses = optax.softmax_cross_entropy_with_integer_labels(scores, jnp.zeros(len(own), jnp.int32))
            weight = batch["mask"].sum()
            return Loss((losses * batch["mask"]).sum(), weight, statistics={"queue": other})

        def after(variables, params, statistics, context):
            def follow(old, new):
                return self.momentum * old + (1 - self.momentum) * new

            learned = {name: params[name] for name in variables["momentum"]}
            queue = jnp.concatenate([statistics["queue"], variables["queue"]])[: self.queue]
            return {"momentum": jax.tree.map(follow, variables["momentum"], learned), "queue": queue}

        return Task(
            init,
            loss,
            lambda params, batch, context: {"outputs": encoder.apply(params, batch)[0]},
            after=after,
            variables=lambda path: path.startswith("momentum/") or path == "queue",
            sharding=(
                *beside("(momentum|queue)", encoder.sharding),
                *within("momentum", encoder.sharding),
                ("^queue$", P()),
            ),
            coupled="the queue takes the whole batch",
        )


def test_a_momentum_encoder_and_a_queue_are_variables(tmp_path: Path) -> None:
    """They follow the step as written, have neither gradient nor moments, and a resumed run goes on with their bits."""
    experiment = Experiment(
        Ring(), MLP((16,)), MomentumContrast(), Optimizer("adam", 1e-2), steps=6, batch_size=8, checkpoint_every=3
    )
    assembly = assemble(experiment, experiment.data.build())
    before = assembly.initial_state()
    old = jax.device_get(before.variables)
    batch = loop.prepare_batches(assembly)(0)
    after, metrics = assembly.compiled_step()(before, batch)
    expected = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, old["momentum"], jax.device_get(after.params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), after.variables["momentum"], expected)
    np.testing.assert_array_equal(after.variables["queue"][8:], old["queue"][:-8])
    np.testing.assert_allclose(np.linalg.norm(after.variables["queue"][:8], axis=1), 1, rtol=1e-5)
    assert np.isfinite(metrics["loss"]) and not [path for path in trees.flatten(after.optimizer) if "momentum" in path]
    whole = train(experiment, name="whole", root=tmp_path)
    train(experiment, name="cut", root=tmp_path, stop_after=4)
    resumed = train(experiment, name="cut", root=tmp_path, resume=True)
    assert resumed.record["params_sha256"] == whole.record["params_sha256"]


@pytest.mark.parametrize(("changes", "option"), [({"accumulate": 2}, "--accumulate 2"), ({"exact": True}, "--exact")])
def test_a_coupled_loss_is_refused_by_name_where_a_batch_is_cut(changes, option, monkeypatch) -> None:
    """What it would learn from the parts is something else; so it is for gradients of single examples."""
    monkeypatch.setattr(exact, "check", lambda *_: None)  # it would ask for a thread pool of another size
    experiment = Experiment(Ring(), MLP((16,)), MomentumContrast(), **changes)
    with pytest.raises(UserError, match=rf"{option} cuts each batch .* \(the queue takes the whole batch\)"):
        assemble(experiment, experiment.data.build())


# Two inputs.


class Comparison(nn.Module):
    """Whether one point is farther out than another."""

    outputs: int

    @nn.compact
    def __call__(self, inputs: jax.Array, other: jax.Array, train: bool = False) -> jax.Array:
        size = nn.Dense(16, name="size")
        difference = nn.relu(size(jnp.abs(inputs))) - nn.relu(size(jnp.abs(other)))
        return nn.Dense(self.outputs, name="head")(difference)


@dataclasses.dataclass(frozen=True)
class ComparisonModel:
    def build(self, spec) -> Model:
        assert {"inputs", "other"} <= spec.batch.keys()
        return functional(Comparison(spec.size), ((".*", P()),))


@dataclasses.dataclass(frozen=True)
class Pairs:
    def build(self) -> Data:
        points = np.random.default_rng(0).standard_normal((2, 512, 2)).astype(np.float32)
        labels = (np.abs(points[0]).sum(1) > np.abs(points[1]).sum(1)).astype(np.int32)
        return Data({"train": Rows({"inputs": points[0], "other": points[1], "labels": labels})}, 2)


def test_a_model_reads_two_inputs_by_their_names(tmp_path: Path) -> None:
    """The fields of the batch are the arguments of the module; the task is the one that others use."""
    experiment = Experiment(
        Pairs(), ComparisonModel(), Classification(), Optimizer("adam", 1e-2), steps=150, log_every=150
    )
    run = train(experiment, name="pairs", root=tmp_path)
    data = experiment.data.build().splits["train"].arrays
    logits = run.assembly.task.predict(run.state.evaluated, data, Context(None, 0, train=False))["logits"]
    assert (logits.argmax(-1) == data["labels"]).mean() > 0.9


def test_neither_the_loop_nor_the_step_knows_of_any_of_them() -> None:
    """Their source names no such idea."""
    words = (inspect.getsource(loop) + inspect.getsource(step)).lower().split()
    assert not {"gan", "discriminator", "teacher", "privacy", "queue", "momentum"} & set(words)
