"""Faults of clause family H: what a backend says about itself."""

from typing import Any

import numpy as np

from attnref.problem import Problem, Result
from attnref_conformance.faulty.fault import breaks
from attnref_conformance.honest import Tiled


@breaks("H2")
class AcceptsEverything(Tiled):
    """Declares support for whatever it is asked."""

    def unsupported(self, problem: Problem) -> Any:
        return []


@breaks("H2")
class RefusesInWordsOnly(Tiled):
    """Declines soft caps, and computes them when called."""

    def unsupported(self, problem: Problem) -> Any:
        return super().unsupported(problem)

    def forward(self, problem: Any) -> Result:
        with np.errstate(all="ignore"):
            return self.attended(problem)
