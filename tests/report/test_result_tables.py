"""Tables of results."""

import pytest

from research.report import result_tables


def test_the_best_value_of_each_row_is_marked():
    """The best is the lowest loss, the highest accuracy; NaN and missing values are never best."""
    columns = [
        {"loss": 1.2, "accuracy": 0.7, "roc_auc": float("nan"), "list": [1, 2], "bleu": 18.0, "perplexity": 3.3},
        {"loss": 1.5, "accuracy": 0.8, "roc_auc": 0.5, "bleu": 0.1, "mean_absolute_error": 2.0, "perplexity": 4.5},
        {"loss": 0.9, "mean_absolute_error": 1.0},
    ]
    best = {"loss": 2, "accuracy": 1, "ROC-AUC": None, "BLEU": 0, "perplexity": 0, "mean absolute error": 2}
    assert {row.metric: row.best for row in result_tables.rows(columns)} == best


def test_a_single_column_has_no_best():
    """Without a baseline nothing is marked."""
    assert [row.best for row in result_tables.rows([{"loss": 1.0}])] == [None]


def test_the_direction_of_the_metric_that_decides_is_as_configured():
    """Also of a metric whose name says nothing; the others keep theirs."""
    columns = [{"loss": 1.0, "distance": 3.0}, {"loss": 2.0, "distance": 1.0}]
    assert [row.best for row in result_tables.rows(columns, ("distance", "min"))] == [0, 1]
    assert [row.best for row in result_tables.rows(columns, ("loss", "max"))] == [1, 0]


@pytest.mark.parametrize(
    ("found", "best", "metric"),
    [
        ({"loss": 1.0, "perplexity": 2.7, "accuracy": 0.5}, "loss", "loss"),
        ({"loss": 0.3, "accuracy": 0.9}, "loss", "accuracy"),
        ({"loss": 0.3, "accuracy": 0.9, "roc_auc": 0.8}, "roc_auc", "roc_auc"),
        ({"loss": 0.3, "r2": 0.9}, "loss", "loss"),
        ({"loss": 2.3, "perplexity": 10.0, "accuracy": 0.5, "bleu": 18.0, "chrf": 42.0}, "loss", "bleu"),
        ({"loss": 2.3, "perplexity": 10.0, "accuracy": 0.5, "bleu": 18.0, "chrf": 42.0}, "chrf", "chrf"),
        ({}, "loss", None),
    ],
)
def test_the_main_metric_is_the_one_that_decides(found, best, metric):
    """Beside a loss that decides, accuracy is the headline of a classifier and BLEU that of a translator."""
    assert result_tables.main_metric(found, (best, "max")) == metric


def test_what_decides_is_read_from_the_configuration():
    """By split; the lowest loss where an evaluator names nothing."""
    evaluators = [{"split": "validation", "best": ["bleu", "max"]}, {"split": "test"}]
    record = {"config": {"evaluators": evaluators}}
    assert result_tables.best_of(record, "validation") == ("bleu", "max")
    assert result_tables.best_of(record, "test") == result_tables.best_of({}, "test") == ("loss", "min")


@pytest.mark.parametrize(
    ("metric", "value", "shown"),
    [("accuracy", 0.25, "25.0 %"), ("youden", 0.25, "0.2500"), ("youden", -0.06, "-0.0600")],
)
def test_a_headline_has_one_form_for_each_metric(metric, value, shown):
    """Shares are in per cent; what may be negative too is a number, whatever its value."""
    found = result_tables.headline("run", "validation", {metric: value}, {}, "", (metric, "max"))
    assert found.value == shown


def test_the_headline_is_honest_about_the_baseline():
    """A run that does not beat its best baseline is said not to, and the baselines stand in order, the best first."""
    baselines = {"1-gram": {"loss": 2.9}, "3-gram": {"loss": 1.9}}
    lost = result_tables.headline("run", "validation", {"loss": 2.0, "perplexity": 7.4}, baselines, ", nats")
    won = result_tables.headline("run", "validation", {"loss": 1.8, "perplexity": 6.0}, baselines, ", nats")
    assert lost is not None and lost.beaten is False
    assert won is not None and won.beaten is True
    assert [name for name, _, _ in won.bars] == ["run", "3-gram", "1-gram"]


def test_unfinished_runs_have_the_results_of_their_last_evaluation():
    """Without final metrics the last evaluation of each split counts, with its step."""
    entries = [
        {"step": 10, "kind": "train", "loss": 3.0},
        {"step": 10, "kind": "evaluation", "name": "validation", "loss": 2.0},
        {"step": 20, "kind": "evaluation", "name": "validation", "loss": 1.0},
    ]
    assert result_tables.results_of({}, entries) == ({"validation": {"loss": 1.0}}, 20)
    assert result_tables.results_of({"metrics": {"test": {"loss": 0.5}}}, entries) == ({"test": {"loss": 0.5}}, None)


def test_confusions_are_listed_by_number():
    """The commonest mistakes come first, with their share of the true class; right answers are no mistakes."""
    matrix = [[8, 2, 0], [5, 4, 1], [0, 0, 0]]
    assert result_tables.confusions(matrix, ["cat", "dog"]) == [
        ("dog", "cat", 5, 0.5),
        ("cat", "dog", 2, 0.2),
        ("dog", "2", 1, 0.1),
    ]
    assert result_tables.matrix_rows(matrix, ["cat", "dog"])[2] == ("2", [(0, 0.0), (0, 0.0), (0, 0.0)])


def test_large_confusion_matrices_are_not_drawn():
    """Of more classes than a page can show, only the commonest confusions are listed."""
    matrix = [[1] * 50 for _ in range(50)]
    assert result_tables.matrix_rows(matrix, []) == []
    assert len(result_tables.confusions(matrix, [])) == result_tables.COMMONEST
