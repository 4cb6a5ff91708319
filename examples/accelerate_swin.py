"""Let a Swin transformer of timm attend on attnref: faster on a GPU, the same on a CPU.

    python examples/accelerate_swin.py

Without a GPU it compares outputs and gradients of the model before and after. With one it
also times six models with the same weights, in turns, in one process: as timm has it, eager,
compiled, and compiled with CUDA graphs; and the same three on attnref. Weights are random:
neither a result's error nor a time depends on them.

timm needs `pip install timm`, and nothing is downloaded.
"""

import argparse
import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median, quantiles
from typing import Any

import timm
import torch
from torch import Tensor, nn

import attnref
from attnref.integrations import accelerate

Run = Callable[[], object]

WARM_UP = 3


def both(
    name: str, size: int | None, backend: str | None, device: str
) -> tuple[nn.Module, nn.Module]:
    """Build a model with random weights, and change a copy of it."""
    torch.manual_seed(0)
    options = {} if size is None else {"img_size": size}
    model = timm.create_model(name, **options).to(device)
    changed = copy.deepcopy(model)
    print(accelerate(changed, backend=backend), end="\n\n")
    return model, changed


def results(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits, and the gradients of all weights in one row."""
    model.zero_grad()
    logits = model.eval()(images)
    logits.float().square().mean().backward()
    row = torch.cat([p.grad.flatten() for p in model.parameters()])
    return logits.detach().double(), row.double()


def far(x: Tensor, exact: Tensor) -> float:
    """Return the relative distance of two results."""
    return ((x - exact).norm() / exact.norm()).item()


def errors(model: nn.Module, changed: nn.Module, images: Tensor) -> dict[str, list[float]]:
    """Compare with the model in float64: relative errors of logits and of gradients."""
    exact = results(copy.deepcopy(model).double(), images.double())
    with attnref.trace() as ran:
        ours = results(changed, images)
    print("ran", *sorted({str(each) for each in ran}), sep="\n  ", end="\n\n")
    return {
        "unpatched": [far(x, y) for x, y in zip(results(model, images), exact, strict=True)],
        "patched": [far(x, y) for x, y in zip(ours, exact, strict=True)],
    }


def forward(model: nn.Module, images: Tensor) -> Run:
    """Return a run in inference."""

    def run() -> None:
        with torch.no_grad():
            model(images)

    return run


def training(model: nn.Module, images: Tensor) -> Run:
    """Return a run forward and backward, with stochastic depth as timm sets it."""

    def run() -> None:
        model.zero_grad(set_to_none=True)
        model(images).float().square().mean().backward()

    return run


@contextmanager
def marked(marks: list[float]) -> Iterator[None]:
    """Time what is inside by events on the device, in milliseconds."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    yield
    end.record()
    torch.cuda.synchronize()
    marks.append(start.elapsed_time(end))


def timed(runs: dict[str, Run], repeats: int) -> dict[str, list[float]]:
    """Time all runs in turns, after a warm-up in which some compile."""
    for run in runs.values():
        for _ in range(WARM_UP):
            run()
    marks: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            with marked(marks[name]):
                run()
    return marks


def throughput(
    model: nn.Module, changed: nn.Module, images: Tensor, repeats: int
) -> dict[str, dict[str, Any]]:
    """Time six models both ways; a break in a graph is an error."""
    tables = {}
    for way, made in {"forward": forward, "forward + backward": training}.items():
        for each in (model, changed):
            each.train(way != "forward")
        variants = {}
        for name, each in {"unpatched": model, "patched": changed}.items():
            variants |= {
                f"{name} eager": each,
                f"{name} compiled": torch.compile(each, fullgraph=True),
                f"{name} graphed": torch.compile(each, fullgraph=True, mode="reduce-overhead"),
            }
        runs = {name: made(variant, images) for name, variant in variants.items()}
        tables[way] = {
            name: {
                "milliseconds": quantiles(marks, n=4),
                "images per second": len(images) / median(marks) * 1e3,
            }
            for name, marks in timed(runs, repeats).items()
        }
        torch.compiler.reset()
    return tables


def ratios(table: dict[str, Any]) -> dict[str, float]:
    """Return how many times as fast the changed model is, run alike and against the compiled."""
    rate = {name: row["images per second"] for name, row in table.items()}
    pairs = [(f"patched {way}", f"unpatched {way}") for way in ("eager", "compiled", "graphed")]
    pairs.insert(1, ("patched eager", "unpatched compiled"))
    return {f"{ours} / {theirs}": rate[ours] / rate[theirs] for ours, theirs in pairs}


def show(way: str, table: dict[str, Any]) -> None:
    """Print a table, and the ratios under it."""
    print(f"{way:<24}{'ms':>10}{'images/s':>12}")
    for name, row in table.items():
        print(f"  {name:<22}{row['milliseconds'][1]:>10.2f}{row['images per second']:>12.0f}")
    for name, ratio in ratios(table).items():
        print(f"  {name:<38}{ratio:>6.2f}")
    print()


def arguments(words: list[str] | None) -> argparse.Namespace:
    """Read the command line; what it leaves out depends on whether there is a GPU."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="swin_tiny_patch4_window7_224")
    parser.add_argument("--size", type=int, help="pixels of an image's side; default the model's")
    parser.add_argument("--backend", help="default: the first that can")
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--dtype", default="bfloat16" if gpu else "float32")
    parser.add_argument("--batch", type=int, default=128 if gpu else 2)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", metavar="FILE", help="write all numbers there")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    """Compare, and time where there is a GPU."""
    said = arguments(words)
    model, changed = both(said.model, said.size, said.backend, said.device)
    dtype = getattr(torch, said.dtype)
    model, changed = model.to(dtype), changed.to(dtype)
    side = model.patch_embed.img_size[0]
    images = torch.randn(said.batch, 3, side, side, device=said.device, dtype=dtype)
    found: dict[str, Any] = {"call": vars(said), "torch": torch.__version__}
    found["errors"] = errors(model, changed, images[:8])
    for who, (logits, gradients) in found["errors"].items():
        print(f"{who:<10} is off by {logits:.1e} in its logits, {gradients:.1e} in its gradients")
    print()
    if said.device.startswith("cuda"):
        found["device"] = torch.cuda.get_device_name(said.device)
        print(f"{said.model}, {said.dtype}, batch {said.batch}, {found['device']}", end="\n\n")
        found["times"] = throughput(model, changed, images, said.repeats)
        found["ratios"] = {way: ratios(table) for way, table in found["times"].items()}
        for way, table in found["times"].items():
            show(way, table)
    if said.json:
        with open(said.json, "w", encoding="utf-8") as file:  # noqa: PTH123
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
