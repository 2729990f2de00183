"""Tables: numbers standardised and categories spread out by the training rows alone, and mistakes named."""

import itertools
import json
import tracemalloc

import numpy as np
import pytest

from research.core.errors import UserError
from research.data import catalogue
from research.data.cells import class_names, is_number
from research.data.table_columns import encode, fit
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
    assert data.columns == {"x": (0, 1), "kind": (1, 3)}
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
        ({"target": "x"}, r"The target 'x' has \d+ values, not 2: experiments.mlp_classes takes"),
        ({"target": "kind", "kind": "numbers"}, "Row 1 of the train rows has 'a' in the target 'kind', not a number"),
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


def test_missing_numbers_take_the_median_and_say_so(tmp_path):
    """A feature more is 1 where the training rows lack the number; test rows and rows to predict are encoded alike."""
    rows = [f"{x},{'yes' if n % 2 else 'no'}" for n, x in enumerate(["1", "", "2", " NA ", "9", "?", "nan", "4"])]
    test = write(tmp_path / "test.csv", "x,label", "null,yes", "4,no")
    data = TableData(train=write(tmp_path / "t.csv", "x,label", *rows), test=test, validation_fraction=0.0).build()
    filled = np.array([1, 3, 2, 3, 9, 3, 3, 4])  # the median of 1, 2, 9 and 4 is 3
    expected = np.stack([(filled - filled.mean()) / filled.std(), [0, 1, 0, 1, 0, 1, 1, 0]], 1)
    np.testing.assert_allclose(data.splits["train"].arrays["inputs"], expected, rtol=1e-5)
    np.testing.assert_allclose(data.splits["test"].arrays["inputs"], expected[[1, 7]], rtol=1e-5)
    np.testing.assert_allclose(data.encode([{"x": None}, {"x": "4"}]).arrays["inputs"], expected[[1, 7]], rtol=1e-5)
    assert data.summary["columns"] == {"x": "number, some missing"}


def test_a_number_missing_in_the_test_rows_alone_is_the_median(table, tmp_path):
    """Without a second feature, which training would not have taught."""
    test = write(tmp_path / "test.csv", "x,kind,label", "nan,a,yes")
    data = TableData(train=str(table), test=test, validation_fraction=0.0).build()
    numbers = np.array([float(line.split(",")[0]) for line in table.read_text().splitlines()[1:]])
    expected = (np.median(numbers) - numbers.mean()) / numbers.std()
    np.testing.assert_allclose(data.splits["test"].arrays["inputs"], [[expected, 1, 0]], rtol=1e-4)


def test_a_missing_category_is_a_category(tmp_path):
    """However it is written where rows are predicted; where training lacks none, it is all zeros as any unknown one."""
    rows = [f"{kind},{n},{'yes' if n % 2 else 'no'}" for n, kind in enumerate(["a", "?", "b", "a "] * 5)]
    data = TableData(train=write(tmp_path / "t.csv", "kind,x,label", *rows), validation_fraction=0.0).build()
    assert data.summary["columns"]["kind"] == 3
    kinds = [{"kind": kind, "x": 1} for kind in ("", None, "a", " b")]
    np.testing.assert_array_equal(data.encode(kinds).arrays["inputs"][:, :3], np.eye(3)[[0, 0, 1, 2]])
    whole = TableData(train=write(tmp_path / "w.csv", "kind,label", "a,c", "b,d"), validation_fraction=0.0).build()
    np.testing.assert_array_equal(whole.encode([{"kind": "NA"}]).arrays["inputs"], [[0, 0]])


@pytest.mark.parametrize("value", ["", "NA", "null", "?", "  "])
def test_a_missing_target_is_refused_with_its_row(tmp_path, value):
    """In any split, and for numbers too."""
    path = write(tmp_path / "t.csv", "x,label", "1,5", f"2,{value}", "3,6")
    for kind in ("binary", "classes", "numbers"):
        with pytest.raises(
            UserError, match=r"Row 2 of the train rows has .* in the target 'label', which stands for no"
        ):
            TableData(train=path, kind=kind).build()


