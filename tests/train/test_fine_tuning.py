"""Promises of fine-tuning: it starts from the very parameters of its source, and says what is loaded, new and left."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as orbax

from research.core import trees
from research.core.errors import UserError
from research.core.mesh import MeshConfig
from research.core.shapes import Spec
from research.data.pipeline import training_batches
from research.data.text.labelled_text import LabelledText
from research.data.text.text_data import TextData
from research.data.text.tokenizers import TokenizerConfig
from research.evaluate.classification import ClassificationEvaluator
from research.evaluate.masked import MaskedEvaluator
from research.hub.pretrained import save_pretrained
from research.models.bert import BERT
from research.models.gpt import GPT
from research.models.model import beside, within
from research.models.wrappers.lora import BRANCH, LoRA, merged
from research.tasks.language_modelling import LanguageModelling
from research.tasks.masked_language_modelling import MaskedLanguageModelling
from research.tasks.task import Context, Task
from research.tasks.text_classification import TextClassification
from research.train.experiment import Experiment, assemble
from research.train.optimizers import Optimizer
from research.train.pretrained import LoadReport, PretrainedModel, PretrainedTokenizer, resolved
from research.train.recorded_run import load_run
from research.train.run import train


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table of 32 texts that are True where they begin with a or b."""
    path = tmp_path_factory.mktemp("table") / "mine.csv"
    rows = [f"{word} {other} {third},{word in 'ab'}" for word in "abcd" for other in "efgh" for third in "abgh"]
    path.write_text("review,kind\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def pretrained(tiny_text, tmp_path_factory):
    """A masked language model after four steps."""
    experiment = Experiment(
        data=TextData(
            train=(str(tiny_text),), length=16, validation_fraction=0.3, tokenizer=TokenizerConfig("wordpiece", 64)
        ),
        model=BERT(depth=1, width=16, heads=2, context=32),
        task=MaskedLanguageModelling(),
        evaluators=(MaskedEvaluator(limit=16),),
        steps=4,
        batch_size=4,
    )
    return train(experiment, name="pretrain", root=tmp_path_factory.mktemp("runs"))


def fine_tuning(source, table, **changes):
    """Returns an experiment that starts from `source`, a run or a folder."""
    return Experiment(
        data=LabelledText(
            train=(table,),
            text="review",
            label="kind",
            group=(),
            validation_fraction=0.25,
            test_fraction=0.0,
            length=16,
            tokenizer=PretrainedTokenizer(str(source)),
        ),
        model=PretrainedModel(str(source), head="sequence", pooling="mean", pooler=False, dropout=0.0, **changes),
        task=TextClassification(),
        optimizer=Optimizer("adamw", learning_rate=1e-2),
        evaluators=(ClassificationEvaluator(),),
        steps=3,
        batch_size=4,
    )


def test_a_run_starts_from_the_parameters_of_another(pretrained, table, tmp_path) -> None:
    """All but the head are those of the source, bit for bit; the record says so; the run can be loaded again."""
    experiment = fine_tuning(pretrained.folder, table)
    assembly = assemble(experiment, experiment.data.build())
    state, source = assembly.initial_state(), trees.flatten(pretrained.state.params)
    for path, leaf in trees.flatten(state.params).items():
        if path.startswith("head/"):
            assert path not in source or leaf.shape != source[path].shape
        else:
            np.testing.assert_array_equal(leaf, source[path])
    run = train(experiment, name="fine", root=tmp_path)
    assert run.record["pretrained"]["new"] == ["head/bias", "head/kernel"]
    assert run.record["pretrained"]["loaded"] == len(trees.flatten(state.params)) - 2
    again = load_run(run.folder)
    assert trees.digest(again.state.merged) == run.record["params_sha256"]


@dataclasses.dataclass(frozen=True)
class WithMomentum(TextClassification):
    """Text classification that keeps a second copy of the model's parameters, which starts as the first."""

    def build(self, model, data) -> Task:
        task = super().build(model, data)

        def init(key):
            return {**task.init(key), "momentum": task.init(key)}

        sharding = model.build(data.spec).sharding
        rules = (*beside("momentum", sharding), *within("momentum", sharding))
        return task._replace(init=init, fixed=lambda path: path.startswith("momentum/"), sharding=rules)

    def start(self, params, shardings, mesh, spec) -> LoadReport:
        """Puts the model's parameters, wherever they are from, in the copy's place."""
        copied = {name: branch for name, branch in params.items() if name != "momentum"}
        return LoadReport(
            {**params, "momentum": copied}, [f"momentum/{path}" for path in trees.flatten(copied)], [], []
        )


def test_what_a_task_adds_to_a_pretrained_model_starts_from_it_too(pretrained, table, tmp_path) -> None:
    """The model takes its own parameters from the source, then the task takes its own; the record has both as one."""
    experiment = dataclasses.replace(fine_tuning(pretrained.folder, table), task=WithMomentum())
    run = train(experiment, name="tune", root=tmp_path)
    source, copied = trees.flatten(pretrained.state.params), trees.flatten(run.state.fixed["momentum"])
    shared = [path for path in copied if path in source]
    assert shared and all(np.array_equal(copied[path], source[path]) for path in shared)
    assert run.record["pretrained"]["new"] == ["head/bias", "head/kernel"]
    assert run.record["pretrained"]["loaded"] == len(shared) + len(copied)


def test_a_published_folder_serves_as_well(pretrained, table, tmp_path) -> None:
    """Exported and taken from there, the starting parameters are the same, and so is the tokenizer."""
    config = dataclasses.replace(pretrained.assembly.experiment.model, vocabulary=0)
    save_pretrained(tmp_path / "folder", config, pretrained.state.params, pretrained.assembly.data.tokenizer)
    states, ids = [], []
    for source in (pretrained.folder, tmp_path / "folder"):
        experiment = fine_tuning(source, table)
        data = experiment.data.build()
        states.append(trees.flatten(assemble(experiment, data).initial_state().params))
        ids.append(data.tokenizer.encode_pair("ab h").ids.tolist())
    assert ids[0] == ids[1]
    assert states[0].keys() == states[1].keys()
    for path, leaf in states[0].items():
        np.testing.assert_array_equal(leaf, states[1][path], err_msg=path)


def gradients(experiment):
    """Returns the gradients of the first batch's loss, by path, and the operations that they take."""
    assembly = assemble(experiment, experiment.data.build())
    batch = training_batches(assembly.data.splits["train"], batch_size=4, seed=0)(0)
    state, context = assembly.initial_state(), Context(jax.random.key(0), 0, train=False)
    others = trees.merge(state.fixed, state.variables)
    found = jax.jit(assembly.gradients.sums)
    compiled = found.lower(state.params, others, batch, context).compile()
    sums = compiled(state.params, others, batch, context)
    return trees.flatten(sums.gradients), compiled.cost_analysis()["flops"]


def test_no_gradient_is_computed_for_what_is_frozen(pretrained, table) -> None:
    """A frozen trunk has none, at less than half the operations; the head learns from the same gradient as without."""
    free = fine_tuning(pretrained.folder, table)
    frozen = dataclasses.replace(
        free, optimizer=Optimizer("adamw", lr_multipliers=((r"^head/", 1.0), (r"^(?!head/)", 0.0)))
    )
    (every, cost), (found, less) = (gradients(experiment) for experiment in (free, frozen))
    assert found.keys() == {path for path in every if path.startswith("head/")}
    for path, gradient in found.items():
        np.testing.assert_allclose(gradient, every[path], rtol=1e-5, atol=1e-6, err_msg=path)
    assert any(np.asarray(gradient).any() for gradient in found.values())
    assert less < cost / 2


def test_low_rank_updates_leave_the_source_as_it_was(pretrained, table, tmp_path) -> None:
    """After training only updates and head have moved."""
    experiment = fine_tuning(pretrained.folder, table, lora=LoRA(rank=2, trained="^head/"))
    run = train(experiment, name="low", root=tmp_path)
    source = trees.flatten(pretrained.state.params)
    for path, leaf in trees.flatten(run.state.merged).items():
        if not path.startswith((f"{BRANCH}/", "head/")):
            np.testing.assert_array_equal(leaf, source[path], err_msg=path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": ""}, "Nothing says what to start from"),
        ({"source": "nowhere"}, "neither a folder"),
        ({"source": "package:no_such_package/model"}, "pip install --no-deps no-such-package"),
    ],
)
def test_a_source_that_is_not_there_is_refused(changes, message) -> None:
    """In one sentence that says what to give."""
    with pytest.raises(UserError, match=message):
        PretrainedModel(**changes).build(Spec(2))


