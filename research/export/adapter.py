"""The low-rank updates of a run alone, as the PEFT library knows them."""

from pathlib import Path

from research.core import trees
from research.core.errors import UserError
from research.data.text.tokenizers import Subwords
from research.hub.adapters import save_adapter
from research.hub.locate import PACKAGE
from research.hub.tokenizer import save_tokenizer
from research.models.wrappers.lora import BRANCH
from research.train.pretrained import PretrainedModel, is_run
from research.train.recorded_run import Run


def export_adapter(run: Run, folder: str, base: str = "", *, tokenizer: bool = True) -> None:
    """Writes a run's low-rank updates.

    Args:
        run: of a `PretrainedModel` with LoRA.
        folder: where to write.
        base: what others know the source by; by default as the run does.
        tokenizer: whether to write the tokenizer as well.

    Raises:
        UserError: there are no low-rank updates, others do not know the source, or as `save_adapter`.
    """
    config, params = run.assembly.experiment.model, run.state.evaluated
    written = run.assembly.data.tokenizer
    if not isinstance(config, PretrainedModel) or not config.lora.rank:
        raise UserError(f"{run.folder} has no low-rank updates: leave out --format adapter.")
    if not base and (is_run(config.source) or config.source.startswith(PACKAGE) or config.source.endswith(".gguf")):
        raise UserError(
            f"The adapter would change {config.source}, which PEFT cannot load: export that with --format hf, and give "
            "the folder or its name on the hub with --base."
        )
    trained = trees.flatten(run.state.params).keys() | set(run.record.get("pretrained", {}).get("new", ()))
    save_adapter(
        folder,
        config.configuration,
        params,
        config.lora,
        base or config.source,
        revision=None if base else config.revision or None,
        trained={path for path in trained if not path.startswith(f"{BRANCH}/")},
    )
    if tokenizer and isinstance(written, Subwords):
        save_tokenizer(Path(folder), written)
