"""Optimizers: every kind against its formula, and rules that give every parameter exactly one factor."""

import dataclasses
import doctest

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from experiments.mlp_schedule_free import ScheduleFree
from research.core import trees
from research.core.errors import UserError
from research.core.json_files import read_lines
from research.core.mesh import MeshConfig
from research.runs.directory import METRICS
from research.train import optimizer_groups, optimizers
from research.train.experiment import assemble
from research.train.optimizer_groups import OptimizerGroup, OptimizerGroups
from research.train.optimizers import Optimizer, OptimizerConfig, evaluation_params
from research.train.recorded_run import load_run
from research.train.run import train
from research.train.schedules import Schedule
from research.train.state import Parts, new_state, state_sharding

KINDS = ("gradient_descent", "sgd", "momentum", "adam", "adamw", "lion", "muon")
PARAMS = {
    "token_embedding": jnp.linspace(-1, 1, 20).reshape(5, 4),
    "block": {"kernel": jnp.linspace(-2, 1, 24).reshape(4, 6), "bias": jnp.linspace(0.1, 1, 6)},
    "norm": {"scale": jnp.ones(4)},
    "head": {"kernel": jnp.linspace(1, 2, 20).reshape(4, 5)},
}


def gradients(step: int):
    leaves, structure = jax.tree.flatten(PARAMS)
    keys = jax.random.split(jax.random.key(step), len(leaves))
    return structure.unflatten([jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)])


def trained(transformation, gradients=gradients, steps: int = 3, params=PARAMS):
    """Returns the parameters after following the gradients of the first `steps` steps."""
    state = transformation.init(params)

    @jax.jit
    def step(gradient, state, params):
        updates, state = transformation.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    for number in range(steps):
        params, state = step(gradients(number), state, params)
    return params


def ours(optimizer: Optimizer, schedule=Schedule("constant"), run=10, **options):
    return trained(optimizer.build(run, PARAMS, schedule), **options)


def assert_close(left, right):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), left, right)


def matrices_only(params):
    return jax.tree.map(lambda leaf: leaf.ndim == 2, params)


@pytest.mark.parametrize("kind", ["gradient_descent", "sgd"])
def test_gradient_descent_subtracts_the_rate_times_the_gradient(kind):
    """w <- w - rate g, with the rate of the step's own place in the schedule."""
    found = ours(Optimizer(kind, learning_rate=0.5), Schedule("linear"), run=2, steps=2)
    expected = jax.tree.map(lambda w, g, h: w - 0.5 * g - 0.25 * h, PARAMS, gradients(0), gradients(1))
    assert_close(found, expected)


def test_momentum_adds_up_gradients():
    """v <- b v + g; w <- w - rate v (Sutskever et al. 2013, as in PyTorch)."""
    found = ours(Optimizer("momentum", learning_rate=0.1, b1=0.8), steps=2)
    step = jax.tree.map(lambda g, h: g + (0.8 * g + h), gradients(0), gradients(1))
    assert_close(found, jax.tree.map(lambda w, v: w - 0.1 * v, PARAMS, step))


def test_adam_follows_its_paper():
    """Kingma & Ba 2015, algorithm 1, computed by hand for two steps."""
    b1, b2, epsilon, rate = 0.8, 0.95, 1e-6, 0.01
    found = ours(Optimizer("adam", learning_rate=rate, b1=b1, b2=b2, epsilon=epsilon), steps=2)

    def expected(w, *series):
        m = v = jnp.zeros_like(w)
        for count, g in enumerate(series, start=1):
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            w = w - rate * (m / (1 - b1**count)) / (jnp.sqrt(v / (1 - b2**count)) + epsilon)
        return w

    assert_close(found, jax.tree.map(expected, PARAMS, gradients(0), gradients(1)))


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_adamw_is_optax_adamw(decay):
    """With decay on matrices only, clipping, and a schedule: the same steps as the library's own composition."""
    schedule = Schedule("cosine", warmup=2, final=0.1)
    found = ours(Optimizer("adamw", learning_rate=0.02, b2=0.95, weight_decay=decay, clip=0.5), schedule, steps=5)
    adamw = optax.adamw(lambda step: 0.02 * schedule.build(10)(step), b2=0.95, weight_decay=decay, mask=matrices_only)
    assert_close(found, trained(optax.chain(optax.clip_by_global_norm(0.5), adamw), steps=5))


def test_lion_is_optax_lion():
    """Chen et al. 2023, algorithm 2, with decoupled decay."""
    found = ours(Optimizer("lion", learning_rate=0.01, b1=0.9, b2=0.98, weight_decay=0.2))
    assert_close(found, trained(optax.lion(0.01, 0.9, 0.98, weight_decay=0.2, mask=matrices_only)))


