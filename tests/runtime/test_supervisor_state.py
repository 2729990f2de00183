"""The decisions of a supervisor: every row of its table of states, without a process; and none that is not in it."""

import re
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.runtime import supervisor_state
from research.runtime.processes import FAILED, LOST, STOPPED, USER_ERROR, ProcessInfo
from research.runtime.supervisor_state import Observation, Phase, SupervisorState, WorkerStatus, problem, transition

RUNNING, STOPPING, DIAGNOSING, RESTARTING, ENDED = Phase
INT, TERM = signal.SIGINT, signal.SIGTERM
AGAIN = "; starting again from the last good checkpoint, 2 of 3 restarts left"


def worker(exit_code: int | None = None, index: int = 0, **seen) -> WorkerStatus:
    """One of two processes."""
    return WorkerStatus(ProcessInfo(index, 2, "node1:99"), 100 + index, exit_code, **seen)


def pair(first: int | None, second: int | None, **seen) -> list[WorkerStatus]:
    """Two processes; what is seen besides their exit codes is seen of the second."""
    return [worker(first), worker(second, 1, **seen)]


def state(phase: Phase, restarts_left: int = 2, **fields) -> SupervisorState:
    return SupervisorState(3, restarts_left, phase, **fields)


CASES = {
    "still running": (RUNNING, pair(None, None), (), RUNNING, 0),
    "one is done": (RUNNING, pair(0, None), (), RUNNING, 0),
    "all are done": (RUNNING, pair(0, 0), (), ENDED, 0),
    "all are done after a signal": (STOPPING, pair(0, 0), (TERM,), ENDED, 0),
    "all are done as a second signal comes": (STOPPING, pair(0, 0), (TERM, INT), ENDED, 0),
    "a signal": (RUNNING, pair(None, None), (INT,), STOPPING, 0),
    "a signal reached one process alone": (RUNNING, pair(None, STOPPED), (), STOPPING, 0),
    "asked already": (STOPPING, pair(None, None), (INT,), STOPPING, 0),
    "a second signal": (STOPPING, pair(None, None), (INT, TERM), ENDED, 128 + TERM),
    "two signals at once": (RUNNING, pair(None, None), (TERM, INT), ENDED, 128 + INT),
    "a second signal at a failure": (DIAGNOSING, pair(None, -9), (TERM, INT), ENDED, 128 + INT),
    "a second signal before a restart": (RESTARTING, [], (TERM, INT), ENDED, 128 + INT),
    "stopped, and others still stopping": (STOPPING, pair(STOPPED, None), (TERM,), STOPPING, 0),
    "stopped, and the runtime aborted the other": (STOPPING, pair(STOPPED, -6), (TERM,), ENDED, 0),
    "stopped, and the other is frozen": (STOPPING, pair(STOPPED, None, frozen_seconds=5.0), (TERM,), DIAGNOSING, 0),
    "killed": (RUNNING, pair(None, -9), (), DIAGNOSING, 0),
    "frozen": (RUNNING, pair(None, None, frozen_seconds=5.0), (), DIAGNOSING, 0),
    "lost a peer": (RUNNING, pair(None, LOST), (), DIAGNOSING, 0),
    "killed while stopping": (STOPPING, pair(None, -15), (TERM,), DIAGNOSING, 0),
    "others may fail as well": (DIAGNOSING, pair(None, -9), (), DIAGNOSING, 0),
    "failed after a signal": (DIAGNOSING, pair(0, -15), (TERM,), ENDED, 128 + TERM),
    "a mistake": (DIAGNOSING, pair(USER_ERROR, LOST), (), ENDED, USER_ERROR),
    "killed, restarts left": (DIAGNOSING, pair(0, -9), (), RESTARTING, 0),
    "the frozen one has ended well": (DIAGNOSING, pair(0, 0, frozen_seconds=5.0), (), RUNNING, 0),
    "time to start again": (RESTARTING, [], (), RUNNING, 0),
    "time to start again, after a signal": (RESTARTING, [], (TERM,), RUNNING, 0),
    "nothing follows the end": (ENDED, pair(None, -9), (TERM, INT), ENDED, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_each_observation_leads_to_its_state(case):
    """The row of the table that holds first decides."""
    phase, workers, signals, following, exit_code = CASES[case]
    after = transition(state(phase), Observation(workers, signals))
    assert (after.phase, after.exit_code) == (following, exit_code)
    assert after.restarts_left == (1 if (phase, following) == (RESTARTING, RUNNING) else 2)


def test_without_a_restart_left_a_failure_ends_the_supervisor():
    """The sentence says what to add to the command."""
    after = transition(state(DIAGNOSING, 0), Observation(pair(0, -9)))
    assert (after.phase, after.exit_code) == (ENDED, FAILED)
    assert after.message.startswith("process 1 of 2 (pid 101) was killed by SIGKILL; add --resume to the command")


def phases(text: str) -> set[Phase]:
    """Returns the phases named in a cell of the table."""
    return set(Phase) - {ENDED} if "any but" in text else {Phase[name] for name in re.findall("[A-Z]{2,}", text)}


def test_the_table_in_the_docstring_is_what_is_tested():
    """Every change of phase in the table is among the cases, and every one of the cases is in the table."""
    rows = [line.split("|") for line in supervisor_state.__doc__.splitlines() if re.search(r"^\| [A-Za]", line)]
    written = {(before, after) for _, first, _, then, _ in rows for before in phases(first) for after in phases(then)}
    walked = {(before, after) for before, _, _, after, _ in CASES.values()}
    assert {pair for pair in walked if pair[0] is not pair[1]} == written - {(ENDED, ENDED)}


@pytest.mark.parametrize(
    ("first", "second", "seconds", "over"),
    [(None, -9, 0.2, False), (None, -9, 0.3, True), (None, USER_ERROR, 4.9, False), (None, USER_ERROR, 5.0, True)],
)
def test_a_cause_has_time_to_show(first, second, seconds, over):
    """A process killed by what has befallen another is not taken for the cause; the first prints others' mistakes."""
    after = transition(state(DIAGNOSING), Observation(pair(first, second), seconds=seconds))
    assert (after.phase is not DIAGNOSING) == over


@pytest.mark.parametrize(
    ("workers", "message"),
    [
        (pair(-9, LOST), "process 0 of 2 (pid 100) was killed by SIGKILL"),
        (pair(LOST, 1), "process 1 of 2 (pid 101) ended with exit code 1"),
        (pair(-9, -6, has_lost_first=True), "process 0 of 2 (pid 100) was killed by SIGKILL"),
        ([worker(-6, 1, has_lost_first=True)], "process 0 of 2 (node1:99) does not answer"),
        ([worker(frozen_seconds=5.0)], "process 0 of 2 (pid 100) has stood still for 5 s"),
        ([WorkerStatus(ProcessInfo(), 7, 1)], "the process (pid 7) ended with exit code 1"),
    ],
)
def test_the_sentence_names_the_cause_and_not_what_followed(workers, message):
    """Of several ends in one moment it names the one that explains the others."""
    assert transition(state(DIAGNOSING), Observation(workers, seconds=9.0)).message == message + AGAIN


def test_a_process_that_only_follows_another_says_nothing_itself():
    """A lost peer is named by the process that has seen it go."""
    assert problem(worker(LOST)) == ""
    assert transition(state(DIAGNOSING), Observation([worker(LOST, 1)])).message == AGAIN.removeprefix("; ")


@pytest.mark.parametrize(
    ("workers", "seconds"),
    [
        (pair(0, -9), 0.0),
        ([WorkerStatus(ProcessInfo(), 7, -9)], 0.0),
        ([worker(LOST, 1)], 0.0),
        ([worker(-6, 1, has_lost_first=True)], 0.0),
        ([worker(-9, 0)], 2.0),
        ([worker(-9, 1)], 12.0),
    ],
)
def test_a_restart_waits_until_other_machines_know(workers, seconds):
    """A process that meets those that are about to end would end with them."""
    before = transition(state(DIAGNOSING), Observation(workers))
    assert (before.phase, before.wait_seconds) == (RESTARTING, seconds)
    assert transition(before, Observation([], seconds=seconds)).phase is RUNNING
    if seconds:
        assert transition(before, Observation([], seconds=seconds - 0.1)) == before


CODES = st.sampled_from([None, 0, 1, USER_ERROR, LOST, STOPPED, -6, -9])
SEEN = st.tuples(CODES, st.integers(0, 1), st.sampled_from([0.0, 5.0]))  # exit code, index, seconds of standing still
OBSERVED = st.tuples(
    st.lists(SEEN, min_size=1, max_size=3), st.lists(st.sampled_from([INT, TERM]), max_size=2), st.floats(0, 20)
)


@given(st.lists(OBSERVED, max_size=50))
def test_whatever_happens_restarts_are_counted_and_the_end_is_final(observations):
    """At most as many starts as allowed, and nothing but an end of all after a second signal."""
    now, starts = state(RUNNING, 3), 0
    for seen, signals, seconds in observations:
        workers = [worker(code, index, frozen_seconds=frozen) for code, index, frozen in seen]
        before, now = now, transition(now, Observation(workers, signals, seconds))
        starts += (before.phase, now.phase) == (RESTARTING, RUNNING)
        assert now.restarts_left == 3 - starts >= 0
        assert before.phase is not ENDED or now == before
        assert len(signals) < 2 or now.phase is ENDED
