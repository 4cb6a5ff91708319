"""State dicts are taken whole or not at all, and an error lists everything that is wrong."""

import subprocess
import sys
from importlib import util

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from attnref.errors import AttnrefError, InvalidProblem
from attnref.models import (
    BERTConfig,
    ConvConfig,
    GPT2Config,
    ParameterMismatch,
    SwinConfig,
    SwinV2Config,
    ViTConfig,
    load,
    shapes,
)
from attnref.models.loading import _stored
from attnref.models.names import layout

from .drawn import SMALL, TEXT, parameters

GPT2 = SMALL["gpt2"]
NAMES = {
    "wte.weight": "tokens",
    "wpe.weight": "positions",
    "ln_f.weight": "norm.weight",
    "ln_f.bias": "norm.bias",
}
BLOCK = {
    "ln_1": "norm1",
    "attn.c_attn": "attention.qkv",
    "attn.c_proj": "attention.output",
    "ln_2": "norm2",
    "mlp.c_fc": "mlp.up",
    "mlp.c_proj": "mlp.down",
}


@pytest.fixture
def state() -> dict[str, np.ndarray]:
    """What transformers calls the parameters of the small GPT-2, buffers and all."""
    p = parameters(GPT2)
    state = {f"transformer.{theirs}": p[ours] for theirs, ours in NAMES.items()}
    for n in range(2):
        state[f"transformer.h.{n}.attn.bias"] = np.tri(16)
        for theirs, ours in BLOCK.items():
            for kind in ("weight", "bias"):
                x = p[f"blocks.{n}.{ours}.{kind}"]
                state[f"transformer.h.{n}.{theirs}.{kind}"] = np.ascontiguousarray(x.T)
    state["lm_head.weight"] = p["tokens"].copy()
    return state


def refused(state, config=GPT2, source="huggingface", **options) -> ParameterMismatch:
    """Return the error that a state dict raises."""
    with pytest.raises(ParameterMismatch) as error:
        load(config, state, source=source, **options)
    return error.value


def test_other_names_and_transposed_matrices_become_ours(state):
    """Every array has our name and our shape, and they are in our order."""
    expected = parameters(GPT2)

    actual = load(GPT2, state, source="huggingface")

    assert list(expected) == list(actual)
    assert all(np.array_equal(expected[n], actual[n]) for n in expected)


def test_a_model_without_its_wrapping_is_the_same_model(state):
    """The prefix, the tied head and the buffers may be there or not."""
    inner = {n.removeprefix("transformer."): x for n, x in state.items() if "lm_head" not in n}
    inner = {n: x for n, x in inner.items() if not n.endswith(".attn.bias")}

    assert list(shapes(GPT2)) == list(load(GPT2, inner, source="huggingface"))


def test_files_are_read_and_tensors_stay_tensors(state, tmp_path):
    """A path is a safetensors file; arrays are of the library that they came in."""
    save_file(state, tmp_path / "model.safetensors")
    expected = load(GPT2, state, source="huggingface")

    read = load(GPT2, str(tmp_path / "model.safetensors"), source="huggingface")
    tensors = {n: torch.from_numpy(x) for n, x in state.items()}
    kept = load(GPT2, tensors, source="huggingface")

    assert all(np.array_equal(expected[n], read[n]) for n in expected)
    assert all(torch.is_tensor(x) for x in kept.values())
    assert all(np.array_equal(expected[n], kept[n].numpy()) for n in expected)


def test_a_file_needs_safetensors(monkeypatch):
    """Without the package the error says what to install."""
    monkeypatch.setattr(util, "find_spec", lambda _: None)

    with pytest.raises(AttnrefError, match="pip install safetensors"):
        load(GPT2, "model.safetensors")


