"""A run as a model of the Hugging Face libraries, with its tokenizer and class names, low-rank updates merged in."""

from research.hub.generation import rules_of
from research.hub.pretrained import save_pretrained
from research.models.generation_rules import GenerationRules
from research.models.wrappers.lora import merged
from research.train.pretrained import PretrainedModel
from research.train.recorded_run import Run


def export_model(run: Run, folder: str, *, tokenizer: bool = True) -> None:
    """Writes a run's model with its updates merged in; raises UserError as `save_pretrained`."""
    config, params, data = run.assembly.experiment.model, run.state.evaluated, run.assembly.data
    if isinstance(config, PretrainedModel):
        config, params = config.configuration, merged(params, config.lora)
    rules, decoding = GenerationRules(), run.assembly.model.decoding
    if decoding is not None and decoding.rules == rules:  # no published model, whose rules these would be
        rules = rules_of(data.tokenizer, {"is_encoder_decoder": decoding.has_encoder})
    elif decoding is not None:
        rules = decoding.rules
    written = data.tokenizer if tokenizer else None
    save_pretrained(folder, config, params, written, labels=data.class_names, rules=rules)
