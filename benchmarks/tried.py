"""What was tried to lose less at a high compression, on the validation images.

    python benchmarks/tried.py lenet-300-100 --save      # at 20x: about 40 minutes on one core
    python benchmarks/tried.py lenet-5 --save            # at 310x: about an hour
    python benchmarks/tried.py lenet-300-100 --tiny      # a minute on 5,000 images, to see it run

Each way changes one thing of the recipe of `pruning-lab run --compression`. Trying is choosing, so
the test split is not looked at. What was trained stays in the folder of --keep; a call that finds
it resumes. --save adds the network's rows to results/tried.json, but not those of a tiny run.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import Tensor, nn

from pruning_lab import data, evaluate, experiments, files, provenance, retraining
from pruning_lab.evaluation import drop, pooled
from pruning_lab.experiments.figures import trained
from pruning_lab.rows import plain

PATH = Path(__file__).resolve().parent.parent / "results" / "tried.json"
COMPRESSION = {"lenet-300-100": 20, "lenet-5": 219.1}  # of all parameters; 20.6x, 310x of weights


def ways(network: str, data_name: str) -> dict[str, experiments.Recipe]:
    """What is tried, by name; the first is what all others are compared with."""
    base = experiments.compressed_recipe(network, COMPRESSION[network], data_name)
    base = base.trained_with(bf16=network == "lenet-5")
    *short, last = base.retrain
    density = base.rounds[-1]["density"]
    few = tuple({**base.rounds[-1], "density": density ** (n / 3)} for n in (1, 2, 3))
    lamp = tuple({**amounts, "across": "lamp"} for amounts in base.rounds)
    obd = tuple({**amounts, "saliency": "obd"} for amounts in base.rounds)
    longer = [replace(config, epochs=2 * config.epochs) for config in short]
    return {
        "twelve rounds": base,
        "three rounds": replace(base, rounds=few, retrain=(*short[:2], last)),
        "gradually, in one training": replace(base, rounds=base.rounds[-1:], retrain=(last,)),
        "ranked by LAMP": replace(base, rounds=lamp),
        "ranked by OBD": replace(base, rounds=obd),
        "distilled from the control": base,
        "weight decay 3e-4": base.trained_with(weight_decay=3e-4),
        "weight decay 1e-5": base.trained_with(weight_decay=1e-5),
        "twice the learning rate": base.trained_with(lr=2 * last.lr),
        "images as they are": base.unaugmented(),
        "rounds twice as long": replace(base, retrain=(*longer, last)),
        "last round twice as long": replace(
            base, retrain=(*short, replace(last, epochs=2 * last.epochs))
        ),
    }


class Distilled:
    """A loss half of whose logits' targets come from a teacher, at a temperature of 4."""

    def __init__(self, model: nn.Module, teacher: nn.Module):
        self.teacher, self.inputs = teacher.eval(), None
        model.register_forward_pre_hook(self.remember)

    def fingerprint(self) -> str:
        return "distilled from the control"

    def remember(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.inputs = inputs[0]

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            target = F.log_softmax(self.teacher(self.inputs) / 4, dim=1)
        ours = F.log_softmax(logits / 4, dim=1)
        soft = 16 * F.kl_div(ours, target, log_target=True, reduction="batchmean")
        return F.cross_entropy(logits, y) / 10 + 9 * soft / 10


def measured(way: str, recipe, splits, seed: int, workspace) -> dict:
    """The pruned network and its control, of one seed, on val."""
    own = recipe.seeded(seed)
    about = {"recipe": own, "seed": seed, "train": splits.train.fingerprint()}

    def network(way: str, recipe):
        model = trained(recipe, splits, seed=seed, workspace=workspace)

        def training(folder: Path | None) -> Iterator:
            configs, options = recipe.retrain, {"checkpoints": folder}
            if way.startswith("gradually"):
                return retraining.gradual(
                    model, splits.train, *configs, **recipe.rounds[0], **options
                )
            if way.startswith("distilled"):
                options["loss"] = Distilled(model, control)
            return retraining.iterative(model, splits.train, configs, recipe.rounds, **options)

        return workspace.network({**about, "way": way, "rounds": recipe.rounds}, model, training)

    control = network("control", recipe.control)
    model = network(way if way in SPECIAL else "rounds", recipe)
    print(f"{way}, seed {seed}: {1 - evaluate(model, splits.val).value:.2%}", flush=True)
    return {"control": evaluate(control, splits.val), "pruned": evaluate(model, splits.val)}


SPECIAL = ("gradually, in one training", "distilled from the control")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("network", choices=tuple(COMPRESSION))
    parser.add_argument("--ways", nargs="*", help="only these, after the first")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="5,000 images, one epoch a round")
    parser.add_argument("--keep", type=Path, help="folder for what is trained")
    parser.add_argument("--save", action="store_true", help=f"write results/{PATH.name}")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    splits = data.load("mnist-5k" if options.tiny else "mnist")
    workspace, seeds = experiments.Workspace(options.keep), range(options.seeds)

    recipes, rows, first = ways(options.network, splits.name), [], None
    for way, recipe in recipes.items():
        if first and options.ways and way not in options.ways:
            continue
        if options.tiny:
            recipe = recipe.trained_with(epochs=1)
        found = [measured(way, recipe, splits, seed, workspace) for seed in seeds]
        ours, controls = [one["pruned"] for one in found], [one["control"] for one in found]
        first = first or ours
        rows.append(
            {
                "way": way,
                "epochs": sum(config.epochs for config in recipe.retrain),
                "seeds": len(found),
                "error": fmean(1 - one.value for one in ours),
                "control_error": fmean(1 - one.value for one in controls),
                "cost": pooled([*map(drop, controls, ours)]),
                "change": None if ours is first else pooled([*map(drop, first, ours)]),
            }
        )
        if options.save and not options.tiny:
            about = {"versions": provenance.versions(), "machine": provenance.machine()}
            about |= {"data": splits.name, "of_parameters": COMPRESSION[options.network]}
            about["of_weights"] = 1 / recipes["twelve rounds"].rounds[-1]["density"]
            results = files.load_json(PATH) if PATH.exists() else {}
            files.save_json(PATH, plain({**results, options.network: {**about, "rows": rows}}))
    cells = [[row["way"], f"{row['error']:.2%}", row["cost"], row["change"]] for row in rows]
    print(tabulate(cells, ["way", "error", "change from the control", "from the first"]))


if __name__ == "__main__":
    main()
