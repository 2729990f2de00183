"""Promises about classes of one's own: a run that names them loads with --trust PACKAGE, and no code is run without."""

import json
from pathlib import Path

import pytest
from tiny_run import OPTIONS, only_run, record, run_module, write_texts

MODEL = '''
"""A GPT whose logits are doubled."""

import dataclasses

from experiments import gpt_austen
from research.launch.launcher import launch
from research.models.gpt import GPT


@dataclasses.dataclass(frozen=True)
class Doubled(GPT):
    factor: float = 2.0

    def build(self, spec):
        model = super().build(spec)

        def apply(params, batch, **options):
            outputs, sown = model.apply(params, batch, **options)
            return outputs * self.factor, sown

        return model._replace(apply=apply, decoding=None)


CONFIG = dataclasses.replace(gpt_austen.CONFIG, model=Doubled())

if __name__ == "__main__":
    launch(CONFIG)
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of a package of one's own, `mine`, which stands where Python finds it; interrupted runs go on in it."""
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "doubled.py").write_text(MODEL, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    few = [*OPTIONS, "--steps", "4", "--schedule.warmup", "1", "--runs", str(tmp_path / "runs")]
    assert run_module("mine.doubled", *write_texts(tmp_path), *few) == 0
    return only_run(tmp_path, "mine.doubled")


def test_a_run_of_ones_own_model_is_evaluated_reproduced_and_goes_on(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Commands need --trust, the module itself does not; the digest of its file tells whether it has changed."""
    assert run_module("research.evaluate", str(own)) == 2
    assert "if mine is a package of your own, add --trust mine, which runs its code" in capsys.readouterr().err
    assert run_module("research.evaluate", str(own), "--trust", "mine") == 0
    assert "equal to what training printed" in capsys.readouterr().out
    assert run_module("research.reproduce", str(own), "--trust", "mine", "--runs", str(own.parents[2] / "again")) == 0
    assert f"identical: {record(own)['params_sha256']}" in capsys.readouterr().out
    with open(own.parents[2] / "mine/doubled.py", "a", encoding="utf-8") as file:
        file.write("# more\n")
    assert run_module("mine.doubled", "--resume", str(own), "--steps", "5") == 0
    assert f"mine.doubled has changed since {own} was recorded" in capsys.readouterr().err
    assert record(own)["config"]["steps"] == 5 and record(own)["config"]["model"]["factor"] == 2.0


def test_a_strangers_run_runs_no_code(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A module beside one's own, that a run names, is not even imported: neither is one whose name begins the same."""
    written = own.parents[2] / "written"
    (own.parents[2] / "minefield.py").write_text(f"open({str(written)!r}, 'w')", encoding="utf-8")
    changed = record(own)
    changed["config"]["model"]["type"] = "minefield.Doubled"
    (own / "run.json").write_text(json.dumps(changed), encoding="utf-8")
    for trusted in ([], ["--trust", "mine"], ["--trust", "his.mine"]):
        assert run_module("research.evaluate", str(own), *trusted) == 2
        assert "'minefield.Doubled'; only types of" in capsys.readouterr().err and not written.exists()
