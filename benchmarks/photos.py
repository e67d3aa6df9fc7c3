"""Finished runs on photos, as the rows of the table in results/README.md.

    pruning-lab run --model alexnet --out runs/alexnet
    python benchmarks/photos.py runs/alexnet runs/alexnet-40x      # or run.json files

Rows go to results/photos.json; one of the same network, data, compression and machine is replaced.
"""

import argparse
from pathlib import Path

from seeds import row
from tabulate import tabulate

from pruning_lab import experiments, files, models
from pruning_lab.rows import decode

RESULTS = Path(__file__).resolve().parent.parent / "results" / "photos.json"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, or their run.json")
    options = parser.parse_args()
    rows = files.load_json(RESULTS)["rows"] if RESULTS.exists() else []
    known = {_key(one): one for one in rows}
    for path in options.runs:
        record = files.load_json(path / "run.json" if path.is_dir() else path)
        new = _with_recipe(record)
        known[_key(new)] = new
    rows = sorted(known.values(), key=lambda one: (one["network"], one["compression"]))
    files.save_json(RESULTS, {"rows": rows})
    shown = [
        {name: one[name] for name in ("network", "data", "dense_error", "error", "compression")}
        for one in rows
    ]
    print(tabulate(shown, headers="keys", floatfmt=".4g"))


def _with_recipe(record: dict) -> dict:
    recipe = decode(experiments.Recipe, record["recipe"], "the run", whole=False)
    layers = {one["layer"]: one["kept"] / one["weights"] for one in record["layers"]["pruned"]}
    peak = max(epoch.get("peak_bytes") or 0 for epoch in record["epochs"])
    return {
        "network": models.describe(recipe.about),
        "data": record["data"]["name"],
        "images": record["data"]["images"],
        **row(record),
        "dense_parameters": record["parameters"]["dense"],
        "densities": layers,
        "peak_bytes": peak,
        "recipe": record["recipe"],
    }


def _key(one: dict) -> tuple:
    return one["network"], one["data"], round(one["compression"]), one["machine"]["device"]


if __name__ == "__main__":
    main()
