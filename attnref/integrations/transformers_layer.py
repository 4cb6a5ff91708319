"""What Hugging Face's Swin and Swin V2 layers share: square windows, and tokens in a row.

A layer takes tokens in a row, and what is to be replaced stands in the middle of it, so
the whole layer is written down again around one call. Padding comes before the roll.
"""

from collections.abc import Iterable

from jaxtyping import Float
from torch import Tensor

from attnref.integrations.maps import Cut, covered
from attnref.integrations.replaced import Replaced

Tokens = Float[Tensor, "B S C"]
Map = Float[Tensor, "B H W C"]

PADDING = frozenset({"92c2f7144880"})
PARTITION = frozenset({"2946bf9ae99f", "ad458c13f938"})
"""Before 5.9 in other words: a permutation that is one transposition."""


def asks(given: Iterable[object]) -> bool:
    """Tell whether any argument asks for something: neither `None` nor `False` does."""
    return any(x is not None and x is not False for x in given)


class SquareLayer(Replaced):
    """A layer with one window and one shift for both axes."""

    def _is_theirs(self, x: Tokens, G: tuple[int, int]) -> bool:
        """Tell whether transformers must run: the call asks for it, or so does the cut."""
        square = (self.window_size,) * 2, (self.shift_size,) * 2
        return self.runs_own_code(x) or covered(G, *square)

    def _cut(self) -> Cut:
        return {
            "window": (int(self.window_size),) * 2,
            "shift": (int(self.shift_size),) * 2,
            "backend": self.attnref_backend,
        }
