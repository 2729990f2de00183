"""The modules of a model of the sentence-transformers library, of which those that are applied here are accepted.

Its modules.json lists what a text goes through: the transformer, the pooling of its positions, and maybe more.
"""

from pathlib import Path

from research.core.errors import UserError, visible
from research.core.json_files import read_json

MODULES, POOLING = "modules.json", "1_Pooling/config.json"
LARGEST = 1 << 20  # bytes
# After the pooling the lengths of vectors may be made 1, which changes no cosine: here that is left to the user.
KNOWN = (["Transformer"], ["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])


def check_modules(path: Path) -> None:
    """Raises UserError where a modules.json has a module that is not applied here, such as a dense layer, by name."""
    listed = read_json(path, LARGEST)
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise UserError(f"{path} is no list of modules: fetch it again.")
    kinds = [str(each.get("type", "")).rpartition(".")[2] for each in listed]
    folders = {kind: each.get("path") for kind, each in zip(kinds, listed, strict=True)}
    if kinds not in KNOWN:
        raise UserError(
            f"{path} lists the modules {visible(', '.join(kinds))[:200]}; a model here goes through a Transformer, a "
            "Pooling and maybe a Normalize, in this order, and through no other: take a model without the others."
        )
    if folders.get("Pooling", "1_Pooling") != "1_Pooling" or folders.get("Transformer"):
        raise UserError(f"{path} names other folders than '' for the transformer and 1_Pooling, which are those read.")
