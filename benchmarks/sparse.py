"""Sparse inference against dense: products of AlexNet's last layers, and whole networks.

    python benchmarks/sparse.py --save               # four minutes; threads: 1 and all cores
    python benchmarks/sparse.py --threads 1 --seconds 0.5     # to see that it runs

All sides of a product run in this process, in turn, on the same random numbers; ratios are medians
over the turns, with quartiles. The layers and their densities are those of the paper's Table 4,
the networks' those of Tables 2 to 4; how long a product takes does not depend on its numbers.

- ours: sparse.SparseLinear, what `to_sparse` puts in a layer's place
- scipy: csr_matrix @ x, the best short alternative
- int64: weight.to_sparse_csr() @ x: torch's own indices
- F.linear: torch.nn.functional.linear with the 32-bit CSR weight
"""

import argparse
import copy
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does

import scipy.sparse
import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import nn

from pruning_lab import files, masks, models, paper, provenance, sparse
from pruning_lab.rows import plain
from pruning_lab.sparse.layers import convert_, csr

PATH = Path(__file__).resolve().parent.parent / "results" / "sparse.json"
LAYERS = {"fc6": (9216, 4096, 0.09), "fc7": (4096, 4096, 0.09), "fc8": (4096, 1000, 0.25)}
NETWORKS = {"lenet-300-100": (1, 28, 28), "lenet-5": (1, 28, 28), "alexnet": (3, 227, 227)}
BATCHES = (1, 16)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    threads = sorted({1, os.cpu_count() or 1})
    parser.add_argument("--threads", type=int, nargs="+", default=threads)
    parser.add_argument("--seconds", type=float, default=5.0, help="of turns, for each comparison")
    parser.add_argument("--save", action="store_true", help=f"write results/{PATH.name}")
    options = parser.parse_args()
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
    products, networks = [], []
    with torch.inference_mode():
        for count in options.threads:
            torch.set_num_threads(count)
            products += [product(n, b, options.seconds) for n in LAYERS for b in BATCHES]
            print(tabulate(products[-len(LAYERS) * len(BATCHES) :], headers="keys"), "", sep="\n")
    for count in options.threads:
        torch.set_num_threads(count)
        for name in NETWORKS:
            for batch in BATCHES:
                networks.append(network(name, batch, options.seconds))
                print(networks[-1], flush=True)
    if options.save:
        about = {"versions": provenance.versions(), "machine": provenance.machine()}
        about["versions"]["scipy"] = scipy.__version__
        about["clock"] = time.perf_counter.__name__
        files.save_json(PATH, plain({**about, "products": products, "networks": networks}))


def product(name: str, batch: int, seconds: float) -> dict:
    """A layer at the paper's density; only scipy, which works on one core, leaves out the bias."""
    inputs, outputs, density = LAYERS[name]
    layer = nn.Linear(inputs, outputs)
    masks.prune(nn.Sequential(layer), density=density).apply_(nn.Sequential(layer))
    ours, x = convert_(copy.deepcopy(layer)), torch.randn(batch, inputs)
    short, weight = csr(layer.weight), layer.weight.detach()
    long, other, column = weight.to_sparse_csr(), scipy.sparse.csr_matrix(weight), x.T.contiguous()
    array = column.numpy()
    sides = {
        "dense": lambda: layer(x),
        "ours": lambda: ours(x),
        "scipy": lambda: other @ array,
        "int64": lambda: (long @ column).T + layer.bias,
        "F.linear": lambda: F.linear(x, short) + layer.bias,
    }
    times = in_turn(sides, seconds)
    return {
        "layer": name,
        "batch": batch,
        "threads": torch.get_num_threads(),
        "density": density,
        "dense, ms": sparse.Spread.of(times["dense"]),
        **{
            f"dense / {side}": ratio(times["dense"], times[side])
            for side in sides
            if side != "dense"
        },
        "fastest dense / fastest ours": min(times["dense"]) / min(times["ours"]),
        "turns": len(times["ours"]),
    }


def network(name: str, batch: int, seconds: float) -> dict:
    """The network dense, and as `to_sparse` makes it, timed again after it chose."""
    dense, densities = models.BUILT_IN[name]().eval(), {}
    for row in paper.LAYER_TABLES[name][:-1]:
        densities[row.layer] = row.density
    masks.prune(dense, density=densities).apply_(dense)
    made = sparse.to_sparse(dense, example=NETWORKS[name], batch=batch)
    x = torch.randn(batch, *NETWORKS[name])
    with torch.inference_mode():
        times = in_turn({"dense": lambda: dense(x), "ours": lambda: made(x)}, seconds)
        difference = float((made(x) - dense(x)).abs().max() / dense(x).abs().max())
    return {
        "network": name,
        "batch": batch,
        "threads": torch.get_num_threads(),
        "sparse": [row.layer for row in made.choices[:-1] if row.chosen == "sparse"],
        "dense, ms": sparse.Spread.of(times["dense"]),
        "dense / ours": ratio(times["dense"], times["ours"]),
        "fastest dense / fastest ours": min(times["dense"]) / min(times["ours"]),
        "difference": difference,
        "turns": len(times["ours"]),
    }


def in_turn(sides: dict[str, Callable], seconds: float) -> dict[str, list[float]]:
    """Milliseconds, of turns in which every side runs once; the first turn does not count."""
    times: dict[str, list[float]] = {side: [] for side in sides}
    for work in sides.values():
        work()
    end = time.perf_counter() + seconds
    while len(times["ours"]) < 9 or (len(times["ours"]) < 1000 and time.perf_counter() < end):
        for side, work in sides.items():
            began = time.perf_counter()
            work()
            times[side].append(1e3 * (time.perf_counter() - began))
    return times


def ratio(above: list[float], below: list[float]) -> sparse.Spread:
    return sparse.Spread.of([a / b for a, b in zip(above, below, strict=True)])


if __name__ == "__main__":
    main()
