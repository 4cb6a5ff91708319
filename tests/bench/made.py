"""Runs that nobody measured, for what is made of runs."""

from typing import Any

import numpy as np
from attnref_conformance.bench.results import Row, Run, Timing

FACTS = {
    "processor": "a processor",
    "numpy": "2.3",
    "blas": "a blas, 2 threads",
    "pinned": "nothing",
}


def noisy(rng: np.random.Generator, seconds: float, noise: float, turns: int) -> np.ndarray:
    """Draw times around a median, a few of them much longer, as on a machine in use."""
    late = np.where(rng.random(turns) < 0.04, rng.exponential(1.0, turns), 0.0)
    return seconds * np.exp(noise * rng.standard_normal(turns)) * (1 + late)


def run(
    seed: int = 0, *, slower: float = 1.0, noise: float = 0.03, turns: int = 5, processes: int = 10,
    spread: float = 0.03, rows: int = 12, peers: bool = True, **facts: str,
) -> Run:  # fmt: skip
    """Make a run on a machine that drifts, of processes that differ, one of ten by much.

    Everybody's turns are up to a third longer, and every process draws for everybody how
    much longer its turns are.
    """
    rng = np.random.default_rng(seed)
    day, total = np.exp(rng.uniform(-0.15, 0.15)), turns * processes
    found = []
    for n in range(rows):
        wander = day * np.exp(np.cumsum(0.02 * rng.standard_normal(total)))
        times = {"mine": slower * 1e-3 * (n + 1), "torch": 2e-3, "naive": 5e-3}
        timings = {}
        for who, t in times.items():
            scale = spread * np.where(rng.random(processes) < 0.1, 3, 1)
            drawn = np.exp(scale * rng.standard_normal(processes)).repeat(turns)
            samples = noisy(rng, t, noise, total) * wander * drawn
            timings[who] = Timing(tuple(samples.tolist()), 1000 * (n + 1))
        if not peers:
            timings = {"mine": timings["mine"]}
        found.append(row("dense", f"row {n}", n, timings=timings, processes=(turns,) * processes))
    return Run("mine", "laptop", FACTS | facts, {"copy": 2e10, "product": 1e11}, tuple(found))


def row(table: str, name: str, n: int, **told: Any) -> Row:
    """Make a row of 10^8 operations on 10^6 bytes."""
    told = {"clock": "counted", "absent": {"jax": "jax is not installed"}} | told
    return Row(table, name, "forward", 10**8, 10**6, 512 * 2**n, **told)
