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
# Options that were renamed, as they are typed.
OPTIONS = {
    "--adapter": "--format adapter",
    "--explain-memory": "--plan-memory",
    "--explain-sharding": "--plan-sharding",
}


def upgraded(config: Any) -> Any:
    """Returns the JSON form of a recorded configuration with today's names of types and fields."""
    if isinstance(config, list):
        return [upgraded(item) for item in config]
    if not isinstance(config, dict):
        return config
    module, _, name = str(config.get("type", "")).rpartition(".")
    fields = {field: upgraded(value) for field, value in config.items()}
    if fields.get("type") == EVALUATOR and fields.get("metrics") in EVALUATORS:
        kind, best = EVALUATORS[fields.pop("metrics")]
        return {**fields, "type": kind, "best": best}
    return {**fields, "type": f"{MODULES[module]}.{name}"} if module in MODULES else fields


def renamed_option(arguments: Sequence[str]) -> tuple[str, str] | None:
    """Returns the first old option among the arguments, with its new name; None where there is none."""
    for argument in arguments:
        option = argument.partition("=")[0].replace("_", "-")
        if option in OPTIONS:
            return option, OPTIONS[option]
    return None
