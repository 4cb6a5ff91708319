"""Models at their published sizes compute what the libraries' compute."""

from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers

from attnref.models import GPT2Config, forward, load, preset

from .drawn_models import in_numpy, pixels

MODELS: dict[str, tuple[str, str, Callable[[], torch.nn.Module]]] = {
    "GPT-2 of transformers": (
        "gpt2",
        "huggingface",
        lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config()),
    ),
    "BERT of transformers": (
        "bert-base-uncased",
        "huggingface",
        lambda: transformers.BertModel(transformers.BertConfig()),
    ),
    "ViT of timm": ("vit-b16", "timm", lambda: timm.create_model("vit_base_patch16_224")),
    "ViT of torchvision": ("vit-b16", "torchvision", torchvision.models.vit_b_16),
    "Swin of timm": (
        "swin-tiny",
        "timm",
        lambda: timm.create_model("swin_tiny_patch4_window7_224"),
    ),
    "Swin of torchvision": ("swin-tiny", "torchvision", torchvision.models.swin_t),
    "Swin V2 of timm": (
        "swinv2-tiny",
        "timm",
        lambda: timm.create_model("swinv2_tiny_window8_256"),
    ),
    "Swin V2 of torchvision": ("swinv2-tiny", "torchvision", torchvision.models.swin_v2_t),
}


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize(("name", "source", "make"), MODELS.values(), ids=MODELS)
def test_published_sizes_give_the_logits_of_the_library(name, source, make, backend):
    """One input, the library's own random weights, every number of the result."""
    torch.manual_seed(0)
    theirs, config = make().eval(), preset(name)
    parameters = load(config, in_numpy(theirs.state_dict()), source=source)
    if source == "huggingface":
        ours = np.random.default_rng(0).integers(0, config.vocabulary, (1, 100))
        given = torch.from_numpy(ours)
    else:
        ours, given = pixels(*config.image, batch=1)
    with torch.no_grad():
        found = theirs(given)
    if source == "huggingface":
        found = found.logits if isinstance(config, GPT2Config) else found.last_hidden_state

    actual = forward(config, parameters, ours, backend=backend)

    np.testing.assert_allclose(actual, found.numpy(), rtol=0, atol=1e-4)
