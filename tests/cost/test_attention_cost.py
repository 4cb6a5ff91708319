"""What calls of attention cost: growth, options, and agreement with the public functions."""

import numpy as np
import pytest

import attnref
from attnref.cost import ON_CHIP, Attention, Setting, WindowAttention, call, hollow, of
from attnref.cost.traffic import stays
from attnref.errors import InvalidProblem, UnknownArgument
from attnref.problem import Sizes

HALF = Setting(dtype="float16")


def square(N: int, d: int, **options: object) -> Attention:
    """One head with as many queries as keys."""
    return Attention(sizes=Sizes(1, 1, 1, N, N, d, d), **options)


def test_without_tiles_traffic_is_that_of_the_textbook() -> None:
    """4 N d + 4 N^2 numbers: FlashAttention, algorithm 0."""
    N, d = 1000, 64
    assert 2 * (4 * N * d + 4 * N * N) == square(N, d).forward(HALF).untiled.bytes


def test_without_tiles_gradients_move_the_matrix_seven_times() -> None:
    """FlashAttention, algorithm 3: of what is linear, only dO moves more than once."""
    N, d = 1000, 64
    assert 2 * (8 * N * d + 7 * N * N) == square(N, d).backward(HALF).untiled.bytes


@pytest.mark.parametrize("M", [2**18, 2**19, 2**20])
def test_traffic_is_inverse_to_the_size_of_the_chip(M: int) -> None:
    """Twice the chip, half of what passes by: Theta(N^2 d^2 / M), theorem 2."""
    N, d = 2**18, 32

    def passing(on_chip: int) -> int:
        return square(N, d).forward(Setting(on_chip=on_chip)).tiled.bytes - 4 * 2 * N * d

    assert 2.0 == pytest.approx(passing(M) / passing(2 * M), rel=0.07)
    # Six times N^2 d^2 / M numbers, M in numbers as well.
    assert 4 * 6 * (N * d) ** 2 / (M / 4) == pytest.approx(passing(M), rel=0.07)


def test_traffic_grows_with_the_square_of_the_length() -> None:
    """And so does the textbook's; the ratio of both tends to a constant."""
    d, M = 32, 2**18
    for way in ("tiled", "untiled"):
        moved = [
            getattr(square(N, d).forward(Setting(on_chip=M)), way).bytes for N in (2**15, 2**16)
        ]
        assert 4.0 == pytest.approx(moved[1] / moved[0], rel=0.05)


def test_a_chip_that_holds_everything_moves_each_array_once() -> None:
    """Theta(N d): q, k, v and the output; backward, also dout (twice), lse and the gradients."""
    N, d, whole = 1000, 64, Setting(dtype="float16", on_chip=None)
    assert 2 * 4 * N * d == square(N, d).forward(whole).tiled.bytes
    rows = 2 * 9 * N * d + 3 * 4 * N  # lse is read once, delta written and read
    assert rows == square(N, d).backward(whole).tiled.bytes
    large = Setting(dtype="float16", on_chip=2**26)
    assert square(N, d).forward(whole) == square(N, d).forward(large)
    assert square(N, d).backward(whole) == square(N, d).backward(large)


def test_memory_kept_is_linear_with_tiles_and_quadratic_without() -> None:
    """q, k and v, and beside them the output and lse, or the matrix of weights."""
    N, d = 1000, 64
    cost = square(N, d).forward(HALF)
    assert 2 * 4 * N * d + 4 * N == cost.tiled.kept
    assert 2 * 3 * N * d + 2 * N * N == cost.untiled.kept
    capped = square(N, d, softcap=True).forward(HALF)
    assert 2 * 3 * N * d + 2 * 2 * N * N == capped.untiled.kept
    assert cost.tiled.kept == capped.tiled.kept


