"""What people do with a model in training: checkpoints, frozen weights, a step."""

from typing import Any

import pytest
import torch
from torch import nn

from attnref.integrations import accelerate

from .models import MODELS, made, outcome, output


def checkpointed(model: nn.Module) -> None:
    """Ask a library's model to compute activations again in the backward pass."""
    if hasattr(model, "set_grad_checkpointing"):
        model.set_grad_checkpointing()
    elif hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable()
    else:  # its name before transformers 5.23
        model.gradient_checkpointing_enable({"use_reentrant": False})


@pytest.mark.parametrize("name", [n for n in MODELS if "torchvision" not in n])
def test_activations_may_be_computed_again(name: str) -> None:
    """Checkpointing works around replaced modules, and runs each as often as before."""
    model, x = made(name, (8, 8), 4, depths=(2,))
    model.train()
    checkpointed(model)
    called: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(lambda module, *_: called.append(module))
    expected = outcome(model, x)
    times = len(called)
    accelerate(model, backend="torch")
    actual = outcome(model, x)

    torch.testing.assert_close(expected, actual, rtol=1e-9, atol=1e-9)
    norms = sum(isinstance(module, nn.LayerNorm) for module in model.modules())
    assert times > norms
    assert 2 * times == len(called)


@pytest.mark.parametrize("name", list(MODELS))
def test_frozen_weights_stay_frozen(name: str) -> None:
    """With the projections frozen, biases and scales still learn, and the other way round."""
    for frozen in ("bias", "weight"):
        model, x = made(name, (8, 8), 4, depths=(2,))
        for parameter_name, parameter in model.named_parameters():
            parameter.requires_grad_(not parameter_name.endswith(frozen))

        def learnt(model: nn.Module = model, x: torch.Tensor = x) -> dict[str, Any]:
            model.zero_grad()
            output(model, x).square().mean().backward()
            return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

        expected = learnt()
        accelerate(model, backend="torch")
        torch.testing.assert_close(expected, learnt(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", list(MODELS))
def test_a_few_steps_lead_to_the_same_weights(name: str) -> None:
    """Ten digits survive three steps of an optimiser."""
    ends = []
    for backend in (None, "torch"):
        model, x = made(name, (9, 14), 7, depths=(2,))
        model.train()
        if backend is not None:
            accelerate(model, backend=backend)
        optimiser = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
        torch.manual_seed(2)
        for _ in range(3):
            optimiser.zero_grad()
            output(model, x).square().mean().backward()
            optimiser.step()
        ends.append(model.state_dict())

    torch.testing.assert_close(*ends, rtol=1e-8, atol=1e-10)
