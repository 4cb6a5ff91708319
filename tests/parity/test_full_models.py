"""Models at their published sizes, forward and backward."""

from collections.abc import Callable

import pytest
import timm
import torch
from torch import nn
from torchvision.models import swin_t, swin_v2_t
from transformers import SwinConfig, SwinModel, Swinv2Config, Swinv2Model

from attnref.integrations import accelerate

from .models import outcome
from .test_models import same

PUBLISHED: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "timm swin_tiny_patch4_window7_224": (
        lambda: timm.create_model("swin_tiny_patch4_window7_224"),
        224,
    ),
    "timm swinv2_tiny_window8_256": (lambda: timm.create_model("swinv2_tiny_window8_256"), 256),
    "timm swinv2_cr_tiny_224": (lambda: timm.create_model("swinv2_cr_tiny_224"), 224),
    "torchvision swin_t": (swin_t, 224),
    "torchvision swin_v2_t": (swin_v2_t, 256),
    "transformers SwinModel": (lambda: SwinModel(SwinConfig()), 224),
    "transformers Swinv2Model": (lambda: Swinv2Model(Swinv2Config()), 224),
}


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_published_models_are_the_same(name: str) -> None:
    """In double precision, with the weights that the libraries initialise."""
    make, side = PUBLISHED[name]
    torch.manual_seed(0)
    model = make().double().eval()
    x = torch.randn(1, 3, side, side, dtype=torch.float64)
    expected = outcome(model, x)
    accelerate(model, backend="torch")

    same(expected, outcome(model, x))