def test_the_log_sum_exp_is_as_wide_as_a_sum() -> None:
    """float32 for half precisions, float64 for float64 (A3)."""
    for dtype, size in (("bfloat16", 4), ("float32", 4), ("float64", 8)):
        plain, more = (
            square(100, 8, lse=lse).forward(Setting(dtype=dtype)) for lse in (False, True)
        )
        assert size * 100 == more.tiled.bytes - plain.tiled.bytes
        assert size * 100 == more.untiled.bytes - plain.untiled.bytes


def test_decoding_reads_the_cache_once() -> None:
    """The query heads of a group share their keys; one tile holds them all."""
    sizes = Sizes(B=16, Hq=32, Hkv=8, Sq=1, Sk=16384, D=128, Dv=128)
    cost = Attention(sizes=sizes, kv_lens=(8192,) * 16).forward(HALF)
    cache, rows = 16 * 8 * 8192 * 2 * 128 * 2, 16 * 32 * 2 * 128 * 2
    assert cache + rows == cost.tiled.bytes
    assert 16 * 32 * 8192 * 2 * 128 == cost.tiled.multiply_adds
    assert 2 * cost.tiled.multiply_adds / cost.tiled.bytes == cost.tiled.intensity < 4


def test_causality_halves_the_work_of_tiles_and_adds_to_that_of_the_matrix() -> None:
    """N (N + 1) / 2 pairs; the textbook computes all of them and hides half."""
    N, d = 1000, 64
    plain, causal = square(N, d).forward(HALF), square(N, d, window=(None, 0)).forward(HALF)
    assert N * (N + 1) // 2 == causal.tiled.exponentials
    assert plain.untiled.multiply_adds == causal.untiled.multiply_adds == N * N * 2 * d
    assert 2 * 2 * N * N == causal.untiled.bytes - plain.untiled.bytes


@pytest.mark.parametrize(
    ("shape", "entries"),
    [
        ((2, 6, 40, 50), 2 * 6 * 40 * 50),
        ((6, 40, 50), 2 * 6 * 40 * 50),
        ((40, 50), 2 * 2 * 40 * 50),
        ((1, 6, 1, 50), 2 * 6 * 50),
        ((50,), 2 * 2 * 50),
        ((6, 40, 1), 2 * 6 * 40),
        ((), 2 * 2),
    ],
    ids=str,
)
def test_a_bias_is_read_by_every_tile_as_far_as_it_goes(
    shape: tuple[int, ...], entries: int
) -> None:
    """One tile for each entry and key head: what is broadcast over its rows is read once."""
    sizes, whole = Sizes(2, 6, 2, 40, 50, 8, 8), Setting(dtype="float16", on_chip=2**20)
    plain, biased = Attention(sizes=sizes), Attention(sizes=sizes, bias=shape)
    more = biased.forward(whole).tiled.bytes - plain.forward(whole).tiled.bytes
    assert 2 * entries == more
    # And its gradient is written.
    more = biased.backward(whole).tiled.bytes - plain.backward(whole).tiled.bytes
    assert 2 * 2 * entries == more
    scores = 2 * 2 * 6 * 40 * 50
    more = biased.forward(whole).untiled.bytes - plain.forward(whole).untiled.bytes
    distinct = int(np.prod(shape))
    assert 2 * scores + 2 * distinct == more
    # A chip without bounds reads every entry once.
    once = Setting(dtype="float16", on_chip=None)
    more = biased.forward(once).tiled.bytes - plain.forward(once).tiled.bytes
    assert 2 * distinct == more


def test_a_mask_is_a_byte_for_each_pair() -> None:
    """It hides work, and not what passes by: a tile cannot know before it has looked."""
    sizes, whole = Sizes(1, 1, 1, 40, 50, 8, 8), Setting(dtype="float16", on_chip=None)
    mask = np.zeros((40, 50), bool)
    mask[:10] = True
    plain, masked = Attention(sizes=sizes), Attention(sizes=sizes, mask=mask)
    assert 10 * 50 == masked.pairs
    assert 40 * 50 == masked.forward(whole).tiled.bytes - plain.forward(whole).tiled.bytes
    scores = 2 * 40 * 50
    more = masked.forward(whole).untiled.bytes - plain.forward(whole).untiled.bytes
    assert 2 * scores + 40 * 50 == more


