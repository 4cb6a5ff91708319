"""What is timed: the tables of workloads, as data."""

from typing import Any, NamedTuple

from attnref.cost import Attention, Setting
from attnref.problem import Sizes


class Workload(NamedTuple):
    """One call of `attnref.attention` on tensors of a half precision.

    Attributes:
        batch: B.
        heads: Hq.
        kv_heads: Hkv.
        queries: Sq.
        keys: Sk.
        columns: D.
        causal: Whether later keys are hidden, aligned at the end.
        window: How many keys before its own a query sees, if not all.
        softcap: Bound of the scores.
        bias: `""`, `"dense"`, or `"broadcast"` over the batch and the heads.
        dtype: Name of a torch dtype.
        backward: Whether the backward pass is timed, too.
    """

    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    columns: int
    causal: bool = False
    window: int | None = None
    softcap: float | None = None
    bias: str = ""
    dtype: str = "bfloat16"
    backward: bool = True

    @property
    def name(self) -> str:
        """What tells it from others."""
        heads = (
            f"{self.heads}" if self.heads == self.kv_heads else f"{self.heads} on {self.kv_heads}"
        )
        tokens = f"{self.keys}" if self.queries == self.keys else f"{self.queries} on {self.keys}"
        words = [f"B {self.batch}", f"H {heads}", f"S {tokens}", f"D {self.columns}"]
        words.append("causal" if self.causal else "full")
        if self.window is not None:
            words.append(f"window {self.window}")
        if self.softcap is not None:
            words.append(f"soft cap {self.softcap:g}")
        if self.bias:
            words.append(f"{self.bias} bias")
        if self.dtype != "bfloat16":
            words.append(self.dtype)
        return ", ".join(words)

    @property
    def options(self) -> dict[str, Any]:
        """The options of the call, but for the bias."""
        chosen: dict[str, Any] = {"causal": self.causal}
        if self.causal:
            chosen["q_offset"] = "end"
        if self.window is not None:
            chosen["window"] = (self.window, None)
        if self.softcap is not None:
            chosen["softcap"] = self.softcap
        return chosen

    @property
    def call(self) -> Attention:
        """The call, as the cost model takes it."""
        sizes = Sizes(
            self.batch, self.heads, self.kv_heads, self.queries, self.keys,
            self.columns, self.columns,
        )  # fmt: skip
        lead = (self.batch, self.heads) if self.bias == "dense" else (1, 1)
        return Attention(
            sizes=sizes,
            window=(self.window, 0 if self.causal else None),
            q_offset=self.keys - self.queries,
            bias=(*lead, self.queries, self.keys) if self.bias else None,
            softcap=self.softcap is not None,
        )

    def operations(self, passes: str) -> int:
        """Count useful operations: two products forward, five backward, of visible pairs."""
        work = self.call.forward() if passes == "forward" else self.call.backward()
        return work.tiled.operations

    @property
    def bytes(self) -> int:
        """Bytes that a forward pass has to read and write if each array moves once."""
        whole = Setting(dtype=self.dtype, on_chip=None)
        return self.call.forward(whole).tiled.bytes


def _dense(S: int, D: int, causal: bool) -> Workload:
    return Workload(16384 // S, 2048 // D, 2048 // D, S, S, D, causal)


_PLAIN = Workload(4, 16, 16, 4096, 4096, 128)

TABLES = {
    "dense": [
        _dense(S, D, causal)
        for D in (64, 128)
        for causal in (False, True)
        for S in (1024, 4096, 16384)
    ],
    "options": [
        _PLAIN,
        _PLAIN._replace(kv_heads=4),
        _PLAIN._replace(softcap=30.0),
        _PLAIN._replace(bias="broadcast"),
        _PLAIN._replace(bias="dense"),
        _dense(4096, 64, False)._replace(softcap=30.0),
        _dense(4096, 256, True),
        _PLAIN._replace(dtype="float32", batch=1),
    ],
    "sliding": [_dense(16384, 128, True), _dense(16384, 128, True)._replace(window=1024)],
    "decode": [Workload(16, 32, 8, 1, 16384, 128, backward=False)],
}
"""Name to rows. 16384 tokens of 2048 columns, which is what most published tables use."""
