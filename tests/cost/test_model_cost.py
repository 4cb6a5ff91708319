"""What models cost, held to their parameters, to published figures and to torch's counter."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from attnref.cost import Setting, figures, model
from attnref.cost.parts import Given, parts
from attnref.errors import InvalidProblem
from attnref.models import (
    PRESETS,
    BERTConfig,
    Config,
    ConvConfig,
    GPT2Config,
    HybridConfig,
    SwinConfig,
    SwinV2Config,
    ViTConfig,
    count,
    preset,
)

VARIANTS: dict[str, Config] = {
    **PRESETS,
    "bert, words": BERTConfig(pooler=False, words=True),
    "vit, mean": ViTConfig(class_token=False, pool="mean", classes=0),
    "vit, norms of queries and keys": ViTConfig(qk_norm=True),
    "vit, parallel": ViTConfig(parallel=True),
    "vit, without biases": ViTConfig(qkv_bias=False, norm_bias=False, qk_norm=True),
    "swin, hidden": SwinConfig(wrap_bias=float("-inf"), classes=0),
    "swin v2, no head": SwinV2Config(classes=0),
    "conv, no head": ConvConfig(classes=0),
}


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_parameters_are_those_that_are_loaded(config: Config) -> None:
    """The parts together have every number of the list that loading follows."""
    one = model(config)
    assert count(config) == one.parameters == one.forward().parameters
    assert count(config) == one.backward().parameters


PUBLISHED = {
    # torchvision 0.23: num_params and _ops of its weights, to as many digits as it gives.
    "vit-b16": (86_567_656, 17.564),
    "vit-b32": (88_224_232, 4.409),
    "vit-l16": (304_326_632, 61.555),
    "swin-tiny": (28_288_354, 4.491),
    "swin-small": (49_606_258, 8.741),
    "swin-base": (87_768_224, 15.431),
    # It counts biases of keys, which it sets to zero: 2 * 96 + 2 * 192 + 6 * 384 + 2 * 768.
    "swinv2-tiny": (28_351_570 - 4416, 5.94),
    "swinv2-small": (49_737_442 - 9024, 11.546),
    "swinv2-base": (87_930_848 - 12032, 20.325),
    # Liu et al. 2021, table 1: 197 M and 34.5 G.
    "swin-large": (196_532_476, 34.476),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_models_of_images_make_what_is_published(name: str) -> None:
    """What is published as FLOPs are multiply-adds."""
    one = model(preset(name))
    found = round(one.forward().untiled.multiply_adds / 1e9, 3)
    assert PUBLISHED[name] == (one.parameters, found)


EXACT = {
    # Vaswani et al. 2017: d_model = 768 here; 3 * 768**2.
    "weights of the query, key and value projections": 3 * 768**2,
    # Kaplan et al. 2020: 12 d^2, and 13 d of biases and norms.
    "a block of width 768": 12 * 768**2 + 13 * 768,
    "twelve blocks of width 768": 85_054_464,
    # Hugging Face: BertModel and GPT2Model.
    "BERT-base": 109_482_240,
    "GPT-2 small": 124_439_808,
    # 24 n d^2 S of the blocks, half of 4 n S^2 d of attention and its diagonal, and the head.
    "operations of GPT-2 small on 1024 tokens, forward": 24 * 12 * 768**2 * 1024
    + 2 * 12 * 1024 * 1025 * 768
    + 2 * 1024 * 768 * 50257,
    # Korthikanti et al. 2022, equation 2, less the masks and results of dropout.
    "bytes that a block keeps for the backward pass: 16 bits, 1024 tokens, width 768": 1024
    * 768
    * 32
    + 2 * 12 * 1024**2,
    "ViT-B/16": 86_567_656,
    "ViT-B/16 at 224x224": 17_563_828_224,
    "Swin-T": 28_288_354,
    "Swin-T at 224x224": 4_490_566_656,
    "Swin-S": 49_606_258,
    "Swin-S at 224x224": 8_740_875_264,
    "Swin-B": 87_768_224,
    "Swin-B at 224x224": 15_430_946_816,
    "Swin-L": 196_532_476,
    "Swin-L at 224x224": 34_475_759_616,
    "Swin V2-T, with a head of 1000 classes": 28_347_154,
    "Swin V2-T at 256x256": 5_939_690_496,
    # The notes that the figures of layers are from.
    "a fully connected layer from 512x768 inputs to as many outputs": (512 * 768) ** 2,
    "a 3x3 convolution from 512 to 1024 channels": 9 * 512 * 1024,
    "the same, depth-wise separable": 9 * 512 + 512 * 1024,
}


def test_figures_that_everybody_quotes_are_reproduced() -> None:
    """Exactly, and rounded to what is quoted where that is right."""
    found = {f.what: f for f in figures.figures()}
    assert EXACT == {what: f.exact for what, f in found.items()}
    for f in found.values():
        if f.quoted.endswith((" M", " GFLOPs")) and f.what not in ("BERT-base", "GPT-2 small"):
            unit = 1e6 if f.quoted.endswith("M") else 1e9
            digits = f.quoted.split()[0]
            decimals = len(digits.partition(".")[2])
            assert digits == f"{f.exact / unit:.{decimals}f}" or f.what == "ViT-B/16"
    # The paper's 86 M is without the head, and without much care: 85.8 M and 86.6 M.
    assert 85_798_656 == count(ViTConfig(classes=0))


def test_what_flop_counters_find_has_the_hidden_half() -> None:
    """Causal attention computed whole: half of the pairs less the diagonal is for nothing."""
    work = model(GPT2Config()).forward()
    hidden = 2 * 2 * 12 * 12 * (1024 * 1023 // 2) * 64
    assert hidden == work.untiled.operations - work.tiled.operations


class Block(torch.nn.Module):
    """A block of any of the transformers, as a textbook writes it down."""

    def __init__(self, C: int, F: int, H: int, *, parallel: bool, qk_norm: bool) -> None:
        super().__init__()
        self.H, self.parallel = H, parallel
        self.norm1, self.norm2 = torch.nn.LayerNorm(C), torch.nn.LayerNorm(C)
        self.qkv, self.output = torch.nn.Linear(C, 3 * C), torch.nn.Linear(C, C)
        self.up, self.down = torch.nn.Linear(C, F), torch.nn.Linear(F, C)
        self.norms = [torch.nn.LayerNorm(C // H) for _ in "qk"] if qk_norm else []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, S, C = x.shape
        y = self.norm1(x)
        q, k, v = (
            t.reshape(B, S, self.H, -1).transpose(1, 2).contiguous()
            for t in self.qkv(y).chunk(3, dim=-1)
        )
        if self.norms:
            q, k = (norm(t) for norm, t in zip(self.norms, (q, k), strict=True))
        scores = q @ k.mT * (C // self.H) ** -0.5
        attended = torch.softmax(scores, dim=-1) @ v
        attended = self.output(attended.transpose(1, 2).reshape(B, S, C))
        if self.parallel:
            return x + attended + self.down(functional.gelu(self.up(y)))
        x = x + attended
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


def built(c: GPT2Config | ViTConfig, given: Any) -> torch.Tensor:
    """Run a model on whatever device the input is on."""
    with torch.device(given.device):
        blocks = [
            Block(c.width, c.hidden, c.heads,
                  parallel=getattr(c, "parallel", False), qk_norm=getattr(c, "qk_norm", False))
            for _ in range(c.layers)
        ]  # fmt: skip
        if isinstance(c, GPT2Config):
            table = torch.nn.Embedding(c.vocabulary, c.width)
            x = table(given) + torch.nn.Embedding(c.positions, c.width).weight[: given.shape[1]]
        else:
            x = torch.nn.Conv2d(c.channels, c.width, c.patch, stride=c.patch)(given)
            x = x.flatten(2).mT
            one = torch.zeros(len(x), 1, c.width, requires_grad=True)
            x = torch.cat([one, x], dim=1)
        for block in blocks:
            x = block(x)
        x = torch.nn.LayerNorm(c.width)(x)
        if isinstance(c, GPT2Config):
            return functional.linear(x, table.weight)
        return torch.nn.Linear(c.width, c.classes)(x[:, 0])


@pytest.mark.parametrize(
    ("config", "feed", "shape"),
    [
        (preset("vit-b16"), {}, (1, 3, 224, 224)),
        (preset("vit-s16"), {"batch": 2, "image": (224, 320)}, (2, 3, 224, 320)),
        (ViTConfig(parallel=True, layers=2), {"image": 448}, (1, 3, 448, 448)),
        (ViTConfig(qk_norm=True, layers=2), {}, (1, 3, 224, 224)),
        (preset("gpt2"), {}, (1, 1024)),
        (preset("gpt2"), {"batch": 3, "tokens": 100}, (3, 100)),
    ],
    ids=["vit-b16", "vit-s16, other image", "parallel", "qk norm", "gpt2", "gpt2, short"],
)
def test_whole_models_make_what_torch_counts(
    config: Any, feed: dict[str, Any], shape: tuple[int, ...]
) -> None:
    """Forward and backward, at full size on a device that computes nothing."""
    kind = torch.int64 if len(shape) == 2 else torch.float32
    x = torch.zeros(shape, dtype=kind, device="meta", requires_grad=kind is torch.float32)
    one = model(config, **feed)
    with FlopCounterMode(display=False) as counter:
        out = built(config, x)
    assert counter.get_total_flops() == one.forward().untiled.operations
    with FlopCounterMode(display=False) as counter:
        out.sum().backward()
    assert counter.get_total_flops() == one.backward().untiled.operations


@pytest.mark.parametrize("options", [{}, {"parallel": True}, {"qk_norm": True}], ids=str)
def test_a_block_keeps_what_torch_keeps(options: dict[str, bool]) -> None:
    """Each array once, but for the two numbers a row of a norm."""
    small = ViTConfig(image=(32, 32), patch=8, width=24, heads=3, hidden=96, layers=3, **options)
    two, three = (model(replace(small, layers=n), batch=2).forward() for n in (2, 3))
    expected = three.untiled.kept - two.untiled.kept
    S = 17
    flags = {"parallel": False, "qk_norm": False, **options}
    block, x = Block(24, 96, 3, **flags), torch.randn(2, S, 24, requires_grad=True)
    found: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        storage = t.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return t

    with saved_tensors_hooks(pack, lambda t: t):
        block(x)
    parameters = [*block.parameters(), *(p for n in block.norms for p in n.parameters())]
    for p in parameters:
        found.pop(p.untyped_storage().data_ptr(), None)
    rows = (
        2 * S * ((1 if options.get("parallel") else 2) + (2 * 3 if options.get("qk_norm") else 0))
    )
    assert sum(found.values()) - rows * 2 * 4 == expected


def test_a_cached_token_reads_every_parameter_and_the_cache() -> None:
    """Generation moves the weights for one row: about an operation per byte in half precision."""
    half = Setting(dtype="float16")
    cost = model(GPT2Config(), tokens=1, cached=1023).forward(half)
    cache = 12 * 2 * 1024 * 768 * 2
    weights = (124_439_808 - 1024 * 768) * 2
    assert 1.0 == pytest.approx((cache + weights) / cost.tiled.bytes, rel=0.01)
    assert 0.9 < cost.tiled.intensity < 1.1
    # Its row sees all 1024 keys: a step of the last row of the whole text.
    attended = 12 * 1024 * 2 * 768
    rest = 12 * 12 * 768**2 + 768 * 50257
    assert attended + rest == cost.tiled.multiply_adds == cost.untiled.multiply_adds


def test_attention_of_a_map_grows_with_its_square_and_windows_with_the_map() -> None:
    """(h w)^2 pairs against h w N: twice the side is 16 times and 4 times."""
    vit, swin, conv = (
        ViTConfig(class_token=False, pool="mean"), SwinConfig(), ConvConfig()
    )  # fmt: skip

    def ratio(config: Config, part: str) -> float:
        work = [model(config, image=side).parts[part].forward() for side in (224, 448)]
        return work[1].untiled.multiply_adds / work[0].untiled.multiply_adds

    assert 16 == ratio(vit, "attention")
    assert 4 == ratio(swin, "attention")
    assert 4 == ratio(conv, "stage 0")


def test_pairs_that_no_window_shows_are_skipped() -> None:
    """With wrapped pairs hidden, tiles compute less; the published -100 makes them count."""
    hidden, published = (model(SwinConfig(wrap_bias=b)).forward() for b in (float("-inf"), -100.0))
    assert published.tiled.multiply_adds == published.untiled.multiply_adds
    assert hidden.tiled.multiply_adds < hidden.untiled.multiply_adds
    assert hidden.untiled == published.untiled


def test_a_hybrid_is_its_stem_and_its_body() -> None:
    """The body sees the stem's map."""
    c = HybridConfig()
    whole, body = model(c), model(c.body, image=14)
    stem = whole.parts["stem"]
    assert body.parameters == whole.parameters - stem.parameters
    assert stem.forward() + body.forward() == whole.forward()
    residuals: Any = model(c, image=448, batch=4).parts["residuals"]
    assert (28 * 28 + 1) * 4 * c.body.width == residuals.steps[0][1].numbers


