"""Configurations refuse what has no meaning, and follow published sizes."""

import re
from dataclasses import replace

import numpy as np
import pytest

from attnref.errors import InvalidProblem
from attnref.models import (
    PRESETS,
    BERTConfig,
    ConvConfig,
    GPT2Config,
    HybridConfig,
    SwinConfig,
    SwinV2Config,
    ViTConfig,
    count,
    initialise,
    preset,
    shapes,
)

PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "bert-base-uncased": 109_482_240,
    "bert-large-uncased": 335_141_888,
    "vit-s16": 22_050_664,
    "vit-b16": 86_567_656,
    "vit-l16": 304_326_632,
    "vit-h14": 632_045_800,
    "swin-tiny": 28_288_354,
    "swin-small": 49_606_258,
    "swin-base": 87_768_224,
    "swin-large": 196_532_476,
    "swinv2-tiny": 28_347_154,
    "swinv2-small": 49_728_418,
}
"""Parameters of the libraries' models of these names."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_have_the_published_number_of_parameters(name):
    """The list of parameters is complete, and nothing in it is too many."""
    assert PUBLISHED[name] == count(preset(name))


def test_vit_22b_has_22_billion_parameters():
    """The largest ViT is as large as its name says, to the nearest billion."""
    assert 22 == round(count(preset("vit-22b")) / 1e9)


@pytest.mark.parametrize("name", PRESETS)
def test_every_size_can_be_told_part_by_part(name):
    """A part's numbers and all others add up."""
    config = preset(name)
    firsts = {n.partition(".")[0] for n in shapes(config)}

    assert count(config) == sum(count(config, first) for first in firsts - {"norm"}) + sum(
        int(np.prod(s)) for n, s in shapes(config).items() if n.partition(".")[0] == "norm"
    )


def test_parameters_are_drawn_by_what_they_are():
    """Scales begin at one, biases at zero, and matrices at random; one seed is one model."""
    config = SwinV2Config(image=(8, 8), patch=1, width=8, depths=(1, 1), heads=(1, 2), window=4)

    drawn = initialise(config, np.random.default_rng(3), "float64")

    assert list(shapes(config)) == list(drawn)
    assert {n: x.shape for n, x in drawn.items()} == shapes(config)
    assert (drawn["norm.weight"] == 1).all()
    assert (drawn["head.bias"] == 0).all()
    assert (drawn["stages.0.blocks.0.attention.scale"] == np.log(10)).all()
    assert 16**-0.5 == pytest.approx(drawn["head.weight"].std(), rel=0.1)
    assert 3**-0.5 == pytest.approx(drawn["patches.weight"].std(), rel=0.5)
    again = initialise(config, np.random.default_rng(3), "float64")
    assert all(np.array_equal(drawn[n], again[n]) for n in drawn)


def test_a_seed_is_no_generator():
    """The error says what is one."""
    with pytest.raises(InvalidProblem, match=r"rng is 0.\n.*\n  hint .*default_rng\(0\)"):
        initialise(GPT2Config(), 0)


def test_a_head_may_be_left_out():
    """Without classes there is no head, in any model that classifies."""
    configs = [ViTConfig(classes=0), SwinConfig(classes=0), ConvConfig(classes=0)]

    assert all("head.weight" not in shapes(config) for config in configs)
    assert "pooler.weight" not in shapes(BERTConfig(pooler=False))


REFUSED = {
    "gpt2 heads": (
        lambda: GPT2Config(width=10, heads=3),
        "width 10 is not a multiple of heads 3.",
    ),
    "bert heads": (lambda: BERTConfig(heads=7), "width 768 is not a multiple of heads 7."),
    "vit heads": (lambda: ViTConfig(heads=5), "width 768 is not a multiple of heads 5."),
    "vit patches": (
        lambda: ViTConfig(image=(224, 225)),
        "image 225 is not a multiple of patch 16.",
    ),
    "vit pool": (
        lambda: ViTConfig(class_token=False),
        "pool is 'class' and class_token is False.",
    ),
    "swin stages": (
        lambda: SwinConfig(depths=(2, 2)),
        "there are 2 depths and 4 heads.",
    ),
    "swin heads": (
        lambda: SwinConfig(heads=(3, 6, 12, 25)),
        "width 768 is not a multiple of heads[3] 25.",
    ),
    "swin windows": (
        lambda: SwinConfig(image=(224, 240)),
        "image 224x240 has 60 tokens along an axis of stage 0, which is not a multiple of "
        "window 7.",
    ),
    "swin maps": (
        lambda: replace(SwinV2Config(), image=(128, 128)),
        "image 128x128 has 4 tokens along an axis of stage 3, which is not a multiple of window 8.",
    ),
    "hybrid stem": (
        lambda: HybridConfig(stem=(4, 8)),
        "the stem ends in (8,) channels, and the body takes 384.",
    ),
    "no stem": (
        lambda: HybridConfig(stem=()),
        "the stem ends in () channels, and the body takes 384.",
    ),
    "conv stages": (
        lambda: ConvConfig(widths=()),
        "widths is ().",
    ),
    "preset": (
        lambda: preset("swim-tiny"),
        "no model is called 'swim-tiny'. Did you mean 'swin-tiny' or 'swinv2-tiny'?",
    ),
}


