"""What a terminal is told: names as they are, no control of the terminal, and a sentence where an output is lost."""

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from tiny_run import ROOT

from research.core import command_line, terminal

HOSTILE = "[/b][red]\x1b]0;pwn\a:bomb:\u202e[link=x]"


@given(st.text())
def test_printable_text_moves_no_cursor(text: str) -> None:
    """Only line feeds and tabs are left of all control characters, and text without any is as it was."""
    shown = terminal.printable(text)
    assert not any((ord(each) < 32 and each not in "\n\t") or 127 <= ord(each) < 160 for each in shown)
    assert terminal.printable(shown) == shown
    assert "\n" not in terminal.one_line(text)


def test_a_console_takes_no_name_for_a_style(capsys: pytest.CaptureFixture[str]) -> None:
    """In a line, a title, a heading and a cell."""
    table = Table(HOSTILE, title=HOSTILE)
    table.add_row(HOSTILE)
    terminal.console().print(HOSTILE, soft_wrap=True)
    terminal.console().print(table)
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\a" not in out and "\u202e" not in out
    assert out.count(":bomb:") == 4 and out.count("[/b][red]") == 4 and "\\x1b]0;pwn" in out


def test_every_console_is_a_literal_one() -> None:
    """No other file makes a console of Rich's or escapes for one, so that none forgets to."""
    files = [path for path in (ROOT / "research").rglob("*.py") if path.name != "terminal.py"]
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    assert [path for path, text in texts.items() if " Console(" in text or "rich.markup" in text] == []


def ended(main: Callable[[], object], output: TextIO, monkeypatch: pytest.MonkeyPatch) -> int:
    """Runs a main function that prints to `output`; returns the exit code."""
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", output)
        try:
            command_line.run(main)
        except SystemExit as end:
            return int(end.code or 0)
    return 0


@pytest.mark.parametrize("size", [1, 10**6])
def test_an_output_that_nobody_reads_ends_the_program_in_silence(size, monkeypatch, capsys) -> None:
    """As `| head` does, at once or at the end: the exit code of a broken pipe, and nothing left to write."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as output:
        assert ended(lambda: print("x" * size), output, monkeypatch) == command_line.BROKEN_PIPE
    assert capsys.readouterr().err == ""


def test_an_output_without_room_is_a_sentence(monkeypatch, capsys) -> None:
    """A full disk under standard output."""
    with open("/dev/full", "w", encoding="utf-8") as full:
        assert ended(lambda: print("x"), full, monkeypatch) == 2
    assert capsys.readouterr().err.startswith("error: standard output cannot be read or written (No space left")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_output_of_few_characters_gets_escapes(encoding: str, tmp_path: Path, monkeypatch) -> None:
    """Results on a terminal without UTF-8."""
    with open(tmp_path / "out", "w", encoding=encoding) as output:
        assert ended(lambda: print("\u2013 \udce9"), output, monkeypatch) == 0
    assert (tmp_path / "out").read_text(encoding=encoding) == "\\u2013 \\udce9\n"


@pytest.mark.parametrize(
    ("main", "message"),
    [
        (lambda: Path("x" * 5000).read_text(), "cannot be read or written (File name too long)"),
        (lambda: Path("/dev/null/x").read_text(), "/dev/null/x cannot be read or written (Not a directory)"),
        (lambda: "caf\udce9".encode(), "'caf\\udce9' is not UTF-8"),
    ],
)
def test_what_the_system_refuses_is_a_sentence(main, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that is too long, leads nowhere or is not UTF-8, wherever it is used."""
    with pytest.raises(SystemExit) as stopped:
        command_line.run(main)
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_a_bug_keeps_its_trace() -> None:
    """An error that says nothing of a file that a user has named."""
    with pytest.raises(FileNotFoundError):
        command_line.run(lambda: Path("not there").read_text())


def test_a_note_is_one_line_and_needs_no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names with line breaks cannot forge a message; a closed standard error ends no training."""
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    terminal.print_message("a\nerror: b\x1b[2J")
    assert written.getvalue() == "a\\nerror: b\\x1b[2J\n"
    monkeypatch.setattr(written, "write", lambda text: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    terminal.print_message("nobody reads this")
