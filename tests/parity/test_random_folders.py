"""Random folders of every family: the library's logits and text, or one sentence that names the field; none silent."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from random_folders import BOTH, ENCODERS, KINDS, PROMPT, Folder, greedy, inputs, made

from research.core.errors import UserError
from research.core.shapes import Spec
from research.decoding.loop import ENDED, make_generate
from research.decoding.sampling import Sampling
from research.hub.pretrained import Pretrained, load_pretrained

pytestmark = [pytest.mark.peer, pytest.mark.slow]

TOLERANCE = 1e-4
OF_EACH = 15


def their_outputs(folder: Folder) -> np.ndarray:
    with torch.no_grad():
        found = folder.model(**inputs(folder))
    if "start_logits" in found:
        return torch.stack([found.start_logits, found.end_logits], -1).numpy()
    name = next(name for name in ("prediction_logits", "logits", "last_hidden_state") if name in found)
    return found[name].numpy()


def our_outputs(folder: Folder, loaded: Pretrained) -> np.ndarray:
    names = {"input_ids": "inputs", "decoder_input_ids": "decoder_inputs"}
    arrays = {names[name]: jnp.asarray(array.numpy(), jnp.int32) for name, array in inputs(folder).items()}
    model = loaded.model
    if getattr(loaded.config, "head", "") == "embedding":  # a vector for each position
        model = dataclasses.replace(loaded.config, pooling="first").build(Spec(loaded.outputs))
        arrays["starts"] = jnp.broadcast_to(jnp.arange(arrays["inputs"].shape[1]), arrays["inputs"].shape)
    outputs = np.asarray(model.apply(loaded.params, arrays)[0])
    return outputs[:, 0] if getattr(loaded.config, "head", "") == "sequence" else outputs


def our_text(folder: Folder, loaded: Pretrained) -> list[int]:
    decoding = loaded.model.decoding
    assert decoding is not None
    tokens = jnp.asarray(inputs(folder)["input_ids"][:1].numpy(), jnp.int32)
    prompt, context = np.asarray(tokens[0, :PROMPT]), {}
    if folder.kind in BOTH:
        prompt, context = np.array([decoding.rules.start], np.int32), {"inputs": tokens, "segments": tokens * 0 + 1}
    generate = make_generate(decoding, Sampling(temperature=0.0), chunk=PROMPT)
    keys = jax.random.split(jax.random.key(0), 1)
    found = generate(loaded.params, [prompt], keys, tokens=folder.written, context=context)
    return [int(token[0]) for token in found if token[0] != ENDED]


def compare(folder: Folder) -> str:
    """Returns "equal" or "refused"; anything else is an AssertionError."""
    try:
        loaded = load_pretrained(folder.path)
        outputs = our_outputs(folder, loaded)
        error = np.abs(outputs - their_outputs(folder)).max()
        assert error <= TOLERANCE, f"logits differ by {error}"
        if folder.kind not in ENCODERS:
            ours, theirs = our_text(folder, loaded), greedy(folder)
            assert ours == theirs, f"wrote {ours} for {theirs}"
    except UserError as error:
        assert any(name in str(error) for name in folder.odd), f"refused without one of {folder.odd}: {error}"
        assert str(error).isprintable()
        return "refused"
    return "equal"


@pytest.mark.parametrize("kind", KINDS)
def test_random_folders(kind: str, tmp_path: Path) -> None:
    """Odd options, tied in all ways, wrapped, half precision, several ends: equal, or refused by name."""
    found = []
    for number in range(KINDS.index(kind), OF_EACH * len(KINDS), len(KINDS)):
        folder = made(number, tmp_path / str(number))
        try:
            found.append(compare(folder))
        except Exception as error:
            pytest.fail(f"folder {number}: {type(error).__name__}: {error}")
    assert found.count("equal") >= len(found) / 3
