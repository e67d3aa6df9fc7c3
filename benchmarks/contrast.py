"""Weights pruned beside neurons removed: LeNet-300-100 at four compressions, with three seeds.

    python benchmarks/contrast.py --save          # about 40 minutes on one core; needs MNIST
    python benchmarks/contrast.py --tiny          # a minute on 5,000 images, to see that it runs

Nothing is chosen by the results, so they are of the test images, used once for each network. The
networks are timed in turn. What was trained stays in the folder of --keep; a call that finds it
resumes. --save writes results/contrast.json and contrast.png, but not of a tiny run.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from pruning_lab import data, experiments, files, plots, provenance
from pruning_lab.rows import plain

PATH = Path(__file__).resolve().parent.parent / "results" / "contrast.json"
COMPRESSIONS = (4, 10, 20, 40)  # the last two have the runs of the frontier


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="two compressions, three short rounds")
    parser.add_argument("--keep", type=Path, help="folder for what is trained")
    parser.add_argument("--save", action="store_true", help=f"write results/{PATH.name}")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    splits, seeds = data.load("mnist-5k" if options.tiny else "mnist"), range(options.seeds)
    factors = COMPRESSIONS[::2] if options.tiny else COMPRESSIONS
    recipes = [experiments.compressed_recipe("lenet-300-100", x, splits.name) for x in factors]
    if options.tiny:
        recipes = [tiny(recipe) for recipe in recipes]
    with TemporaryDirectory() as folder:
        workspace = experiments.Workspace(options.keep or Path(folder), print_note)
        rows = experiments.contrast(splits, recipes=recipes, seeds=seeds, workspace=workspace)
    print(rows, "", *rows.conclusions, sep="\n")
    if options.save and not options.tiny:
        about = {"versions": provenance.versions(), "machine": provenance.machine()}
        about |= {"data": splits.name, "train_sha256": splits.train.fingerprint()}
        about |= {"recipes": recipes, "seeds": [*seeds], "conclusions": rows.conclusions}
        files.save_json(PATH, plain({**about, "rows": rows}))
        left, _ = plots.contrast(rows, title=f"LeNet-300-100, {splits.name}")
        files.write(PATH.with_suffix(".png"), plots.png(left.figure))


def tiny(recipe: experiments.Recipe) -> experiments.Recipe:
    recipe = recipe.trained_with(epochs=1)
    return replace(recipe, rounds=recipe.rounds[3::4], retrain=recipe.retrain[3::4])


def print_note(note: experiments.Note) -> None:
    if note.epoch is None:
        print(f"{note.phase}: {note.text}", flush=True)


if __name__ == "__main__":
    main()
