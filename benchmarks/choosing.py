"""Densities chosen layer by layer against densities searched jointly, at the same density of all.

    python benchmarks/choosing.py                  # about three minutes; needs MNIST
    python benchmarks/choosing.py --save           # also write results/choosing.json

The trained LeNets of the package are scanned, pruned by either plan and not retrained. Plans are
chosen on val; the test images are used once for each, to see whether what was chosen holds.
"""

import argparse
import time
from pathlib import Path

from tabulate import tabulate

from pruning_lab import data, evaluation, files, masks, models, provenance, sensitivity

RESULTS = Path(__file__).resolve().parent.parent / "results"
LEVELS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
DENSITIES = (0.2, 0.1, 0.05)
LENETS = ("lenet-300-100", "lenet-5")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--save", action="store_true", help="write results/choosing.json")
    options = parser.parse_args()
    rows = [row for network in LENETS for row in _rows(network, data.load("mnist"))]
    shown = [{name: value for name, value in row.items() if name != "densities"} for row in rows]
    print(tabulate(shown, headers="keys", floatfmt=".4f"))
    if options.save:
        about = {
            "versions": provenance.versions(),
            "machine": provenance.machine(),
            "levels": LEVELS,
        }
        files.save_json(RESULTS / "choosing.json", {**about, "rows": rows})


def _rows(network: str, splits: data.Splits) -> list[dict]:
    model = models.BUILT_IN[network](trained="mnist")
    scan = sensitivity.scan(model, splits.val, LEVELS)
    dense = evaluation.evaluate(model, splits.test)
    rows = []
    for density in DENSITIES:
        for method in ("single", "joint"):
            began = time.perf_counter()
            plan = sensitivity.choose(
                scan, density=density, method=method, model=model, images=splits.val
            )
            seconds = time.perf_counter() - began
            with masks.masked(model, plan.mask(model)):
                pruned = evaluation.evaluate(model, splits.test)
            row = {
                "network": network,
                "density": plan.density,
                "method": method,
                "densities": plan.densities,
                "sum of single drops": plan.predicted,
                **_interval("val", plan.together),
                **_interval("test", evaluation.drop(dense, pruned)),
                "seconds": seconds,
            }
            print({name: row[name] for name in ("network", "method", "val drop", "test drop")})
            rows.append(row)
    return rows


def _interval(split: str, drop: evaluation.Drop) -> dict[str, float]:
    return {f"{split} drop": drop.value, f"{split} low": drop.low, f"{split} high": drop.high}


if __name__ == "__main__":
    main()
