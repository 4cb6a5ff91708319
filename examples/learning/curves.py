"""Draw the learning curves of the other scripts here into a picture.

    python examples/learning/curves.py docs/images/learning.png digits.json block.json zen.json

Needs matplotlib. One panel for each model; one line for each backend and seed.
"""

import argparse
import json
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import NullFormatter, PercentFormatter

TITLES = {"vit": "ViT", "swin": "Swin", "one block": "one block, plain NumPy", "zen": "GPT-2"}
COLOURS = {"reference": "#1b1b1b", "numpy": "#d1495b", "torch": "#2e86ab"}
STYLES = {"reference": ":", "numpy": "--", "torch": "-"}


def panel(axes: plt.Axes, model: str, runs: list[dict]) -> None:
    """Draw one model: the test error of readers, the loss of a writer."""
    said = set()
    for run in runs:
        name = run["backend"]
        label = None if name in said else name
        said.add(name)
        curve = run["losses"] if model == "zen" else [1 - a for a in run["accuracies"]]
        axes.plot(
            range(1, len(curve) + 1), curve, STYLES[name], color=COLOURS[name], label=label,
            linewidth=1.2, alpha=0.8,
        )  # fmt: skip
    axes.set_title(TITLES[model], loc="left", fontsize=11)
    axes.set_yscale("log")
    axes.grid(alpha=0.25, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    if model == "zen":
        axes.set(xlabel="step", ylabel="nats a character")
    else:
        axes.axhline(0.03, color="#888888", linewidth=0.8)
        axes.text(1, 0.031, "97 % right", fontsize=8, color="#555555", va="bottom")
        axes.set(xlabel="epoch", ylabel="test images misread")
        axes.set_yticks([0.02, 0.05, 0.1, 0.2, 0.5, 1.0], minor=False)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.legend(frameon=False, fontsize=9)


def main() -> None:
    """Read what the scripts wrote, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("files", nargs="+", type=Path)
    said = parser.parse_args()
    runs = [run for file in said.files for run in json.loads(file.read_text(encoding="utf-8"))]
    models = [m for m in TITLES if any(run["model"] == m for run in runs)]
    columns = min(2, len(models))
    rows = -(-len(models) // columns)
    size = (5 * columns, 3.4 * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axes, model in zip(grid.flat, models, strict=False):
        panel(axes, model, [run for run in runs if run["model"] == model])
    for axes in grid.flat[len(models) :]:
        axes.set_visible(False)
    figure.savefig(said.picture, dpi=130)


if __name__ == "__main__":
    main()
