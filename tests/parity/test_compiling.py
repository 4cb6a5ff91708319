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


def test_maps_of_any_size_are_compiled_no_more_often() -> None:
    """A size that torch leaves open in the model as it was stays open."""
    images = [
        torch.randn(2, 3, 2 * h, 2 * w, dtype=torch.float64)
        for h, w in [(9, 10), (14, 11), (10, 15)]
    ]
    found: dict[bool, list[torch.Tensor]] = {}
    counts: dict[bool, int] = {}
    for replaced in (False, True):
        model, _ = made("torchvision Swin", (8, 8), 4, depths=(2,))
        if replaced:
            accelerate(model, backend="torch")
        graphs: list[torch.fx.GraphModule] = []

        def count(
            graph: torch.fx.GraphModule, _: object, graphs: list[torch.fx.GraphModule] = graphs
        ) -> torch.fx.GraphModule:
            graphs.append(graph)
            return graph

        torch._dynamo.reset()
        model.compile(backend=count, fullgraph=True, dynamic=True)
        found[replaced] = [output(model, x) for x in images]
        counts[replaced] = len(graphs)

    torch.testing.assert_close(found[False], found[True], rtol=1e-9, atol=1e-9)
    assert counts[True] <= counts[False]
