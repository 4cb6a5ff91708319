"""The shapes in the specification's signatures are checked in this test run."""

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from attnref.spec.scores import similarity


def test_a_shape_that_contradicts_its_annotation_raises() -> None:
    """The import hook of the test run is active: a wrong head size is noticed."""
    q, k = np.zeros((2, 3)), np.zeros((2, 4))
    with pytest.raises(TypeCheckError, match=r"similarity"):
        similarity(q, k, 1.0)
