r"""Bytes moved, with the matrix of weights in memory and without.

Attention written down in the textbook's way makes a matrix of scores, then one of weights.
With $N$ queries and keys of size $d$, the chip reads $q$ and $k$ and writes $S$, reads $S$ and
writes $P$, reads $P$ and $v$ and writes the output:

$$4 N d + 4 N^2 \text{ numbers} = \Theta(N d + N^2).$$

Tile by tile, $R$ queries and their sums stay on a chip that holds $M$ numbers, while the keys
and values pass by in tiles of $C$ rows. Queries, sums, keys, values and one tile of scores
have to fit,

$$R\,(d + d) + C\,(d + d) + R\,C \le M.$$

Nothing of the size $N^2$ ever leaves the chip. The price is that all keys and values pass
by once for each of the $N / R$ tiles of queries:

$$2 N d + \frac{N}{R} \cdot 2 N d \text{ numbers}.$$

With $C = \min(d, M / 8 d)$ the constraint leaves $R \approx M / 3 d$ queries where $M$ is
large beside $d^2$, so that

$$2 N d + 6\, \frac{N^2 d^2}{M} = \Theta\!\left(\frac{N^2 d^2}{M}\right)
\quad \text{for } d \le M \le N d,$$

which is smaller than $N^2$ as long as $d^2$ is smaller than $M$. No exact attention moves
asymptotically less for every $M$ in this range; and once $M$ holds everything, each array
moves once. That is theorem 2 and proposition 3 of T. Dao et al., "FlashAttention: Fast and
memory-efficient exact attention with IO-awareness", 2022. They keep keys in place and let
queries pass; that queries stay and keys pass is from T. Dao, "FlashAttention-2", 2023. The
order of growth is the same.

Backward, five products are made where the stored weights would need four: the weights are
computed again. Keys stay, with the sums for their gradients, and queries pass by, whose
gradients are added up in memory. With the matrix stored, algorithm 3 of the first paper
reads $P$ and writes $dP$, reads both and writes $dS$, and reads $P$ once and $dS$ twice for
the products: seven times $N^2$ instead of four.

Caches between the memory and the chip are not modelled, nor are copies into another layout.
"""

from typing import NamedTuple

from attnref.cost.counts import Setting
from attnref.errors import InvalidProblem


class Extent(NamedTuple):
    """How much of everything there is, over the whole batch and all heads.

    Attributes:
        queries: Rows that ask.
        rows: Rows of the result; those past a length ask nothing.
        keys: Rows that may be seen.
        pairs: Pairs of a query and a key that it sees.
        D: Size of a query and a key.
        Dv: Size of a value.
    """

    queries: int
    rows: int
    keys: int
    pairs: int
    D: int
    Dv: int


class Visits(NamedTuple):
    """What tiles load again and again.

    Attributes:
        rows: Rows of what passes by: keys and values forward, queries backward.
        mask: Bytes of the mask.
        bias: Bytes of the bias.
        once: Whether one tile holds everything that stays.
    """

    rows: int
    mask: int
    bias: int
    once: bool


class Options(NamedTuple):
    """Which options change the scores, and the bytes of their arrays.

    Attributes:
        hidden: Some pair may be invisible.
        mask: Bytes of the mask.
        bias: Bytes of the bias.
        softcap: The scores are bounded.
    """

    hidden: bool = False
    mask: int = 0
    bias: int = 0
    softcap: bool = False

    @property
    def steps(self) -> int:
        """How often the scores are read and written before the softmax reads them."""
        return self.hidden + (self.bias > 0) + self.softcap


def stays(D: int, Dv: int, setting: Setting, *, backward: bool = False) -> int | None:
    """Return how many rows stay on the chip while the others pass by.

    They are queries forward, and keys backward; `None` is all of them.

    Raises:
        InvalidProblem: Not even one row fits beside another.

    Example:
        >>> stays(128, 128, Setting(dtype="bfloat16"))
        336
    """
    M, item, sums = setting.on_chip, setting.itemsize, setting.sumsize
    if M is None:
        return None
    both = max(1, D + Dv)
    passing = max(1, min(D, M // (4 * both * item)))
    if backward:
        # Scores and their gradients; queries with what flows into their outputs.
        row = both * (item + sums) + 2 * passing * sums
        used = passing * (both * item + 2 * sums)
    else:
        row = D * item + Dv * sums + passing * sums
        used = passing * both * item
    if used + row > M:
        raise InvalidProblem(
            f"on_chip is {M} bytes, and a query and a key of sizes {D} and {Dv} need {used + row}.",
            see="attnref.cost.traffic",
            hint="on_chip=None is as much as is needed",
        )
    return (M - used) // row


def tiled_forward(x: Extent, visits: Visits, setting: Setting, *, lse: bool) -> int:
    """Count the bytes of a forward pass, tile by tile."""
    once = x.queries * x.D + x.rows * x.Dv
    passing = visits.rows * (x.D + x.Dv)
    return (
        setting.itemsize * (once + passing)
        + lse * setting.sumsize * x.rows
        + visits.mask
        + visits.bias
    )


def untiled_forward(x: Extent, options: Options, setting: Setting, *, lse: bool) -> int:
    """Count the bytes of a forward pass that stores scores and weights."""
    scores = setting.itemsize * x.pairs
    arrays = x.queries * x.D + x.keys * (x.D + x.Dv) + x.rows * x.Dv
    return (
        setting.itemsize * arrays
        + scores * (4 + 2 * options.steps)
        + options.mask
        + options.bias
        + lse * setting.sumsize * x.rows
    )


def tiled_backward(x: Extent, visits: Visits, setting: Setting) -> int:
    """Count the bytes of a backward pass, tile by tile.

    `dq` is added up in memory in the wide type, and rounded by another pass if that is
    not the type of `q`; if all keys fit on the chip, it is written once. The bias has a
    gradient as large as what is read of it.
    """
    item, sums = setting.itemsize, setting.sumsize
    delta = x.rows * (2 * x.Dv * item + sums)
    keys = 2 * x.keys * (x.D + x.Dv) * item
    passing = visits.rows * ((x.D + x.Dv) * item + 2 * sums)
    written = x.queries * x.D * item
    if not visits.once:
        filled = x.queries * x.D * sums
        rounded = (written + filled) if item < sums else 0
        written = filled + 2 * visits.rows * x.D * sums + rounded
    return delta + keys + passing + written + visits.mask + 2 * visits.bias


def untiled_backward(x: Extent, options: Options, setting: Setting) -> int:
    """Count the bytes of a backward pass that reads the stored weights."""
    scores = setting.itemsize * x.pairs
    queries = 2 * x.queries * x.D + 2 * x.rows * x.Dv
    keys = 2 * x.keys * (x.D + x.Dv)
    passes = 7 + 2 * options.hidden + (options.bias > 0) + 3 * options.softcap
    return setting.itemsize * (queries + keys) + scores * passes + options.mask + options.bias
