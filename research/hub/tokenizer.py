"""The tokenizer that belongs to pretrained parameters, read from the files that published models have, and written.

It is a `Subwords` of kind "pretrained", which knows its special tokens and chat template.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from research.core.errors import UserError, quoted
from research.core.files import read_text, regular_size, write_atomic
from research.data.text.framing import library_errors
from research.data.text.tokenizers import Subwords
from research.hub.marian_vocabulary import save_marian
from research.hub.tokenizer_classes import from_vocabulary
from research.hub.weights import read_json

ROLES = ("bos", "eos", "pad", "cls", "sep", "mask", "unk")
FILE, SETTINGS, SPECIAL = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
ADDED = "added_tokens.json"
LARGEST_TEMPLATE = 1 << 20  # bytes
PROBE = "A text, to try: 1234 déjà 漢字 \U0001f642 \u0378\n"  # characters that hardly any vocabulary has among them


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
        found = Subwords("pretrained", _parsed(folder / FILE), special)
    else:
        described = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
        made = from_vocabulary(folder, settings, described, special)
        if made is None:
            return None
        found = made
    _add_tokens(folder, found, settings, tokens)
    found = dataclasses.replace(found, chat_template=_chat_template(folder, settings.get("chat_template")))
    _try(found, folder)
    return found


def _try(found: Subwords, folder: Path) -> None:
    """Raises UserError where a tokenizer cannot be used, or frames a text otherwise than `encode_pair` knows."""
    try:
        framed = found.encode_pair(PROBE).ids
    except UserError as error:
        raise UserError(f"The tokenizer in {folder} cannot be used: {error}") from None
    if len(framed) != len(found.trained.encode(PROBE)):
        raise UserError(f"The post_processor of the tokenizer in {folder} repeats a text or leaves it out: correct it.")
    if framed.size and (largest := int(framed.max())) >= found.vocabulary_size:
        raise UserError(f"The tokenizer in {folder} puts the token {largest} around a text, which is none of its own.")


def save_tokenizer(folder: Path, tokenizer: Subwords) -> None:
    """Writes the files of a tokenizer and its settings beside a model."""
    if tokenizer.pieces:
        save_marian(folder, tokenizer)
        return
    ids = {role: tokenizer.special_id(role) for role in ROLES}
    tokens = {f"{role}_token": tokenizer.token_of(found) for role, found in ids.items() if found is not None}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **tokens}
    if tokenizer.chat_template is not None:
        settings["chat_template"] = tokenizer.chat_template
    write_atomic(folder / FILE, tokenizer.trained.to_str(pretty=True))
    write_atomic(folder / SETTINGS, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
    write_atomic(folder / SPECIAL, json.dumps(tokens, indent=2, ensure_ascii=False) + "\n")


def _add_tokens(folder: Path, tokenizer: Subwords, settings: Mapping[str, Any], tokens: Any) -> None:
    """Adds the tokens that the settings name beside the vocabulary, under the ids that they have there.

    Raises:
        UserError: a token would get another id.
    """
    listed = settings.get("added_tokens_decoder") or {}
    others = read_json(folder / ADDED) if (folder / ADDED).exists() else {}
    try:
        added = {int(number): _added(token) for number, token in listed.items()}
        added = {int(number): AddedToken(token, normalized=False) for token, number in others.items()} | added
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder} describes its added tokens in an odd way ({quoted(error, 200)}): fetch it again."
        ) from None
    extra = [_content(token) for token in (tokens.get("additional_special_tokens") or []) if _content(token)]
    for number, token in sorted(added.items()):
        special = token.special or token.content in extra
        (tokenizer.trained.add_special_tokens if special else tokenizer.trained.add_tokens)([token])
        if (found := tokenizer.id_of(token.content)) != number:
            raise UserError(
                f"{folder} says that {quoted(token.content)} is the token {number}, but its vocabulary has {found}: "
                "fetch all files of the tokenizer again."
            )


def _added(token: Any) -> AddedToken:
    flags = {name: bool(token.get(name, False)) for name in ("lstrip", "rstrip", "single_word", "special")}
    return AddedToken(token["content"], normalized=bool(token.get("normalized", not flags["special"])), **flags)


def _content(token: Any) -> str | None:
    """Returns the text of a token, which a file gives as such or in an object; raises UserError for anything else."""
    found = token.get("content") if isinstance(token, dict) else token
    if not isinstance(found, str | None):
        raise UserError(f"The tokenizer's settings name the token {quoted(found)}, which is no text: correct them.")
    return found


def _chat_template(folder: Path, given: Any) -> str | None:
    if (folder / "chat_template.jinja").exists():
        text = read_text(folder / "chat_template.jinja", LARGEST_TEMPLATE)
        return text.replace("\r\n", "\n").replace("\r", "\n")  # as Python reads the lines of any text file
    if isinstance(given, list) and all(isinstance(each, dict) and {"name", "template"} <= {*each} for each in given):
        given = next((each["template"] for each in given if each["name"] == "default"), None)  # several by name
    if not isinstance(given, str | None):
        raise UserError(f"chat_template in {folder} is no text but {quoted(given)}: fetch the folder again.")
    return given


def _parsed(path: Path) -> tokenizers.Tokenizer:
    regular_size(path)
    with library_errors(f"{path} holds no tokenizer"):
        trained = tokenizers.Tokenizer.from_file(str(path))
    trained.no_padding()
    trained.no_truncation()
    return trained
