"""A run as a model of the Hugging Face libraries, with its tokenizer and class names, low-rank updates merged in."""

from research.hub.pretrained import save_pretrained
from research.models.wrappers.lora import merged
from research.train.pretrained import PretrainedModel
from research.train.run import Run


def export_model(run: Run, folder: str, *, tokenizer: bool = True) -> None:
    """Writes a run's model with its updates merged in; raises UserError as `save_pretrained`."""
    config, params, data = run.assembly.experiment.model, run.state.evaluated, run.assembly.data
    if isinstance(config, PretrainedModel):
        config, params = config.configuration, merged(params, config.lora)
    save_pretrained(folder, config, params, data.tokenizer if tokenizer else None, labels=data.class_names)
