"""The benchmark's figures are those of the cost model, and those it had by hand."""

import pytest
from attnref_conformance.bench.workloads import SIZES, MapWorkload, Workload

ALL = [row for tables in SIZES.values() for table in tables.values() for row in table]
ROWS = {row.name: row for row in ALL if isinstance(row, Workload) and row.kv_lens is None}
MAPS = {row.name: row for row in ALL if isinstance(row, MapWorkload)}
every_row = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)


def pairs(w: Workload) -> int:
    """Pairs of one head, by the formulas of the rows that there are."""
    if w.window is not None:
        return sum(min(i, w.window) + 1 for i in range(w.queries))
    if w.causal:
        return w.queries * (w.queries + 1) // 2
    return w.queries * w.keys


@every_row
def test_operations_are_two_products_and_five(row: Workload) -> None:
    """Of the pairs that see each other; published rates take a causal half for half."""
    product = 2 * row.batch * row.heads * pairs(row) * row.columns
    assert 2 * product == row.operations("forward")
    assert 5 * product == row.operations("backward")
    if row.causal and row.window is None:
        half = row.queries * row.keys / 2
        assert 1 + 1 / row.queries == pairs(row) / half


@every_row
def test_bytes_are_each_array_once(row: Workload) -> None:
    """q, k, v and the output, and the bias as it is in memory."""
    tokens = 2 * row.heads * row.queries + 2 * row.kv_heads * row.keys
    leads = {"": 0, "broadcast": 1, "dense": row.batch * row.heads}
    bias = leads[row.bias] * row.queries * row.keys
    size = 4 if row.dtype == "float32" else 2
    assert size * (row.batch * tokens * row.columns + bias) == row.bytes


@pytest.mark.parametrize("row", MAPS.values(), ids=MAPS)
def test_maps_move_four_arrays_and_eight(row: MapWorkload) -> None:
    """Forward and backward; the bias is beside that, and small."""
    array = (4 if row.dtype == "float32" else 2) * row.batch * row.side**2 * row.heads * row.columns
    assert (4 * array, 8 * array) == (row.moved("forward"), row.moved("backward"))
    assert row.bytes <= row.work("forward").bytes <= 1.2 * row.bytes


def test_ragged_lengths_reach_the_longest() -> None:
    """From an eighth of it, and only what is not padding counts."""
    (bert,) = [w for w in SIZES["laptop"]["models"] if w.name.startswith("BERT")]
    assert isinstance(bert, Workload)
    assert bert.kv_lens == (64, 128, 192, 256, 320, 384, 448, 512)
    assert 4 * 12 * 512 * 64 * sum(bert.kv_lens) == bert.operations("forward")


def test_names_tell_rows_apart() -> None:
    """Within a table of a size."""
    for tables in SIZES.values():
        for rows in tables.values():
            assert len(rows) == len({row.name for row in rows})


def test_both_sizes_have_the_tables() -> None:
    """What a laptop runs, a large GPU runs too, in a half precision."""
    assert SIZES["laptop"].keys() <= SIZES["datacentre"].keys()
    kinds = {row.dtype for rows in SIZES["laptop"].values() for row in rows}
    assert kinds == {"float32"}
    swept = [row.length for row in SIZES["laptop"]["sweep"]]
    assert [2**n for n in range(9, 18)] == swept
