"""Recurrent layers agree with torch.nn.RNN, LSTM and GRU: outputs and every gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from research.core import trees
from research.core.shapes import Spec
from research.models.recurrent import Recurrent

pytestmark = pytest.mark.peer

VOCABULARY, LENGTH, BATCH, DEPTH = 13, 9, 4, 2
NAMES = {
    "input/kernel": "weight_ih",
    "input/bias": "bias_ih",
    "recurrent_kernel": "weight_hh",
    "recurrent_bias": "bias_hh",
}
MODULES = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}


def torch_layers(config, params):
    """The module of PyTorch with our parameters, and which of its parameters is which of ours."""
    module = MODULES[config.cell](
        config.embedding, config.width, config.depth, batch_first=True, bidirectional=config.bidirectional
    )
    paths = {}
    for direction, suffix in (("forward", ""), ("backward", "_reverse"))[: 1 + config.bidirectional]:
        for layer in range(config.depth):
            for ours, theirs in NAMES.items():
                paths[f"layers/{direction}_{layer}/{ours}"] = f"{theirs}_l{layer}{suffix}"
    for path, name in paths.items():
        getattr(module, name).data = torch.tensor(np.asarray(params[path]).T.copy())
    return module, paths


def as_numpy(tensor):
    return tensor.detach().numpy()


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", MODULES)
def test_recurrent_layers_agree(cell, bidirectional):
    """Same weights, same tokens: equal outputs, and gradients of the sum of their squares."""
    head = "sequence" if bidirectional else "language"
    config = Recurrent(cell, DEPTH, 8, embedding=6, head=head, vocabulary=VOCABULARY, bidirectional=bidirectional)
    model = config.build(Spec(5 if bidirectional else VOCABULARY))
    inputs = np.random.default_rng(0).integers(0, VOCABULARY, (BATCH, LENGTH)).astype(np.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), {"inputs": jnp.asarray(inputs)})
    random = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: jnp.asarray(random.normal(0, 0.5, leaf.shape), jnp.float32), shapes)
    flat = trees.flatten(params)
    module, paths = torch_layers(config, flat)
    own = {path: torch.tensor(np.asarray(flat[path]), requires_grad=True) for path in flat if path not in paths}
    outputs, last = module(own["token_embedding"][torch.tensor(inputs).long()])
    if bidirectional:
        states = last[0] if cell == "lstm" else last
        outputs = torch.cat([states[-2], states[-1]], dim=-1)[:, None]
    expected = outputs @ own["head/kernel"] + own["head/bias"]
    expected.square().sum().backward()

    def loss(params):
        found = model.apply(params, {"inputs": jnp.asarray(inputs)})[0]
        return jnp.square(found).sum(), found

    (_, found), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(found, as_numpy(expected), rtol=1e-4, atol=1e-5)
    for path, gradient in trees.flatten(gradients).items():
        theirs = getattr(module, paths[path]).grad.numpy().T if path in paths else own[path].grad.numpy()
        np.testing.assert_allclose(gradient, theirs, atol=1e-5 * np.abs(theirs).max(), rtol=1e-4, err_msg=path)


def test_a_gate_out_of_order_is_seen():
    """Swapping two gates of one kernel moves the outputs far beyond the tolerance."""
    config = Recurrent("gru", 1, 8, embedding=6)
    model = config.build(Spec(VOCABULARY))
    inputs = jnp.asarray(np.random.default_rng(0).integers(0, VOCABULARY, (BATCH, LENGTH)), jnp.int32)
    params = model.init(jax.random.key(0), {"inputs": inputs})
    kernel = trees.flatten(params)["layers/forward_0/recurrent_kernel"]
    swapped = jnp.concatenate([kernel[:, 8:16], kernel[:, :8], kernel[:, 16:]], axis=1)
    broken = trees.map_with_path(lambda path, leaf: swapped if path.endswith("recurrent_kernel") else leaf, params)
    assert jnp.abs(model.apply(params, {"inputs": inputs})[0] - model.apply(broken, {"inputs": inputs})[0]).max() > 1e-2