def test_an_error_lists_all_that_is_wrong_and_nothing_is_loaded(state):
    """Missing, unexpected, misshapen and untied names come together, as the file has them."""
    del state["transformer.h.1.ln_2.bias"]
    state["transformer.h.0.attn.c_proj.weight"] = np.zeros((8, 9), np.float32)
    state["classifier.weight"] = np.zeros(1, np.float32)
    state["lm_head.weight"] += 1

    error = refused(state)

    assert ("h.1.ln_2.bias",) == error.missing
    assert ("classifier.weight",) == error.unexpected
    assert {"transformer.h.0.attn.c_proj.weight": ((8, 9), (8, 8))} == error.misshapen
    assert {"lm_head.weight": "transformer.wte.weight"} == error.untied
    assert str(error).splitlines() == [
        "the state dict is not GPT2 of huggingface: 1 missing, 1 unexpected, 1 misshapen, "
        "1 untied; nothing was loaded.",
        "  missing     h.1.ln_2.bias",
        "  unexpected  classifier.weight",
        "  misshapen   transformer.h.0.attn.c_proj.weight has (8, 9), must have (8, 8)",
        "  untied      lm_head.weight differs from transformer.wte.weight",
        "  hint        check source= and the configuration: shapes(config) lists what a model has",
        "  hint        ignore='classifier.' leaves out names that begin so",
        "  hint        sizes follow from the configuration; resized() makes position tables for "
        "other images",
        "  hint        the head of this model is its token table; a head of its own has no place",
    ]


WRONG = {
    "missing": (lambda s: s.pop("transformer.ln_f.bias"), "check source= and the configuration"),
    "unexpected": (lambda s: s.update(epoch=np.zeros(1)), "ignore='epoch' leaves out"),
    "misshapen": (
        lambda s: s.update({"transformer.wpe.weight": np.zeros((15, 8))}),
        "sizes follow from the configuration",
    ),
    "untied": (
        lambda s: s.update({"lm_head.weight": s["lm_head.weight"] + 1}),
        "the head of this model is its token table",
    ),
}


@pytest.mark.parametrize(("kind", "change", "hint"), [(k, *v) for k, v in WRONG.items()], ids=WRONG)
def test_only_what_is_wrong_is_counted_and_has_a_hint(state, kind, change, hint):
    """One kind of error, one line about it, and what to do."""
    change(state)

    first, said, advice = str(refused(state)).splitlines()

    assert f"the state dict is not GPT2 of huggingface: 1 {kind}; nothing was loaded." == first
    assert said.startswith(f"  {kind}")
    assert advice.startswith(f"  hint        {hint}")


def test_one_beginning_may_be_ignored_by_itself(state):
    """A word is one beginning, and not as many as it has letters."""
    state |= {"classifier.weight": np.zeros(1), "counted": np.zeros(1)}

    assert ("counted",) == refused(state, ignore="classifier.").unexpected
    assert load(GPT2, state, source="huggingface", ignore=["classifier.", "counted"])


def test_what_is_ignored_is_read_where_the_model_has_it(state):
    """Only what nobody needs is left out."""
    del state["transformer.ln_f.bias"]

    assert ("ln_f.bias",) == refused(state, ignore="transformer.").missing


NONE = {
    "a module": (
        lambda _: torch.nn.Linear(2, 2),
        "state is a Linear; it must map names to arrays.",
    ),
    "a list in place of an array": (
        lambda s: {**s, "transformer.ln_f.bias": [0.0] * 8},
        "transformer.ln_f.bias is a list.",
    ),
    "arrays of two libraries": (
        lambda s: {**s, "transformer.ln_f.bias": torch.zeros(8)},
        "transformer.ln_f.bias is an array of torch, and transformer.wte.weight is one of numpy.",
    ),
}


@pytest.mark.parametrize(("make", "fact"), NONE.values(), ids=NONE)
def test_what_is_no_state_dict_is_refused_by_name(state, make, fact):
    """The error says what is what."""
    with pytest.raises(InvalidProblem) as error:
        load(GPT2, make(state), source="huggingface")

    assert fact == str(error.value).splitlines()[0]


def test_files_of_other_dtypes_need_no_ml_dtypes(state, tmp_path, monkeypatch):
    """It is asked for bfloat16 alone."""
    save_file(state, tmp_path / "m.safetensors")
    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda n: None if n == "ml_dtypes" else find(n))

    assert load(GPT2, tmp_path / "m.safetensors", source="huggingface")


def test_what_is_not_read_may_be_anything(state):
    """Optimisers and epochs may be ignored, whatever they are."""
    state["epoch"] = 3

    assert ("epoch",) == refused(state).unexpected
    assert load(GPT2, state, source="huggingface", ignore="epoch")


