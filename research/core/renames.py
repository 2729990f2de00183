"""What older runs and commands call things: renamed types, fields and options, in one place.

`upgraded` turns the configuration of an old `run.json` into today's names; `renamed_option` finds the new name of an
old option.
"""

import dataclasses
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
# Fields that were renamed: (today's type name, old field): new field.
FIELDS = {
    ("research.data.synthetic.CloudData", "deviations"): "stds",
    ("research.data.tables.TableData", "validation_share"): "validation_fraction",
    ("research.data.text.chat.ChatData", "validation_share"): "validation_fraction",
    ("research.data.text.labelled_text.LabelledText", "test_share"): "test_fraction",
    ("research.data.text.labelled_text.LabelledText", "validation_share"): "validation_fraction",
    ("research.data.text.paired_text.PairedText", "test_share"): "test_fraction",
    ("research.data.text.paired_text.PairedText", "validation_share"): "validation_fraction",
    ("research.data.text.text_data.TextData", "validation_share"): "validation_fraction",
    ("research.data.vision.images.ImageData", "validation_share"): "validation_fraction",
    ("research.models.bert.BERT", "hidden"): "mlp_dim",
    ("research.models.gpt.GPT", "groups"): "num_kv_heads",
    ("research.models.gpt.GPT", "hidden"): "mlp_dim",
    ("research.models.llama.Llama", "groups"): "num_kv_heads",
    ("research.models.llama.Llama", "head"): "head_dim",
    ("research.models.llama.Llama", "hidden"): "mlp_dim",
    ("research.models.t5.T5", "head"): "head_dim",
    ("research.models.t5.T5", "hidden"): "mlp_dim",
    ("research.models.transformer.Transformer", "hidden"): "mlp_dim",
    ("research.tasks.masked_language_modelling.MaskedLanguageModelling", "share"): "mask_rate",
    ("research.tasks.span_corruption.SpanCorruption", "share"): "mask_rate",
    ("research.train.optimizers.Optimizer", "decay_rules"): "weight_decay_multipliers",
    ("research.train.optimizers.Optimizer", "peak"): "learning_rate",
    ("research.train.optimizers.Optimizer", "rate_rules"): "lr_multipliers",
    ("research.train.schedules.Schedule", "decay_share"): "decay_fraction",
}
# Evaluators were one class, with the kind in a field `metrics`; each was judged by the loss where it had one.
EVALUATOR = "research.evaluate.evaluators.Evaluator"
LOSS = ["loss", "min"]
EVALUATORS = {
    "answers": ("research.evaluate.answers.AnswersEvaluator", ["answer_f1", "max"]),
    "binary": ("research.evaluate.binary.BinaryEvaluator", LOSS),
    "classification": ("research.evaluate.classification.ClassificationEvaluator", LOSS),
    "correlation": ("research.evaluate.correlation.CorrelationEvaluator", LOSS),
    "entities": ("research.evaluate.entities.EntitiesEvaluator", LOSS),
    "language": ("research.evaluate.language.LanguageEvaluator", LOSS),
    "masked": ("research.evaluate.masked.MaskedEvaluator", LOSS),
    "preference": ("research.evaluate.preference.PreferenceEvaluator", LOSS),
    "ranking": ("research.evaluate.ranking.RankingEvaluator", LOSS),
    "regression": ("research.evaluate.regression.RegressionEvaluator", LOSS),
    "retrieval": ("research.evaluate.retrieval.RetrievalEvaluator", ["mean_reciprocal_rank", "max"]),
    "summarisation": ("research.evaluate.summarisation.SummarisationEvaluator", LOSS),
    "translation": ("research.evaluate.translation.TranslationEvaluator", LOSS),
}
# What older runs with low-rank updates and a head of their own gave the optimizer, and what their model says today.
HEAD = "^(head|pooler)/"
HEAD_MULTIPLIERS = [["^(lora|head|pooler)/", 1.0], ["^(?!(lora|head|pooler)/)", 0.0]]
# Options that were renamed, as they are typed. Some old names are still options of other configurations.
OPTIONS = {
    "--adapter": "--format adapter",
    "--data.deviations": "--data.stds",
    "--data.test-share": "--data.test-fraction",
    "--data.text.validation-share": "--data.text.validation-fraction",
    "--data.validation-share": "--data.validation-fraction",
    "--explain-memory": "--plan-memory",
    "--explain-sharding": "--plan-sharding",
    "--model.groups": "--model.num-kv-heads",
    "--model.head": "--model.head-dim",
    "--model.hidden": "--model.mlp-dim",
    "--optimizer.decay-rules": "--optimizer.weight-decay-multipliers",
    "--optimizer.peak": "--optimizer.learning-rate",
    "--optimizer.rate-rules": "--optimizer.lr-multipliers",
    "--schedule.decay-share": "--schedule.decay-fraction",
    "--task.share": "--task.mask-rate",
}


def upgraded(config: Any) -> Any:
    """Returns the JSON form of a recorded configuration with today's names of types and fields."""
    if isinstance(config, list):
        return [upgraded(item) for item in config]
    if not isinstance(config, dict):
        return config
    fields = {field: upgraded(value) for field, value in config.items()}
    if "type" not in fields:
        return fields
    if fields.get("limit") == 0 and {"split", "batch_size"} <= fields.keys():  # of an evaluator: 0 meant all
        fields["limit"] = None
    if fields["type"] == EVALUATOR and str(fields.get("metrics")) in EVALUATORS:
        kind, best = EVALUATORS[fields.pop("metrics")]
        return {**fields, "type": kind, "best": best}
    module, _, name = str(fields["type"]).rpartition(".")
    fields["type"] = f"{MODULES.get(module, module)}.{name}"
    renamed = {FIELDS.get((fields["type"], field), field): value for field, value in fields.items()}
    return _with_trained_head(renamed)


def _with_trained_head(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns an experiment whose low-rank updates say themselves what is trained beside them.

    In older versions multipliers of the learning rate froze the rest.
    """
    model, optimizer = fields.get("model"), fields.get("optimizer")
    if not (isinstance(model, dict) and isinstance(optimizer, dict) and isinstance(model.get("lora"), dict)):
        return fields
    if optimizer.get("lr_multipliers") != HEAD_MULTIPLIERS:
        return fields
    model = {**model, "lora": {**model["lora"], "trained": HEAD}}
    return {**fields, "model": model, "optimizer": {**optimizer, "lr_multipliers": [["", 1.0]]}}


def renamed_option(arguments: Sequence[str], config: Any) -> tuple[str, str] | None:
    """Returns the first old option among the arguments, with its new name; None where there is none.

    Args:
        arguments: the command line.
        config: the dataclass, or its default, whose fields are the options; names that it still has are not old.
    """
    for argument in arguments:
        old = argument.partition("=")[0].replace("_", "-")
        new = OPTIONS.get(old)
        if new and not _has_option(config, old) and _has_option(config, new.partition(" ")[0]):
            return old, new
    return None


def _has_option(config: Any, option: str) -> bool:
    """Whether an option is a field of the configuration, or of a member whose own name is left out of its options."""
    path = option.removeprefix("--").replace("-", "_").split(".")
    members = [getattr(config, field.name, None) for field in dataclasses.fields(config)]
    return any(_reaches(root, path) for root in (config, *filter(dataclasses.is_dataclass, members)))


def _reaches(config: Any, path: Sequence[str]) -> bool:
    for name in path:
        if not hasattr(config, name):
            return False
        config = getattr(config, name)
    return True