def test_gradients_in_half_precision_are_rounded_in_a_pass_of_their_own() -> None:
    """Several tiles of keys add to dq in float32; then it is read, and written as float16."""
    N, d = 4096, 64
    half, wide = square(N, d).backward(HALF), square(N, d).backward()
    for setting, cost in ((HALF, half), (Setting(), wide)):
        tile = stays(d, d, setting, backward=True)
        assert tile is not None
        tiles, item = -(-N // tile), setting.itemsize
        passing = tiles * N * (2 * d * item + 8) + tiles * N * 2 * d * 4
        rounded = N * d * (4 + item) if item == 2 else 0
        once = N * (2 * d * item + 4) + 2 * N * 2 * d * item + N * d * 4
        assert once + passing + rounded == cost.tiled.bytes


def test_a_chip_without_room_is_refused() -> None:
    """With what a query and a key need."""
    with pytest.raises(InvalidProblem) as error:
        square(10, 64).forward(Setting(on_chip=1000))
    assert (
        "on_chip is 1000 bytes, and a query and a key of sizes 64 and 64 need 1028.\n"
        "  see attnref.cost.traffic\n"
        "  hint on_chip=None is as much as is needed"
    ) == str(error.value)
    assert 1 == stays(64, 64, Setting(on_chip=1028))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"on_chip": 0}, "on_chip is 0 bytes; it must be at least 1."),
        ({"dtype": "int8"}, "dtype is 'int8'; it must be one of float16, bfloat16, float32"),
    ],
    ids=["on_chip", "dtype"],
)
def test_a_setting_without_a_meaning_is_refused(options: dict[str, object], said: str) -> None:
    """With what was given and what is wanted."""
    with pytest.raises(InvalidProblem) as error:
        Setting(**options)
    assert str(error.value).startswith(said)


def test_a_call_costs_what_its_problem_says() -> None:
    """Every option of attention arrives."""
    q, k, v = hollow(2, 4, 8, 16), hollow(2, 2, 9, 16), hollow(2, 2, 9, 12)
    lens = np.array([7, 9])
    found = call(
        attnref.attention, q, k, v,
        causal=True, window=(3, None), q_offset="end", q_lens=lens - 2, kv_lens=lens,
        bias=hollow(4, 8, 9), mask=np.ones((8, 9), bool), softcap=3.0,
    )  # fmt: skip
    expected = Attention(
        sizes=Sizes(2, 4, 2, 8, 9, 16, 12), window=(3, 0), q_offset=(2, 2), q_lens=(5, 7),
        kv_lens=(7, 9), bias=(4, 8, 9), mask=np.ones((8, 9), bool), softcap=True,
    )  # fmt: skip
    assert expected.forward() == found


def test_a_call_may_be_backward_and_on_another_chip() -> None:
    """The log-sum-exp is written where it is asked for."""
    q = hollow(1, 2, 300, 16, dtype="float16")
    step = square(300, 16)
    expected = Attention(sizes=step.sizes._replace(Hq=2, Hkv=2))
    small = Setting(dtype="float16", on_chip=5000)
    assert expected.backward(small) == call(
        attnref.attention, q, q, q, backward=True, on_chip=5000
    )  # fmt: skip
    assert expected.forward(HALF) == call(attnref.attention, q, q, q)
    written = call(attnref.attention_with_lse, q, q, q)
    assert 4 * 2 * 300 == written.tiled.bytes - expected.forward(HALF).tiled.bytes


