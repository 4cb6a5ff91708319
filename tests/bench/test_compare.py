"""A slowdown of 20 % is called out, and two runs of the same code are not, 20 times of 20.

On drawn times: on drifting machines, with late turns. A real machine is for
`python -m attnref_conformance.bench.planted`.
"""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from attnref_conformance.bench import compare
from attnref_conformance.bench.results import Run, Timing

from . import made

REPEATS = range(20)


@pytest.mark.parametrize("noise", [0.01, 0.03], ids="noise {}".format)
def test_a_planted_slowdown_is_called_out(noise: float) -> None:
    """In each of twenty repeats, and most rows by name."""
    named = []
    for n in REPEATS:
        before, after = made.run(2 * n, noise=noise), made.run(2 * n + 1, slower=1.2, noise=noise)
        changes = compare.compare(before, after).changes
        assert {c.verdict for c in changes} <= {"slower", "unclear"}
        named.append(sum(c.verdict == "slower" for c in changes) / len(changes))
    assert min(named) > 0
    assert sum(named) / len(named) > 0.6


@pytest.mark.parametrize("spread", [0.0, 0.03, 0.1, 0.3], ids="spread {}".format)
@pytest.mark.parametrize("noise", [0.01, 0.06, 0.2], ids="noise {}".format)
def test_the_same_code_is_not(noise: float, spread: float) -> None:
    """No row of it, in each of twenty repeats; nor is it called faster."""
    told = {"noise": noise, "spread": spread}
    for n in REPEATS:
        found = compare.compare(made.run(2 * n, **told), made.run(2 * n + 1, **told))
        assert {c.verdict for c in found.changes} <= {"same", "unclear"}


