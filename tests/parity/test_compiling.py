"""A model on attnref compiles without a break, as it did before."""

from collections.abc import Iterator

import pytest
import torch

from attnref.integrations import accelerate

from .models import MODELS, made, outcome, output


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", list(MODELS))
def test_one_graph_holds_the_whole_model(name: str) -> None:
    """In training, with padding and shift; `fullgraph` makes a break an error."""
    model, x = made(name, (9, 14), 7, depths=(2,))
    model.train()
    accelerate(model, backend="torch")
    expected = outcome(model, x)
    model.compile(backend="aot_eager", fullgraph=True)

    torch.testing.assert_close(expected, outcome(model, x), rtol=1e-9, atol=1e-9)


def test_a_compiled_model_may_be_changed_afterwards() -> None:
    """It is compiled again, and holds one operator for every block."""
    model, x = made("timm Swin", (8, 8), 4, depths=(2,))
    seen: list[str] = []

    def look(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    model.compile(backend=look, fullgraph=True)
    before = output(model, x)
    assert not any("attnref" in target for target in seen)
    accelerate(model, backend="torch")
    after = output(model, x)

    assert 2 == sum("attnref" in target for target in seen)
    torch.testing.assert_close(before, after, rtol=1e-9, atol=1e-9)
