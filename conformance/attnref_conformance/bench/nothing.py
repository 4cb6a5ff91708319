"""A kernel that does nothing, of twelve arguments: what Triton's launch alone costs the host."""

import triton


@triton.jit
def nothing(a, b, c, d, e, f, g, h, i, j, k, l):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201, D103
    pass
