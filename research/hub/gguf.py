"""GGUF files, the one-file form of llama.cpp, read as if they were a folder in Hugging Face's form.

`open_file` gives a config.json, tensors under Hugging Face's names, and a tokenizer, for Llama, Qwen 2, Qwen 3 and
Gemma 3. The format (https://github.com/ggml-org/ggml, docs/gguf.md): metadata, the description of every tensor, and
their bytes, float or quantised. All of it is checked before a tensor is read.
"""

import math
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from research.core.errors import UserError, quoted
from research.data.text.tokenizers import Subwords
from research.hub.gguf_vocabulary import tokenizer_of
from research.hub.quantized import KINDS, Kind, dequantize
from research.hub.weights import aligned_empty, read_bytes
from research.models.layers.rotary import Rotary

MODEL_TYPES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3": "gemma3_text"}
ENDS = tuple(f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))  # of a text, a turn, a message
LONGEST = 1 << 24  # entries of a list or bytes of a string in the metadata
NUMBERS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
STRING, LIST = 8, 9
PORTION = 1 << 22  # values made float32 at a time
LAYERS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Of the rotary positions, as config.json has them.
SCALING = {"type": "rope_type", "factor": "factor", "original_context_length": "original_max_position_embeddings"}
WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


class Stored(NamedTuple):
    """Where a tensor lies: its kind, its shape with the fastest axis last, and its first byte in the file."""

    kind: Kind
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) // self.kind.values * self.kind.block.itemsize


class Gguf:
    """The tensors of a checked file, under the names and in the layout of Hugging Face."""

    def __init__(self, path: Path, metadata: Mapping[str, Any], stored: Mapping[str, Stored]) -> None:
        self._path, self._metadata, self._stored = path, metadata, stored
        self._architecture = metadata["general.architecture"]
        self._names = {_their_name(name, self._architecture): name for name in stored if name != "rope_freqs.weight"}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: self._stored[ours].shape for name, ours in self._names.items()}

    @property
    def dtypes(self) -> dict[str, np.dtype]:
        """Types of what `read` gives, whatever it is stored as."""
        return dict.fromkeys(self._names, np.dtype(np.float32))

    def read(self, name: str) -> np.ndarray:
        """Returns a tensor in float32, made so portion by portion."""
        array = _values(self._path, self._stored[self._names[name]])
        projection = re.search(r"\.([qk])_proj\.", name)
        if self._architecture == "llama" and projection:
            heads = self._metadata["llama.attention.head_count"]
            num_kv_heads = self._metadata.get("llama.attention.head_count_kv", heads)
            return _halves_apart(array, heads if projection[1] == "q" else num_kv_heads)
        if self._architecture == "gemma3" and name.endswith("norm.weight"):
            array -= 1  # GGUF has the scale, Hugging Face what it exceeds 1 by
        return array

    def tokenizer(self) -> Subwords | None:
        """Returns the tokenizer, None where the file has none; raises UserError where it has an odd one."""
        try:
            return tokenizer_of(self._metadata)
        except UserError:
            raise
        except Exception as error:  # the library of tokenizers raises no narrower one
            raise UserError(
                f"The vocabulary in {self._path} lacks an entry or has an odd one: {quoted(error, 300)}."
            ) from None


def open_file(path: Path) -> tuple[dict[str, Any], Gguf]:
    """Returns the description of the model, as in config.json, and its tensors, which know the tokenizer too.

    Raises:
        UserError: the file is damaged, or holds a model or a kind of tensor that is not known here.
    """
    try:
        metadata, stored = _contents(path)
    except (struct.error, UnicodeDecodeError, OSError) as error:
        raise _corrupt(path, f"it cannot be read ({error})") from None
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in MODEL_TYPES:
        known = ", ".join(MODEL_TYPES)
        raise UserError(f"{path} holds a model of architecture {quoted(architecture)}; known here are {known}.")
    try:
        return _configuration(path, metadata, stored), Gguf(path, metadata, stored)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"The metadata of {path} lack an entry or have an odd one: {quoted(error, 300)}.") from None


