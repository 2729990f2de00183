"""Where a model looks while it translates: measured as the model has it, and shown token by token."""

import dataclasses
import json
import re
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.core.files import write_atomic
from research.data.text.paired_text import PairedText, boundary_ids
from research.data.text.tokenizers import TokenizerConfig
from research.launch.attention_maps import COUNT, LONGEST, attention_example, last_layer, picture_attention
from research.models.encoder_decoder import SequenceToSequence as RecurrentModel
from research.models.t5 import T5
from research.models.transformer import Transformer
from research.report.html import report
from research.runs.directory import ATTENTION
from research.runtime import processes
from research.tasks.sequence_to_sequence import SequenceToSequence
from research.train.experiment import Experiment, assemble
from research.train.recorded_run import Run

SIZE = 24
TOKENIZER = TokenizerConfig("bpe", vocabulary_size=300, special="bert")
MODELS = {
    "transformer": Transformer(depth=2, width=16, heads=2, context=SIZE),
    "t5": T5(depth=2, width=16, heads=2),
    "recurrent": RecurrentModel(width=16),
}
# One bracket that would be a tag, one ampersand, and a quotation mark that would end an attribute.
HOSTILE = '<b>"&amp;'


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Sixty pairs of few words, of which a part is held out."""
    draw = np.random.default_rng(0)
    rows = [" ".join(draw.choice("light day night earth".split(), size)) for size in draw.integers(1, 5, 60)]
    path = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    path.write_text("en\tes\n" + "".join(f"{number} {row}\t{row} {number}\n" for number, row in enumerate(rows)))
    shares = {"validation_fraction": 0.3, "test_fraction": 0.1}
    return PairedText(train=(str(path),), group=(), tokenizer=TOKENIZER, length=SIZE, **shares)


def run_of(data, model, folder):
    """A run that has drawn its parameters, larger than usual so that attention is uneven, and not trained them."""
    assembly = assemble(Experiment(data, model, SequenceToSequence()), data.build())
    state = assembly.state
    draw = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: jnp.asarray(0.5 * draw.standard_normal(leaf.shape, np.float32)), state.params)
    return Run(folder, assembly, state.replace(params=params), {})


def sums(example):
    return [sum(row) for row in example["weights"]]


@pytest.mark.parametrize("model", MODELS)
def test_the_picture_is_what_the_model_does_with_the_pair_alone(data, model, tmp_path):
    """Weights over the source's own tokens, equal to those of the pair without padding, for the text it writes."""
    run = run_of(data, MODELS[model], tmp_path)
    picture_attention(run)
    saved = json.loads((tmp_path / ATTENTION).read_text(encoding="utf-8"))
    assembled = run.assembly.data
    start, end = boundary_ids(assembled.tokenizer)
    assert saved["split"] == "validation" and len(saved["examples"]) == COUNT

    @jax.jit
    def alone(params, source, target):
        logits, sown = run.assembly.model.apply(params, {"inputs": source, "decoder_inputs": target}, attention=True)
        return logits, last_layer(sown.attention)

    for example in saved["examples"]:
        place = assembled.texts["validation"]["source"].index(example["source"])
        assert assembled.texts["validation"]["target"][place] == example["target"]
        source = np.append(assembled.tokenizer.encode(example["source"]), end).astype(np.int32)
        assert "".join(example["across"]) == example["source"] + "[SEP]"
        assert 1 <= len(example["down"]) <= LONGEST
        np.testing.assert_allclose(sums(example), 1, atol=1e-3)
        # Decoders see no future, so what is not written yet may be anything.
        known = np.full((1, LONGEST + 1), start, np.int32)
        for place, name in enumerate(example["down"]):
            logits, weights = alone(run.state.params, source[None], known[:, :-1])
            known[0, place + 1] = logits[0, place].argmax()
            assert name == assembled.tokenizer.decode(known[0, place + 1 : place + 2])
            np.testing.assert_allclose(example["weights"][place], weights[0, place], atol=2e-4)
        assert np.ptp(example["weights"][0]) > 0.01, "even weights would hide a mistake"


