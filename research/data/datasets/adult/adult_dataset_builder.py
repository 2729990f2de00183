"""Census records of 1994: as a table with what each person earned, or as short texts with a question about each.

Train and test are UCI's. `research.data.catalogue.load("adult")` gives the table: continuous columns are numbers,
categorical ones text, `?` where the answer is missing. `load("adult/questions")` gives a question, a context and the
words of the context that answer it. `README.md` gives source and licence.
"""

import gzip
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

RAW = Path(__file__).parent / "raw"
COLUMNS = (
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education_num",
    "marital_status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital_gain",
    "capital_loss",
    "hours_per_week",
    "native_country",
)
CONTINUOUS = ("age", "fnlwgt", "education_num", "capital_gain", "capital_loss", "hours_per_week")
LABELS = ("<=50K", ">50K")


FACTS = {
    "age": ("How old is the person?", "{} years", ("This person is {} old.", "The age is {}.")),
    "workclass": ("Who is the employer?", "{}", ("The employer is {}.", "The person works for {}.")),
    "education": (
        "Which education did the person finish?",
        "{}",
        ("The last school was {}.", "Education ended with {}."),
    ),
    "marital_status": ("Is the person married?", "{}", ("The person is {}.", "The marital status is {}.")),
    "occupation": ("What does the person do for a living?", "{}", ("The occupation is {}.", "The job is in {}.")),
    "hours_per_week": (
        "How long is the week of work?",
        "{} hours",
        ("Work takes {} a week.", "A week has {} of work."),
    ),
    "native_country": ("Where was the person born?", "{}", ("The place of birth is {}.", "The person comes from {}.")),
}  # column: its question, its answer, and two sentences that hold the answer


class Builder(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of the data set."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name="people", description="A record a person."),
        tfds.core.BuilderConfig(name="questions", description="A question about each person, answered in a text."),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        if self.builder_config.name == "questions":
            features = {name: tfds.features.Text() for name in ("question", "context", "answer")}
        else:
            columns = {
                name: tfds.features.Scalar(np.float32) if name in CONTINUOUS else tfds.features.Text()
                for name in COLUMNS
            }
            features = {**columns, "label": tfds.features.ClassLabel(names=LABELS)}
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            homepage="https://archive.ics.uci.edu/dataset/2/adult",
            license="CC-BY-4.0",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {
            "train": self._generate_examples(RAW / "adult.data.gz"),
            "test": self._generate_examples(RAW / "adult.test.gz"),
        }

    def _generate_examples(self, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        for key, values in enumerate(read_people(path)):
            if self.builder_config.name == "questions":
                yield key, question_about(values, random.Random(f"{path.name} {key}"))
            else:
                yield key, {name: float(value) if name in CONTINUOUS else value for name, value in values.items()}


def read_people(path: Path) -> list[dict[str, str]]:
    """Reads one of UCI's files; every value is as it stands there."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        # UCI's test file opens with a comment, ends its labels in a full stop, and both end in an empty line.
        rows = [line.strip().removesuffix(".").split(", ") for line in file if line.strip() and line[0] != "|"]
    return [dict(zip((*COLUMNS, "label"), row, strict=True)) for row in rows]


def question_about(person: Mapping[str, str], chance: random.Random) -> dict[str, str]:
    """Returns a question, a context of one sentence a fact, in any order, and the answer, empty where it is not known.

    >>> person = dict.fromkeys(FACTS, "?") | {"age": "39", "hours_per_week": "40"}
    >>> asked = question_about(person, random.Random(1))
    >>> print(asked["question"], asked["context"], asked["answer"], sep="\\n")
    How old is the person?
    This person is 39 years old. Work takes 40 hours a week.
    39 years
    """
    sentences = [
        chance.choice(forms).format(answer.format(person[column]))
        for column, (_, answer, forms) in FACTS.items()
        if person[column] != "?"
    ]
    chance.shuffle(sentences)
    asked = chance.choice(list(FACTS))
    question, answer, _ = FACTS[asked]
    known = person[asked] != "?"
    return {
        "question": question,
        "context": " ".join(sentences),
        "answer": answer.format(person[asked]) if known else "",
    }
