"""Runs with several seeds and their controls: the rows of the README's tables.

    python benchmarks/seeds.py --model lenet-5
    python benchmarks/seeds.py --model lenet-5 --compression 108 40
    python benchmarks/seeds.py --model alexnet --folder runs --threads 2

Each run uses the test split once. Rows are written to results/frontier/ after every seed. With
--folder, networks are kept there: an interrupted call resumes, and recipes that train the same
control train it once. Several calls can share a machine: one thread each.
"""

import argparse
from pathlib import Path

import torch

from pruning_lab import data, experiments, files
from pruning_lab.rows import plain

RESULTS = Path(__file__).resolve().parent.parent / "results" / "frontier"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", choices=("lenet-300-100", "lenet-5", *experiments.REDUCED))
    parser.add_argument(
        "--compression", type=float, nargs="*", help="all parameters, before / after (the paper's)"
    )
    parser.add_argument("--unaugmented", action="store_true", help="train on images as they are")
    parser.add_argument("--bf16", action="store_true", help="autocast, as pruning-lab run --bf16")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="folder for the files of every run")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    shape = experiments.REDUCED.get(options.model, {})
    splits = data.load("imagenette" if shape else "mnist", **({"size": 64} if shape else {}))
    shape = {**shape, "classes": 10} if shape else {}
    workspace = experiments.Workspace(options.folder)
    for compression in options.compression or [None]:
        if compression is None:
            recipe = experiments.paper_recipe(options.model, splits.name, shape)
        else:
            ask = options.model, compression, splits.name, shape
            recipe = experiments.compressed_recipe(*ask)
        name = options.model + ("" if compression is None else f"-{compression:g}x")
        if options.unaugmented:
            recipe, name = recipe.unaugmented(), f"{name}-unaugmented"
        if options.bf16:
            recipe = recipe.trained_with(bf16=True)
        measure(recipe, splits, name, options.seeds, workspace)


def measure(recipe, splits, name: str, seeds: int, workspace) -> None:
    """The runs of one recipe, and its file."""
    path, records = RESULTS / f"{name}.json", []
    done = files.load_json(path)["runs"] if path.exists() else []
    for seed in range(seeds):
        if seed < len(done):
            records.append(done[seed])
        else:
            record = workspace.run(recipe, splits, seed=seed).record
            layers = {"pruned": record["layers"]["pruned"]}
            records.append({part: record[part] for part in PARTS} | {"layers": layers})
        row = experiments.row_of([{**record, "recipe": plain(recipe)} for record in records])
        about = {"recipe": recipe, "row": row, "runs": records}
        files.save_json(path, plain(about))
        print(f"{name}, seed {seed}\n{experiments.Frontier([row])}", flush=True)


PARTS = ("seed", "data", "test", "parameters", "seconds", "versions", "machine")


if __name__ == "__main__":
    main()
