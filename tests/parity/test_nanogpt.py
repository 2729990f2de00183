"""Our GPT, its gradient, its optimizer and its training agree with an independent PyTorch GPT-2."""

import dataclasses

import jax
import jax.numpy as jnp
import nanogpt_torch
import numpy as np
import pytest
import torch

from experiments.nanogpt_cpu import CONFIG
from research.core import trees
from research.data.dataset import Data
from research.data.text.packing import Windows
from research.tasks.task import Context
from research.train.experiment import assemble
from research.train.run import train
from research.train.state import new_state

pytestmark = pytest.mark.peer

VOCABULARY = 65
SHORT = nanogpt_torch.Setting(steps=10, warmup=3)


def random_model(seed=0):
    """A PyTorch model whose every parameter matters: large weights, scales of norms away from one."""
    torch.manual_seed(seed)
    model = nanogpt_torch.GPT2(SHORT, VOCABULARY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4) if parameter.dim() == 2 else parameter.add_(torch.randn_like(parameter) / 4)
    return model


def paths(model):
    """Yields (our path, PyTorch parameter, whether it is transposed here)."""
    yield "token_embedding", model.tokens.weight, False
    yield "position_embedding", model.positions.weight, False
    yield "final_norm/scale", model.final_norm.weight, False
    for index, block in enumerate(model.blocks):
        yield f"block_{index}/attention_norm/scale", block.attention_norm.weight, False
        yield f"block_{index}/attention/query_key_value/kernel", block.joined.weight, True
        yield f"block_{index}/attention/output/kernel", block.output.weight, True
        yield f"block_{index}/mlp_norm/scale", block.mlp_norm.weight, False
        yield f"block_{index}/mlp/up/kernel", block.up.weight, True
        yield f"block_{index}/mlp/down/kernel", block.down.weight, True


def copied(model, value=lambda parameter: parameter):
    """Returns {our path: array} of the parameters, or of what `value` takes from them."""
    arrays = {}
    for path, parameter, transposed in paths(model):
        array = value(parameter).detach().numpy()
        if path.endswith("query_key_value/kernel"):  # there all queries come first, here each head's three together
            array = array.reshape(3, SHORT.heads, -1, array.shape[1]).swapaxes(0, 1).reshape(array.shape)
        arrays[path] = np.array(array.T if transposed else array)
    return arrays


def as_params(arrays, like):
    """Returns the arrays in the structure of the (abstract) parameters `like`."""
    assert arrays.keys() == trees.flatten(like).keys()
    return trees.map_with_path(lambda path, _: jnp.asarray(arrays[path]), like)


def random_batches(count):
    shape = (count, CONFIG.batch_size, CONFIG.model.context + 1)
    batches = jax.random.randint(jax.random.key(0), shape, 0, VOCABULARY)
    mask = jnp.ones((CONFIG.batch_size, CONFIG.model.context))
    return [{"inputs": rows[:, :-1], "targets": rows[:, 1:], "mask": mask} for rows in batches]


def in_torch(batch):
    return [torch.tensor(np.asarray(batch[name]), dtype=torch.long) for name in ("inputs", "targets")]


def short_assembly():
    """The experiment as it is, but for its length and its data."""
    schedule = dataclasses.replace(CONFIG.schedule, warmup=SHORT.warmup)
    tokens = np.arange(200, dtype=np.int32) % VOCABULARY
    data = Data({"train": Windows(tokens, CONFIG.model.context, 1)}, VOCABULARY)
    return assemble(dataclasses.replace(CONFIG, steps=SHORT.steps, schedule=schedule), data)


def relative_distance(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def test_logits_loss_and_gradients_agree():
    """The same weights and tokens give the same logits, loss and gradients, up to float32 rounding."""
    model, assembly, [batch] = random_model(), short_assembly(), random_batches(1)
    params = as_params(copied(model), assembly.state.params)
    inputs, targets = in_torch(batch)
    expected = model(inputs).detach().numpy()
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(assembly.model.apply(params, {"inputs": batch["inputs"]})[0], expected, atol=1e-4)

    def mean_loss(params):
        loss = assembly.task.loss(params, batch, Context(jax.random.key(0), 0, train=True))
        return loss.sum / loss.weight

    loss, gradients = jax.jit(jax.value_and_grad(mean_loss))(params)
    expected_loss = nanogpt_torch.loss_of(model, inputs, targets)
    expected_loss.backward()
    assert float(loss) == pytest.approx(expected_loss.item(), abs=1e-5)
    found = trees.flatten(gradients)
    for path, expected in copied(model, lambda parameter: parameter.grad).items():
        assert relative_distance(found[path], expected) < 1e-4, path


def test_updates_agree():
    """A whole short training (warm-up, cosine, clipping, decay) moves every parameter by the same amount."""
    model, assembly = random_model(), short_assembly()
    before = copied(model)
    state = new_state(assembly.parts(as_params(before, assembly.state.params)), assembly.optimizer, averaged=False)
    optimizer, step = nanogpt_torch.new_optimizer(model, SHORT), jax.jit(assembly.step)
    for index, batch in enumerate(random_batches(SHORT.steps)):
        expected_loss = nanogpt_torch.train_step(model, optimizer, SHORT, index, *in_torch(batch))
        state, metrics = step(state, batch)
        assert float(metrics["loss"]) == pytest.approx(expected_loss, abs=1e-4)
    found = trees.flatten(state.params)
    for path, expected in copied(model).items():
        np.testing.assert_allclose(found[path], expected, atol=1e-4, err_msg=path)
        assert relative_distance(found[path] - before[path], expected - before[path]) < 1e-2, path


def test_learning_rates_agree_at_every_step():
    """The experiment's schedule is nanoGPT's: warm-up that starts above zero, then cosine to a tenth."""
    setting = nanogpt_torch.Setting()
    factor = CONFIG.schedule.build(CONFIG.steps)
    found = [CONFIG.optimizer.learning_rate * float(factor(step)) for step in range(0, setting.steps, 25)]
    expected = [nanogpt_torch.learning_rate(setting, step) for step in range(0, setting.steps, 25)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_initial_parameters_have_the_same_spread():
    """Both start every parameter from the same distribution: equal standard deviations and means, up to sampling."""
    params = trees.flatten(short_assembly().initial_state().params)
    torch.manual_seed(0)
    for path, expected in copied(nanogpt_torch.GPT2(nanogpt_torch.Setting(), VOCABULARY)).items():
        assert float(params[path].std()) == pytest.approx(expected.std(), rel=0.05), path
        assert float(params[path].mean()) == pytest.approx(expected.mean(), abs=0.002), path


@pytest.mark.slow
def test_validation_losses_agree_after_training(tmp_path, record_property):
    """`nanogpt_cpu`, trained on its own, ends within 0.02 nats per character of PyTorch on the same split."""
    run = train(CONFIG, name="nanogpt_cpu", root=tmp_path)
    tokens, setting = run.assembly.data.tokens, nanogpt_torch.Setting()
    model = nanogpt_torch.train(setting, tokens["train"], run.assembly.data.outputs, seed=0)
    expected = nanogpt_torch.stream_loss(model, tokens["validation"], setting.context)
    found = run.record["metrics"]["validation"]["loss"]
    record_property("ours", found)
    record_property("pytorch", expected)
    assert abs(found - expected) <= 0.02
