"""What a recorded configuration changes of its experiment: the defaults are the `CONFIG` of the experiment's module.

Only modules of this project's own `experiments/` are imported; whatever keeps one from it leaves the report unmarked.
"""

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research.core import configs

FOLDER = Path(__file__).parents[2] / "experiments"


def changed_fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {dotted field: the experiment's default} of what a run was given instead; none where that is unknown.

    Fields that only one of the two has are left out: they belong to a part of another type, whose `type` is there.
    """
    config, defaults = record.get("config", {}), _defaults(str(record.get("name", "")))
    if defaults is None:
        return {}
    recorded = dict(configs.flatten_config(config))
    ours = dict(configs.flatten_config(defaults))
    return {field: ours[field] for field in recorded.keys() & ours.keys() if recorded[field] != ours[field]}


def _defaults(name: str) -> Any:
    """Returns the configuration of an experiment in its JSON form, None where there is none of this name."""
    if not name.isidentifier() or name.startswith("_") or not (FOLDER / f"{name}.py").is_file():
        return None
    found = importlib.util.find_spec("experiments")
    if found is None or str(FOLDER) not in map(str, found.submodule_search_locations or ()):
        return None
    try:
        return configs.to_json(importlib.import_module(f"experiments.{name}").CONFIG)
    except Exception:  # a module of any age and state: marks are no reason to go without a report
        return None