def test_packed_sequences_cost_what_they_cost_alone() -> None:
    """Each is a batch of one; rows past the last offset cost nothing."""
    q, k, v = hollow(20, 4, 8), hollow(30, 2, 8), hollow(30, 2, 6)
    cu_q, cu_k = np.array([0, 5, 5, 10, 18]), np.array([0, 7, 10, 17, 17])
    found = call(
        attnref.attention_varlen, q, k, v, cu_q, cu_k, causal=True, q_offset="end", softcap=2.0
    )
    parts = [
        Attention(
            sizes=Sizes(1, 4, 2, Sq, Sk, 8, 6), window=(None, 0), q_offset=Sk - Sq, softcap=True
        ).forward()
        for Sq, Sk in ((5, 7), (0, 3), (5, 7), (8, 0))
    ]
    expected = parts[0] + parts[1] + parts[2] + parts[3]
    assert expected == found
    one = call(attnref.attention_varlen, q, k, v, cu_q, cu_k, q_offset=0, window=(1, 1))
    assert one.tiled.operations > 0


def test_maps_cost_what_their_problem_says() -> None:
    """Every option of window attention arrives, of a packed projection too."""
    qkv = hollow(2, 9, 14, 3, 4, 16, dtype="float16")
    mask = np.random.default_rng(0).random((2, 9, 14)) < 0.5
    options = {"window": (4, 7), "shift": (2, 3), "bias": hollow(4, 28, 28, dtype="float16")}
    found = call(attnref.window_attention_qkv, qkv, **options, key_mask=mask, wrap_bias=-100.0)
    expected = WindowAttention(
        B=2, G=(9, 14), H=4, D=16, Dv=16, window=(4, 7), shift=(2, 3),
        bias=True, key_mask=mask, wrap=True,
    )  # fmt: skip
    assert expected.forward(HALF) == found
    backward = call(attnref.window_attention_qkv, qkv, **options, backward=True)
    assert backward.tiled.operations > 0 == backward.tiled.kept


def test_a_map_without_padding_or_shift_is_a_batch_of_windows() -> None:
    """Both ways, forward and backward, with a bias shared by all windows."""
    windows = WindowAttention(
        B=2, G=(8, 12), H=3, D=16, Dv=8, window=(4, 4), shift=(0, 0), bias=True
    )
    batch = Attention(sizes=Sizes(12, 3, 3, 16, 16, 16, 8), bias=(1, 3, 16, 16))
    for setting in (Setting(), HALF, Setting(on_chip=4000), Setting(on_chip=None)):
        assert batch.forward(setting) == windows.forward(setting)
        assert batch.backward(setting) == windows.backward(setting)


def test_padding_and_wrapped_pairs_cost_only_without_tiles() -> None:
    """A map of 9x9 is padded to 14x14 in windows of 7."""
    call = WindowAttention(B=1, G=(9, 9), H=1, D=8, Dv=8, window=(7, 7), shift=(3, 3))
    cost = call.forward()
    assert 4 * 49**2 * 16 == cost.untiled.multiply_adds
    assert 4 * 81 * 4 * 8 == cost.tiled.bytes
    # The cut is at 3: regions of 3 and 6 on each axis, nothing of which is wrapped.
    assert (3**2 + 6**2) ** 2 == call.pairs
    bytes_ = 4 * (4 * 196 * 8 + 6 * 4 * 49**2)
    assert bytes_ == cost.untiled.bytes


def test_what_has_no_cost_model_says_so() -> None:
    """And which functions have one."""
    with pytest.raises(InvalidProblem, match=r"softmax has no cost model\."):
        of(attnref.softmax.describe(hollow(3)))
    with pytest.raises(UnknownArgument, match=r"attention\(\) has no argument 'is_causal'"):
        call(attnref.attention, hollow(1, 1, 1, 1), hollow(1, 1, 1, 1), hollow(1, 1, 1, 1),
             is_causal=True)  # fmt: skip
    with pytest.raises(TypeError, match="is not a public function of attnref"):
        call(len)


def test_the_default_chip_is_that_of_a_multiprocessor() -> None:
    """228 KiB of shared memory and 256 KiB of registers: NVIDIA's H100."""
    assert 484 * 1024 == ON_CHIP == Setting().on_chip