@pytest.mark.parametrize("kind", ["binary", "classes"])
def test_equal_labels_of_any_form_are_one_class(tmp_path, kind):
    """0, 0.0, "0" and false from JSON; a code with a leading zero is no number."""
    labels = [0, 0.0, "0", False, "False", " 0 ", 1, 1.0, "1", True, "TRUE", "1.0"]
    lines = [json.dumps({"x": number, "label": label}) for number, label in enumerate(labels)]
    data = TableData(train=write(tmp_path / "t.jsonl", *lines), kind=kind, validation_fraction=0.0).build()
    assert data.class_names == ("0", "1")
    assert data.splits["train"].arrays["labels"].tolist() == [0] * 6 + [1] * 6
    assert class_names(["007", "7", "+1", "-1"]).keys() == {"007", 7, 1, -1}


@pytest.mark.parametrize(
    ("values", "description"),
    [
        (["1_0", "1_1"], 2),  # numbers for Python alone
        (["inf", "infinity"], 2),
        (["\u0661", "\u0662"], 2),
        (["1e3", "-.5"], "number"),
        (['"1,000"', '"12,345"'], "number"),
        (["2024-05-31", "2024-06-01T12:30:00Z"], "date"),
        (["2024-02-30", "2024-02-31"], 2),  # days that do not exist
        (["true", "false"], 2),
    ],
)
def test_what_a_column_is(tmp_path, values, description):
    """Numbers and dates in the forms of spreadsheets; anything else is a category."""
    rows = [f"{value},{label}" for value in values for label in ("yes", "no")]
    data = TableData(train=write(tmp_path / "t.csv", "x,label", *rows), validation_fraction=0.0).build()
    assert data.summary["columns"] == {"x": description}


@pytest.mark.parametrize("kind", ["binary", "classes"])
def test_a_target_of_one_class_is_refused(tmp_path, kind):
    """Nothing can be learned from it."""
    path = write(tmp_path / "t.csv", "x,label", "1,yes", "2,yes")
    with pytest.raises(UserError, match="The target 'label' has one value alone, yes: give rows of others"):
        TableData(train=path, kind=kind, validation_fraction=0.0).build()


def test_true_and_false_are_understood_however_they_are_written(tmp_path):
    """In a file that knows them, in text, and on a command line; a column of other numbers takes neither."""
    records = [{"active": n % 2 == 0, "x": n, "label": n % 3 == 0} for n in range(6)]
    known = write(tmp_path / "t.jsonl", *map(json.dumps, records))
    text = write(tmp_path / "t.csv", "active,x,label", *("{active},{x},{label}".format(**each) for each in records))
    for path in (known, text):
        encode = TableData(train=path, validation_fraction=0.0).build().encode
        for either, rows in itertools.groupby(
            ["true", "True", True, "FALSE", "false", False], lambda v: str(v).lower()
        ):
            features = [encode([{"active": value, "x": 1}]).arrays["inputs"][0].tolist() for value in rows]
            assert features == features[:1] * 3, either
    with pytest.raises(UserError, match="Row 1 has 'true' in the column 'x': give a number"):
        encode([{"active": True, "x": "true"}])


def test_numbers_with_commas_and_dates_have_their_values(tmp_path):
    """Standardised, the three values of a column tell the ratio of their distances."""
    rows = ['"1,000",2024-01-01,yes', '"2,000",2024-01-02,no', '"5,000.5",2024-01-05,yes']
    data = TableData(train=write(tmp_path / "t.csv", "x,day,label", *rows), validation_fraction=0.0).build()
    first, second, third = data.splits["train"].arrays["inputs"].astype(np.float64)
    np.testing.assert_allclose((third - first) / (second - first), [4.0005, 4], rtol=1e-5)
    with pytest.raises(UserError, match="Row 1 has 'soon' in the column 'day': give a date"):
        data.encode([{"x": 1, "day": "soon"}])


