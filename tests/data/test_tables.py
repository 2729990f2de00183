"""Tables: numbers standardised and categories spread out by the training rows alone, and mistakes named."""

import numpy as np
import pytest

from research.core.errors import UserError
from research.data import catalogue
from research.data.tables import TableData


@pytest.fixture
def table(tmp_path):
    """200 rows of a number, a category and a label that follows from the number."""
    random = np.random.default_rng(0)
    rows = [f"{x:.3f},{c},{'yes' if x > 0 else 'no'}" for x, c in zip(random.normal(size=200), "ab" * 100, strict=True)]
    path = tmp_path / "table.csv"
    path.write_text("x,kind,label\n" + "\n".join(rows) + "\n")
    return path


def write(path, *lines):
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


def test_columns_become_features(table):
    """The number has mean 0 and deviation 1 over the training rows; each category its own feature of 0 and 1."""
    data = TableData(train=str(table), validation_fraction=0.2).build()
    inputs = data.splits["train"].arrays["inputs"]
    assert inputs.shape[1] == 3
    np.testing.assert_allclose([inputs[:, 0].mean(), inputs[:, 0].std()], [0, 1], atol=1e-5)
    np.testing.assert_array_equal(inputs[:, 1] + inputs[:, 2], 1)
    assert (data.outputs, data.class_names) == (1, ("no", "yes"))
    assert data.summary["columns"] == {"x": "number", "kind": 2}
    assert len(data.splits["train"]) + len(data.splits["validation"]) == 200
    labels = data.splits["train"].arrays["labels"]
    assert inputs[labels == 1, 0].min() > inputs[labels == 0, 0].max()


def test_equal_rows_are_on_one_side(tmp_path):
    """Rows are held out by their content, so that none leaks."""
    rows = [f"{n},a,{'yes' if n % 2 else 'no'}" for n in range(30)] * 3
    data = TableData(train=write(tmp_path / "t.csv", "x,kind,label", *rows), validation_fraction=0.3).build()
    sides = [{row.tobytes() for row in rows.arrays["inputs"]} for rows in data.splits.values()]
    assert not sides[0] & sides[1]
    assert sum(map(len, data.splits.values())) == 90


def test_test_rows_are_encoded_by_the_training_rows(table, tmp_path):
    """A category that training never saw is all zeros; the number keeps the training scale."""
    test = write(tmp_path / "test.csv", "x,kind,label", "0.5,c,yes", "0.5,a,no")
    data = TableData(train=str(table), test=test, validation_fraction=0.0).build()
    numbers = [float(line.split(",")[0]) for line in table.read_text().splitlines()[1:]]
    expected = (0.5 - np.mean(numbers)) / np.std(numbers)
    np.testing.assert_allclose(data.splits["test"].arrays["inputs"], [[expected, 0, 0], [expected, 1, 0]], rtol=1e-5)
    assert data.splits["test"].arrays["labels"].tolist() == [1, 0]
    assert set(data.splits) == {"train", "test"}


def test_several_classes_and_numbers_can_be_predicted(table):
    """`classes` counts them, `numbers` keeps the target as it is."""
    classes = TableData(train=str(table), target="kind", kind="classes").build()
    assert (classes.outputs, classes.class_names) == (2, ("a", "b"))
    numbers = TableData(train=str(table), target="x", kind="numbers").build()
    assert numbers.outputs == 1
    targets = np.concatenate([rows.arrays["targets"] for rows in numbers.splits.values()])
    assert targets.shape == (200, 1)
    assert targets.dtype == np.float32


def test_ignored_columns_leave_no_trace_and_logarithms_tame_wide_ones(tmp_path):
    """log(1 + x) before standardising."""
    rows = [f"{10**n},{n},{'yes' if n % 2 else 'no'}" for n in range(8)]
    path = write(tmp_path / "t.csv", "wide,other,label", *rows)
    data = TableData(train=path, ignore=("other",), logarithm=("wide",), validation_fraction=0.0).build()
    values = np.log1p(10.0 ** np.arange(8))
    expected = ((values - values.mean()) / values.std())[:, None]
    np.testing.assert_allclose(data.splits["train"].arrays["inputs"], expected, rtol=1e-4, atol=1e-6)


def test_a_column_that_never_varies_is_only_shifted(tmp_path):
    """Not divided by zero."""
    path = write(tmp_path / "t.csv", "x,label", "3,yes", "3,no")
    data = TableData(train=path, validation_fraction=0.0).build()
    np.testing.assert_array_equal(data.splits["train"].arrays["inputs"], [[0], [0]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "income"}, "no column 'income': the table has x, kind, label"),
        ({"logarithm": ("x",)}, "column 'x' has values that are not finite numbers, or not above -1"),
        ({"target": "x"}, r"The target 'x' has \d+ values, not 2: set --data.kind classes"),
        ({"target": "kind", "kind": "numbers"}, "'kind' holds numbers in the training rows, elsewhere"),
        ({"validation_fraction": 1.0}, "The train split of 200 rows is empty"),
    ],
)
def test_columns_that_do_not_fit_are_refused(table, options, message):
    """One sentence with the column and what to do."""
    with pytest.raises(UserError, match=message):
        TableData(train=str(table), **options).build()


def test_columns_named_for_another_table_are_passed_over_and_said(table, capsys):
    """An experiment's own column names do not stand in the way of your table; a slip of the pen still shows."""
    data = TableData(train=str(table), ignore=("idd",), logarithm=("capital",)).build()
    assert data.summary["columns"].keys() == {"x", "kind"}
    assert "has no column 'idd', 'capital'" in capsys.readouterr().err


def test_a_column_of_numbers_with_gaps_is_refused(tmp_path):
    """A blank cell would silently turn a column of numbers into as many categories."""
    path = write(tmp_path / "t.csv", "x,label", "1,yes", "2,no", ",yes", "4,no")
    with pytest.raises(UserError, match="column 'x' holds numbers but for 1 values such as ''"):
        TableData(train=path, validation_fraction=0.0).build()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("x,label", "1,yes"), "The test rows have no column 'kind': they have x, label"),
        (("x,kind", "1,a"), "The test rows have no column 'label'"),
        (("x,kind,label", "many,a,yes"), "column 'x' holds numbers in the training rows, elsewhere: .*many"),
        (("x,kind,label", "nan,a,yes"), "column 'x' has values that are not finite"),
        (("x,kind,label", "1,a,perhaps"), "The test rows have the class 'perhaps'"),
    ],
)
def test_test_rows_that_do_not_fit_are_refused(table, tmp_path, lines, message):
    """Columns, values and classes that training does not have."""
    with pytest.raises(UserError, match=message):
        TableData(train=str(table), test=write(tmp_path / "test.csv", *lines)).build()


def test_a_missing_file_is_a_sentence(tmp_path):
    """Not a trace."""
    with pytest.raises(UserError, match="matches no file"):
        TableData(train=str(tmp_path / "nothing.csv")).build()


def test_a_data_sets_bytes_become_text(monkeypatch):
    """TFDS gives strings as bytes; classes are named as a person writes them."""
    rows = [{"x": n, "kind": b"a", "label": b"yes" if n % 2 else b"no"} for n in range(20)]
    monkeypatch.setattr(catalogue, "load", lambda name: {"train": rows, "test": rows[:3]})
    monkeypatch.setattr(catalogue, "info", lambda name: {"name": name})
    data = TableData("any", validation_fraction=0.3).build()
    assert data.class_names == ("no", "yes")
    assert set(data.splits) == {"train", "validation", "test"}
