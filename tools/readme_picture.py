"""The pictures of the pages: a finished run of LeNet-300-100; frontier, saliencies, techniques.

pruning-lab run --data mnist --out runs/lenet-300-100
python tools/readme_picture.py runs/lenet-300-100
python tools/readme_picture.py
"""

import sys
from pathlib import Path

from matplotlib.figure import Figure
from readme_tables import frontier_rows, saliency_rows, technique_rows

from pruning_lab import experiments, plots

RESULTS = Path(__file__).resolve().parent.parent / "results"


def main(folder: str | None = None) -> None:
    if folder:
        save(first_layer(experiments.Run.load(folder)), "lenet-300-100.png")
    else:
        figure = Figure(figsize=(10, 4.8), layout="constrained")
        plots.frontier(frontier_rows(), ax=figure.subplots())
        save(figure, "frontier.png")
        for which, name in (("saliencies", "saliencies.png"), ("deleted", "deletions.png")):
            figure = Figure(figsize=(10, 4.5), layout="constrained")
            plots.saliencies(saliency_rows(which), figure=figure)
            save(figure, name)
        figure = Figure(figsize=(9, 8), layout="constrained")
        plots.techniques(technique_rows(), ax=figure.subplots())
        save(figure, "techniques.png")


def save(figure: Figure, name: str) -> None:
    figure.savefig(RESULTS / name, dpi=110)
    print(f"wrote {name}")


def first_layer(run: experiments.Run) -> Figure:
    """Its weights before and after, and which pixels it still looks at."""
    kept = run.mask["fc1"]
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.1))
    left, middle, right = above.subplots(1, 3, width_ratios=(1, 1, 0.8))
    plots.weights(run.dense.fc1.weight, title="fc1, dense", ax=left)
    plots.weights(run.model.fc1.weight, kept=kept, title="pruned and retrained", ax=middle)
    plots.kept_pixels(kept, title="what each pixel still feeds", ax=right)
    title = f"fc1 with {kept.float().mean():.0%} of its weights, one band per row of pixels"
    plots.bands(kept, title=title, ax=below.subplots())
    return figure


if __name__ == "__main__":
    main(*sys.argv[1:])
