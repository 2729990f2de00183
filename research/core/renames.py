"""What older runs and commands call things: renamed types, fields and options, in one place.

`upgraded` turns the configuration of an old `run.json` into today's names; `renamed_option` finds the new name of an
old option.
"""

from collections.abc import Sequence
from typing import Any

# Modules that moved: the old name, and where its configuration classes are now.
MODULES = {
    "research.data.augmentation": "research.data.vision.augmentation",
    "research.data.beam": "research.data.text.prepare_beam",
    "research.data.chat": "research.data.text.chat",
    "research.data.cleaning": "research.data.cleaning.cleaning",
    "research.data.images": "research.data.vision.images",
    "research.data.labelled_text": "research.data.text.labelled_text",
    "research.data.paired_text": "research.data.text.paired_text",
    "research.data.skip_gram": "research.data.text.word_pairs",
    "research.data.text": "research.data.text.text_data",
    "research.data.tokenizers": "research.data.text.tokenizers",
    "research.models.lora": "research.models.wrappers.lora",
}
# Fields that were renamed: (the type's name of today, the old field), and the field of today.
FIELDS = {
    ("research.train.optimizers.Optimizer", "decay_rules"): "weight_decay_multipliers",
    ("research.train.optimizers.Optimizer", "peak"): "learning_rate",
    ("research.train.optimizers.Optimizer", "rate_rules"): "lr_multipliers",
    ("research.train.schedules.Schedule", "decay_share"): "decay_fraction",
}
# Options that were renamed, as they are typed.
OPTIONS = {
    "--adapter": "--format adapter",
    "--explain-memory": "--plan-memory",
    "--explain-sharding": "--plan-sharding",
    "--optimizer.decay-rules": "--optimizer.weight-decay-multipliers",
    "--optimizer.peak": "--optimizer.learning-rate",
    "--optimizer.rate-rules": "--optimizer.lr-multipliers",
    "--schedule.decay-share": "--schedule.decay-fraction",
}


def upgraded(config: Any) -> Any:
    """Returns the JSON form of a recorded configuration with today's names of types and fields."""
    if isinstance(config, list):
        return [upgraded(item) for item in config]
    if not isinstance(config, dict):
        return config
    module, _, name = str(config.get("type", "")).rpartition(".")
    kind = f"{MODULES.get(module, module)}.{name}"
    fields = {FIELDS.get((kind, field), field): upgraded(value) for field, value in config.items()}
    return {**fields, "type": kind} if module in MODULES else fields


def renamed_option(arguments: Sequence[str]) -> tuple[str, str] | None:
    """Returns the first old option among the arguments, with its new name; None where there is none."""
    for argument in arguments:
        option = argument.partition("=")[0].replace("_", "-")
        if option in OPTIONS:
            return option, OPTIONS[option]
    return None
