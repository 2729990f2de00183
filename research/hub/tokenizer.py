"""The tokenizer that belongs to pretrained parameters, read from the files that published models have, and written.

It is a `Subwords` of kind "pretrained", which knows its special tokens and chat template.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from research.core.errors import UserError
from research.core.files import write_atomic
from research.data.text.tokenizers import BERT_SPECIAL, Subwords
from research.hub.weights import read_json

ROLES = ("bos", "eos", "pad", "cls", "sep", "mask", "unk")
FILE, SETTINGS, SPECIAL = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"


def open_tokenizer(folder: Path) -> Subwords | None:
    """Reads tokenizer.json, or the vocabulary of a WordPiece or byte-pair tokenizer; None where there is none.

    Raises:
        UserError: a file is damaged, or the tokenizer wants code of its own.
    """
    settings = read_json(folder / SETTINGS) if (folder / SETTINGS).exists() else {}
    if "auto_map" in settings:
        raise UserError(f"{folder / SETTINGS} names code in auto_map, and code of others is not run here.")
    tokens = read_json(folder / SPECIAL) if (folder / SPECIAL).exists() else {}
    named = {role: _content({**tokens, **settings}.get(f"{role}_token")) for role in ROLES}
    special = {role: token for role, token in named.items() if token}
    if (folder / FILE).exists():
        trained = _parsed(folder / FILE)
    elif (folder / "vocab.txt").exists():
        trained = _wordpiece(folder / "vocab.txt", settings)
        special = {**BERT_SPECIAL, **special}
    elif (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
        trained = byte_level(read_json(folder / "vocab.json"), merges)
    else:
        return None
    return Subwords("pretrained", trained, special, _chat_template(folder, settings.get("chat_template")))


def save_tokenizer(folder: Path, tokenizer: Subwords) -> None:
    """Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json beside a model."""
    ids = {role: tokenizer.special_id(role) for role in ROLES}
    tokens = {f"{role}_token": tokenizer.trained.id_to_token(found) for role, found in ids.items() if found is not None}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **tokens}
    if tokenizer.chat_template is not None:
        settings["chat_template"] = tokenizer.chat_template
    write_atomic(folder / FILE, tokenizer.trained.to_str(pretty=True))
    write_atomic(folder / SETTINGS, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
    write_atomic(folder / SPECIAL, json.dumps(tokens, indent=2, ensure_ascii=False) + "\n")


def byte_level(vocabulary: Mapping[str, int], merges: Sequence[Any]) -> tokenizers.Tokenizer:
    """Returns the byte-level byte-pair tokenizer of GPT-2 (Radford et al. 2019); `<|endoftext|>` is special."""
    try:
        trained = tokenizers.Tokenizer(models.BPE(dict(vocabulary), list(merges)))
    except Exception as error:  # the library raises no narrower class
        raise UserError(f"The vocabulary and merges are those of no byte-pair tokenizer ({error}).") from None
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trained.add_special_tokens([token for token in ("<|endoftext|>",) if token in vocabulary])
    return trained


def _content(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _chat_template(folder: Path, given: Any) -> str | None:
    if (folder / "chat_template.jinja").exists():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if isinstance(given, list):  # several by name
        return next((each["template"] for each in given if each.get("name") == "default"), None)
    return given


def _parsed(path: Path) -> tokenizers.Tokenizer:
    try:
        trained = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower class
        raise UserError(f"{path} holds no tokenizer ({error}): fetch it again.") from None
    trained.no_padding()
    trained.no_truncation()
    return trained


def _wordpiece(path: Path, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Returns the tokenizer of BERT (Devlin et al. 2019) with a vocabulary of one piece a line."""
    pieces = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    unknown, first, separator = (BERT_SPECIAL[role] for role in ("unk", "cls", "sep"))
    for token in (unknown, first, separator):
        if token not in vocabulary:
            raise UserError(f"{path} has no {token}, so it is no vocabulary of a WordPiece tokenizer.")
    trained = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    trained.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trained.post_processor = processors.BertProcessing((separator, vocabulary[separator]), (first, vocabulary[first]))
    trained.decoder = decoders.WordPiece()
    trained.add_special_tokens([token for token in BERT_SPECIAL.values() if token in vocabulary])
    return trained