def test_muon_turns_hidden_kernels_and_leaves_the_rest_to_adam():
    """Updates of kernels are near-orthogonal, of 0.2 sqrt(max(inputs, outputs)); all others are Adam's."""
    updates = jax.tree.map(lambda new, old: new - old, ours(Optimizer("muon", learning_rate=1.0), steps=1), PARAMS)
    singular = jnp.linalg.svd(updates["block"]["kernel"], compute_uv=False) / (0.2 * 6**0.5)
    assert (singular > 0.6).all()
    assert (singular < 1.2).all()
    adam = jax.tree.map(lambda new, old: new - old, ours(Optimizer("adam", learning_rate=1.0), steps=1), PARAMS)
    assert_close({**updates, "block": updates["block"]["bias"]}, {**adam, "block": adam["block"]["bias"]})


def test_muon_is_the_librarys_own_with_consistent_size():
    """On kernels alone, our scaling equals `optax.contrib.muon(consistent_rms=0.2)` (Liu et al. 2025)."""
    found = ours(Optimizer("muon", learning_rate=0.1))["block"]["kernel"]
    library = trained(optax.contrib.muon(0.1, consistent_rms=0.2, weight_decay=0.0))["block"]["kernel"]
    np.testing.assert_allclose(found, library, rtol=1e-5, atol=1e-6)


def test_muon_turns_each_layer_of_a_stack_and_the_matrix_of_a_convolution():
    """Scanned layers and experts move one by one; a convolution's kernel is a matrix (rows columns inputs, outputs)."""
    stack, unrolled = {"up": {"kernel": jnp.zeros((3, 4, 6))}}, {"up": {"kernel": jnp.zeros((4, 6))}}
    convolution, flat = {"conv": {"kernel": jnp.zeros((3, 3, 4, 6))}}, {"conv": {"kernel": jnp.zeros((36, 6))}}

    def update(params, gradient):
        transformation = Optimizer("muon", learning_rate=1.0).build(1, params)
        tree = jax.tree.map(lambda _: gradient, params)
        return jax.tree.leaves(transformation.update(tree, transformation.init(params), params)[0])[0]

    gradient = jax.random.normal(jax.random.key(0), (3, 4, 6))
    layers = [update(unrolled, layer) for layer in gradient]
    np.testing.assert_allclose(update(stack, gradient), jnp.stack(layers), rtol=1e-4, atol=1e-5)
    experts = {"experts": {"up": {"kernel": jnp.zeros((3, 1, 4, 6))}}}
    np.testing.assert_allclose(update(experts, gradient[:, None])[:, 0], jnp.stack(layers), rtol=1e-4, atol=1e-5)
    gradient = jax.random.normal(jax.random.key(1), (3, 3, 4, 6))
    folded = update(flat, gradient.reshape(36, 6)).reshape(gradient.shape)
    np.testing.assert_allclose(update(convolution, gradient), folded, rtol=1e-4, atol=1e-5)


def test_clipping_shortens_only_long_gradients():
    """The direction stays; a gradient within the norm is untouched."""
    norm = optax.global_norm(gradients(0))
    clipped = ours(Optimizer("sgd", learning_rate=1.0, clip=0.5), steps=1)
    assert_close(clipped, jax.tree.map(lambda w, g: w - g * 0.5 / norm, PARAMS, gradients(0)))
    assert_close(ours(Optimizer("sgd", clip=100.0)), ours(Optimizer("sgd")))


def test_penalties_are_part_of_the_loss():
    """L1 and L2 add the gradient of `l1 |w| + l2/2 w^2` of kernels and embeddings, before the clipping."""
    found = ours(Optimizer("sgd", learning_rate=1.0, l1=0.3, l2=0.2, clip=0.5), steps=1)

    def penalty(params):
        weights = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 2]
        return sum(0.3 * jnp.abs(w).sum() + 0.1 * jnp.square(w).sum() for w in weights)

    total = jax.tree.map(jnp.add, gradients(0), jax.grad(penalty)(PARAMS))
    scale = 0.5 / optax.global_norm(total)
    assert_close(found, jax.tree.map(lambda w, g: w - scale * g, PARAMS, total))


def test_a_multiplier_of_zero_freezes():
    """The multipliers say what does not learn; the optimizer then sees the rest alone."""
    multipliers = Optimizer(lr_multipliers=((r"^block/", 0.0), (r"^(?!block/)", 0.5))).multipliers(PARAMS)
    assert multipliers["block"] == {"kernel": 0.0, "bias": 0.0}
    assert multipliers["token_embedding"] == multipliers["head"]["kernel"] == 0.5