def _contents(path: Path) -> tuple[dict[str, Any], dict[str, Stored]]:
    """Reads and checks the metadata and the description of every tensor."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        magic, version, tensors, entries = struct.unpack("<4sIQQ", file.read(24))
        if magic != b"GGUF" or version not in (2, 3):
            raise _corrupt(path, f"it begins with {magic!r}, version {version}, not with b'GGUF' and version 2 or 3")
        reader = _Reader(path, file, size)
        metadata: dict[str, Any] = {}
        for _ in range(reader.limited(entries, 12)):
            name = reader.text()
            if name in metadata:
                raise _corrupt(path, f"{quoted(name)} occurs twice in its metadata")
            metadata[name] = reader.value()
        described: dict[str, tuple[Kind, tuple[int, ...], int]] = {}
        for _ in range(reader.limited(tensors, 24)):
            name = reader.text()
            if name in described or not name or ".." in name or re.search(r"[\x00-\x1f/\\]", name):
                raise _corrupt(path, f"{quoted(name)} is no name for a tensor, or occurs twice")
            described[name] = _description(reader, path, name)
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 8 <= alignment <= 1 << 16 or alignment & (alignment - 1):
            raise _corrupt(path, f"its alignment is {quoted(alignment)}, no power of two from 8 to 65536")
        base = -(-file.tell() // alignment) * alignment
    stored = {name: Stored(kind, shape, base + start) for name, (kind, shape, start) in described.items()}
    end = base
    for name, tensor in sorted(stored.items(), key=lambda item: item[1].start):
        if tensor.start < end or tensor.start % alignment or tensor.start + tensor.size > size:
            raise _corrupt(path, f"the bytes of {quoted(name)} overlap others or lie outside the file")
        end = tensor.start + tensor.size
    return metadata, stored


def _description(reader: "_Reader", path: Path, name: str) -> tuple[Kind, tuple[int, ...], int]:
    axes = reader.number("<u4")
    if not 1 <= axes <= 4:
        raise _corrupt(path, f"{quoted(name)} has {axes} axes")
    shape = tuple(reader.number("<u8") for _ in range(axes))[::-1]
    number, start = reader.number("<u4"), reader.number("<u8")
    if number not in KINDS:
        known = ", ".join(kind.name for kind in KINDS.values())
        raise UserError(
            f"{path} has {quoted(name)} in the kind number {number}, which is not read here; known are {known}."
        )
    if min(shape) < 1 or max(shape) >= 1 << 40 or shape[-1] % KINDS[number].values:
        raise _corrupt(
            path, f"{quoted(name)} has the shape {list(shape)}, no multiple of the blocks of {KINDS[number].name}"
        )
    return KINDS[number], shape, start


class _Reader:
    """Reads the parts of the metadata in turn; nothing is allocated that the file does not have the bytes for."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self._path, self._file, self._size = path, file, size

    def limited(self, count: int, min_bytes: int) -> int:
        """Returns `count`, where as many entries of `min_bytes` bytes may follow."""
        if count > LONGEST or count * min_bytes > self._size - self._file.tell():
            raise _corrupt(self._path, f"{count} entries would follow at byte {self._file.tell()}")
        return count

    def number(self, dtype: str) -> Any:
        return np.frombuffer(self._file.read(self.limited(np.dtype(dtype).itemsize, 1)), dtype)[0].item()

    def text(self) -> str:
        return self._file.read(self.limited(self.number("<u8"), 1)).decode()

    def value(self) -> Any:
        kind = self.number("<u4")
        if kind == STRING:
            return self.text()
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        kind, count = (self.number("<u4"), self.number("<u8")) if kind == LIST else (kind, 0)
        if kind == STRING:
            return [self.text() for _ in range(self.limited(count, 8))]
        if kind not in NUMBERS:
            raise _corrupt(self._path, f"its metadata have a value of the unknown kind {kind}")
        dtype = np.dtype(NUMBERS[kind])
        return np.frombuffer(self._file.read(self.limited(count, dtype.itemsize) * dtype.itemsize), dtype).tolist()


def _corrupt(path: Path, what: str) -> UserError:
    return UserError(f"{path} is damaged or no GGUF file: {what}; fetch it again.")