def test_another_vocabulary_is_refused(pretrained, table) -> None:
    """Parameters of other shapes than the source's, but for the head's, cannot be what was meant."""
    experiment = fine_tuning(pretrained.folder, table)
    params = jax.tree.map(jnp.zeros_like, pretrained.state.params)
    wrong = {**params, "token_embedding": jnp.zeros((7, 16))}
    shardings = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), wrong)
    with pytest.raises(UserError, match="'token_embedding' is of shape"):
        experiment.model.start(wrong, shardings, pretrained.assembly.mesh, Spec(9))


def test_what_low_rank_updates_have_learned_is_started_from(pretrained, table, tmp_path) -> None:
    """A run trained with LoRA is a source with its updates merged in."""
    experiment = fine_tuning(pretrained.folder, table, lora=LoRA(rank=2, trained="^head/"))
    first = train(experiment, name="low", root=tmp_path)
    second = fine_tuning(first.folder, table)
    state = assemble(second, second.data.build()).initial_state()
    expected = trees.flatten(merged(first.state.merged, LoRA(rank=2)))
    moved = 0
    for path, leaf in trees.flatten(state.params).items():
        np.testing.assert_array_equal(leaf, expected[path], err_msg=path)
        moved += (np.asarray(leaf) != np.asarray(trees.flatten(pretrained.state.params).get(path, leaf))).any()
    assert moved, "the updates have changed nothing"


