"""The report: one page that needs nothing, trusts nothing, and has every section of every kind of run."""

import importlib
import re
from html.parser import HTMLParser

import pytest

from research.core.configs import to_json
from research.core.errors import UserError
from research.core.files import append_lines
from research.report.experiment_defaults import changed_fields
from research.report.html import report, write_report
from research.runs.directory import METRICS, read_record, write_record

VOID = {"meta", "link", "img", "br", "input", "wbr", "hr", "path"}


class Page(HTMLParser):
    """Collects the tags and the text of a page, and checks that they nest."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def test_the_page_needs_no_network(language_run, picture_run):
    """No tag loads anything, styles name no address, and the policy of the page forbids both."""
    for run in (language_run, picture_run):
        page = report(run)
        for tag, attributes in Page(page).tags:
            assert tag not in ("link", "iframe", "object", "embed")
            assert (attributes.get("src") or "data:").startswith("data:")
        assert "url(" not in page and "@import" not in page
        assert "default-src 'none'; img-src data:;" in page


def test_samples_cannot_become_part_of_the_page(language_run):
    """Markup in a sample, a name, a command or an example of cleaning is shown as text."""
    attack = "</p><script>alert(1)</script><img src=x onerror=alert(2)>\"'"
    record = read_record(language_run)
    record.update(name=attack.replace("/", ""), command=attack)
    record["data"] |= {"name": attack, "description": attack, "source": attack}
    record["data"]["cleaning"][1]["examples"][0]["before"] = attack
    record["baselines"]["validation"] = {attack: {"loss": 2.0}}
    write_record(language_run, record)
    append_lines(language_run / METRICS, [{"step": 2000, "kind": "sample", "text": attack}])
    page = report(language_run)
    assert len(re.findall("<script", page)) == 1
    assert "<img" not in page
    assert attack.replace('"', "") in Page(page).words.replace('"', "")


def test_a_language_model_has_all_its_sections(language_run):
    """Headline, baselines, curves, command, digests, samples, cleaning, model and environment are on the page."""
    words = Page(report(language_run)).words
    for expected in (
        "gpt_austen",
        "GPT with 812,160 parameters",
        "1.3721",
        "better than every baseline",
        "3-gram baseline",
        "python -m experiments.gpt_austen --steps 2000",
        "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
        "Mr. Darcy was & is.",
        "254",
        "41,873",
        "public domain",
        "block_0…3/ feed_forward 4 × 131,712",
        "examples seen 64,000 tokens seen 4,096,000",
        "unknown: the peak of this device is not known",
        "4f3c2b1a0d9e8f7a6b5c4d3e2f1a0b9c8d7e6f5a",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "0.42 %",
        "4 min 25 s",
    ):
        assert expected in words


def test_the_curves_are_those_that_training_wrote(language_run):
    """Loss, accuracy, learning rate, gradient norm and throughput are drawn."""
    titles = re.findall("<figcaption><strong>(.*?)</strong>", report(language_run))
    assert titles == ["Loss", "Accuracy", "Learning rate", "Gradient norm", "Throughput"]


def test_a_classifier_has_its_matrix_its_classes_and_its_pictures(picture_run):
    """The confusion matrix has a cell for every pair of classes, and forty pictures are embedded."""
    page = report(picture_run)
    assert "91.2 %" in page and "majority class" in page
    assert len(re.findall('<td class="[a-z]*" style="--share', page)) == 100
    assert page.count("<tr><td>Ankle boot</td>") == 1
    assert page.count('src="data:image/png;base64,') == 40


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"status": "interrupted"}, "interrupted at step 2,000 of 2,000. To continue it: python -m"),
        (
            {"status": "failed", "error": "UserError: The loss is nan"},
            "failed after step 2,000 of 2,000: UserError: The loss",
        ),
        ({"status": "running"}, "was at step 2,000 of 2,000 when this page was written"),
    ],
)
def test_unfinished_runs_say_so_and_show_what_they_have(language_run, changes, expected):
    """The page of a run that did not finish says how far it got, and shows its last evaluation."""
    record = read_record(language_run)
    for missing in ("metrics", "baselines", "params_sha256", "chain", "finished", "wait_share"):
        del record[missing]
    write_record(language_run, {**record, **changes})
    words = Page(report(language_run)).words
    assert expected in words
    assert "Measured at step 2,000, the last evaluation of this unfinished run." in words


def test_a_run_that_died_at_once_has_a_page(tmp_path):
    """A record of the first second, without data, model or any step, still gives a page and a card."""
    write_record(
        tmp_path, {"name": "early", "status": "failed", "error": "KeyError: 1", "command": "python -m x", "config": {}}
    )
    assert "KeyError: 1" in Page(write_report(tmp_path).read_text(encoding="utf-8")).words


def test_what_a_run_started_from_is_told(language_run):
    """The source, how many of its parameters were loaded, and the names of those newly drawn and left."""
    record = read_record(language_run)
    assert "What it started from" not in Page(report(language_run)).words
    record["pretrained"] = {"loaded": 77, "new": ["head/kernel"], "left": ["pooler/kernel"], "sha256": "5eed"}
    record["config"]["model"] = {"source": "runs/bert_pretrain"}
    write_record(language_run, record)
    words = Page(report(language_run)).words
    expected = "source runs/bert_pretrain loaded 77 parameters newly drawn head/kernel left in the source pooler/kernel"
    assert expected in " ".join(words.split())


def test_events_and_resumes_are_told(language_run):
    """What went wrong on the way, and every resume, stand in the page in order of time."""
    record = read_record(language_run)
    record["events"] = [{"step": 500, "time": "2025-03-01T10:02:00Z", "message": "checkpoint 500 is damaged"}]
    record["resumes"] = [{"step": 250, "time": "2025-03-01T10:03:00Z"}]
    write_record(language_run, record)
    words = Page(report(language_run)).words
    assert words.index("checkpoint 500 is damaged") < words.index("resumed from this step's checkpoint")


def test_skips_rollbacks_and_slow_steps_are_counted_listed_and_marked_on_the_loss(language_run):
    """The strip counts them, the table tells each, and the loss curve marks its step; other events are only listed."""
    record, time = read_record(language_run), "2025-03-01T10:02:00Z"
    record["events"] = [
        {"step": 120, "time": time, "kind": "skip", "message": "not finite", "last": 1130, "count": 12},
        {"step": 900, "time": time, "kind": "rollback", "message": "the loss <rose>", "to": 750, "skipped": [750, 899]},
        {"step": 1400, "time": time, "kind": "slow", "message": "the step took 9.0 s", "seconds": 9.0},
        {"step": 1500, "time": time, "kind": "checkpoint", "message": "checkpoint failed"},
    ]
    write_record(language_run, record)
    page = report(language_run)
    words = Page(page).words
    assert "skipped steps 12 rollbacks 1" in words
    for row in (
        "120 to 1,130 skipped not finite",
        "900 rollback the loss <rose>",
        "1,400 slow step the step took 9.0 s",
    ):
        assert f"{row} {time}" in words
    marks = re.findall(r'<span class="event( slow)?" style="left:([\d.]+)%" title="(.*?)">', page)
    assert marks[:3] == [
        ("", "6.00", "step 120 to 1,130: not finite"),
        ("", "45.00", "step 900: the loss &lt;rose&gt;"),
        (" slow", "70.00", "step 1,400: the step took 9.0 s"),
    ]
    assert len(marks) == 2 * 3  # on the logarithmic scale and on the linear one


def test_what_differs_from_the_experiment_is_marked(language_run):
    """A field and a type beside their defaults; nothing where the experiment is not known here, or is no experiment."""
    record = read_record(language_run)
    config = to_json(importlib.import_module("experiments.gpt_austen").CONFIG)
    record["config"] = config | {"steps": 7, "model": {**config["model"], "type": "research.models.llama.Llama"}}
    record["config"]["optimizer"]["learning_rate"] = 0.5
    write_record(language_run, record)
    page = report(language_run)
    assert '<span class="changed">7</span> <small>default 1400</small>' in page
    assert '<span class="changed">0.5</span>' in page
    assert '<small class="changed">Llama</small><small>default GPT</small>' in page
    assert page.count('class="changed"') == 4  # and what the mark means
    for name in ("mine", "__main__", "__init__", "../gpt_austen", "os"):
        assert changed_fields({**record, "name": name}) == {}


def test_digests_stand_at_the_end_and_notes_at_the_top(language_run):
    """What a reader compares last, and what a person wrote first."""
    record = read_record(language_run)
    record |= {"notes": [{"time": "2025-03-02T10:00:00Z", "text": "as in <table> 2"}], "tags": ["paper"]}
    write_record(language_run, record)
    words = Page(report(language_run)).words
    assert words.index("paper as in <table> 2") < words.index("command python")
    assert words.index("Where the time went") < words.index(record["params_sha256"]) < words.index(record["chain"])


def test_a_classifier_of_rows_has_its_curves_and_columns(picture_run):
    """ROC and calibration as charts whose axes are named, columns in order of importance; odd values are left out."""
    record = read_record(picture_run)
    record["metrics"]["test"] |= {
        "roc_auc": 0.75,
        "roc_curve": {"false_positive_rate": [0, 0.5, None, 1], "true_positive_rate": [0, 1, 1, 1]},
        "calibration": {"count": [3, 5], "probability": [0.2, 0.9], "right": [0.25, 0.8], "error": 0.08},
    }
    record["importance"] = {"test": {"age": 0.01, "<pay>": 0.2, "town": -0.01, "odd": None}}
    write_record(picture_run, record)
    page = Page(report(picture_run))
    assert "ROC curve, test this run, area 0.7500 by chance" in page.words
    assert "Calibration, test this run, error 0.0800 perfect" in page.words
    assert "true positive rate, over the false positive rate" in page.words
    assert "<pay> 0.2000 age 0.0100 town -0.0100" in page.words


def test_the_report_embeds_files_of_the_run_alone(language_run):
    """A log made elsewhere may name any file; what is not there is said."""
    (language_run.parent / "secret.png").write_bytes(b"secret")
    append_lines(language_run / METRICS, [{"step": 2000, "kind": "sample", "images": "../secret.png"}])
    page = report(language_run)
    assert "<img" not in page and "../secret.png is not in the run directory" in page


def test_losses_that_are_not_finite_leave_the_curves_whole(language_run):
    """A skipped step's loss is null in the log: the curve passes over it."""
    append_lines(language_run / METRICS, [{"step": 2000, "kind": "train", "loss": float("nan"), "gradient_norm": None}])
    page = report(language_run)
    assert "nan" not in Page(page).words.lower().split()
    assert "NaN" not in page and "<strong>Loss</strong>" in page


def test_a_folder_without_a_record_is_refused(tmp_path):
    """A folder that is no run directory gives one sentence."""
    with pytest.raises(UserError, match=r"has no run\.json"):
        write_report(tmp_path)
