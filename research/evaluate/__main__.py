"""Evaluates a run's checkpoint with the run's own evaluators: `python -m research.evaluate RUN [--best] [--split S]`.

On the newest checkpoint of a finished run it prints the numbers that training printed; they are compared, and a
difference is said. Options of the data, such as --data.test mine.csv, evaluate it on other data.
"""

import dataclasses
import hashlib
import json
import sys
from typing import Annotated, Any

import numpy as np
import tyro

from research.core import command_line, configs, trees
from research.core.errors import UserError
from research.core.files import finite, make_folder, write_atomic
from research.core.terminal import console, say
from research.evaluate.other_data import divided, on_other_data, other_config
from research.evaluate.results_table import results_table
from research.runs.directory import find, read_chain, read_record
from research.train.evaluation import plain
from research.train.recorded_run import load_run
from research.train.run import built_evaluations


@dataclasses.dataclass(frozen=True)
class Options:
    """What to evaluate."""

    run: Annotated[str, tyro.conf.Positional]
    """a run directory, or 'latest'"""
    best: bool = False
    """the checkpoint that is best by the evaluator's `best` metric instead of the newest"""
    split: str = ""
    """evaluate this split instead of those of the configuration"""
    trust: command_line.Trust = ()


def main() -> None:
    args, of_data = divided(sys.argv[1:])
    options = command_line.parse(Options, description=__doc__ or "", args=args)
    folder = find(options.run)
    config = other_config(read_record(folder), folder, of_data, options.trust) if of_data else None
    run = load_run(folder, best=options.best, trusted=options.trust)
    if config is not None:
        run = on_other_data(run, config)
    evaluators = run.assembly.evaluators
    if not evaluators:
        raise UserError(f"{run.folder} has no evaluators in its configuration: train it with one.")
    if options.split:
        evaluators = [dataclasses.replace(evaluators[0], split=options.split)]
    step = int(run.state.step)
    results = {}
    for evaluation in built_evaluations(run.assembly, evaluators):
        results[evaluation.name] = plain(evaluation.measure(run.state.evaluated))
        rows = {f"{run.record['name']} at step {step}": results[evaluation.name], **plain(evaluation.baselines())}
        console().print(results_table(f"{evaluation.name} split", rows))
    make_folder(run.folder / "evaluate")
    other = {} if config is None else {"data": {"config": configs.to_json(config), **run.assembly.data.summary}}
    digest = hashlib.sha256(json.dumps(other).encode()).hexdigest()[:8] if other else ""
    path = run.folder / "evaluate" / f"{'-'.join(filter(None, (f'{step:08d}', options.split, digest)))}.json"
    write_atomic(path, json.dumps({"step": step, "metrics": finite(results), **other}, indent=1) + "\n")
    recorded = run.record.get("metrics", {})
    # The last step may be an earlier one than the configuration says, and an older version measured less.
    if recorded and not (options.split or other) and step == read_chain(run.folder)[-1]["step"]:
        common = {
            split: {name: value for name, value in found.items() if name in recorded.get(split, {})}
            for split, found in finite(results).items()
        }
        say(_verdict(common, recorded))
    say(f"written to {path}")


def _verdict(results: Any, recorded: Any) -> str:
    if results == recorded:
        return "equal to what training printed"
    now, then = trees.flatten(results), trees.flatten(recorded)
    if now.keys() == then.keys() and all(np.allclose(now[name], then[name], rtol=1e-5) for name in now):
        return "equal to what training printed but for rounding, as on other devices"
    return "DIFFERS from what training printed (see run.json)"


if __name__ == "__main__":
    command_line.run(main)