def test_columns_of_a_category_for_each_row_are_left_out_and_said(tmp_path, capsys):
    """Names and free text would have a feature for each row; so would an index column without a name."""
    rows = [f"{n},person {n},{n % 7},{'yes' if n % 2 else 'no'}" for n in range(60)]
    path = write(tmp_path / "t.csv", ",name,x,label", *rows)
    data = TableData(train=path, validation_fraction=0.0).build()
    assert data.summary["columns"] == {"x": "number"} and data.splits["train"].arrays["inputs"].shape == (60, 1)
    assert data.summary["left_out"].keys() == {"Unnamed: 0", "name"}
    said = capsys.readouterr().err
    assert "the column 'name' is left out: it has 60 different values in 60 rows" in said and "counts the rows" in said
    assert len(data.encode([{"x": 3}])) == 1  # and need not be given
    with pytest.raises(UserError, match="No column is left to predict 'label' from"):
        TableData(train=path, ignore=("x",)).build()
    with pytest.raises(UserError, match="No column is left to predict 'label' from: ignore fewer"):
        TableData(train=path, ignore=("x", "name", "Unnamed: 0")).build()


@pytest.mark.parametrize("values", [["1,5", "2,25"], ["1.234,5", "0,5"]])
def test_commas_that_may_mean_two_things_are_refused(tmp_path, values):
    """Where the separator does not tell a decimal comma from one between thousands, no number is a category."""
    lines = [json.dumps({"x": value, "label": label}) for value, label in zip(values, ("yes", "no"), strict=True)]
    with pytest.raises(UserError, match="column 'x' has numbers with commas, such as"):
        TableData(train=write(tmp_path / "t.jsonl", *lines), validation_fraction=0.0).build()


@pytest.mark.parametrize("values", [["1e308", "-1e308"], ["1e200", "1"], ["1" + "0" * 400, "1"]])
def test_numbers_that_cannot_be_computed_with_are_refused(tmp_path, values):
    """In the training rows, the test rows, and the target: never NaN, never infinite."""
    bad = [f"{value},{label}" for value, label in zip(values, ("yes", "no"), strict=True)]
    path = write(tmp_path / "t.csv", "x,label", *bad)
    good = write(tmp_path / "g.csv", "x,label", "1,yes", "2,no")
    for options in ({"train": path}, {"train": good, "test": path}, {"train": path, "target": "x", "kind": "numbers"}):
        with pytest.raises(UserError, match=r"(finite|beyond|too far)"):
            TableData(**options, validation_fraction=0.0).build()


def test_tiny_and_constant_numbers_are_standardised(tmp_path):
    """Squares that underflow to 0, and a constant whose mean is rounded, do not spoil a column."""
    rows = [f"{n}e-200,0.1,{'yes' if n % 2 else 'no'}" for n in range(1, 11)]
    data = TableData(train=write(tmp_path / "t.csv", "x,c,label", *rows), validation_fraction=0.0).build()
    inputs = data.splits["train"].arrays["inputs"]
    np.testing.assert_allclose([inputs[:, 0].mean(), inputs[:, 0].std()], [0, 1], atol=1e-5)
    np.testing.assert_array_equal(inputs[:, 1], 0)


def test_a_long_value_costs_its_own_length():
    """Not that length for every row, nor its square in time: a megabyte in one of 2,000 rows, and in digits."""
    assert not is_number("9" * 10**6 + "x") and is_number("9" * 10**6)
    values = ["x" * 10**6, *["a", "b"] * 1000]
    column = fit("note", values)
    tracemalloc.start()
    assert encode(column, values).shape == (2001, 3)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_a_pattern_gives_the_rows_of_all_its_files(tmp_path):
    """One after another, with the digest of each; other columns are refused."""
    for part in range(2):
        write(tmp_path / f"part{part}.csv", "x,label", *(f"{n},{'yes' if n % 2 else 'no'}" for n in range(5)))
    data = TableData(train=str(tmp_path / "part*.csv"), validation_fraction=0.0).build()
    assert len(data.splits["train"]) == 10
    assert data.summary["files"].keys() == {str(tmp_path / f"part{part}.csv") for part in range(2)}
    write(tmp_path / "part2.csv", "y,label", "1,yes")
    with pytest.raises(UserError, match=r"part2.csv differs in the columns x, y"):
        TableData(train=str(tmp_path / "part*.csv")).build()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("x,label", "1,yes"), "The test rows have no column 'kind': they have x, label"),
        (("x,kind", "1,a"), "The test rows have no column 'label'"),
        (("x,kind,label", "many,a,yes"), "column 'x' holds numbers in the training rows, elsewhere: .*many"),
        (("x,kind,label", "1e999,a,yes"), "column 'x' has values that are not finite"),
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