def _values(path: Path, stored: Stored) -> np.ndarray:
    values, size = stored.kind.values, stored.kind.block.itemsize
    result = aligned_empty((math.prod(stored.shape),), np.float32)
    portion = PORTION // values * values
    for begin in range(0, result.size, portion):
        end = min(begin + portion, result.size)
        raw = read_bytes(path, stored.start + begin // values * size, (end - begin) // values * size)
        result[begin:end] = dequantize(raw, stored.kind)
    return result.reshape(stored.shape)


def _their_name(name: str, architecture: str) -> str:
    """Returns the name that Hugging Face has for a tensor; an unknown one keeps its own, and is refused later."""
    stem, _, stored = name.rpartition(".")
    if stem in WHOLE:
        return f"{WHOLE[stem]}.{stored}"
    block = re.fullmatch(r"blk\.(\d{1,5})\.(\w+)", stem)
    if not block:
        return name
    layers = {**LAYERS, "ffn_norm": f"{'pre_feedforward' if architecture == 'gemma3' else 'post_attention'}_layernorm"}
    return f"model.layers.{int(block[1])}.{layers[block[2]]}.{stored}" if block[2] in layers else name


def _halves_apart(array: np.ndarray, heads: int) -> np.ndarray:
    """Takes pairs of features that turn together, side by side in the queries and keys of Llama, half a head apart."""
    pairs = array.reshape(heads, -1, 2, *array.shape[1:])
    return pairs.swapaxes(1, 2).reshape(array.shape)


def _configuration(path: Path, metadata: Mapping[str, Any], stored: Mapping[str, Stored]) -> dict[str, Any]:
    """Returns what config.json would say; raises KeyError where the metadata lack it."""
    architecture = metadata["general.architecture"]

    def value(name: str, default: Any = None) -> Any:
        found = metadata.get(f"{architecture}.{name}", default)
        if found is None:
            raise KeyError(f"{architecture}.{name}")
        return found

    heads, width, depth = value("attention.head_count"), value("embedding_length"), value("block_count")
    head = value("attention.key_length", width // heads)
    base = float(value("rope.freq_base", 10_000.0))
    json = {
        "model_type": MODEL_TYPES[architecture],
        "vocab_size": stored["token_embd.weight"].shape[0],
        "hidden_size": width,
        "intermediate_size": value("feed_forward_length"),
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "num_key_value_heads": value("attention.head_count_kv", heads),
        "head_dim": head,
        "max_position_embeddings": value("context_length"),
        # Stored in float32, but meant as a short decimal, which config.json has.
        "rms_norm_eps": float(f"{value('attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": base,
        "tie_word_embeddings": "output.weight" not in stored,
        "eos_token_id": [metadata[name] for name in ENDS if name in metadata],
        "attention_bias": "blk.0.attn_q.bias" in stored,
        "mlp_bias": "blk.0.ffn_up.bias" in stored,
    }
    kind = value("rope.scaling.type", "none")
    if kind != "none":
        json["rope_scaling"] = _scaled(path, metadata, f"{architecture}.rope.scaling.")
    if "rope_freqs.weight" in stored:
        json["rope_scaling"] = _slowed(path, stored["rope_freqs.weight"], base, head)
    if architecture == "gemma3":
        # As in llama.cpp: only the largest model, of 62 blocks, scales its queries by the width.
        scale = width // heads if depth == 62 else head
        json |= {"sliding_window": value("attention.sliding_window"), "query_pre_attn_scalar": scale}
    return json


def _scaled(path: Path, metadata: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Returns the rotary scaling that the metadata name."""
    given = {name.removeprefix(prefix): value for name, value in metadata.items() if name.startswith(prefix)}
    if odd := given.keys() - SCALING.keys() - {"finetuned"}:
        raise UserError(f"{path} sets {quoted(prefix + min(odd))}, which is not read here: take the model as a folder.")
    return {SCALING[name]: value for name, value in given.items() if name in SCALING}


def _slowed(path: Path, stored: Stored, base: float, head: int) -> dict[str, Any]:
    """Returns the rotary scaling of Llama 3, of which GGUF has only what each pair is slowed down by."""
    slower = _values(path, stored)
    factor = float(slower.max())
    scaled = Rotary(base, "llama3", factor)
    expected = np.asarray(Rotary(base).frequencies(head) / scaled.frequencies(head))
    if slower.shape != expected.shape or not np.allclose(slower, expected, rtol=1e-3):
        raise UserError(
            f"The rotary scaling in rope_freqs.weight of {path} is not that of Llama 3, the one known here."
        )
    return {
        "rope_type": scaled.scaling,
        "factor": factor,
        "original_max_position_embeddings": scaled.original_context,
        "low_freq_factor": scaled.low_frequency_factor,
        "high_freq_factor": scaled.high_frequency_factor,
    }
