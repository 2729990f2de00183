"""The trace of some steps: it holds what ran, and the run is as it would be without."""

import dataclasses
import gzip
import json

import pytest

from research.core.errors import UserError
from research.train.profiling import traced_steps
from research.train.run import train


def test_the_steps_asked_for_are_traced(tiny_line_run, tmp_path):
    """Perfetto's file has events of the training loop's thread; a stop before the last step ends the trace."""
    for name, stop in (("whole", None), ("cut", 3)):
        experiment = dataclasses.replace(tiny_line_run, profile="3..4", sample_every=0, evaluators=())
        run = train(experiment, name=name, root=tmp_path, stop_after=stop)
        (file,) = run.folder.glob("profile/plugins/profile/*/perfetto_trace.json.gz")
        events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
        assert any("fit" in event.get("name", "") or "step" in event.get("name", "") for event in events)
        said = [(event["step"], str(file) in event["message"]) for event in run.record["events"]]
        assert said == ([(4, True)] if stop is None else [])


@pytest.mark.parametrize("text", ["5..3", "0..2", "7..9", "ten", "1..2..3", "-1"])
def test_what_is_no_range_of_steps_is_refused(text):
    """With the right form, before data are read."""
    with pytest.raises(UserError, match=r"--profile .* is no range of the steps 1 to 8: write it as 10\.\.15"):
        traced_steps(text, 8)
