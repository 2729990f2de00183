"""Promises of the parent that starts the processes of a run: what it makes of their ends."""

import sys
from pathlib import Path

from research.runtime import supervisor
from research.runtime.processes import STOPPED, ProcessInfo


def test_a_run_that_a_signal_ends_has_not_failed_though_the_runtime_aborts_a_process(tmp_path: Path, monkeypatch):
    """The first process stops with nothing to save, and the runtime aborts the one that has lost it: exit code 0."""
    program = tmp_path / "program.py"
    program.write_text(
        "import json, os, signal, time\n"
        "index = json.loads(os.environ['ONTOGENY_WORKER'])['info']['index']\n"
        f"index or os._exit({STOPPED})\n"
        "signal.signal(signal.SIGTERM, lambda *_: os.abort())\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(sys, "orig_argv", ["python", str(program)])
    assert supervisor.supervise([ProcessInfo(0, 2), ProcessInfo(1, 2)], "run", restarts=0) == 0
