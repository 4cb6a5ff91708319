"""`attnref models`: what models there are, what they consist of, and where backends part in one."""

import argparse
from importlib import import_module
from math import prod

import numpy as np

from attnref.arrays import Array
from attnref.backend import Backend
from attnref.errors import AttnrefError, UnsupportedError
from attnref.models.comparing import Comparison, compare
from attnref.models.configurations import BERTConfig, Config, GPT2Config
from attnref.models.parameters import count, initialise, shapes
from attnref.models.presets import MINIATURES, PRESETS, preset

LARGEST = 2_000_000_000
"""Parameters of the largest model that is drawn at random here: 8 GB."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `attnref models` to a parser."""
    parser.add_argument("name", nargs="?", help="list this model's parameters")
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar="BACKEND",
        help="run it with random weights on both (names, or module:object) and say where they "
        "part; without a name, a small model of every kind",
    )
    parser.add_argument(
        "--seed", type=_seed, metavar="N", help="of the weights that are compared with; default: 0"
    )
    parser.add_argument("--device", help="compare on torch tensors there, e.g. cuda")
    parser.set_defaults(run=main)


def _seed(text: str) -> int:
    """Read a number that begins a generator: none is negative."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no seed; write a whole number, 0 or more")
    return int(text)


def main(arguments: argparse.Namespace) -> int:
    """Print the models, or one of them, or where backends part."""
    if arguments.compare:
        return _compare(arguments)
    if arguments.seed is not None or arguments.device is not None:
        raise AttnrefError("--seed and --device are of a comparison: --compare BACKEND BACKEND")
    print(listing() if arguments.name is None else parameter_table(preset(arguments.name)))  # noqa: T201
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    """Print a page about one model, or a line about each small one.

    The status is 1 if backends part, or one of them declines a small model.
    """
    resolve = import_module("attnref_conformance.suite").resolve
    a, b = (resolve(name) for name in arguments.compare)
    how = {"seed": arguments.seed or 0, "device": arguments.device}
    if arguments.name is not None:
        found = compare_at_random(preset(arguments.name), a, b, **how)
        print(found)  # noqa: T201
        return int(found.first is not None)
    status = 0
    for name, config in MINIATURES.items():
        try:
            found = compare_at_random(config, a, b, **how)
        except UnsupportedError as error:
            said = "; ".join(map(str, next(iter(error.reasons.values()))))
            verdict, parted = f"not run: {next(iter(error.reasons))}: {said}", True
        else:
            verdict, parted = str(found).splitlines()[0], found.first is not None
        print(f"{name:<10}{verdict}")  # noqa: T201
        status |= parted
    return status


def listing() -> str:
    """Return a line for every published model: name, kind, parameters, sizes."""
    lines = [f"{'model':<20}{'kind':<8}{'parameters':>15}  sizes"]
    for name, config in PRESETS.items():
        kind = type(config).__name__.removesuffix("Config")
        lines.append(f"{name:<20}{kind:<8}{count(config):>15,}  {_sizes(config)}")
    return "\n".join(lines)


def _sizes(config: Config) -> str:
    """Say what sets a model apart from others of its kind."""
    said = {
        "width": "width {}",
        "widths": "widths {}",
        "stem": "stem {}",
        "layers": "{} layers",
        "depths": "depths {}",
        "heads": "heads {}",
        "patch": "patch {}",
        "window": "window {}",
        "positions": "{} positions",
        "separable": "separable: {}",
    }
    known = {n: getattr(config, n) for n in said if hasattr(config, n)}
    texts = [
        said[n].format("-".join(map(str, x)) if isinstance(x, tuple) else x)
        for n, x in known.items()
    ]
    image = getattr(config, "image", None)
    return ", ".join(texts + ([f"image {image[0]}x{image[1]}"] if image else []))


def parameter_table(config: Config) -> str:
    """Return a line for every parameter: name, shape, how many numbers."""
    found = shapes(config)
    wide = max(map(len, found))
    lines = [
        f"{name:<{wide}}  {'x'.join(map(str, shape)):<18}{prod(shape):>15,}"
        for name, shape in found.items()
    ]
    return "\n".join([*lines, f"{'in all':<{wide}}  {'':<18}{count(config):>15,}"])


def compare_at_random(
    config: Config, a: Backend, b: Backend, *, seed: int = 0, device: str | None = None
) -> Comparison:
    """Compare two backends on a model with random weights and a random question."""
    if count(config) > LARGEST:
        raise AttnrefError(
            f"the model has {count(config):,} parameters; more than {LARGEST:,} are not drawn."
        )
    rng = np.random.default_rng(seed)
    parameters: dict[str, Array] = dict(initialise(config, rng))
    asked: Array
    if isinstance(config, GPT2Config | BERTConfig):
        asked = rng.integers(0, config.vocabulary, (1, min(64, config.positions)))
    else:
        asked = rng.normal(size=(1, *config.image, config.channels)).astype(np.float32)
    if device is not None:
        parameters = {name: _on(x, device) for name, x in parameters.items()}
        asked = _on(asked, device)
    return compare(config, parameters, asked, a, b)


def _on(x: np.ndarray, device: str) -> Array:
    """Return a torch tensor on a device, or say why there is none."""
    try:
        return import_module("torch").from_numpy(x).to(device)
    except (ImportError, RuntimeError, AssertionError) as error:
        raise AttnrefError(f"no torch tensor on {device}: {error}") from None