FILES = {
    "no file": (lambda f: f / "none.safetensors", "there is no file .*none.safetensors"),
    "a folder": (lambda f: f, "is a folder"),
    "a file of torch's": (
        lambda f: torch.save({"a": torch.zeros(2)}, f / "m.bin") or f / "m.bin",
        r"m\.bin cannot be read as safetensors: (.|\n)*torch.load\(file, weights_only=True\)",
    ),
    "half a file": (
        lambda f: (
            (f / "half.safetensors").write_bytes(b"\x40" + bytes(12)) and f / "half.safetensors"
        ),
        "half.safetensors cannot be read as safetensors",
    ),
}


@pytest.mark.parametrize(("make", "fact"), FILES.values(), ids=FILES)
def test_what_is_no_safetensors_file_is_refused_by_name(tmp_path, make, fact):
    """Whatever the package raises, the error is ours and names the file."""
    with pytest.raises(InvalidProblem, match=fact):
        load(GPT2, make(tmp_path))


BFLOAT16 = """
import sys
from attnref.errors import InvalidProblem
from attnref.models import GPT2Config, load
config = GPT2Config(vocabulary=3, positions=2, width=2, layers=1, heads=1, hidden=2)
assert "ml_dtypes" not in sys.modules
if sys.argv[2] == "without":
    import importlib.util
    find = importlib.util.find_spec
    importlib.util.find_spec = lambda name: None if name == "ml_dtypes" else find(name)
try:
    print(load(config, sys.argv[1])["tokens"].dtype)
except InvalidProblem as error:
    print(error)
"""


@pytest.mark.parametrize("package", ["with", "without"])
def test_files_of_bfloat16_are_read_where_ml_dtypes_is(tmp_path, package):
    """In a process that has not imported it; without it, the error says what is missing."""
    config = GPT2Config(vocabulary=3, positions=2, width=2, layers=1, heads=1, hidden=2)
    p = {n: torch.zeros(s, dtype=torch.bfloat16) for n, s in shapes(config).items()}
    save_tensors(p, tmp_path / "m.safetensors")
    words = [sys.executable, "-c", BFLOAT16, str(tmp_path / "m.safetensors"), package]

    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout

    if package == "with":
        assert "bfloat16\n" == said
    else:
        assert "m.safetensors cannot be read as safetensors: " in said
        assert "  hint bfloat16 needs ml_dtypes; " in said


def test_what_is_ignored_is_not_unexpected(state):
    """Another head can be left out by the beginning of its names."""
    state["classifier.weight"] = np.zeros(1, np.float32)

    assert load(GPT2, state, source="huggingface", ignore=["classifier."])


def test_a_name_that_is_there_in_two_spellings_is_one_too_many(state):
    """With the prefix and without it: nobody knows which one was meant."""
    state["ln_f.bias"] = state["transformer.ln_f.bias"] + 1

    assert ("ln_f.bias",) == refused(state).unexpected


def test_another_architecture_is_refused_by_its_names(state):
    """GPT-2's state dict is no BERT; a long list is cut and counted."""
    error = refused(state, BERTConfig(**TEXT))

    assert len(error.missing) > 8
    assert "h.0.attn.c_attn.weight" in " ".join(error.unexpected)
    assert f"  missing     and {len(error.missing) - 8} more" in str(error)


def test_another_size_of_the_same_architecture_is_refused_by_its_shapes(state):
    """The error names both shapes, and the layers that there are not."""
    larger = GPT2Config(**{**TEXT, "positions": 20, "layers": 3})

    error = refused(state, larger)

    assert {"transformer.wpe.weight": ((16, 8), (20, 8))} == error.misshapen
    assert {"h.2"} == {name[:3] for name in error.missing}


def test_published_berts_spell_their_norms_as_of_old():
    """Gamma and beta are weight and bias; the head's token table may be stored twice."""
    p = parameters(SMALL["bert"])
    state = {}
    theirs = layout(SMALL["bert"], "huggingface")
    for name, x in p.items():
        stored = _stored(name, theirs).names
        for n, part in zip(stored, np.split(x, len(stored)), strict=True):
            old = n.replace("LayerNorm.weight", "LayerNorm.gamma")
            state["bert." + old.replace("LayerNorm.bias", "LayerNorm.beta")] = part
    state = {n.replace("bert.cls", "cls"): x for n, x in state.items()}
    state["cls.predictions.decoder.weight"] = p["tokens"]

    actual = load(SMALL["bert"], state, source="huggingface")

    assert "cls.predictions.transform.LayerNorm.gamma" in state
    assert all(np.array_equal(p[n], actual[n]) for n in p)


