"""Runs the first fifty steps of an experiment and prints its last chain value: `python fifty_steps.py NAME FOLDER`.

Nothing is evaluated, sampled or saved on the way, which changes no step.
"""

import dataclasses
import importlib
import sys
from pathlib import Path

from research import train
from research.core.json_files import read_lines
from research.runs.directory import CHAIN

name, folder = sys.argv[1:]
config = importlib.import_module(f"experiments.{name}").CONFIG
quiet = dataclasses.replace(config, evaluators=(), sample_every=0, checkpoint_every=0, digest_every=25)
run = train(quiet, name=name, root=Path(folder), stop_after=50)
print(list(read_lines(run.folder / CHAIN))[-1]["chain"])
