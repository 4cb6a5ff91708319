"""Lets torchvision be imported beside a torch that its compiled operators do not load into.

A torchvision wheel is compiled for one build of one torch. Beside another, its operators
are missing, and so are their declarations, which its Python code takes for granted when it
is imported; timm and transformers import torchvision when it is installed, and fail with
it. None of the models here calls an operator. So they are declared without being there:
whoever calls one gets torch's error that it has no implementation.

    python tests/parity/torchvision_operators.py SCRIPT [ARGUMENT ...]

runs a script so, for instance `examples/accelerate_swin.py`.
"""

import runpy
import sys

import torch

MISSING = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
"""Operators that torchvision describes to torch.compile whether they are there or not."""

_kept: list[torch.library.Library] = []
"""Declarations last as long as the object that made them."""


def declare() -> None:
    """Import torchvision, and declare what it misses where that fails."""
    try:
        import torchvision
    except RuntimeError:
        for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in MISSING:
            library.define(schema)
        _kept.append(library)
        import torchvision  # noqa: F401


if __name__ == "__main__":
    declare()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
