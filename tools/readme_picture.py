"""The README's picture, from a finished run of LeNet-300-100.

pruning-lab run --data mnist --out runs/lenet-300-100
python tools/readme_picture.py runs/lenet-300-100
"""

import sys
from pathlib import Path

from matplotlib.figure import Figure

from pruning_lab import experiments, plots

TARGET = Path(__file__).resolve().parent.parent / "results" / "lenet-300-100.png"


def main(folder: str) -> None:
    run = experiments.Run.load(folder)
    kept = run.mask["fc1"]
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.1))
    left, middle, right = above.subplots(1, 3, width_ratios=(1, 1, 0.8))
    plots.weights(run.dense.fc1.weight, title="fc1, dense", ax=left)
    plots.weights(run.model.fc1.weight, kept=kept, title="pruned and retrained", ax=middle)
    plots.kept_pixels(kept, title="what each pixel still feeds", ax=right)
    title = f"fc1 with {kept.float().mean():.0%} of its weights, one band per row of pixels"
    plots.bands(kept, title=title, ax=below.subplots())
    figure.savefig(TARGET, dpi=110)
    print(f"wrote {TARGET.name}")


if __name__ == "__main__":
    main(*sys.argv[1:])
