"""Six saliencies before and after retraining, and OBD's order of deletion, with three seeds.

    python benchmarks/saliencies.py --save          # about 8 minutes on one core; needs MNIST
    python benchmarks/saliencies.py --tiny          # a minute on 5,000 images, to see that it runs

LeNet-300-100 is pruned to equal densities and retrained for two epochs; a small tanh network,
trained on 10,000 images as the first one pruned by OBD was, is not retrained. All is measured on
val. What was trained stays in the folder of --keep; a call that finds it resumes. --save writes
results/saliencies.json, but not of a tiny run.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from pruning_lab import data, experiments, files, provenance
from pruning_lab.rows import plain
from pruning_lab.training import TrainConfig

PATH = Path(__file__).resolve().parent.parent / "results" / "saliencies.json"
DENSITIES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="one epoch on few images")
    parser.add_argument("--keep", type=Path, help="folder for what is trained")
    parser.add_argument("--save", action="store_true", help=f"write results/{PATH.name}")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    splits = data.load("mnist-5k" if options.tiny else "mnist")
    recipe = experiments.paper_recipe("lenet-300-100", "mnist")
    config = TrainConfig(epochs=20, lr=0.05, weight_decay=0.0)
    if options.tiny:
        recipe, config = recipe.trained_with(epochs=1), replace(config, epochs=1)
    workspace = experiments.Workspace(options.keep, print_note)
    seeds = tuple(range(options.seeds))
    how = {"seeds": seeds, "workspace": workspace}
    compared = experiments.saliencies(splits, recipe, densities=DENSITIES, **how)
    print(compared, compared.conclusion, "", sep="\n", flush=True)
    fewer = replace(splits, train=splits.train.head(10_000))
    deleted = experiments.obd_against_magnitude(fewer, config, **how)
    print(deleted, deleted.conclusion, sep="\n")
    if options.save and not options.tiny:
        about = {"versions": provenance.versions(), "machine": provenance.machine()}
        about |= {"data": splits.name, "train_sha256": splits.train.fingerprint(), "seeds": seeds}
        rows = {"recipe": recipe, "conclusion": compared.conclusion, "rows": compared}
        orders = {"config": config, "images": fewer.train.n, "conclusion": deleted.conclusion}
        found = {"saliencies": rows, "deleted": {**orders, "rows": deleted}}
        files.save_json(PATH, plain({**about, **found}))


def print_note(note: experiments.Note) -> None:
    if note.epoch is None:
        print(f"{note.phase}: {note.text}", flush=True)


if __name__ == "__main__":
    main()