def test_only_the_first_process_writes_and_only_of_translations(data, tmp_path, monkeypatch):
    """Other processes, and runs on other data, leave nothing behind."""
    run = run_of(data, MODELS["recurrent"], tmp_path)
    others = dataclasses.replace(run.assembly.data, texts={"validation": {"text": ["one"]}})
    picture_attention(run._replace(assembly=run.assembly._replace(data=others)))
    monkeypatch.setattr(processes, "is_main_process", lambda: False)
    picture_attention(run)
    assert not (tmp_path / ATTENTION).exists()


def test_weights_that_are_not_those_of_the_tokens_are_refused():
    """Transposed, of another source, or with a share on padding: no picture is better than a wrong one."""
    weights = np.random.default_rng(0).dirichlet(np.ones(4), 4).astype(np.float32)
    tokens = np.arange(4, dtype=np.int32)
    assert attention_example(None, tokens, tokens, weights)["down"] == ["0", "1", "2", "3"]
    for source, wrong in ((tokens, weights.T), (tokens[:3], weights), (tokens[:3], weights[:, :3])):
        with pytest.raises(ValueError, match="written and"):
            attention_example(None, source, tokens, wrong)


def test_long_texts_are_cut_and_their_weights_with_them():
    """The first tokens written are kept; what the model would look at after the end is not."""
    weights = np.full((LONGEST + 9, 2), 0.5, np.float32)
    written = np.arange(LONGEST + 5, dtype=np.int32)
    for size in (LONGEST + 5, 3):
        example = attention_example(None, np.int32([7, 8]), written[:size], weights)
        assert len(example["down"]) == len(example["weights"]) == min(size, LONGEST)


def test_the_last_layer_is_the_one_with_the_highest_number():
    """The tenth comes after the ninth, and heads are averaged."""
    layers = {f"decoder_{number}/cross_attention": jnp.full((1, 2, 1, 1), float(number)) for number in range(11)}
    layers["decoder_10/cross_attention"] = jnp.array([10.0, 20.0]).reshape(1, 2, 1, 1)
    assert last_layer(layers).tolist() == [[[15.0]]]


class Cells(HTMLParser):
    """The rows of each attention table of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.labels: list[str] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag == "table":
            self.inside = "look" in (given.get("class") or "").split()
            if self.inside:
                self.tables.append([])
                self.labels.append(given["aria-label"])
        elif self.inside and tag == "tr":
            self.tables[-1].append([])
        elif self.inside and tag in ("td", "th"):
            self.tables[-1][-1].append("")
        assert tag != "b" or not self.inside, "a token became markup"

    def handle_data(self, data):
        if self.inside and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1] += data

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "table"


def test_the_page_shows_each_weight_between_its_tokens(language_run):
    """Source across, written down, per cent in the cells and exact in their titles; tokens are text, not markup."""
    assert "Attention weights" not in report(language_run)
    example = {
        "source": f"{HOSTILE} day",
        "target": "día",
        "written": HOSTILE,
        "across": [HOSTILE, " day", "[SEP]"],
        "down": [HOSTILE, " "],
        "weights": [[0.124, 0.872, 0.004], [0.5, 0.3, 0.2]],
    }
    write_atomic(language_run / ATTENTION, json.dumps({"split": "validation", "examples": [example]}))
    page = report(language_run)
    found = Cells(page)
    assert [[cell.strip() for cell in row] for row in found.tables[0]] == [
        ["", HOSTILE, "day", "[SEP]"],
        [HOSTILE, "12", "87", ""],
        ["␣", "50", "30", "20"],
    ]
    assert HOSTILE in found.labels[0] and f"{HOSTILE} day" in found.labels[0]
    assert "looks at day: 87.2 %" in page and "looks at [SEP]: 0.4 %" in page
    assert re.findall(r'(?: class="strong")? style="--share:0\.872"', page) == [' class="strong" style="--share:0.872"']
    assert HOSTILE not in page
