"""The table of layers: equal blocks are one row, and nothing is lost by it."""

import hypothesis.strategies as st
from hypothesis import given

from research.report.layer_rows import fold, layers

paths = st.lists(st.sampled_from(["a", "b_0", "b_1", "b_2", "c_10", "norm"]), min_size=1, max_size=3).map("/".join)
tables = st.lists(st.tuples(paths, st.integers(0, 3), st.integers(0, 2)), max_size=30)


@given(tables)
def test_folding_keeps_every_layer(rows):
    """Times their number, parameters and FLOPs of all rows are those of the table; without numbers they stay."""
    folded = fold(rows)
    assert sum(times for _, times in folded) == len(rows)
    for number in (1, 2):
        assert sum(times * row[number] for row, times in folded) == sum(row[number] for row in rows)
    assert all(times == 1 or "…" in path for (path, _, _), times in folded)


def test_blocks_fold_at_every_depth():
    """Stages that differ stay, equal blocks inside one are a row; one that is larger, or out of turn, is its own."""
    rows = [(f"stage_{stage}/block_{block}/conv", 9 * stage, 5) for stage in (1, 2) for block in (0, 1, 2)]
    assert fold(rows) == [(("stage_1/block_0…2/conv", 9, 5), 3), (("stage_2/block_0…2/conv", 18, 5), 3)]
    odd = [(f"block_{number}/mlp", size, 1) for number, size in ((0, 8), (1, 8), (2, 9), (4, 9))]
    odd += [("block_4/x", 1, 0)]
    assert [(row[0], times) for row, times in fold(odd)] == [
        *(("block_0…1/mlp", 2), ("block_2/mlp", 1)),
        *(("block_4/mlp", 1), ("block_4/x", 1)),
    ]
    every = [(f"block_{b}/layer_{n}", 4, 2) for b in range(3) for n in range(2)]
    assert fold(every) == [(("block_0…2/layer_0…1", 4, 2), 6)]


def test_totals_count_every_layer():
    """Meters are shares of the largest layer, the unit of the FLOPs suits their sum."""
    rows = [{"path": f"block_{number}/mlp", "parameters": 500, "flops": 2_000_000} for number in range(4)]
    table = layers({"model": {"layers": [*rows, {"path": "head", "parameters": 1000, "flops": 1_000_000}]}})
    assert table[1:] == ("3,000", "9.00", "MFLOPs") and table.folded
    assert table.rows[0] == ("block_0…3/mlp", 4, "500", "2.00", 0.5, 1.0)
