"""JAX's own attention, compiled by XLA; loads JAX."""

from typing import Any

import jax
import numpy as np

from attnref_conformance.bench.contenders import Given, Passes
from attnref_conformance.bench.workloads import Workload


def prepare(w: Workload) -> Passes:
    """Return the passes of `jax.nn.dot_product_attention`, jitted; each waits for its result."""
    window = None if w.window is None else (w.window, 0 if w.causal else w.keys)

    def attend(x: dict[str, Any]) -> Any:
        q, k, v = (x[n].swapaxes(1, 2) for n in ("q", "k", "v"))
        out = jax.nn.dot_product_attention(
            q, k, v, bias=x.get("bias"), is_causal=w.causal,
            key_value_seq_lengths=x.get("kv_lens"), local_window_size=window,
        )  # fmt: skip
        return out.swapaxes(1, 2)

    def pulled(x: dict[str, Any]) -> Any:
        """Return the result and the function back, whose residuals are arrays."""
        floats = {n: y for n, y in x.items() if n != "kv_lens"}
        rest = {n: y for n, y in x.items() if n == "kv_lens"}
        return jax.vjp(lambda y: attend({**y, **rest}), floats)

    run, run_pulled = jax.jit(attend), jax.jit(pulled)
    run_back = jax.jit(lambda pull, dout: pull(dout)[0])

    def take(given: Given) -> tuple[dict[str, Any], Any]:
        arrays = {n: jax.numpy.asarray(x) for n, x in given.items()}
        return {n: x for n, x in arrays.items() if n != "dout"}, arrays["dout"]

    def forward(x: Any) -> Any:
        return run(x[0]).block_until_ready()

    def record(x: Any) -> tuple[Any, Any, Any]:
        out, pull = jax.block_until_ready(run_pulled(x[0]))
        return out, None, (pull, x[1])

    def backward(state: Any) -> tuple[Any, ...]:
        found = jax.block_until_ready(run_back(*state))
        return found["q"], found["k"], found["v"]

    return Passes(take, forward, record, backward, np.asarray)
