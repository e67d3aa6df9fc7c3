"""The paper's techniques arm by arm, at its densities and at a fifth of them, with three seeds.

    python benchmarks/techniques.py --save          # about 25 minutes on one core; needs MNIST
    python benchmarks/techniques.py --tiny          # a minute on 5,000 images, to see that it runs

LeNet-5 is trained in bfloat16. Nothing is chosen by the results, so they are of the test images,
used once for each network. What was trained stays in the folder of --keep; a call that finds it
resumes. --save writes results/techniques.json, but not of a tiny run.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from pruning_lab import data, experiments, files, provenance
from pruning_lab.experiments.techniques import Techniques, technique_recipes, techniques
from pruning_lab.rows import plain

PATH = Path(__file__).resolve().parent.parent / "results" / "techniques.json"
FRACTIONS = (1.0, 0.2)  # of the densities that the paper reports


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="narrow networks, one epoch a round")
    parser.add_argument("--keep", type=Path, help="folder for what is trained")
    parser.add_argument("--save", action="store_true", help=f"write results/{PATH.name}")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    splits = data.load("mnist-5k" if options.tiny else "mnist")
    workspace = experiments.Workspace(options.keep, print_note)
    rows, recipes = [], {}
    for fraction in FRACTIONS:
        recipes[fraction] = technique_recipes(splits.name, fraction)
        recipes[fraction]["freezing"] = recipes[fraction]["freezing"].trained_with(bf16=True)
        if options.tiny:
            recipes[fraction] = {name: tiny(r) for name, r in recipes[fraction].items()}
        seeds = range(options.seeds)
        rows += techniques(splits, recipes=recipes[fraction], seeds=seeds, workspace=workspace)
    rows = Techniques(rows)
    print(rows, "", *rows.conclusions, sep="\n")
    if options.save and not options.tiny:
        about = {"versions": provenance.versions(), "machine": provenance.machine()}
        about |= {"data": splits.name, "train_sha256": splits.train.fingerprint()}
        about |= {"recipes": recipes, "seeds": [*seeds], "conclusions": rows.conclusions}
        files.save_json(PATH, plain({**about, "rows": rows}))


def tiny(recipe: experiments.Recipe) -> experiments.Recipe:
    return replace(recipe.trained_with(epochs=1), shape={**recipe.shape, "width": 0.1})


def print_note(note: experiments.Note) -> None:
    if note.epoch is None:
        print(f"{note.phase}: {note.text}", flush=True)
    elif note.epoch.epoch == note.epoch.epochs:
        print(f"{note.phase}: {note.epoch}", flush=True)


if __name__ == "__main__":
    main()
