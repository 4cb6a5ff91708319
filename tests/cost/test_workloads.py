"""The benchmark's figures are those of the cost model, and those it had by hand."""

import pytest
from attnref_conformance.bench.device.workloads import TABLES, Workload

ROWS = {row.name: row for table in TABLES.values() for row in table}
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