def test_multipliers_scale_the_whole_update():
    """A factor of one half halves step and decay of its parameters alone."""
    rules = ((r"^head/", 0.5), (r"^(?!head/)", 1.0))
    options = {"kind": "adamw", "learning_rate": 0.1, "weight_decay": 0.5}
    half, whole = ours(Optimizer(**options, lr_multipliers=rules), steps=1), ours(Optimizer(**options), steps=1)
    move = jax.tree.map(lambda new, old: new - old, (half, whole), (PARAMS, PARAMS))
    np.testing.assert_allclose(move[0]["head"]["kernel"], 0.5 * move[1]["head"]["kernel"], rtol=1e-4)
    np.testing.assert_array_equal(half["block"]["kernel"], whole["block"]["kernel"])


def test_layer_decay_lowers_the_rate_block_by_block():
    """The last block and the head learn at the full rate, each block below at half the next one's."""
    rates = {"token_embedding": 0.125, "encoder_0": 0.25, "encoder_1": 0.5, "encoder_10": 1.0, "head": 1.0, "norm": 0.0}
    params = {name: {"kernel": jnp.ones((2, 2))} for name in rates}
    rules = ((r"^norm/", 0.0), (r"^(?!norm/)", 1.0))
    optimizer = Optimizer("sgd", learning_rate=1.0, layer_decay=0.5, lr_multipliers=rules).build(1, params)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert {name: -float(leaf["kernel"].mean()) for name, leaf in updates.items()} == rates
    with pytest.raises(UserError, match="needs numbered blocks"):
        Optimizer(layer_decay=0.5).build(1, {"head": {"kernel": jnp.ones(2)}})


@pytest.mark.parametrize("kind", KINDS)
def test_decay_leaves_biases_and_norms_alone(kind):
    """By default weight decay, L1 and L2 act on kernels and embeddings only."""
    plain, decayed = ours(Optimizer(kind)), ours(Optimizer(kind, weight_decay=0.5))
    for path in (("block", "bias"), ("norm", "scale")):
        np.testing.assert_array_equal(plain[path[0]][path[1]], decayed[path[0]][path[1]])
    for path in (("block", "kernel"), ("head", "kernel")):
        assert not np.array_equal(plain[path[0]][path[1]], decayed[path[0]][path[1]])
    assert not np.array_equal(plain["token_embedding"], decayed["token_embedding"])


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"weight_decay_multipliers": ((r"kernel$", 1.0),)}, "matched by no rule for weight decay"),
        ({"lr_multipliers": ((r"", 1.0), (r"head", 0.0))}, "'head/kernel' is matched by the rules '', 'head'"),
    ],
)
def test_rules_that_do_not_fit_the_model_are_refused(rules, message):
    """Every parameter has exactly one decay and one rate, or the launch fails."""
    with pytest.raises(UserError, match=message):
        Optimizer(**rules).build(1, PARAMS)


@settings(max_examples=20)
@given(kind=st.sampled_from(KINDS), clip=st.sampled_from([0.0, 1.0]), l2=st.sampled_from([0.0, 0.1]))
def test_every_composition_has_a_place_for_its_state(kind, clip, l2):
    """The moments of each parameter live where the parameter lives, whatever the optimizer is composed of."""
    optimizer = Optimizer(kind, clip=clip, l2=l2).build(1, PARAMS)
    state = jax.eval_shape(lambda: new_state(Parts(PARAMS, {}, {}), optimizer, averaged=True))
    rules = [(r"kernel$", PartitionSpec("fsdp", "tensor")), (r"(embedding|bias|scale)$", PartitionSpec())]
    mesh = MeshConfig(1, 2, 2).build(jax.devices()[:1] * 4)
    shardings = state_sharding(mesh, rules, state)
    assert jax.tree.structure(shardings) == jax.tree.structure(state)
    for leaf, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True):
        assert sharding.is_fully_replicated == (leaf.shape not in ((4, 6), (4, 5)))


@dataclasses.dataclass(frozen=True)
class Mine(OptimizerConfig):
    """An optimizer of one's own, outside research and experiments as in a notebook: sign descent."""

    learning_rate: float = 0.01

    def build(self, steps, params, schedule):
        """Returns any optax transformation."""
        return optax.chain(optax.scale_by_sign(), optax.scale_by_learning_rate(self.learning_rate))


