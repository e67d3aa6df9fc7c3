"""Figure 5 of the paper, of LeNet-300-100 on MNIST; and the factors of L1 and L2 that were tried.

    python benchmarks/figure_5.py --save            # about 13 minutes on one core; needs MNIST
    python benchmarks/figure_5.py --tiny            # a minute on 5,000 images, to see that it runs

The factors are compared on val, by dense networks; the curves are measured on the test images. What
was trained stays in the folder of --keep; a call that finds it resumes. --save writes
results/figure-5.json and figure-5.png, but not of a tiny run.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch
from matplotlib.figure import Figure

from pruning_lab import data, evaluation, experiments, files, plots, provenance
from pruning_lab.experiments import penalties
from pruning_lab.rows import plain

PATH = Path(__file__).resolve().parent.parent / "results" / "figure-5.json"
FACTORS = {"l1": (1e-5, 3e-5, 1e-4, 2e-4, 4e-4), "weight_decay": (1e-4, 3e-4, 1e-3, 2e-3, 4e-3)}
CHOSEN = {"l1": penalties.L1, "weight_decay": penalties.L2}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="two epochs on 5,000 images")
    parser.add_argument("--keep", type=Path, help="folder for what is trained")
    parser.add_argument("--factors", action="store_true", help="only compare the factors")
    parser.add_argument("--save", action="store_true", help=f"write results/{PATH.name}")
    options = parser.parse_args()
    torch.set_num_threads(1)  # more are slower for these small matrices

    splits = data.load("mnist-5k" if options.tiny else "mnist")
    recipe = experiments.paper_recipe("lenet-300-100", splits.name)
    if options.tiny:
        recipe = replace(recipe, dense=replace(recipe.dense, epochs=2))
    workspace = experiments.Workspace(options.keep)
    tried = list(factors(recipe, splits, workspace))
    for name, chosen in CHOSEN.items():
        errors = {row["factor"]: row["error"] for row in tried if row["penalty"] == name}
        strong = max(factor for factor in errors if errors[factor] <= min(errors.values()) + 0.001)
        print(f"{name}: the strongest within 0.1 point of the best is {strong:g}; used: {chosen:g}")
    if options.factors:
        return
    figure = experiments.figure_5(splits, recipe, seeds=range(options.seeds), workspace=workspace)
    print(figure.caption, figure, *figure.sentences, sep="\n")
    if options.save and not options.tiny:
        about = {"versions": provenance.versions(), "machine": provenance.machine()}
        about |= {"data": splits.name, "train_sha256": splits.train.fingerprint()}
        about |= {"recipe": recipe, "seeds": options.seeds, "caption": figure.caption}
        about |= {"factors": tried, "sentences": figure.sentences, "rows": figure}
        files.save_json(PATH, plain({**about, "comparisons": figure.comparisons}))
        with plots.style():
            ax = Figure(figsize=(8, 5)).subplots()
        files.write(PATH.with_suffix(".png"), plots.png(plots.penalties(figure, ax=ax).figure))


def factors(recipe, splits, workspace) -> Iterator[dict]:
    """A row for each factor: the dense network's error on val, a mean of two seeds."""
    for penalty, values in FACTORS.items():
        for factor in values:
            dense = replace(recipe.dense, **{"l1": 0.0, "weight_decay": 0.0, penalty: factor})
            own, errors = replace(recipe, dense=dense), []
            for seed in (0, 1):
                model = experiments.trained(own, splits, seed=seed, workspace=workspace)
                errors.append(evaluation.evaluate(model, splits.val).error)
            row = {"penalty": penalty, "factor": factor, "error": fmean(errors), "errors": errors}
            print(f"{penalty:12} {factor:<8g} val error {row['error']:.2%}", flush=True)
            yield row


if __name__ == "__main__":
    main()
