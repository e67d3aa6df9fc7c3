"""The same run with several seeds: the rows of the README's tables.

    python benchmarks/seeds.py --model lenet-5 --seeds 5
    python benchmarks/seeds.py --model lenet-5 --seeds 5 --compression 108

Each run uses the test split once. Rows are written to results/ after every seed, so an interrupted
call resumes where it stopped. Several calls can share a machine: one thread each.
"""

import argparse
import statistics
from dataclasses import asdict
from pathlib import Path

import torch

from pruning_lab import data, experiments, files

RESULTS = Path(__file__).resolve().parent.parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", choices=("lenet-300-100", "lenet-5"), required=True)
    parser.add_argument("--compression", type=float, help="parameters before / after (the paper's)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for the files of every run")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    splits = data.load("mnist")
    if options.compression is None:
        recipe, name = experiments.paper_recipe(options.model), options.model
    else:
        recipe = experiments.compressed_recipe(options.model, options.compression)
        name = f"{options.model}-{options.compression:g}x"
    path = RESULTS / f"{name}.json"
    rows = files.load_json(path)["rows"] if path.exists() else []
    for seed in range(len(rows), options.seeds):
        folder = options.keep / f"{name}-{seed}" if options.keep else None
        if folder and (folder / "run.json").exists():  # done before, or on the other core
            record = experiments.Run.load(folder).record
        else:
            record = experiments.run(recipe, splits, seed=seed, folder=folder).record
        rows.append(row(record))
        about = {"data": record["data"], "recipe": asdict(recipe)}
        files.save_json(path, {**about, "median": _median(rows), "rows": rows})
        print(
            f"{name} seed {seed}: {_line(rows[-1])}; median of {len(rows)}: {_line(_median(rows))}",
            flush=True,
        )


def row(record: dict) -> dict:
    test = record["test"]
    kept = {row["layer"]: row["kept"] for row in record["layers"]["pruned"]}
    return {
        "seed": record["seed"],
        "dense_error": 1 - test["dense"]["value"],
        "dense_interval": [1 - test["dense"]["high"], 1 - test["dense"]["low"]],
        "error": 1 - test["pruned"]["value"],
        "interval": [1 - test["pruned"]["high"], 1 - test["pruned"]["low"]],
        "change": test["drop"],
        "parameters": record["parameters"]["pruned"],
        "compression": record["parameters"]["dense"] / record["parameters"]["pruned"],
        "weights": kept,
        "seconds": record["seconds"],
        "versions": record["versions"],
        "machine": record["machine"],
    }


def _median(rows: list[dict]) -> dict:
    columns = ("dense_error", "error", "parameters", "compression")
    return {name: statistics.median(row[name] for row in rows) for name in columns}


def _line(row: dict) -> str:
    return (
        f"dense error {row['dense_error']:.2%}, pruned {row['error']:.2%}, "
        f"{row['parameters']:,.0f} parameters ({row['compression']:.1f}x)"
    )


if __name__ == "__main__":
    main()
