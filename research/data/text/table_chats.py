"""Conversations from a table, by templates: one record is a question and its answer, two rated answers a preference.

`ChatData` makes them of a data set, or of your own .csv, by `--data.question "Translate: {en}" --data.answer "{es}"`.
"""

from collections.abc import Sequence

from research.core.errors import UserError, listed
from research.data.text.text_records import Record


def answered(records: Sequence[Record], question: str, answer: str) -> list[Record]:
    """Returns a conversation of two turns, under `messages`, for each record.

    Args:
        records: rows of a table.
        question: what the user says, with columns in braces, such as "Translate: {en}".
        answer: what the assistant says, likewise.

    Raises:
        UserError: a record lacks one of the columns, or the braces are no columns.
    """
    return [
        {
            "messages": [
                {"role": "user", "content": _filled("question", question, record)},
                {"role": "assistant", "content": _filled("answer", answer, record)},
            ]
        }
        for record in records
    ]


def preferred(records: Sequence[Record], question: str, answer: str, score: str, margin: float) -> list[Record]:
    """Returns preferences, `prompt`, `chosen` and `rejected`, between answers to equal questions.

    The answers to a question are put in order of their scores, and the best of the better half is chosen over the best
    of the worse half, the second over the second, and so on: each answer stands in at most one pair.

    Args:
        records: rows of a table; those with equal questions are answers to one question.
        question, answer: as for `answered`.
        score: the column that says how good an answer is.
        margin: pairs whose scores differ by less are left out, and so are equal answers.

    Raises:
        UserError: a record lacks one of the columns, a score is no number, or no pair is left.
    """
    rated: dict[str, list[tuple[float, str]]] = {}
    for record in records:
        pair = (_number(record, score), _filled("answer", answer, record))
        rated.setdefault(_filled("question", question, record), []).append(pair)
    pairs: list[Record] = []
    for prompt, answers in rated.items():
        answers.sort(key=lambda rated_answer: -rated_answer[0])
        half = len(answers) // 2
        for (better, chosen), (worse, rejected) in zip(answers[:half], answers[len(answers) - half :], strict=True):
            if chosen != rejected and better > worse and better - worse >= margin:
                pairs.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    if not pairs:
        raise UserError(
            f"No two answers to one question differ by {margin:g} in {score!r}: set --data.margin to less, or a "
            "--data.question that more records share."
        )
    return pairs


def _filled(option: str, template: str, record: Record) -> str:
    try:
        return template.format(**record)
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"--data.{option} {template!r} cannot be filled ({type(error).__name__}: {error}): put columns in braces; "
            f"there are {listed(record)}."
        ) from None


def _number(record: Record, column: str) -> float:
    try:
        return float(record[column])
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"The scores of answers are no numbers ({column!r} is {record.get(column)!r}): name their column with "
            "--data.score."
        ) from None
