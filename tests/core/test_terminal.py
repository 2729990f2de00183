"""What a terminal is told: names as they are, no control of the terminal, and a sentence where an output is lost."""

import io
import os
import subprocess
import sys
from pathlib import Path

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


def ended(program: str, tmp_path: Path, **how: object) -> tuple[int, str]:
    """Runs a main function of this text; returns the exit code and what it wrote to standard error."""
    code = f"import os, sys\nfrom research.core import command_line\ndef main():\n    {program}\ncommand_line.run(main)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True, **how)
    return done.returncode, done.stderr


@pytest.mark.parametrize("program", ["print('x')", "print('x' * 10**6)", "sys.stdout.write('x')"])
def test_an_output_that_nobody_reads_ends_the_program_in_silence(program: str, tmp_path: Path) -> None:
    """As `| head` does, at once or at the end: the exit code of a broken pipe."""
    reader, writer = os.pipe()
    os.close(reader)
    assert ended(program, tmp_path, stdout=writer) == (command_line.BROKEN_PIPE, "")
    os.close(writer)


def test_an_output_without_room_is_a_sentence(tmp_path: Path) -> None:
    """A full disk under standard output."""
    with open("/dev/full", "w", encoding="utf-8") as full:
        code, said = ended("print('x')", tmp_path, stdout=full)
    assert code == 2 and said.startswith("error: standard output cannot be read or written (No space left on device)")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_output_of_few_characters_gets_escapes(encoding: str, tmp_path: Path) -> None:
    """Results on a terminal without UTF-8."""
    with open(tmp_path / "out", "w", encoding="utf-8") as out:
        how = {"stdout": out, "env": {**os.environ, "PYTHONIOENCODING": encoding}}
        assert ended("print('\\u2013 \\ud800')", tmp_path, **how) == (0, "")
    assert (tmp_path / "out").read_text(encoding="utf-8") == "\\u2013 \\ud800\n"


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
    terminal.note("a\nerror: b\x1b[2J")
    assert written.getvalue() == "a\\nerror: b\\x1b[2J\n"
    with open("/dev/full", "w", encoding="utf-8", buffering=1) as full:
        monkeypatch.setattr(sys, "stderr", full)
        terminal.note("nobody reads this")
        monkeypatch.undo()
        full.detach()
