"""Parameters are those of the configuration, in every pass, or an error lists what they are."""

import numpy as np
import pytest
import torch

from attnref.errors import InvalidProblem
from attnref.models import ParameterMismatch, bert, forward, gpt2, resized

from .drawn import SMALL, parameters, question

every_model = pytest.mark.parametrize("name", SMALL)


def refused(name: str, given: dict) -> ParameterMismatch:
    """Return the error that a forward pass with these parameters raises."""
    with pytest.raises(ParameterMismatch) as error:
        forward(SMALL[name], given, question(SMALL[name]), backend="numpy")
    return error.value


@every_model
def test_what_is_missing_is_listed(name):
    """A bias that is not there is not a bias of zero, and a layer not a shorter model."""
    p = parameters(SMALL[name])
    left = [n for n in p if n.endswith("bias") or ".1." in n]

    error = refused(name, {n: x for n, x in p.items() if n not in left})

    assert tuple(left) == error.missing
    assert ((), {}) == (error.unexpected, error.misshapen)


@every_model
def test_what_the_model_does_not_have_is_listed(name):
    """A bias would be added where the configuration has none."""
    p = parameters(SMALL[name])

    error = refused(name, {**p, "patches.other.bias": np.zeros(8), "loose": np.zeros(())})

    assert ("patches.other.bias", "loose") == error.unexpected


@every_model
def test_what_has_another_shape_is_listed(name):
    """Also where it would broadcast."""
    p = parameters(SMALL[name])
    norm = next(n for n in p if "norm" in n and n.endswith("weight"))

    error = refused(name, {**p, norm: p[norm][:1]})

    assert {norm: ((1,), p[norm].shape)} == error.misshapen


def test_the_error_says_all_of_it_and_what_to_do():
    """Three kinds, each with its names and a hint."""
    p = parameters(SMALL["gpt2"])
    p |= {"head.bias": np.zeros(13), "norm.weight": np.ones(1)}
    del p["norm.bias"]

    assert str(refused("gpt2", p)).splitlines() == [
        "the parameters are not those of this GPT2Config: 1 missing, 1 unexpected, 1 misshapen; "
        "nothing was computed.",
        "  missing     norm.bias",
        "  unexpected  head.bias",
        "  misshapen   norm.weight has (1,), must have (8,)",
        "  hint        initialise(config, rng) and load(config, state) return all that a model has",
        "  hint        leave out what the configuration does not have, or say in it that it is "
        "there",
        "  hint        sizes follow from the configuration; resized() makes position tables for "
        "other images",
    ]


def test_every_way_into_a_model_is_guarded():
    """With a cache, while generating, for states, and before a table is resized."""
    text, vit = SMALL["gpt2"], SMALL["vit"]
    ways = [
        lambda: gpt2.extend({}, text, [[1]]),
        lambda: gpt2.generate({}, text, [[1]], steps=0),
        lambda: bert.states({}, SMALL["bert"], [[1]]),
        lambda: resized({**parameters(vit), "loose": np.zeros(1)}, vit, image=(8, 8)),
    ]

    for way in ways:
        with pytest.raises(ParameterMismatch):
            way()


def test_parameters_and_configuration_in_the_wrong_order_are_told_apart():
    """A page takes parameters first, and `forward` the configuration."""
    config = SMALL["gpt2"]

    with pytest.raises(InvalidProblem, match="parameters is a GPT2Config; it must map names"):
        gpt2.logits(config, parameters(config), [[1]])


@pytest.mark.parametrize(
    ("odd", "fact"),
    [
        (torch.zeros(8), "norm.bias is an array of torch, and tokens is one of numpy."),
        ([0.0] * 8, "norm.bias is a list."),
        (None, "norm.bias is a NoneType."),
    ],
    ids=["another library's array", "a list", "nothing"],
)
def test_parameters_are_arrays_of_one_library(odd, fact):
    """The error names both."""
    p = {**parameters(SMALL["gpt2"]), "norm.bias": odd}

    with pytest.raises(InvalidProblem) as error:
        forward(SMALL["gpt2"], p, question(SMALL["gpt2"]))

    assert fact == str(error.value).splitlines()[0]
