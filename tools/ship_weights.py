"""Make a dense network the one that ships with the package.

Of a finished run, or of a file of `pruning-lab train`:

    pruning-lab run --model lenet-5 --data mnist --out runs/lenet-5
    python tools/ship_weights.py runs/lenet-5

    pruning-lab train --model alexnet --data imagenette --epochs 20 --out alexnet.safetensors
    python tools/ship_weights.py alexnet.safetensors --epochs 20

Writes pruning_lab/weights/NETWORK-DATA.safetensors, and beside it a manifest. Networks for photos
are stored as float16, half as large; their accuracies are those of the rounded weights.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from pruning_lab import data, evaluation, experiments, files, models, provenance
from pruning_lab.rows import plain

WEIGHTS = Path(__file__).resolve().parent.parent / "pruning_lab" / "weights"


def of_run(folder: Path) -> tuple[torch.nn.Module, dict, dict]:
    """The dense network of a run, what its file says, and the rest of the manifest."""
    run = experiments.Run.load(folder)
    record = run.record
    about = {"network": record["recipe"]["network"], "data": record["data"]["name"]}
    about["seed"] = record["seed"]
    return (
        run.dense,
        about,
        {
            "command": "pruning-lab run --model {network} --data {data} --seed {seed}",
            "config": record["recipe"]["dense"],
            "data": record["data"],
            "val": record["dense_val"],
            "test": record["test"]["dense"],
            "seconds": record["seconds"]["train"],
            "versions": record["versions"],
            "machine": record["machine"],
        },
    )


def of_file(path: Path, epochs: int) -> tuple[torch.nn.Module, dict, dict]:
    """The same of a network for photos that was trained for so many epochs, as float16."""
    model, about = models.load(path)
    about = {name: entry for name, entry in about.items() if name != "root"}
    for parameter in model.parameters():
        parameter.data.copy_(parameter.data.half())  # rounded: what is measured is what ships
    splits = data.load(about["data"], size=about["size"])
    recipe = experiments.paper_recipe(about["network"], about["data"], shape_of(about))
    command = f"pruning-lab train --model {{network}} --data {{data}} --epochs {epochs}"
    parts = {name: getattr(splits, name) for name in ("train", "val", "test")}
    measured = {n: plain(evaluation.evaluate(model, parts[n])) for n in ("val", "test")}
    return (
        model.half(),
        about,
        {
            "command": f"{command} --seed {{seed}}",
            "shape": shape_of(about),
            "config": plain(replace(recipe.dense, epochs=epochs, seed=about["seed"])),
            "data": {
                "name": splits.name,
                "images": {name: part.n for name, part in parts.items()},
                "train_sha256": splits.train.fingerprint(),
            },
            **measured,
            "versions": provenance.versions(),
            "machine": provenance.machine(),
        },
    )


def shape_of(about: dict) -> dict:
    return {name: about[name] for name in ("classes", "width", "size", "dropout")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trained", type=Path, help="folder of a run, or file of a network")
    parser.add_argument("--epochs", type=int, help="of a file: what it was trained for")
    options = parser.parse_args()
    if options.trained.is_dir():
        model, about, manifest = of_run(options.trained)
    elif options.epochs is None:
        parser.error("say with --epochs how long the network in this file was trained")
    else:
        model, about, manifest = of_file(options.trained, options.epochs)
    path = WEIGHTS / f"{about['network']}-{about['data']}.safetensors"
    models.save(path, model, about=about)
    manifest["command"] = manifest["command"].format(**about)
    named = {"network": about["network"], "sha256": files.sha256(path.read_bytes())}
    files.save_json(path.with_suffix(".json"), {**named, "seed": about["seed"], **manifest})
    error = 1 - manifest["test"]["value"]
    print(f"wrote {path.name}, {path.stat().st_size / 1e6:.1f} MB: test error {error:.2%}")


if __name__ == "__main__":
    main()
