"""Small models with loud parameters: biases and scales are drawn too, so that they matter."""

from typing import Any

import numpy as np

from attnref.models import (
    BERTConfig,
    Config,
    GPT2Config,
    initialise,
)

TEXT: dict[str, Any] = {
    "vocabulary": 13,
    "positions": 16,
    "width": 8,
    "layers": 2,
    "heads": 2,
    "hidden": 12,
}
SMALL: dict[str, Config] = {
    "gpt2": GPT2Config(**TEXT),
    "bert": BERTConfig(**TEXT, words=True),
}


def parameters(config: Config, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Draw a model's parameters, none of them at its beginning."""
    rng = np.random.default_rng(0)
    drawn = initialise(config, rng, "float64")
    return {n: (x + 0.3 * rng.normal(size=x.shape)).astype(dtype) for n, x in drawn.items()}
