"""Conversations and preferences: chat-formatted JSON lines as packed rows of tokens, with a mask on the answers.

For instruction tuning every line has `messages`, and `LanguageModelling` learns the assistant's turns alone; for
preferences it has `chosen` and `rejected` besides, two continuations of them, for `DirectPreference`. Both are made of
a table, such as a data set of the catalogue, by templates: `table_chats.py`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research.core.errors import UserError
from research.core.ranges import AtLeast0, Below1, Length
from research.data.dataset import Data, Rows
from research.data.text.chat_messages import ROLES, Chat, check_messages, checked_chat, training_texts
from research.data.text.chat_spans import Answers, find_answers
from research.data.text.chat_template import CHATML, Message, Tools
from research.data.text.packing import best_fit, pack
from research.data.text.table_chats import answered, preferred
from research.data.text.text_records import Record, check_columns, divide, read_splits, write_splits
from research.data.text.tokenizers import Subwords, TokenizerConfig

Part = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class ChatData:
    """Which conversations, and how they become rows of tokens."""

    dataset: str = ""
    """a data set of the catalogue, to be used with `question` and `answer`; not read where files are given"""
    train: tuple[str, ...] = ()
    """your files or globs, JSON or Parquet: {"messages": [{"role": "user", "content": "..."}, ...]}; "weight": 0 beside
    an answer leaves it out of what is learned, and "tools" beside the messages are what the assistant may call"""
    validation: tuple[str, ...] = ()
    """your files to validate on; without them a fraction of the lines is held out"""
    preferences: bool = False
    """lines have `chosen` and `rejected`, each a text or messages, which follow `messages` or a text `prompt`"""
    question: str = ""
    """where lines are no conversations, but rows of a table: what the user says, with columns in braces"""
    answer: str = ""
    """what the assistant says, likewise"""
    score: str = ""
    """for preferences of a table: the column that says how good an answer is, to compare those to equal questions"""
    margin: AtLeast0 = 0.0
    """the smallest difference between the scores of two answers of which one is preferred"""
    group: tuple[str, ...] = ()
    """the columns that name the group which a split never divides; without them each line is by itself"""
    validation_fraction: Below1 = 0.1
    salt: str = ""
    """another salt gives another split of the same lines"""
    template: str = ""
    """Jinja that makes text of messages ('': the tokenizer's own, else ChatML)"""
    date: str = "2024-07-26"
    """the day that a template's `strftime_now` tells, YYYY-MM-DD; fixed, so that the same rows are made on every day"""
    tokenizer: Any = TokenizerConfig("bpe", vocabulary_size=4096)
    """has `train(texts)`, which gives a tokenizer: trained on the training texts, or taken ready"""
    length: Length = 512
    """tokens in a row, and the most of a conversation, which loses its end"""

    def build(self) -> Data:
        """Reads and prepares; raises UserError for files, messages and templates that cannot work."""
        if not (self.train or self.dataset):
            raise UserError("There are no conversations: name your files with --data.train chats.jsonl.")
        splits, facts = read_splits(self.dataset, {"train": self.train, "validation": self.validation})
        wanted = ("chosen", "rejected") if self.preferences else ("messages",)
        table = self.question and not any(set(wanted) & record.keys() for of in splits.values() for record in of)
        if not table:
            check_columns(splits, dict(zip(("question", "answer"), wanted, strict=False)))
        splits = divide(splits, {"validation": self.validation_fraction}, self.group, self.salt, str)
        if table:
            splits = {split: self._of_table(records) for split, records in splits.items()}
        chats = {
            split: [chat for record in records for chat in self._chats(record)] for split, records in splits.items()
        }
        texts = [text for chat in chats["train"] for text in training_texts(chat)]
        tokenizer = self.tokenizer.train([*texts, "".join(f"<|im_start|>{role}\n<|im_end|>" for role in ROLES[:3])])
        if not isinstance(tokenizer, Subwords):
            raise UserError("Conversations need a tokenizer of subwords: set --data.tokenizer.kind bpe.")
        rows, facts["splits"] = {}, {}
        for split, of_split in chats.items():
            parts = self._tokens(tokenizer, *(list(column) for column in zip(*of_split, strict=True)))
            rows[split], padding = self._rows(parts)
            counts = {"conversations": len(of_split), "rows": len(rows[split]), "padding": round(padding, 4)}
            learned = int(sum(part["weights"].sum() for part in parts))
            if not learned:
                raise UserError(
                    f"No answer of the {split} split stands in the first {self.length} tokens: set --data.length to "
                    "more."
                )
            facts["splits"][split] = {**counts, "learned_tokens": learned}
        facts["tokenizer"] = {"kind": tokenizer.kind, "vocabulary": tokenizer.vocabulary_size}
        return Data(rows, tokenizer.vocabulary_size, tokenizer=tokenizer, summary=facts)

    def _of_table(self, records: Sequence[Record]) -> list[Record]:
        if self.preferences:
            return preferred(records, self.question, self.answer, self.score, self.margin)
        return answered(records, self.question, self.answer)

    def _chats(self, record: Record) -> list[Chat]:
        """Returns the conversation of a line, or for preferences the chosen one and the rejected one."""
        tools = record.get("tools")
        if not self.preferences:
            return [checked_chat(record["messages"], tools, "messages")]
        before = record.get("messages") or [{"role": "user", "content": record.get("prompt")}]
        check_messages(before, "messages, or the prompt,")
        chats = []
        for name in ("chosen", "rejected"):
            after = record[name]
            after = [{"role": "assistant", "content": after}] if isinstance(after, str) else after
            check_messages(after, name)
            follows = after[: len(before)] == before
            chats.append(checked_chat(after if follows else [*before, *after], tools, name))
        return chats

    def _tokens(
        self, tokenizer: Subwords, chats: Sequence[Sequence[Message]], tools: Sequence[Tools | None] = ()
    ) -> list[Part]:
        """Returns `inputs`, `targets` and `weights` (1 where the assistant says the target) of every conversation."""
        template = self.template or tokenizer.chat_template or CHATML
        answers = find_answers(template, chats, tokenizer.special, tools=tools, date=self.date)
        return [self._part(tokenizer, each) for each in answers]

    def _part(self, tokenizer: Subwords, answers: Answers) -> Part:
        encoded = tokenizer.trained.encode(answers.text, add_special_tokens=False)
        ids, offsets = np.array(encoded.ids, np.int32), np.array(encoded.offsets, np.int32).reshape(-1, 2)
        learned = np.zeros(len(ids), np.int32)
        first, last = offsets[:, 0], offsets[:, 1]
        for begin, end in answers.spans:
            whole = (first >= begin) & (last <= end)
            learned |= whole if answers.whole_tokens else (first < end) & (last > begin)
        kept = slice(0, self.length)
        return {"inputs": ids[:-1][kept], "targets": ids[1:][kept], "weights": learned[1:][kept]}

    def _rows(self, parts: Sequence[Part]) -> tuple[Rows, float]:
        """Packs conversations into rows; those of a preference stand beside each other."""
        each = 2 if self.preferences else 1
        sizes = [sum(part["inputs"].size for part in parts[at : at + each]) for at in range(0, len(parts), each)]
        length = each * self.length
        rows = best_fit(sizes, length)
        members = [[each * index + place for index in row for place in range(each)] for row in rows]
        arrays, _ = pack(parts, members, length)
        mask = (arrays.pop("weights") * (arrays["segments"] > 0)).astype(np.float32)
        if not self.preferences:
            return Rows({**arrays, "mask": mask}), 1 - sum(sizes) / mask.size
        max_turns = max(map(len, rows))
        pairs = np.array([[1.0] * len(row) + [0.0] * (max_turns - len(row)) for row in rows], np.float32)
        return Rows({**arrays, "weights": mask, "mask": pairs}), 1 - sum(sizes) / mask.size

    def small(self, folder: Path) -> "ChatData":
        """Returns the same of short conversations, or preferences, that it writes into the folder."""

        def record(number: int, text: str) -> Record:
            messages = [{"role": "user", "content": f"{number}?"}]
            if self.preferences:
                return {"messages": messages, "chosen": "Yes.", "rejected": "No."}
            return {"messages": [*messages, {"role": "assistant", "content": "Yes."}]}

        files = write_splits(folder, record)
        return dataclasses.replace(self, dataset="", train=files["train"], validation=files["validation"])
