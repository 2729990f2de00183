"""Tokenizers made of vocabulary files alone, as the class that a published model names makes them.

The same files mean other ids in another class: `vocab.json` and `merges.txt` are those of GPT-2, RoBERTa and Qwen. A
class that is not known here is refused by its name.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from research.core.errors import UserError, quoted
from research.core.files import read_text
from research.data.text.tokenizers import BERT_SPECIAL, SENTINEL, T5_SPECIAL, Subwords
from research.hub.marian_vocabulary import FILES as MARIAN_FILES
from research.hub.marian_vocabulary import SPECIAL as MARIAN_SPECIAL
from research.hub.marian_vocabulary import marian_tokenizer
from research.hub.sentencepiece import added_of, not_tiktoken, pairs_of, read_sentencepiece, trained_of
from research.hub.weights import LARGEST_JSON, read_json

Settings = Mapping[str, Any]
# How GPT-4, Llama 3 and Qwen cut text into words.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ROBERTA = {"bos": "<s>", "eos": "</s>", "cls": "<s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
LLAMA = {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}
GPT2 = {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>"}
QWEN = {"eos": "<|endoftext|>", "pad": "<|endoftext|>", "unk": "<|endoftext|>"}


def byte_level(vocabulary: Mapping[str, int], merges: Sequence[Any], *, prefix: bool = False) -> tokenizers.Tokenizer:
    """Returns the byte-level byte-pair tokenizer of GPT-2 (Radford et al. 2019); `<|endoftext|>` is special.

    Args:
        vocabulary: ids of tokens.
        merges: pairs of tokens, the first merged first.
        prefix: whether a space is put before the text.
    """
    try:
        trained = tokenizers.Tokenizer(models.BPE(dict(vocabulary), list(merges)))
    except Exception as error:  # the library raises no narrower class
        raise UserError(
            f"The vocabulary and merges are those of no byte-pair tokenizer ({quoted(error, 200)})."
        ) from None
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    trained.decoder = decoders.ByteLevel()
    trained.add_special_tokens([token for token in ("<|endoftext|>",) if token in vocabulary])
    return trained


def cut_by(pattern: str) -> pre_tokenizers.PreTokenizer:
    """Returns what cuts text into the words of a pattern, and these into bytes."""
    words = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _wordpiece(folder: Path, settings: Settings, special: Mapping[str, str]) -> tokenizers.Tokenizer:
    """BERT (Devlin et al. 2019): a vocabulary of one piece a line."""
    path = folder / "vocab.txt"
    pieces = read_text(path, LARGEST_JSON).removesuffix("\n").split("\n")
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    unknown, first, separator = (special[role] for role in ("unk", "cls", "sep"))
    for token in (unknown, first, separator):
        if token not in vocabulary:
            raise UserError(f"{path} has no {token}, so it is no vocabulary of a WordPiece tokenizer.")
    trained = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    trained.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=_flag(settings, "tokenize_chinese_chars", default=True),
        strip_accents=_flag(settings, "strip_accents") if settings.get("strip_accents") is not None else None,
        lowercase=_flag(settings, "do_lower_case", default=True),
    )
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trained.post_processor = processors.BertProcessing((separator, vocabulary[separator]), (first, vocabulary[first]))
    trained.decoder = decoders.WordPiece()
    trained.add_special_tokens([token for token in special.values() if token in vocabulary])
    return trained


def _gpt2(folder: Path, settings: Settings, special: Mapping[str, str]) -> tokenizers.Tokenizer:
    vocabulary = read_json(folder / "vocab.json")
    prefix = _flag(settings, "add_prefix_space")
    trained = byte_level(vocabulary, _merges(folder), prefix=prefix)
    trained.add_special_tokens([token for token in special.values() if token in vocabulary])
    if _flag(settings, "add_bos_token"):
        _frame(trained, "BOS $A", "BOS $A BOS $B", BOS=special["bos"])
    return trained


def _roberta(folder: Path, settings: Settings, special: Mapping[str, str]) -> tokenizers.Tokenizer:
    trained = byte_level(read_json(folder / "vocab.json"), _merges(folder), prefix=_flag(settings, "add_prefix_space"))
    trained.add_special_tokens(
        [*(token for role, token in special.items() if role != "mask"), _mask(settings, special)]
    )
    _frame(trained, "CLS $A SEP", "CLS $A SEP SEP $B SEP", CLS=special["cls"], SEP=special["sep"])
    return trained


def _qwen(folder: Path, settings: Settings, special: Mapping[str, str]) -> tokenizers.Tokenizer:
    trained = byte_level(read_json(folder / "vocab.json"), _merges(folder))
    trained.normalizer = normalizers.NFC()
    trained.pre_tokenizer = cut_by(WORDS.replace("DIGITS", r"\p{N}"))
    return trained


def _llama(folder: Path, settings: Settings, special: Mapping[str, str]) -> tokenizers.Tokenizer:
    """Llama 2 and Mistral: byte pairs of SentencePiece."""
    model = read_sentencepiece(folder / "tokenizer.model")
    trained = pairs_of(model)
    trained.add_tokens(added_of(model))
    begin, end = ("BOS " if _flag(settings, "add_bos_token", default=True) else ""), _flag(settings, "add_eos_token")
    parts = [f"{begin}{text}{' EOS' if end else ''}" for text in ("$A", "$B")]
    _frame(trained, parts[0], " ".join(parts), BOS=special["bos"], EOS=special["eos"])
    return trained


def _t5(folder: Path, settings: Settings, special: Mapping[str, str]) -> tokenizers.Tokenizer:
    model = read_sentencepiece(folder / "spiece.model")
    count = settings.get("extra_ids", 100)
    if type(count) is not int or not 0 <= count <= 10_000:
        raise UserError(f"{folder / 'tokenizer_config.json'} sets 'extra_ids' to {quoted(count)}: correct it.")
    sentinels = [SENTINEL.format(number) for number in reversed(range(count))]
    trained = trained_of(model._replace(pieces=[*model.pieces, *((token, 0.0, 1) for token in sentinels)]))
    trained.add_tokens(added_of(model))
    trained.add_special_tokens([*special.values(), *sentinels])
    _frame(trained, "$A EOS", "$A EOS $B EOS", EOS=special["eos"])
    return trained


def _xlm_roberta(folder: Path, settings: Settings, special: Mapping[str, str]) -> tokenizers.Tokenizer:
    """XLM-RoBERTa: its own special tokens in place of the first three of SentencePiece, and a mask at the end."""
    model = read_sentencepiece(folder / "sentencepiece.bpe.model")
    first = [(special[role], 0.0, 1) for role in ("bos", "pad", "eos", "unk")]
    pieces = [*first, *model.pieces[3:], (special["mask"], 0.0, 1)]
    trained = trained_of(model._replace(pieces=pieces, unknown=3))
    trained.add_special_tokens(
        [*(token for role, token in special.items() if role != "mask"), _mask(settings, special)]
    )
    _frame(trained, "BOS $A EOS", "BOS $A EOS EOS $B EOS", BOS=special["bos"], EOS=special["eos"])
    return trained


def _camembert(folder: Path, settings: Settings, special: Mapping[str, str]) -> tokenizers.Tokenizer:
    """CamemBERT: tokens of its own, three of them unused, before those of SentencePiece, and a mask at the end."""
    model = read_sentencepiece(folder / "sentencepiece.bpe.model")
    unused = {"bos": "<s>NOTUSED", "eos": "</s>NOTUSED"}
    first = [(unused.get(role, special[role]), 0.0, 1) for role in ("bos", "pad", "eos", "unk")]
    pieces = [*first, ("<unk>NOTUSED", -100.0, 1), *model.pieces[1:], (special["mask"], 0.0, 1)]
    trained = trained_of(model._replace(pieces=pieces, unknown=3))
    trained.add_special_tokens(
        [
            *(token for role, token in special.items() if role != "mask"),
            *unused.values(),
            _mask(settings, special, lstrip=True),
        ]
    )
    _frame(trained, "BOS $A EOS", "BOS $A EOS EOS $B EOS", BOS=special["bos"], EOS=special["eos"])
    return trained


def _mask(settings: Settings, special: Mapping[str, str], *, lstrip: bool = False) -> AddedToken:
    """Returns the mask; the settings may say that the space before it belongs to it, as it does by default for some."""
    described = settings.get("mask_token")
    lstrip = described.get("lstrip") is True if isinstance(described, Mapping) else lstrip
    return AddedToken(special["mask"], lstrip=lstrip, normalized=False)


Maker = Callable[[Path, Settings, Mapping[str, str]], tokenizers.Tokenizer | Subwords]
# By class: how it is made, the files that it needs, and its special tokens where the settings name no others.
CLASSES: Mapping[str, tuple[Maker, tuple[str, ...], Mapping[str, str]]] = {
    **dict.fromkeys(
        ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer"), (_wordpiece, ("vocab.txt",), BERT_SPECIAL)
    ),
    "GPT2Tokenizer": (_gpt2, ("vocab.json", "merges.txt"), GPT2),
    "RobertaTokenizer": (_roberta, ("vocab.json", "merges.txt"), ROBERTA),
    "Qwen2Tokenizer": (_qwen, ("vocab.json", "merges.txt"), QWEN),
    "LlamaTokenizer": (_llama, ("tokenizer.model",), LLAMA),
    **dict.fromkeys(("T5Tokenizer", "MT5Tokenizer"), (_t5, ("spiece.model",), T5_SPECIAL)),
    "XLMRobertaTokenizer": (_xlm_roberta, ("sentencepiece.bpe.model",), ROBERTA),
    "MarianTokenizer": (marian_tokenizer, MARIAN_FILES, MARIAN_SPECIAL),
    "CamembertTokenizer": (_camembert, ("sentencepiece.bpe.model",), ROBERTA),
}
# The class of a model whose settings name none.
BY_MODEL = {
    **dict.fromkeys(("bert", "distilbert", "electra"), "BertTokenizer"),
    "gpt2": "GPT2Tokenizer",
    "roberta": "RobertaTokenizer",
    **dict.fromkeys(("qwen2", "qwen3"), "Qwen2Tokenizer"),
    **dict.fromkeys(("llama", "mistral"), "LlamaTokenizer"),
    **dict.fromkeys(("t5", "mt5"), "T5Tokenizer"),
    "xlm-roberta": "XLMRobertaTokenizer",
    "camembert": "CamembertTokenizer",
    "marian": "MarianTokenizer",
}
VOCABULARIES = ("vocab.txt", "vocab.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "source.spm")


def from_vocabulary(
    folder: Path, settings: Settings, described: Mapping[str, Any], named: Mapping[str, str]
) -> Subwords | None:
    """Returns the tokenizer of a folder's vocabulary files; None where it has no such files.

    Args:
        folder: of the model.
        settings: tokenizer_config.json.
        described: config.json.
        named: the special tokens that the files name, by role.

    Raises:
        UserError: the class is not known here, or its files are missing or damaged.
    """
    if tiktoken := sorted([*folder.glob("*.tiktoken"), *folder.glob("tiktoken.model")]):
        raise not_tiktoken(tiktoken[0])
    if not any((folder / name).exists() for name in VOCABULARIES):
        return None
    kind = (
        settings.get("tokenizer_class")
        or described.get("tokenizer_class")
        or BY_MODEL.get(
            str(described.get("model_type")), "BertTokenizer" if (folder / "vocab.txt").exists() else "GPT2Tokenizer"
        )
    )
    if (name := str(kind).removesuffix("Fast")) not in CLASSES:
        raise UserError(
            f"{folder} has a tokenizer of the class {quoted(kind)}, which cannot be made of its vocabulary here: "
            "save it once as tokenizer.json, by save_pretrained of a fast tokenizer of the transformers library."
        )
    make, files, special = CLASSES[name]
    for file in files:
        if not (folder / file).exists():
            raise UserError(f"{folder} has no {file}, which a {name} is made of: fetch it again.")
    every = {**special, **named}
    made = make(folder, settings, every)
    return made if isinstance(made, Subwords) else Subwords("pretrained", made, every)


def _merges(folder: Path) -> list[tuple[str, ...]]:
    lines = read_text(folder / "merges.txt", LARGEST_JSON).split("\n")
    return [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]


def _frame(trained: tokenizers.Tokenizer, single: str, pair: str, **tokens: str) -> None:
    """Sets what is put around a text and around two; words in capitals stand for special tokens."""
    used = {name: token for name, token in tokens.items() if name in single.split()}
    ids = {token: trained.token_to_id(token) for token in used.values()}
    if missing := [token for token, found in ids.items() if found is None]:
        raise UserError(f"The vocabulary has no {quoted(missing[0])}, which is put around a text: fetch it again.")
    single, pair = (" ".join(used.get(word, word) for word in text.split()) for text in (single, pair))
    trained.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=list(ids.items()))


def _flag(settings: Settings, name: str, *, default: bool = False) -> bool:
    value = settings.get(name)
    if value is not None and not isinstance(value, bool):
        raise UserError(f"tokenizer_config.json sets {name!r} to {quoted(value)}: it is true or false.")
    return default if value is None else value
