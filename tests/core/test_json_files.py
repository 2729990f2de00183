"""JSON that others wrote is read whole or refused in one sentence that names the place."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.core.errors import UserError, listed
from research.core.files import regular_size, shown
from research.core.json_files import MAX_DEPTH, parse_json, read_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(VALUES, st.booleans())
def test_what_json_writes_is_read(value, ascii_only):
    """Any value comes back equal, escaped or not."""
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert parse_json(text, "here") == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{oops", "here: not JSON"),
        ('{"a": 1}\n{"b": 2}', "here: not JSON .*line 2"),
        ("", "here: not JSON"),
        ('{"a": NaN}', "JSON has no number NaN"),
        ("[-Infinity]", "JSON has no number -Infinity"),
        ('{"a": 1, "b": {"c": 1, "c": 1}}', "the key 'c' stands twice"),
        ("9" * 5000, "thousands of digits"),
        ('{"\\udc00": 1}', "half of a surrogate pair"),
        ('["\\uD83D"]', "half of a surrogate pair"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "deeper than 100 levels"),
        ('{"a":' * 200 + "1" + "}" * 200, "deeper than 100 levels"),
        ("[" * 1_000_000, "deeper than 100 levels"),
    ],
)
def test_what_is_not_json_is_one_sentence(text, message):
    """Including what Python's own reader takes in silence, or ends in a trace."""
    with pytest.raises(UserError, match=message):
        parse_json(text, "here")


def test_depth_is_counted_not_brackets():
    """A hundred levels are read, and many brackets side by side; NaN is None where it stands for a missing number."""
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH, "here")
    assert len(parse_json("[" + ",".join(["[1]"] * 500) + "]", "here")) == 500
    assert parse_json('\ufeff[NaN, "\\ud83d\\ude00"]', "here", nan_is_none=True) == [None, "\U0001f600"]


def test_only_small_regular_files_are_read(tmp_path):
    """No pipe is waited for, no device is read, and a size is compared before memory is taken."""
    (tmp_path / "a.json").write_text('{"a": [1]}')
    assert read_json(tmp_path / "a.json", 10) == {"a": [1]}
    with pytest.raises(UserError, match="has 10 bytes, more than the 9"):
        read_json(tmp_path / "a.json", 9)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name, message in {
        tmp_path / "pipe": "a pipe or a device",
        "/dev/zero": "a pipe or a device",
        tmp_path: "is a folder",
        tmp_path / "loop": "cannot be read",
        tmp_path / "none": "cannot be read",
        "a" * 5000: r"a{200}\.\.\.a{80} cannot be read",
        "a\0b": r"a\\x00b cannot be read",
    }.items():
        with pytest.raises(UserError, match=message):
            regular_size(name)
    (tmp_path / "a.json").write_bytes(b'"\xe9"')
    with pytest.raises(UserError, match="not UTF-8"):
        read_json(tmp_path / "a.json", 10)


def test_names_in_messages_are_short_and_printable():
    """However many, long or odd the names of a file's columns are."""
    assert listed([]) == "none"
    assert listed(map(str, range(200_000))) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..."
    assert listed(["\x1b[31mred", "x" * 1000, "\udc00"]) == "\\x1b[31mred, " + "x" * 60 + ", \\udc00"
    assert shown("a\nb") == "a\\nb"
