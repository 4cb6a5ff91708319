"""A slowdown of 20 % is called out, and two runs of the same code are not, 20 times of 20.

On drawn times: on drifting machines, with late turns. A real machine is for
`python -m attnref_conformance.bench.planted`.
"""

from dataclasses import replace

import pytest
from attnref_conformance.bench import compare
from attnref_conformance.bench.results import Run, Timing

from . import made

REPEATS = range(20)


@pytest.mark.parametrize("noise", [0.01, 0.03], ids="noise {}".format)
def test_a_planted_slowdown_is_called_out(noise: float) -> None:
    """Every row of it, in each of twenty repeats."""
    for n in REPEATS:
        before, after = made.run(2 * n, noise=noise), made.run(2 * n + 1, slower=1.2, noise=noise)
        assert {"slower"} == {c.verdict for c in compare.compare(before, after).changes}


@pytest.mark.parametrize("noise", [0.01, 0.03, 0.06, 0.2], ids="noise {}".format)
def test_the_same_code_is_not(noise: float) -> None:
    """No row of it, in each of twenty repeats; nor is it called faster."""
    for n in REPEATS:
        found = compare.compare(made.run(2 * n, noise=noise), made.run(2 * n + 1, noise=noise))
        assert {c.verdict for c in found.changes} <= {"same", "unclear"}


def test_a_speed_up_is_told() -> None:
    """The other way round."""
    found = compare.compare(made.run(0, slower=1.25), made.run(1))
    assert {"faster"} == {c.verdict for c in found.changes}
    assert found.slower == []


def test_noise_that_would_hide_a_slowdown_is_unclear() -> None:
    """It is not called the same."""
    found = compare.compare(made.run(0, noise=0.6), made.run(1, noise=0.6))
    assert {"unclear"} == {c.verdict for c in found.changes}


def test_few_turns_say_nothing() -> None:
    """Files with quartiles alone are of this kind."""
    found = compare.compare(made.run(0, turns=3), made.run(1, slower=2.0, turns=3))
    assert {"unclear"} == {c.verdict for c in found.changes}


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
    short = Timing(after.rows[0].timings["torch"].samples[:10])
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
    assert first.startswith("slower   1.500x of the time (band 0.9")
    assert first.endswith("beside torch, naive)  dense | row 1 | forward")
    assert second.startswith("same     1.000x of the time")
    assert last == "1 slower, 0 faster, 1 same, 0 unclear"


def _slow(timings: dict[str, Timing]) -> dict[str, Timing]:
    mine = timings["mine"]
    return {**timings, "mine": replace(mine, samples=tuple(1.5 * t for t in mine.samples))}


def _stretched(run: Run, factor: float) -> Run:
    rows = []
    for row in run.rows:
        timings = {
            who: replace(t, samples=tuple(factor * x for x in t.samples))
            for who, t in row.timings.items()
        }
        rows.append(replace(row, timings=timings))
    return replace(run, rows=tuple(rows))
