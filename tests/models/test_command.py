"""`attnref models`: what it prints, and the status that it returns."""

from types import MappingProxyType

import pytest

from attnref import cli, registry
from attnref.errors import Reason
from attnref.models import MINIATURES, PRESETS, presets

from .drawn import SMALL


@pytest.fixture
def small(monkeypatch) -> None:
    """Small models under published names."""
    for module in (presets, cli.import_module("attnref.models.command")):
        monkeypatch.setattr(module, "PRESETS", MappingProxyType(SMALL))


def said(words: list[str], capsys, status: int = 0) -> tuple[str, str]:
    """Run a command and return what it printed, and what it complained of."""
    assert status == cli.main(["models", *words])
    return capsys.readouterr()


def test_models_are_listed_with_their_parameters(capsys):
    """One line each: name, kind, parameters, sizes."""
    lines = said([], capsys)[0].splitlines()

    assert ["model", *PRESETS] == [line.split()[0] for line in lines]
    assert (
        "swin-tiny           Swin         28,288,354  width 96, depths 2-2-6-2, heads 3-6-12-24, "
        "patch 4, window 7, image 224x224"
    ) in lines


def test_one_model_is_listed_part_by_part(capsys):
    """Every parameter has its shape, and they add up."""
    lines = said(["gpt2"], capsys)[0].splitlines()

    assert ["tokens", "50257x768", "38,597,376"] == lines[0].split()
    assert ["in", "all", "124,439,808"] == lines[-1].split()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["gpt2", "bert", "vit", "swin", "hybrid", "conv"])
def test_backends_are_compared_on_a_random_model(name, capsys):
    """Backends that do not part give the status zero."""
    page, _ = said([name, "--compare", "numpy", "reference", "--seed", "1"], capsys)

    assert "on numpy and reference: " in page


@pytest.mark.parametrize("device", [[], ["--device", "cpu"]], ids=["arrays", "tensors"])
def test_without_a_name_a_small_model_of_every_kind_is_compared(device, capsys):
    """One line each, in NumPy or in torch."""
    lines = said(["--compare", "torch", "reference", *device], capsys)[0].splitlines()

    assert list(MINIATURES) == [line.split()[0] for line in lines]
    assert all("no call is past its limit" in line for line in lines)


def test_backends_that_part_give_the_status_one(capsys):
    """A shift that is applied once instead of per axis is found in the first shifted layer."""
    wrong = "attnref_conformance.faulty:windows_shifted_once"

    lines = said(["--compare", "numpy", wrong], capsys, status=1)[0].splitlines()

    parted = [line for line in lines if "they part at layer 1, head 0, in window_attention" in line]
    assert ["swin", "swinv2"] == [line.split()[0] for line in parted]
    assert len(MINIATURES) == len(lines)


def test_a_model_that_a_backend_declines_is_not_run_and_the_others_are(capsys, monkeypatch):
    """The line has the backend's reason, and the status is not zero."""
    reference = registry.load("reference")

    class Windowless(type(reference)):
        name = "windowless"

        def unsupported(self, problem):
            return [Reason("operation", "no windows")] * (problem.operation == "window_attention")

    monkeypatch.setattr(registry, "load", {"numpy": reference, "windowless": Windowless()}.get)

    lines = said(["--compare", "numpy", "windowless"], capsys, status=1)[0].splitlines()

    declined = [line for line in lines if "not run: windowless: no windows" in line]
    assert ["swin", "swinv2"] == [line.split()[0] for line in declined]
    assert len(MINIATURES) == len(lines)


@pytest.mark.parametrize("seed", ["-1", "1.5", "x"])
def test_a_seed_is_a_whole_number(seed, capsys):
    """The parser says so, and nothing is drawn."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(["models", "--compare", "numpy", "torch", "--seed", seed])

    assert 2 == exit_.value.code
    expected = f"argument --seed: {seed!r} is no seed; write a whole number, 0 or more"
    assert expected in capsys.readouterr().err


WRONG = {
    "a seed of no comparison": (["gpt2", "--seed", "0"], "--seed and --device are of a comparison"),
    "a device of no comparison": (["--device", "cuda"], "--seed and --device are of a comparison"),
    "an unknown model": (["swin"], "no model is called 'swin'."),
    "an unknown backend": (
        ["conv", "--compare", "numpy", "cudnn"],
        "no backend is called 'cudnn'.",
    ),
    "a device that is not there": (
        ["conv", "--compare", "numpy", "torch", "--device", "nowhere"],
        "no torch tensor on nowhere: ",
    ),
    "a model too large to draw": (
        ["vit-22b", "--compare", "numpy", "torch"],
        "the model has 21,756,703,720 parameters; more than 2,000,000,000 are not drawn.",
    ),
}


@pytest.mark.parametrize(("words", "complaint"), WRONG.values(), ids=WRONG)
def test_what_is_not_understood_is_said_on_standard_error(words, complaint, capsys):
    """Nothing is printed, and the status is that of a wrong command."""
    out, err = said(words, capsys, status=2)

    assert "" == out
    assert complaint in err
