"""A run on several processes of one machine listens where no other machine reaches it."""

from pathlib import Path

import psutil
import pytest
from tiny_run import Program, options, wait_for_step, workers


@pytest.mark.slow
def test_the_processes_of_one_machine_listen_on_loopback_alone(tmp_path: Path) -> None:
    """The coordinator, and the exchange of data between processors: no socket is open to a network."""
    with Program("experiments.gpt_austen", *options(tmp_path), "--steps", "400", "--local-processes", "2") as run:
        wait_for_step(tmp_path, 5, run)
        found = [each for pid in workers(run) for each in psutil.Process(pid).net_connections()]
    listening = {each.laddr.ip for each in found if each.status == psutil.CONN_LISTEN}
    assert len([each for each in found if each.status == psutil.CONN_LISTEN]) >= 3, "a coordinator, and two for data"
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