def test_a_record_names_the_run_itself(pretrained, table, tmp_path, monkeypatch) -> None:
    """Words such as an experiment's folder mean another run tomorrow: the record has the directory of today's."""
    experiment = fine_tuning(pretrained.folder.parent, table)
    run = train(experiment, name="fine", root=tmp_path)
    for part in (run.record["config"]["model"], run.record["config"]["data"]["tokenizer"]):
        assert part["source"] == str(pretrained.folder)
    with pytest.raises(UserError, match="There is no run in runs/bert_pretrain"):
        monkeypatch.chdir(tmp_path)
        resolved(PretrainedModel("runs/bert_pretrain"))


def test_a_checkpoint_of_low_rank_updates_holds_them_and_their_moments_alone(pretrained, table, tmp_path) -> None:
    """The base is stored once for the run, and not in each checkpoint; it is loaded, and resumed from, all the same."""
    lora = LoRA(rank=1, pattern="query_key_value/kernel$")
    experiment = dataclasses.replace(fine_tuning(pretrained.folder, table, lora=lora), checkpoint_every=1)
    whole = train(experiment, name="low", root=tmp_path / "whole")
    learned = sum(leaf.nbytes for leaf in jax.tree.leaves(whole.state.params))
    names = trees.flatten(orbax.metadata(whole.folder / "checkpoints" / "00000003").metadata)
    stored = sum(leaf.dtype.itemsize * int(np.prod(leaf.shape)) for leaf in names.values())
    assert stored < 3 * learned + 100  # with two moments, and a few counts
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(whole.state.fixed)) > 10 * learned
    assert trees.digest(load_run(whole.folder).state.merged) == whole.record["params_sha256"]
    train(experiment, name="low", root=tmp_path / "cut", stop_after=2)
    resumed = train(experiment, name="low", root=tmp_path / "cut", resume=True)
    assert resumed.record["params_sha256"] == whole.record["params_sha256"]


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(pretrained, table) -> None:
    """That of another model, where one forgets to name it twice."""
    experiment = fine_tuning(pretrained.folder, table)
    data = dataclasses.replace(experiment.data, tokenizer=TokenizerConfig("bpe", 400, special="bert")).build()
    with pytest.raises(UserError, match=r"--data\.tokenizer\.source"):
        assemble(experiment, data)


def test_a_language_model_with_spare_ids_can_be_tuned(tiny_text, tmp_path) -> None:
    """Published models have more rows of embeddings than their tokenizers have ids."""
    text = TextData(train=(str(tiny_text),), length=8, validation_fraction=0.3, tokenizer=TokenizerConfig("bpe", 300))
    tokenizer = text.build().tokenizer
    model = GPT(depth=1, width=8, heads=2, context=8)
    rows = tokenizer.vocabulary_size + 4
    params = model.build(Spec(rows)).init(jax.random.key(0), {"inputs": jnp.zeros((1, 8), jnp.int32)})
    save_pretrained(tmp_path / "model", model, params, tokenizer)
    source = str(tmp_path / "model")
    experiment = Experiment(
        data=dataclasses.replace(text, tokenizer=PretrainedTokenizer(source)),
        model=PretrainedModel(source),
        task=LanguageModelling(sample_tokens=4),
        steps=1,
    )
    state = assemble(experiment, experiment.data.build()).initial_state()
    assert state.params["token_embedding"].shape == (rows, 8)


@pytest.mark.parametrize(
    ("labels", "order", "remarks"),
    [(("bad", "good"), [0, 1], 0), (("Good", "Bad"), [1, 0], 0), (("no", "yes"), [0, 1], 1)],
)
def test_a_kept_head_follows_the_names_of_the_classes(labels, order, remarks, tmp_path) -> None:
    """Its outputs are in the order of the data's classes; where these have other names, that is said."""
    config = BERT(depth=1, width=16, heads=2, context=8, head="sequence", vocabulary=7)
    init = jax.jit(config.build(Spec(2)).init)
    params = init(jax.random.key(0), {"inputs": jnp.zeros((1, 1), jnp.int32)})
    save_pretrained(tmp_path, config, params, labels=("bad", "good"))
    shardings = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), params)
    started = PretrainedModel(str(tmp_path), head="sequence").start(
        jax.tree.map(jnp.zeros_like, params), shardings, MeshConfig().build(jax.devices()[:1]), Spec(2, labels=labels)
    )
    np.testing.assert_array_equal(started.params["head"]["kernel"], params["head"]["kernel"][:, np.array(order)])
    assert len(started.remarks) == remarks
