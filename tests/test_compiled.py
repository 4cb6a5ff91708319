"""Compiled calls mean what eager calls mean, and are one node of the program."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import attnref
from attnref import compiled as operators

Function = Callable[..., Any]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.manual_seed(0)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def normal(*shape: int) -> Any:
    """Return random numbers that ask for a gradient."""
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def results(function: Function, given: tuple[Any, ...]) -> list[Any]:
    """Return what a function gives, and then what each input's gradient is."""
    given = tuple(x.detach().clone().requires_grad_(x.requires_grad) for x in given)
    out = function(*given)
    outs = list(out) if isinstance(out, tuple) else [out]
    if outs[0].requires_grad:
        sum((x * (1.0 + x.detach())).sum() for x in outs).backward()
    return [*(x.detach() for x in outs), *(x.grad for x in given if x.requires_grad)]


def same(function: Function, *given: Any, **how: Any) -> None:
    """Check results, gradients and strides of a compiled function."""
    compiled = torch.compile(function, fullgraph=True, **{"backend": "aot_eager", **how})
    expected, actual = results(function, given), results(compiled, given)
    assert [x.stride() for x in expected] == [x.stride() for x in actual]
    torch.testing.assert_close(expected, actual)


def calls(backend: str | None) -> dict[str, tuple[Function, tuple[Any, ...]]]:
    """Return a call of every public function, with its inputs."""
    q, k, v = normal(2, 4, 5, 8), normal(2, 2, 7, 8), normal(2, 2, 7, 3)
    lens, cu = torch.tensor([3, 7]), torch.tensor([0, 2, 5])
    tokens, heads = normal(6, 2, 4), normal(2)
    qkv, table = normal(2, 5, 6, 3, 2, 4), normal(15, 2)

    def attention(q: Any, k: Any, v: Any, bias: Any) -> Any:
        return attnref.attention(q, k, v, causal=True, q_offset="end", bias=bias, backend=backend)

    def attention_with_lse(q: Any, k: Any, v: Any, sinks: Any, kv_lens: Any) -> Any:
        return attnref.attention_with_lse(
            q, k, v, window=(2, 1), q_offset=1, sinks=sinks, kv_lens=kv_lens,
            scale=0.3, backend=backend,
        )  # fmt: skip

    def transposed(q: Any, k: Any, v: Any) -> Any:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return attnref.attention(q, k, v, backend=backend)

    def varlen(x: Any, cu: Any) -> Any:
        return attnref.attention_varlen(x, x, x, cu, cu, causal=True, backend=backend)

    def varlen_with_lse(x: Any, cu: Any, sinks: Any) -> Any:
        return attnref.attention_varlen_with_lse(x, x, x, cu, cu, sinks=sinks, backend=backend)

    def window(x: Any) -> Any:
        return attnref.window_attention(x, x, x, window=2, shift=1, backend=backend)

    def window_with_lse(x: Any, scale: Any) -> Any:
        return attnref.window_attention_with_lse(
            x, x, x, window=2, shift=1, scale=scale, wrap_bias=-100.0, backend=backend
        )

    def window_qkv(qkv: Any, table: Any) -> Any:
        bias = attnref.relative_position_bias(table, window=(2, 3), backend=backend)
        return attnref.window_attention_qkv(
            qkv, window=(2, 3), shift=(1, 1), bias=bias, backend=backend
        )

    def window_qkv_with_lse(qkv: Any) -> Any:
        return attnref.window_attention_qkv_with_lse(qkv, window=4, backend=backend)

    def softmax(x: Any) -> Any:
        return attnref.softmax(x, axis=1, backend=backend)

    def merge(out_a: Any, lse_a: Any, out_b: Any, lse_b: Any) -> Any:
        return attnref.merge(out_a, lse_a, out_b, lse_b, backend=backend)

    rows = normal(2, 5, 2, 4)
    bshd = (normal(2, 5, 4, 8), normal(2, 7, 2, 8), normal(2, 7, 2, 3))
    return {
        "attention": (attention, (q, k, v, normal(4, 1, 7))),
        "attention_with_lse": (attention_with_lse, (q, k, v, normal(4), lens)),
        "transposed": (transposed, bshd),
        "varlen": (varlen, (tokens, cu)),
        "varlen_with_lse": (varlen_with_lse, (tokens, cu, heads)),
        "window": (window, (rows,)),
        "window_with_lse": (window_with_lse, (rows, heads)),
        "window_qkv": (window_qkv, (qkv, table)),
        "window_qkv_with_lse": (window_qkv_with_lse, (qkv,)),
        "softmax": (softmax, (normal(3, 4, 2),)),
        "merge": (merge, (normal(3, 2), normal(3), normal(3, 2), normal(3))),
    }