UNLIKE = {
    "no width": (lambda: GPT2Config(width=0, heads=1), "width is 0."),
    "a negative width": (lambda: ViTConfig(width=-12), "width is -12."),
    "a negative number of layers": (lambda: BERTConfig(layers=-1), "layers is -1."),
    "a part of a head": (lambda: ViTConfig(heads=1.5), "heads is 1.5."),
    "no number at all": (lambda: ConvConfig(depth=None), "depth is None."),
    "a truth in place of a number": (lambda: GPT2Config(layers=True), "layers is True."),
    "fewer classes than none": (lambda: ViTConfig(classes=-1), "classes is -1."),
    "an empty image": (lambda: ViTConfig(image=(0, 0)), "image is (0, 0)."),
    "one side of an image": (lambda: ConvConfig(image=(8,)), "image is (8,)."),
    "a number in place of two": (lambda: SwinConfig(image=224), "image is 224."),
    "no window": (lambda: SwinConfig(window=0), "window is 0."),
    "no patch": (lambda: SwinConfig(patch=0), "patch is 0."),
    "a stage of no blocks": (lambda: SwinConfig(depths=(2, 0, 6, 2)), "depths is (2, 0, 6, 2)."),
    "another way to pool": (lambda: ViTConfig(pool="typo"), "pool is 'typo'."),
    "a word in place of a truth": (lambda: ViTConfig(parallel="yes"), "parallel is 'yes'."),
    "a body that is none": (lambda: HybridConfig(body={}), "body is {}."),
    "an epsilon of zero": (lambda: GPT2Config(epsilon=0.0), "epsilon is 0.0."),
    "an epsilon that is no number": (lambda: GPT2Config(epsilon="1e-5"), "epsilon is '1e-5'."),
    "an infinite bias": (lambda: SwinConfig(wrap_bias=np.inf), "wrap_bias is inf."),
}
REFUSED |= UNLIKE


@pytest.mark.parametrize(("make", "fact"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_meaning_is_refused_with_its_numbers(make, fact):
    """The error says the fact first, with the argument and the numbers."""
    with pytest.raises(InvalidProblem) as error:
        make()

    assert fact == str(error.value).splitlines()[0]
    assert "\n  hint " in str(error.value)


def test_the_hint_says_what_a_choice_must_be():
    """By its declared type, in words."""
    rules = {
        "pool is one of 'class', 'mean'": lambda: ViTConfig(pool="max"),
        "classes is a whole number, 0 or more": lambda: ViTConfig(classes=-1),
        "image is height and width, 1 or more": lambda: ViTConfig(image=(-4, 8)),
        "widths is a tuple of whole numbers, 1 or more": lambda: ConvConfig(widths=(4, 0)),
        "epsilon is a number above 0": lambda: ViTConfig(epsilon=-1.0),
        "wrap_bias is a number, or minus infinity": lambda: SwinConfig(wrap_bias=np.nan),
        "body is a ViTConfig": lambda: HybridConfig(body=GPT2Config()),
        "patch divides image": lambda: ViTConfig(patch=15),
    }
    for rule, make in rules.items():
        with pytest.raises(InvalidProblem, match=f"hint .*{re.escape(rule)}"):
            make()


def test_equal_choices_are_equal_and_have_a_hash():
    """A list is the tuple of its numbers, and a number of NumPy's is the number."""
    listed = SwinConfig(image=[224, 224], depths=[2, 2, 6, 2], heads=[3, 6, 12, 24])

    assert {SwinConfig(): 1} == {listed: 1}
    assert ViTConfig() == ViTConfig(width=np.int64(768), epsilon=np.float64(1e-6))
    assert -np.inf == SwinConfig(wrap_bias=-np.inf).wrap_bias


def test_something_else_is_no_configuration():
    """The list of parameters is asked of a configuration."""
    with pytest.raises(TypeError, match="str is no configuration"):
        shapes("gpt2")
