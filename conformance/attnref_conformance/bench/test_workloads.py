"""Time a backend on a few standard workloads, small enough for a laptop's processor.

A result that does not conform is not timed: each workload is held to the specification's
limit before its first round.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import attnref
from attnref import normalize
from attnref_conformance import oracle
from attnref_conformance.compare import compare
from attnref_conformance.profiles import DEFAULT, arithmetic


@dataclass(frozen=True)
class Workload:
    """A call to be timed: `attention`, or `window_attention` if it has a window."""

    name: str
    shape: tuple[int, ...]
    options: dict[str, Any]

    @property
    def function(self) -> str:
        """The public function called."""
        return "window_attention" if "window" in self.options else "attention"


WORKLOADS = (
    Workload("gpt2-256-causal", (1, 12, 256, 64), {"causal": True}),
    Workload("bert-128-batch-8", (8, 12, 128, 64), {}),
    Workload("vit-197", (4, 12, 197, 64), {}),
    Workload("swin-stage-1", (1, 56, 56, 3, 32), {"window": 7, "shift": 3}),
)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.name)
def test_forward(benchmark: Any, attnref_backend: Any, workload: Workload) -> None:
    """The forward pass in float32, on random inputs."""
    rng = np.random.default_rng(0)
    values = [rng.normal(size=workload.shape).astype(np.float32) for _ in range(3)]
    native = [attnref_backend.from_numpy(x) for x in values]
    run = getattr(attnref, workload.function)
    out = run(*native, **workload.options, backend=attnref_backend)

    problem = getattr(normalize, workload.function)(*values, **workload.options)
    profile = getattr(attnref_backend, "profile", DEFAULT)
    _, expected = oracle.forward(problem, arithmetic(profile, "float32"))
    order = tuple(range(len(workload.shape)))
    found = compare("out", out, attnref_backend.to_numpy(out), expected["out"], order)
    assert found.problem == ""

    benchmark.extra_info["backend"] = attnref_backend.name
    benchmark(run, *native, **workload.options, backend=attnref_backend)