@pytest.mark.parametrize(("name", "published"), [("vit-b16", 86_859_496), ("vit-l16", 304_715_752)])
def test_a_position_table_grows_with_the_image(name: str, published: int) -> None:
    """At 384x384 there are 380 rows more than at 224x224, as in the published models."""
    config = preset(name)
    assert isinstance(config, ViTConfig)

    assert published == model(config, image=384).parameters
    assert published == count(replace(config, image=(384, 384)))


def test_the_table_of_a_hybrids_body_grows_with_its_map() -> None:
    """And the stem's parameters are those of any image."""
    config = preset("hybrid-b16")
    assert isinstance(config, HybridConfig)
    larger = replace(config, body=replace(config.body, image=(24, 24)))

    assert count(larger) == model(config, image=384).parameters


@pytest.mark.parametrize(
    ("name", "feed", "said"),
    [
        ("swin-tiny", {"image": 225}, "image 225x225 has 56.25 tokens along an axis of stage 0"),
        ("vit-b16", {"image": (224, 230)}, "image is 224x230, and ViTConfig takes positive mult"),
        ("hybrid-b16", {"image": 24}, "image is 24x24, and HybridConfig takes positive m"),
        ("conv", {"image": 0}, "image is 0x0, and ConvConfig takes positive multiples of 1."),
        ("vit-b16", {"tokens": 7}, "tokens is 7 and cached is 0, and ViTConfig takes images."),
        ("gpt2", {"image": 224}, "image is 224, and GPT2Config takes tokens."),
        ("gpt2", {"tokens": 1025}, "tokens is 1025, and GPT2Config has 1024 positions."),
        ("gpt2", {"tokens": 2, "cached": 1023},
         "tokens is 2 after 1023 cached ones, and GPT2Config has 1024 positions.\n"
         "  hint tokens is 1 to 1; a longer context needs a larger table"),
        ("bert-base-uncased", {"tokens": 513},
         "tokens is 513, and BERTConfig has 512 positions.\n  hint tokens is 1 to 512"),
        ("gpt2", {"tokens": 0}, "tokens is 0, and GPT2Config has 1024 positions."),
        ("gpt2", {"cached": 1024}, "cached is 1024, and GPT2Config has 1024 positions."),
        ("gpt2", {"cached": -1}, "cached is -1, and GPT2Config has 1024 positions."),
        ("bert-base-uncased", {"cached": 1}, "cached is 1, and BERTConfig sees every"),
        ("gpt2", {"batch": 0}, "batch is 0; it must be at least 1."),
    ],
    ids=lambda x: str(x) if isinstance(x, dict) else None,
)  # fmt: skip
def test_what_a_model_does_not_take_is_refused(name: str, feed: dict[str, Any], said: str) -> None:
    """With the argument and the numbers."""
    with pytest.raises(InvalidProblem) as error:
        model(preset(name), **feed)
    assert str(error.value).startswith(said)


def test_what_is_no_configuration_is_refused() -> None:
    """By its type."""
    with pytest.raises(TypeError, match=r"int is no configuration of attnref\.models"):
        parts(3, Given(1))
