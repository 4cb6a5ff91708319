"""What is timed, as data: the same tables for a laptop's processor and for a large GPU.

A workload says which public function is called, on which shapes, and what the call costs by
`attnref.cost`. It knows no library: `cpu` and `gpu` make its arrays.
"""

from typing import Any, NamedTuple

from attnref.cost import Attention, Setting, WindowAttention, Work
from attnref.problem import Sizes


class Workload(NamedTuple):
    """One call of `attnref.attention`.

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
        kv_lens: How many keys each entry of the batch has, if not all.
        known_as: What the row is known as, where that says more than its shape.
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
    kv_lens: tuple[int, ...] | None = None
    known_as: str = ""

    @property
    def function(self) -> str:
        """The public function that is called."""
        return "attention"

    @property
    def length(self) -> int:
        """Keys, which a sweep is drawn against."""
        return self.keys

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
        if self.kv_lens is not None:
            words.append(f"lengths {min(self.kv_lens)} to {max(self.kv_lens)}")
        if self.dtype != "bfloat16":
            words.append(self.dtype)
        return (f"{self.known_as}: " if self.known_as else "") + ", ".join(words)

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
            kv_lens=self.kv_lens,
        )

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The arrays of floats that a call takes, and what flows into its result."""
        queries = (self.batch, self.heads, self.queries, self.columns)
        keys = (self.batch, self.kv_heads, self.keys, self.columns)
        lead = (self.batch, self.heads) if self.bias == "dense" else (1, 1)
        bias = {"bias": (*lead, self.queries, self.keys)} if self.bias else {}
        return {"q": queries, "k": keys, "v": keys, **bias, "dout": queries}

    def work(self, passes: str) -> Work:
        """Count what a pass does if each array moves once."""
        whole = Setting(dtype=self.dtype, on_chip=None)
        cost = self.call.forward(whole) if passes == "forward" else self.call.backward(whole)
        return cost.tiled

    def operations(self, passes: str) -> int:
        """Count useful operations: two products forward, five backward, of visible pairs."""
        return self.work(passes).operations

    @property
    def bytes(self) -> int:
        """Bytes that a forward pass has to read and write if each array moves once."""
        return self.work("forward").bytes


class MapWorkload(NamedTuple):
    """One call of `attnref.window_attention_qkv` on square maps.

    Attributes:
        stage: What the row is called.
        batch: B.
        side: Extent of both axes.
        heads: H.
        shift: Of both axes.
        window: Of both axes.
        columns: D.
        dtype: Name of a dtype.
        backward: Whether the backward pass is timed, too.
    """

    stage: str
    batch: int
    side: int
    heads: int
    shift: int = 0
    window: int = 7
    columns: int = 32
    dtype: str = "bfloat16"
    backward: bool = True

    @property
    def function(self) -> str:
        """The public function that is called."""
        return "window_attention_qkv"

    @property
    def length(self) -> int:
        """Tokens of a map."""
        return self.side**2

    @property
    def name(self) -> str:
        """What tells it from others."""
        channels = self.heads * self.columns
        map_ = f"B {self.batch}, {self.side}x{self.side}, C {channels}"
        dtype = "" if self.dtype == "bfloat16" else f", {self.dtype}"
        return f"{self.stage}: {map_}, window {self.window}, shift {self.shift}{dtype}"

    @property
    def options(self) -> dict[str, Any]:
        """The options of the call, but for the bias."""
        return {"window": self.window, "shift": self.shift}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The arrays of floats that a call takes, and what flows into its result."""
        maps, N = (self.batch, self.side, self.side), self.window**2
        return {
            "qkv": (*maps, 3, self.heads, self.columns),
            "bias": (self.heads, N, N),
            "dout": (*maps, self.heads, self.columns),
        }

    @property
    def call(self) -> WindowAttention:
        """The call, as the cost model takes it."""
        two = (self.window,) * 2
        return WindowAttention(
            B=self.batch, G=(self.side,) * 2, H=self.heads, D=self.columns, Dv=self.columns,
            window=two, shift=(self.shift,) * 2, bias=True,
        )  # fmt: skip

    def work(self, passes: str) -> Work:
        """Count what a pass does if each array moves once."""
        whole = Setting(dtype=self.dtype, on_chip=None)
        cost = self.call.forward(whole) if passes == "forward" else self.call.backward(whole)
        return cost.tiled

    def operations(self, passes: str) -> int:
        """Count useful operations, of pairs that see each other."""
        return self.work(passes).operations

    @property
    def bytes(self) -> int:
        """Bytes that a forward pass has to read and write: four arrays of the map's size."""
        return self.moved("forward")

    def moved(self, passes: str) -> int:
        """Bytes of the maps that a pass reads and writes: four arrays forward, eight backward."""
        arrays = 4 if passes == "forward" else 8
        item = Setting(dtype=self.dtype).itemsize
        return arrays * item * self.batch * self.side**2 * self.heads * self.columns