GOLDEN = {
    ("huggingface", ViTConfig(), "blocks.3.attention.qkv.bias"): [
        f"layers.3.attention.{x}_proj.bias" for x in "qkv"
    ],
    ("huggingface", SwinConfig(), "stages.1.merge.norm.weight"): [
        "encoder.layers.1.downsample.norm.weight"
    ],
    ("huggingface", SwinConfig(), "patches.norm.bias"): ["embeddings.norm.bias"],
    ("timm", ViTConfig(), "blocks.3.mlp.up.weight"): ["blocks.3.mlp.fc1.weight"],
    ("timm", ViTConfig(pool="mean"), "norm.weight"): ["fc_norm.weight"],
    ("timm", ViTConfig(parallel=True), "blocks.3.mlp.up.bias"): ["blocks.3.in_proj.bias"],
    ("timm", ViTConfig(parallel=True, qkv_bias=False), "blocks.3.mlp.up.bias"): [
        "blocks.3.mlp_bias"
    ],
    ("timm", SwinConfig(), "stages.1.merge.weight"): ["layers.2.downsample.reduction.weight"],
    ("timm", SwinV2Config(), "stages.1.blocks.0.attention.table.up.bias"): [
        "layers.1.blocks.0.attn.cpb_mlp.0.bias"
    ],
    ("torchvision", ViTConfig(), "blocks.3.attention.qkv.weight"): [
        "encoder.layers.encoder_layer_3.self_attention.in_proj_weight"
    ],
    ("torchvision", SwinConfig(), "stages.1.blocks.0.mlp.down.bias"): ["features.3.0.mlp.3.bias"],
    ("torchvision", SwinConfig(), "stages.1.merge.norm.bias"): ["features.4.norm.bias"],
    ("torchvision", SwinV2Config(), "stages.1.blocks.1.attention.v.bias"): [
        "features.3.1.attn.qkv.bias"
    ],
}


GOLDEN_IDS = [
    "huggingface joins three projections",
    "huggingface merges at the end of a stage",
    "huggingface normalises patches",
    "timm has two layers in an MLP",
    "timm pools before its norm",
    "timm fuses parallel projections",
    "timm keeps the bias of the MLP where projections have none",
    "timm merges at the beginning of a stage",
    "timm makes the bias of Swin V2 by a network",
    "torchvision names layers as torch does",
    "torchvision numbers stages oddly",
    "torchvision numbers merging evenly",
    "torchvision keeps three biases in Swin V2",
]


@pytest.mark.parametrize(("source", "config", "ours"), GOLDEN, ids=GOLDEN_IDS)
def test_libraries_names_are_known(source, config, ours):
    """A few names of every library, as its files have them."""
    assert GOLDEN[source, config, ours] == list(_stored(ours, layout(config, source)).names)


@pytest.mark.parametrize(("source", "config"), [key[:2] for key in GOLDEN], ids=GOLDEN_IDS)
def test_every_parameter_has_a_place_of_its_own(source, config):
    """No name is left without its counterpart, and no rows are used twice."""
    theirs = layout(config, source)
    stored = [_stored(name, theirs) for name in shapes(config)]
    places = [(n, s.rows) for s in stored for n in s.names]

    assert not [n for n, _ in places if n.startswith("(")]
    assert len(places) == len(set(places))


def test_what_a_library_does_not_have_is_missing():
    """torchvision's ViT has no norm of queries."""
    config = ViTConfig(image=(4, 4), patch=2, width=4, layers=1, heads=1, hidden=4, qk_norm=True)

    error = refused({}, config, "torchvision")

    assert "(no name for blocks.0.attention.q_norm.weight)" in error.missing


def test_a_library_without_the_model_is_refused():
    """The error says whose names are known."""
    with pytest.raises(InvalidProblem) as error:
        load(ConvConfig(), {}, source="timm")
    assert "there are no names of 'timm' for a ConvConfig." in str(error.value)
    with pytest.raises(InvalidProblem, match="source is one of attnref, huggingface, timm, torchv"):
        load(ViTConfig(), {}, source="keras")


def test_names_need_no_library():
    """Whose state dict it is need not be installed."""
    load(GPT2, parameters(GPT2))

    assert not {"timm", "transformers", "torchvision"} & set(sys.modules)