@pytest.mark.parametrize("backend", ["torch", "reference", None])
@pytest.mark.parametrize("name", calls(None))
def test_compiled_and_differentiated(name: str, backend: str | None) -> None:
    """A compiled call gives the results, gradients and strides of the eager call."""
    function, given = calls(backend)[name]
    same(function, *given)


@pytest.mark.parametrize("name", calls(None))
def test_compiled_without_gradients(name: str) -> None:
    """A compiled call whose inputs ask for no gradient gives the eager results."""
    function, given = calls("torch")[name]
    same(function, *(x.detach() for x in given))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", ["attention", "window_qkv"])
def test_inductor(name: str) -> None:
    """The default compiler gives the eager results and gradients, too."""
    function, given = calls("torch")[name]
    same(function, *given, backend="inductor")


def test_dynamic_shapes() -> None:
    """One compiled program serves other sizes, and integers computed from them."""
    graphs = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    def function(q: Any, k: Any) -> Any:
        return attnref.attention(
            q, k, k, causal=True, q_offset=k.shape[2] - q.shape[2], backend="torch"
        )

    compiled = torch.compile(function, fullgraph=True, backend=graphs, dynamic=True)
    for Sq, Sk in ((3, 5), (4, 9), (6, 6)):
        given = normal(2, 4, Sq, 8), normal(2, 2, Sk, 8)
        torch.testing.assert_close(results(compiled, given), results(function, given))
    assert graphs.frame_count == 1


def test_fractions_of_dynamic_shapes() -> None:
    """A scale that is computed from a size follows it when the size changes."""

    def function(q: Any) -> Any:
        return attnref.attention(q, q, q, scale=q.shape[2] ** -0.5, backend="torch")

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)
    for Sq in (3, 5):
        q = (normal(1, 2, Sq, 4),)
        torch.testing.assert_close(results(compiled, q), results(function, q))


def test_the_same_prefix_sums_stay_the_same() -> None:
    """`cu_k is cu_q` holds in a compiled call where it held in the program."""
    x, cu = normal(5, 2, 4), torch.tensor([0, 2, 5])
    function, _ = calls("reference")["varlen"]
    same(function, x, cu)
    assert results(function, (x, cu))[0].shape == (5, 2, 4)


def test_one_input_in_three_places() -> None:
    """A tensor that is query, key and value at once gets the sum of what they say."""
    same(lambda x: attnref.attention(x, x, x, backend="torch"), normal(1, 2, 5, 4))


def test_recorded_by_trace() -> None:
    """A compiled call is recorded when it runs, forward and backward."""
    compiled = torch.compile(
        lambda x: attnref.softmax(x, backend="torch"),
        fullgraph=True,
        backend="aot_eager",
    )
    x = normal(3)
    compiled(x)
    with attnref.trace() as ran:
        compiled(x)
    assert list(map(str, ran)) == ["softmax forward on torch"]


def test_backend_objects_are_refused() -> None:
    """A backend that is no name cannot be written into a compiled program."""
    from attnref_torch import backend

    compiled = torch.compile(
        lambda x: attnref.softmax(x, backend=backend), fullgraph=True, backend="eager"
    )
    with pytest.raises(Exception, match="TorchBackend cannot be an argument"):
        compiled(normal(3))


