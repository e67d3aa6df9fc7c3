"""Make the ten slides of the 90-minute lab: Marp markdown and its pictures, from measurements here.

    python tools/slides.py --out slides

Every picture is drawn by `pruning_lab.plots` from networks that come with the course, on mnist-5k,
so nothing is downloaded. `marp slides/slides.md` or its extension for VS Code shows them.
"""

import argparse
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

import pruning_lab as lab

SIX = torch.tensor([0.9, -0.1, 0.4, -0.7, 0.05, 0.3])


def picture(folder: Path, name: str, draw, height: float = 3.6) -> str:
    """Draw on axes, save as PNG, and give its line of Markdown."""
    with lab.plots.style():
        figure = Figure(figsize=(7.5, height), layout="constrained")
        draw(figure.subplots())
    lab.files.write(folder / name, lab.plots.png(figure))
    return f"![h:420]({name})"


def slides(folder: Path) -> list[str]:
    splits = lab.data.load("mnist-5k")
    model = lab.models.lenet_300_100(trained="mnist")
    dense = lab.evaluate(model, splits.val)
    energy = lab.paper.ENERGY_PJ
    scan = lab.scan(model, splits.val, [0.5, 0.3, 0.2, 0.1, 0.05, 0.02])
    curve = []
    for density in (0.5, 0.2, 0.1, 0.05, 0.02):
        with lab.masks.masked(model, lab.prune(model, density=density)):
            curve.append((density, lab.evaluation.drop(dense, lab.evaluate(model, splits.val))))
    mask = lab.prune(model, quality=1.0)
    counted = lab.counts.parameters(model).total
    return [
        "# How much of a neural network can go?\n\nPruning after Han et al. 2015, in 90 minutes",
        "## Why: a weight from DRAM costs more than the arithmetic\n\n"
        + picture(folder, "energy.png", lambda ax: lab.plots.energy(energy, ax=ax))
        + "\n\nA billion weights, 20 times a second: how many watts? **Guess first (00.watts).**",
        f"## The network of today\n\nLeNet-300-100: {counted:,} parameters, "
        f"accuracy on val {dense}\n\nWhich layer has most of the weights?",
        "## Six numbers\n\n`0.9  -0.1  0.4  -0.7  0.05  0.3`\n\nWhich three would you remove? "
        "**Guess first (02.three).**",
        f"## The rule\n\nKeep what is as large as quality × σ, or larger; here "
        f"σ = {lab.criteria.sigma(SIX):.3f}. **Write it (02.keep).**\n\n"
        f"With quality 1 everywhere, {mask.density:.0%} of the weights stay.",
        "## One layer at a time\n\n"
        + picture(folder, "scan.png", lambda ax: lab.plots.sensitivity(scan, ax=ax)),
        "## All layers at once\n\n"
        + picture(folder, "all.png", lambda ax: lab.plots.trade_off(curve, dense=dense, ax=ax)),
        "## The other half: retrain the rest\n\nA pruned weight has a gradient too: "
        "what moves it back? **Guess first (03.back).**\n\n"
        "Who changes the weight last? **Write the step (03.step).**",
        "## The pruned network beats the dense one. Is that pruning?\n\n"
        "What else differs between the two? **Design the control (03.control)**, and compare "
        "image by image.",
        "## What you take away\n\n1. Magnitude is a heuristic, and a good one.\n"
        "2. Layers differ: scan before you cut.\n3. Hold the zeros after the step.\n"
        "4. No loss without a control and an interval.",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for slides and pictures")
    folder = parser.parse_args().out
    head = "---\nmarp: true\npaginate: true\n---\n\n"
    text = head + "\n\n---\n\n".join(slides(folder)) + "\n"
    lab.files.write(folder / "slides.md", text)
    print(f"wrote {folder / 'slides.md'} and its pictures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