def test_an_optimizer_of_ones_own_trains_a_run(tiny_line_run, tmp_path):
    """`build` is all it needs to give; a class outside the project trains, and is refused where its run is read."""
    experiment = dataclasses.replace(tiny_line_run, optimizer=Mine(0.5), sample_every=0, evaluators=())
    run = train(experiment, name="mine", root=tmp_path, stop_after=2)
    assert "learning_rate" not in next(read_lines(run.folder / METRICS))
    start = run.assembly.initial_state().params
    moves = jax.tree.map(lambda new, old: jnp.unique(jnp.round(new - old, 3)), run.state.params, start)
    assert {float(move) for leaf in jax.tree.leaves(moves) for move in leaf} <= {-1.0, -0.5, 0.0, 0.5, 1.0}
    with pytest.raises(
        UserError, match=r"names the type '.*Mine'; only types .*: .* of your own, add --trust test_opt"
    ):
        load_run(run.folder)


@dataclasses.dataclass(frozen=True)
class Galore(OptimizerConfig):
    """Adam in a space of rank 2, whose state has arrays without any number for what has no such space."""

    def build(self, steps, params, schedule):
        """Returns optax's own."""
        return optax.contrib.galore(schedule.build(steps), rank=2)


def test_an_optimizers_empty_arrays_come_back(tiny_line_run, tmp_path):
    """A checkpoint, which cannot hold them, gives them back: cut short, a run ends in the same state."""
    experiment = dataclasses.replace(tiny_line_run, optimizer=Galore(), sample_every=0, evaluators=())
    whole = train(experiment, name="whole", root=tmp_path).state
    assert any(leaf.size == 0 for leaf in jax.tree.leaves(whole.optimizer))
    for resume in (False, True):
        run = train(experiment, name="cut", root=tmp_path, resume=resume, stop_after=None if resume else 5)
    assert trees.digest(run.state) == trees.digest(whole)


def test_what_is_no_optimizer_is_refused(tiny_line_run):
    """One sentence says what to inherit from."""
    experiment = dataclasses.replace(tiny_line_run)
    object.__setattr__(experiment, "optimizer", optax.sgd(0.1))  # the tests check types, programs do not
    with pytest.raises(UserError, match="is no optimizer: let the class inherit from"):
        assemble(experiment, tiny_line_run.data.build())


def test_a_schedule_free_run_evaluates_its_average(tiny_line_run, tmp_path):
    """An optimizer of experiments/ trains and comes back from run.json; evaluation uses x, training goes on at y."""
    optimizer, schedule = ScheduleFree(0.05), Schedule("constant", warmup=2)
    experiment = dataclasses.replace(tiny_line_run, optimizer=optimizer, schedule=schedule, sample_every=0)
    run = train(experiment, name="free", root=tmp_path)
    loaded = load_run(run.folder)
    assert loaded.assembly.experiment == experiment
    expected = optax.contrib.schedule_free_eval_params(run.state.optimizer, run.state.params)
    jax.tree.map(np.testing.assert_array_equal, loaded.state.evaluated, expected)
    assert trees.digest(expected) != trees.digest(run.state.params)
    (evaluator,) = experiment.evaluators
    measure = evaluator.build(run.assembly.task, run.assembly.data, run.assembly.mesh, seed=0).measure
    assert measure(expected) == run.record["metrics"]["validation"] != measure(run.state.params)


def test_schedule_free_groups_average_their_own_parameters():
    """Beside another optimizer only the group's parameters are averaged."""
    free = OptimizerGroup("head", "^head/", ScheduleFree(0.05))
    groups = OptimizerGroups((free, OptimizerGroup("rest", "^(?!head/)", Optimizer("sgd"))))
    transformation = groups.build(5, PARAMS, Schedule("constant"))
    state, params = transformation.init(PARAMS), PARAMS
    for step in range(3):
        updates, state = transformation.update(gradients(step), state, params)
        params = optax.apply_updates(params, updates)
    evaluated = evaluation_params(state, params)
    y, z = params["head"]["kernel"], state.inner_states["head"].inner_state.z["head"]["kernel"]
    np.testing.assert_allclose(evaluated["head"]["kernel"], (y - 0.1 * z) / 0.9, rtol=1e-6)
    assert not np.array_equal(evaluated["head"]["kernel"], y)
    jax.tree.map(np.testing.assert_array_equal, {**evaluated, "head": 0}, {**params, "head": 0})


def test_the_examples_of_the_docstrings_run():
    """Prodigy and the groups of a GAN as they are shown."""
    for module in (optimizers, optimizer_groups):
        found = doctest.testmod(module)
        assert found.attempted and not found.failed