@pytest.mark.parametrize("rows", [1, 12, 100], ids="{} rows".format)
def test_chance_alone_calls_seldom(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a floor, whole files of differing processes are told apart as rarely as promised."""
    monkeypatch.setattr(compare, "FLOOR", 0.0)
    rng, level, called = np.random.default_rng(0), compare.CHANCE / rows, 0
    files = 6_000 // rows
    for _ in range(files):
        drawn = rng.standard_t(2, (rows, 2, 10))  # with tails that have no variance
        ends = [compare.shift(x.tolist(), y.tolist(), level)[1:] for x, y in drawn]
        called += any(low > 0 or high < 0 for low, high in ends)
    # Three standard deviations above what is promised.
    assert called <= compare.CHANCE * files + 3 * (compare.CHANCE * files) ** 0.5


def test_orders_are_counted_like_permutations() -> None:
    """Of two samples, one by one."""
    m, n = 3, 4
    counted = [0] * (m * n + 1)
    for first in combinations(range(m + n), m):
        second = set(range(m + n)) - set(first)
        counted[sum(x > y for x in first for y in second)] += 1
    assert counted == compare.orders(m, n)


def test_one_slow_process_is_no_slow_row() -> None:
    """Nor does it hide one."""
    before, after, slow = (made.run(n, rows=1, slower=s) for n, s in ((0, 1), (1, 1), (1, 1.3)))
    for one, other, verdict in (
        (before, _late(after), "same"),
        (before, _late(slow), "slower"),
        (_late(before), slow, "slower"),
    ):
        assert [verdict] == [c.verdict for c in compare.compare(one, other).changes]


def test_a_bad_day_of_one_peer_is_no_change() -> None:
    """Beside the other nothing changed, and beside both it would."""
    before, after = made.run(0), made.run(1)
    bad = _scaled(after, "torch", 3.0)
    assert {"same", "unclear"} >= {c.verdict for c in compare.compare(before, bad).changes}
    assert compare.compare(before, _scaled(bad, "naive", 3.0)).changes[0].verdict == "faster"


def test_a_speed_up_is_told() -> None:
    """The other way round."""
    found = compare.compare(made.run(0, slower=1.35), made.run(1))
    assert {"faster"} == {c.verdict for c in found.changes}
    assert found.slower == []


def test_noise_that_would_hide_a_slowdown_is_unclear() -> None:
    """It is not called the same."""
    found = compare.compare(made.run(0, spread=0.6), made.run(1, spread=0.6))
    assert {"unclear"} == {c.verdict for c in found.changes}


@pytest.mark.parametrize(
    ("processes", "rows", "need"), [(1, 12, 7), (6, 12, 7), (8, 100, 9), (3, 1, 5)]
)
def test_few_processes_say_nothing(processes: int, rows: int, need: int) -> None:
    """However many turns they took; the comparison says how many are needed."""
    told = {"processes": processes, "rows": rows, "turns": 30}
    found = compare.compare(made.run(0, **told), made.run(1, slower=2.0, **told))
    assert {"unclear"} == {c.verdict for c in found.changes}
    assert {(0.0, float("inf"))} == {(c.low, c.high) for c in found.changes}
    expected = (
        f"processes of a row: {processes}; it takes {need} in each run to tell {rows} rows apart"
    )
    assert (expected,) == found.notes
    told["processes"] = need
    found = compare.compare(made.run(0, **told), made.run(1, slower=2.0, **told))
    assert () == found.notes
    assert found.slower


def test_files_from_before_say_nothing() -> None:
    """They hold the turns of one process, or quartiles alone."""
    run = made.run(0, turns=3, processes=1)
    old = replace(run, rows=tuple(replace(row, processes=()) for row in run.rows))
    assert {"unclear"} == {c.verdict for c in compare.compare(old, old).changes}


def test_a_row_that_one_run_lacks_is_not_compared() -> None:
    """And no row at all is no comparison."""
    found = compare.compare(made.run(0, rows=0), made.run(1, rows=1))
    assert ((), (), ("dense | row 0 | forward",)) == (found.changes, found.notes, found.new)


def test_peers_of_another_version_are_not_trusted() -> None:
    """Their code may have changed; without them the machine's drift stays in the ratio."""
    found = compare.compare(made.run(0), made.run(0, torch="2.99"))
    assert {()} == {c.beside for c in found.changes}
    assert (
        "torch: unknown, then 2.99",
        "the peers' libraries changed, so that rows are not held to them",
    ) == found.notes


def test_drift_cancels_beside_peers_and_not_alone() -> None:
    """A machine half as fast is no other code."""
    before = made.run(0)
    after = _stretched(made.run(1), 2.0)
    assert compare.compare(before, after).slower == []
    alone = compare.compare(made.run(0, peers=False), _stretched(made.run(1, peers=False), 2.0))
    assert len(alone.changes) == len(alone.slower)


def test_a_peer_of_fewer_turns_is_left_out() -> None:
    """Its turns are not those of the backend."""
    before, after = made.run(0, rows=1), made.run(1, rows=1)
    short = Timing(after.rows[0].timings["torch"].samples[:10])  # not of the same processes
    timings = {**after.rows[0].timings, "torch": short}
    after = replace(after, rows=(replace(after.rows[0], timings=timings),))
    (change,) = compare.compare(before, after).changes
    assert change.beside == ("naive",)


def test_rows_come_and_go() -> None:
    """And are named."""
    before, after = made.run(0, rows=2), made.run(1, rows=3)
    after = replace(after, rows=after.rows[1:])
    found = compare.compare(before, after)
    assert (("dense | row 0 | forward",), ("dense | row 2 | forward",)) == (found.gone, found.new)


def test_the_table_begins_with_the_worst() -> None:
    """And ends with a count."""
    before = made.run(0, rows=2)
    after = made.run(0, rows=2)
    slow = replace(after.rows[1], timings=_slow(after.rows[1].timings))
    found = compare.compare(before, replace(after, rows=(after.rows[0], slow)))
    first, second, last = compare.table(found).splitlines()
    assert first.startswith("slower   1.500x of the time (1.3")
    assert first.endswith("beside torch, naive)  dense | row 1 | forward")
    assert second.startswith("same     1.000x of the time")
    assert last == "1 slower, 0 faster, 1 same, 0 unclear"


def _slow(timings: dict[str, Timing]) -> dict[str, Timing]:
    mine = timings["mine"]
    return {**timings, "mine": replace(mine, samples=tuple(1.5 * t for t in mine.samples))}


def _late(run: Run) -> Run:
    """Make the last process take three times as long for the backend alone."""

    def late(t: Timing) -> Timing:
        return replace(t, samples=(*t.samples[:-5], *(3 * x for x in t.samples[-5:])))

    rows = (replace(r, timings={**r.timings, "mine": late(r.timings["mine"])}) for r in run.rows)
    return replace(run, rows=tuple(rows))


def _scaled(run: Run, who: str, factor: float) -> Run:
    """Let one contender take so much longer."""
    rows = []
    for row in run.rows:
        samples = tuple(factor * x for x in row.timings[who].samples)
        rows.append(replace(row, timings={**row.timings, who: Timing(samples)}))
    return replace(run, rows=tuple(rows))


def _stretched(run: Run, factor: float) -> Run:
    rows = []
    for row in run.rows:
        timings = {
            who: replace(t, samples=tuple(factor * x for x in t.samples))
            for who, t in row.timings.items()
        }
        rows.append(replace(row, timings=timings))
    return replace(run, rows=tuple(rows))