AnyWorkload = Workload | MapWorkload


def _dense(S: int, D: int, causal: bool, hidden: int = 2048, tokens: int = 16384) -> Workload:
    return Workload(max(1, tokens // S), hidden // D, hidden // D, S, S, D, causal)


def _both(*stages: MapWorkload) -> list[MapWorkload]:
    return [w._replace(shift=s) for w in stages for s in (0, w.window // 2) if s == 0 or w.shift]


def _ragged(batch: int, longest: int) -> tuple[int, ...]:
    """Return lengths from an eighth of the longest to all of it, evenly."""
    return tuple(longest * (1 + 7 * n // max(batch - 1, 1)) // 8 for n in range(batch))


def _models(gpt2: int, bert: int, vit: int) -> list[Workload]:
    """Return one layer of three well-known models, with so many sequences of each."""
    return [
        Workload(gpt2, 12, 12, 1024, 1024, 64, causal=True, known_as="GPT-2 small"),
        Workload(bert, 12, 12, 512, 512, 64, kv_lens=_ragged(bert, 512), known_as="BERT base"),
        Workload(vit, 12, 12, 197, 197, 64, known_as="ViT-B/16 at 224"),
    ]


def _swin(batch: int) -> list[MapWorkload]:
    """Return the four stages of Swin-T; the last is one window, which nothing shifts."""
    return _both(
        MapWorkload("Swin-T 1", batch, 56, 3, 3),
        MapWorkload("Swin-T 2", batch, 28, 6, 3),
        MapWorkload("Swin-T 3", batch, 14, 12, 3),
        MapWorkload("Swin-T 4", batch, 7, 24),
    )


def _sweep(heads: int, D: int) -> list[Workload]:
    """Return causal calls of 512 to 131072 tokens."""
    return [Workload(1, heads, heads, 2**n, 2**n, D, causal=True) for n in range(9, 18)]


_PLAIN = Workload(4, 16, 16, 4096, 4096, 128)

DATACENTRE: dict[str, list[AnyWorkload]] = {
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
    "windows": [
        *_swin(128),
        *_both(
            MapWorkload("448 pixels", 4, 448, 3, 3),
            MapWorkload("window 8", 128, 64, 3, 4, window=8),
            MapWorkload("window 12", 32, 96, 4, 6, window=12),
            MapWorkload("window 16", 32, 64, 4, 8, window=16),
        ),
    ],
    "models": [*_models(16, 32, 128)],
    "sweep": [*_sweep(8, 128)],
}
"""16384 tokens of 2048 columns in bfloat16, which is what most published tables use."""

_LAPTOP: dict[str, list[AnyWorkload]] = {
    "dense": [
        _dense(S, D, causal, hidden=256, tokens=1)
        for D in (64, 128)
        for causal in (False, True)
        for S in (1024, 2048, 4096, 16384)
    ],
    "sliding": [
        _dense(16384, 64, True, hidden=128, tokens=1),
        _dense(16384, 64, True, hidden=128, tokens=1)._replace(window=1024),
    ],
    "decode": [Workload(1, 32, 8, 1, 16384, 128, backward=False)],
    "windows": [*_swin(8)],
    "models": [*_models(1, 8, 8)],
    "sweep": [*_sweep(1, 64)],
}

SIZES: dict[str, dict[str, list[AnyWorkload]]] = {
    "laptop": {
        table: [row._replace(dtype="float32") for row in rows] for table, rows in _LAPTOP.items()
    },
    "datacentre": DATACENTRE,
}
"""Name of a size to its tables: float32 for a processor, half precisions for a large GPU."""
