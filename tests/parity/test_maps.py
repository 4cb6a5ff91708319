"""What all replacements share: padding in two orders, and precision under autocast."""

import pytest
import torch

from attnref.integrations import maps

CUT = {"window": (4, 4), "shift": (2, 2), "backend": "torch"}


@pytest.mark.parametrize("G", [(8, 8), (9, 6), (5, 8)])
@pytest.mark.parametrize("rolled", [None, (2, 1)])
def test_what_is_padded_is_cropped(G: tuple[int, int], rolled: tuple[int, int] | None) -> None:
    """One undoes the other, and whole windows stand between."""
    x = torch.arange(2.0 * G[0] * G[1] * 3).reshape(2, *G, 3)
    whole = maps.padded(x, (4, 4), rolled=rolled)

    assert [0, 0] == [p % 4 for p in whole.shape[1:3]]
    assert torch.equal(x, maps.cropped(whole, G, rolled=rolled))


@pytest.mark.parametrize("G", [(9, 6), (5, 8), (7, 11)])
def test_a_padded_map_rolls_into_timms(G: tuple[int, int]) -> None:
    """timm rolls, then pads; attnref rolls what it is given."""
    shift = (2, 1)
    x = torch.randn(1, *G, 2)
    far = [-g % 4 for g in G]
    timms = torch.roll(x, (-2, -1), (1, 2))
    timms = torch.nn.functional.pad(timms, (0, 0, 0, far[1], 0, far[0]))
    ours = torch.roll(maps.padded(x, (4, 4), rolled=shift), (-2, -1), (1, 2))

    assert torch.equal(timms, ours)


def test_autocast_stays_out_of_a_backend() -> None:
    """A call computes in the precision of its inputs, whatever is cast around it."""
    q, k, v = torch.randn(3, 1, 8, 8, 16)
    qkv = torch.cat((q, k, v), dim=-1)
    apart, packed = maps.attend(q, k, v, 2, **CUT), maps.attend_packed(qkv, 2, **CUT)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(apart, maps.attend(q, k, v, 2, **CUT))
        assert torch.equal(packed, maps.attend_packed(qkv, 2, **CUT))


def test_queries_that_autocast_left_wide_follow_the_values() -> None:
    """On a GPU it normalises in float32, and the product would bring that back."""
    q, k, v = torch.randn(3, 1, 8, 8, 16)
    scale = torch.zeros(2, 1, 1)
    out = maps.attend_by_cosine(q, k, v.bfloat16(), 2, logit_scale=scale, **CUT)

    assert torch.bfloat16 == out.dtype