def test_backward_functions_are_refused() -> None:
    """The functions that pass gradients back by hand say that they do not compile."""
    compiled = torch.compile(
        lambda x: attnref.softmax_backward(x, x, backend="torch"),
        fullgraph=True,
        backend="eager",
    )
    with pytest.raises(Exception, match="softmax_backward cannot be compiled"):
        compiled(normal(3))


def through_the_operator(name: str, *args: Any, **options: Any) -> Any:
    """Call what a traced program calls, without tracing."""
    return operators.call(name, args, {**options, "backend": "reference"})


def test_a_gradient_of_lse_alone_reaches_the_inputs() -> None:
    """The operator's backward does not need a gradient of `out`."""
    given = (normal(1, 2, 3, 4),) * 3
    through_the_operator("attention_with_lse", *given).lse.sum().backward()
    actual = given[0].grad
    given[0].grad = None
    attnref.attention_with_lse(*given, backend="reference").lse.sum().backward()

    torch.testing.assert_close(given[0].grad, actual)


def test_windows_and_plain_results_pass_through_the_operator() -> None:
    """Tuples, fractions and functions of one result are written down and read again."""
    x = normal(1, 4, 4, 2, 3)
    options = {"window": (2, 2), "shift": (1, 1), "wrap_bias": -1.5, "scale": None}
    expected = attnref.window_attention(x, x, x, backend="reference", **options)

    torch.testing.assert_close(
        expected, through_the_operator("window_attention", x, x, x, **options)
    )


def test_a_tensor_given_twice_is_listed_once() -> None:
    """A third tensor is told from two others, and `cu_k is cu_q` is kept."""
    x, cu = normal(5, 1, 2), torch.tensor([0, 2, 5])
    k, v = normal(5, 1, 2), normal(5, 1, 2)
    expected = attnref.attention_varlen(x, k, v, cu, cu, causal=True, backend="reference")
    actual = through_the_operator("attention_varlen", x, k, v, cu, cu, causal=True)

    torch.testing.assert_close(expected, actual)


def test_second_derivatives_raise() -> None:
    """A gradient of a gradient is refused, not taken for zero."""
    x = normal(3)
    (gradient,) = torch.autograd.grad(
        through_the_operator("softmax", x).square().sum(), x, create_graph=True
    )
    with pytest.raises(RuntimeError, match="no second derivatives"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("softmax_backward", 1.0, "softmax_backward cannot be compiled"),
        ("softmax", object(), "object cannot be an argument"),
    ],
)
def test_what_cannot_be_written_down_raises(name: str, given: Any, message: str) -> None:
    """A call that is no plain data says so."""
    with pytest.raises(TypeError, match=message):
        through_the_operator(name, given)


@pytest.mark.parametrize("name", ["attention_with_lse", "window_qkv_with_lse", "merge"])
def test_operator_check(name: str) -> None:
    """Torch's own checks of a custom operator pass."""
    function, given = calls("torch")[name]
    seen: list[Any] = []

    def recording(graph: Any, _: Any) -> Any:
        nodes = [n for n in graph.graph.nodes if n.target is torch.ops.attnref.forward]
        seen.extend(node.args for node in nodes)
        return graph

    torch.compile(function, fullgraph=True, backend=recording)(*given)
    text, _, whole, real = seen[0]
    if name == "window_qkv_with_lse":
        whole = [4]
    both = torch.ops.attnref.forward.default, torch.ops.attnref.backward.default
    assert all(torch.Tag.pt2_compliant_tag in operator.tags for operator in both)
    tensors = [x.detach().clone().requires_grad_(x.requires_grad) for x in given]
    torch.library.opcheck(
        torch.ops.attnref.forward.default, (text, tensors, list(whole), list(real))
    )
    out = [x.detach() for x in operators.forward(text, tensors, list(whole), list(real))]
    detached = [x.detach() for x in tensors]
    arguments = (text, detached, list(whole), list(real), out, out[0], out[1])
    torch.library.opcheck(torch.ops.attnref.backward.default, arguments)
