"""Scan speed: 9 densities of every layer, against three loops that a user might write, and a bound.

    python benchmarks/scan.py                          # an hour on two cores; needs MNIST
    python benchmarks/scan.py --only lenet-300-100     # two minutes
    python benchmarks/scan.py --sides ours short --turns 5 --busy     # minutes
    python benchmarks/scan.py --only alexnet --images 20 --turns 1     # only to see it work

All sides run in this process, in turn, and count the same answers. Ratios are medians over the
turns. The bound is what a scan that computes nothing twice would take if all its operations ran at
the rate of the best matrix product measured between the sides.

- ours: sensitivity.scan, all of it
- short: a good programmer's 25 lines: what enters each layer is kept, a pool of workers with one
  thread each, channels last
- usual: torch.nn.utils.prune on a copy, evaluated with a DataLoader
- plain: tensors made once, then a full forward pass for every cell
"""

import argparse
import copy
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune
from torch.utils.data import DataLoader, Subset
from training import beside_a_busy_process

from pruning_lab import counts, criteria, data, files, masks, models, provenance, sensitivity

RESULTS = Path(__file__).resolve().parent.parent / "results"
DENSITIES = [0.9, 0.7, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05, 0.02]
LENETS = ("lenet-300-100", "lenet-5")
SIDES = ("ours", "short", "usual", "plain")
Cell = tuple[str, float]  # a layer and its density


@dataclass
class Case:
    """A network and its images, for us and for the others."""

    name: str
    model: nn.Module
    read: Callable[[], data.Split]  # its time belongs to ours and to plain tensors
    loader: DataLoader | None  # of the usual loop; None where there are no files to load

    @property
    def cells(self) -> list[Cell]:
        return [(layer, density) for layer in masks.prunable(self.model) for density in DENSITIES]


def main() -> None:
    cases = {**dict.fromkeys(LENETS, mnist), "alexnet": photos, "alexnet, half width": photos}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", choices=cases, action="append", help="may be given again")
    parser.add_argument("--sides", choices=SIDES, nargs="+", default=SIDES)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument(
        "--usual-cells", type=int, default=9, help="of the usual loop, evenly spread, then scaled"
    )
    parser.add_argument("--images", type=int, help="fewer than 10,000 (MNIST) or 500 (photos)")
    parser.add_argument("--busy", action="store_true", help="beside another busy process")
    parser.add_argument("--save", action="store_true", help="into results/scan-speed.json")
    options = parser.parse_args()
    rows = []
    for name in options.only or cases:
        case = cases[name](name, options.images)
        with beside_a_busy_process() if options.busy else nullcontext():
            rows.append(measure(case, options.sides, options.turns, options.usual_cells))
        print(tabulate(rows[-1].items(), floatfmt=".3f"), "", sep="\n", flush=True)
    if options.save:
        path = RESULTS / "scan-speed.json"
        name = "rows" if set(options.sides) == set(SIDES) else "short"
        name += ", busy" if options.busy else ""
        kept = files.load_json(path) if path.exists() else {}
        about = {
            "versions": provenance.versions(),
            "machine": provenance.machine(),
        }
        measured = {row["network"]: row for row in [*kept.get(name, []), *rows]}
        files.save_json(path, {**kept, **about, name: list(measured.values())})


def measure(case: Case, sides: list[str], turns: int, usual_cells: int) -> dict:
    flops = _flops(case)
    usual_cells = min(usual_cells, len(case.cells))
    spread = [case.cells[i * len(case.cells) // usual_cells] for i in range(usual_cells)]
    split, strategies = case.read(), set()
    works: dict[str, Callable[[], dict[Cell, int]]] = {
        "ours": lambda: ours(case, strategies),
        "short": lambda: short(case),
        "usual": lambda: usual(case, spread),
        "plain": lambda: plain(case),
    }
    works = {name: works[name] for name in sides if name != "usual" or case.loader is not None}
    seconds: dict[str, list[float]] = {name: [] for name in (*works, "bound")}
    rates, differ = [], 0
    for _ in range(turns):
        rate, found = _sgemm(), {}
        for name, work in works.items():
            scale = len(case.cells) / usual_cells if name == "usual" else 1
            found[name] = _timed(seconds[name], work, scale)
            rate = max(rate, _sgemm())
        rates.append(rate)
        seconds["bound"].append(flops * split.n / rate)
        for counted in found.values():
            differ = max(differ, *(abs(n - found["ours"][cell]) for cell, n in counted.items()))

    def ratio(above: str, below: str) -> float:
        pairs = zip(seconds[above], seconds[below], strict=True)
        return statistics.median(a / b for a, b in pairs)

    others = [name for name in works if name != "ours"]
    return {
        "network": case.name,
        "images": split.n,
        "layers x levels": f"{len(case.cells) // len(DENSITIES)} x {len(DENSITIES)}",
        "how": ", ".join(sorted(strategies)),
        **{f"{side}, s": statistics.median(times) for side, times in seconds.items()},
        "usual, cells measured": f"{usual_cells} of {len(case.cells)}",
        "GFLOP": flops * split.n / 1e9,
        "sgemm, GFLOP/s": statistics.median(rates) / 1e9,
        **{f"{name} / ours": ratio(name, "ours") for name in others},
        "ours / bound": ratio("ours", "bound"),
        "right answers more or fewer, most in a cell": differ,
        "turns": turns,
    }


# ------------------------------------------------------------------------------------- networks


def mnist(name: str, count: int | None) -> Case:
    """All test images; they pose as val, since here nothing is chosen: only the speed matters."""
    from torchvision import datasets, transforms

    split = replace(data.load("mnist").test, name="val").head(count or 10_000)
    transform = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((split.mean / 255,), (split.std / 255,))]
    )
    root = os.environ.get("PRUNING_LAB_DATA", "data")
    images = Subset(datasets.MNIST(root, train=False, transform=transform), range(split.n))
    model = models.BUILT_IN[name](trained="mnist")
    return Case(name, model, lambda: split, DataLoader(images, 512))


def photos(name: str, count: int | None) -> Case:
    """AlexNet on Imagenette at 128 px; noise of that size where the photos are not there.

    Its weights are random: how long a product takes does not depend on what is multiplied.
    """
    from torchvision import datasets, transforms
    from torchvision.models import alexnet

    torch.manual_seed(0)
    count, size, mean, std = count or 500, 128, 0.45, 0.225
    model = alexnet(num_classes=10)
    if "half" in name:
        model = models.alexnet_torchvision(classes=10, width=0.5, size=size)
    folder = Path(os.environ.get("PRUNING_LAB_DATA", "data")) / "imagenette2-160" / "val"
    if not folder.is_dir():
        noise = torch.randint(256, (count, 3, size, size), dtype=torch.uint8)
        split = _as_val(noise, torch.randint(10, (count,)), mean, std)
        return Case(f"{name}, noise", model, lambda: split, None)
    resize = transforms.Resize((size, size))
    usual = [resize, transforms.ToTensor(), transforms.Normalize((mean,) * 3, (std,) * 3)]
    small = transforms.Compose([resize, transforms.PILToTensor()])
    images = datasets.ImageFolder(folder, transforms.Compose(usual))
    chosen = [i * len(images) // count for i in range(count)]  # the folder is sorted by class

    def read() -> data.Split:
        pixels, labels = zip(*Subset(datasets.ImageFolder(folder, small), chosen), strict=True)
        return _as_val(torch.stack(pixels), torch.tensor(labels), mean, std)

    return Case(name, model, read, DataLoader(Subset(images, chosen), 512))


def _as_val(pixels: Tensor, labels: Tensor, mean: float, std: float) -> data.Split:
    return data.Split("val", pixels, labels, mean=255 * mean, std=255 * std, batch_size=50)


# ---------------------------------------------------------------------------------------- sides


def ours(case: Case, strategies: set[str]) -> dict[Cell, int]:
    """sensitivity.scan, all of it; `strategies` collects how the network was evaluated."""
    scan = sensitivity.scan(
        case.model,
        case.read(),
        DENSITIES,
        notify=lambda progress: strategies.add(progress.how),
    )
    asked = zip(scan, (cell for layer in scan.layers for cell in _levels(layer)), strict=True)
    return {cell: round(point.accuracy.value * point.accuracy.n) for point, cell in asked}


def short(case: Case) -> dict[Cell, int]:
    """Nothing before a layer is computed twice; each worker has one thread and its own copy."""
    own = threading.local()

    def begin() -> None:
        torch.set_num_threads(1)
        own.model = copy.deepcopy(case.model).eval()

    def count(batch: tuple[Tensor, Tensor]) -> dict[Cell, int]:
        x, y = batch
        found, entering = {}, {}
        with torch.inference_mode():
            steps = list(_steps(own.model))
            if x.dim() == 4:
                x = x.contiguous(memory_format=torch.channels_last)
            for place, (_, step) in enumerate(steps):
                entering[place] = x
                x = step(x)
            for place, (layer, _) in enumerate(steps):
                for density, weight in cuts.get(layer, {}).items():
                    suffix = nn.Sequential(*(step for _, step in steps[place:]))
                    changed = {"0.weight": weight}
                    answer = torch.func.functional_call(suffix, changed, (entering[place],))
                    found[layer, density] = int((answer.argmax(1) == y).sum())
        return found

    cuts = {
        name: _cuts(layer.weight.detach()) for name, layer in masks.prunable(case.model).items()
    }
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads, initializer=begin) as pool:
        parts = list(pool.map(count, case.read()))
    torch.set_num_threads(threads)
    return {cell: sum(part[cell] for part in parts) for cell in case.cells}


def _cuts(weight: Tensor) -> dict[float, Tensor]:
    chosen = criteria.by_densities(weight.abs(), DENSITIES)
    return {d: weight * kept for d, (kept, _) in zip(DENSITIES, chosen, strict=True)}


def _steps(model: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The layers of nested lists, in order; between the parts of AlexNet images are flattened."""
    for name, child in model.named_children():
        if path == "" and name == "classifier":
            yield "", nn.Flatten()
        if isinstance(child, nn.Sequential):
            yield from _steps(child, f"{name}.")
        else:
            yield path + name, child


def usual(case: Case, cells: list[Cell]) -> dict[Cell, int]:
    """What most people write: torch.nn.utils.prune on a copy, evaluated with a DataLoader."""
    found = {}
    for layer, density in cells:
        model = _plain_layout(copy.deepcopy(case.model)).eval()
        torch_prune.l1_unstructured(model.get_submodule(layer), "weight", amount=1 - density)
        with torch.no_grad():
            found[layer, density] = sum(_right(model, x, y) for x, y in case.loader)
    return found


def plain(case: Case) -> dict[Cell, int]:
    """No DataLoader and no copies: tensors made once, then a full forward pass for every cell."""
    found = {}
    model = _plain_layout(copy.deepcopy(case.model)).eval()
    with torch.no_grad():
        batches = list(replace(case.read(), batch_size=500))
        for layer, density in case.cells:
            weight = model.get_submodule(layer).weight
            dense = weight.clone()
            saliency = dense.abs()
            threshold = saliency.flatten().topk(round(density * dense.numel())).values[-1]
            weight.mul_(saliency >= threshold)
            found[layer, density] = sum(_right(model, x, y) for x, y in batches)
            weight.copy_(dense)
    return found


def _levels(layer: str) -> list[Cell]:
    return [(layer, density) for density in DENSITIES]


def _plain_layout(model: nn.Module) -> nn.Module:
    """As torch makes convolutions; our LeNet-5 comes in channels last."""
    return model.to(memory_format=torch.contiguous_format)


def _right(model: nn.Module, x: Tensor, y: Tensor) -> int:
    return int((model(x).argmax(1) == y).sum())


# ---------------------------------------------------------------------------------------- bound


def _flops(case: Case) -> int:
    """For one image: the network once, and what follows each layer once for every level."""
    image = tuple(case.read().images.shape[1:])
    layers = [row.flops for row in counts.layers(case.model, image)]
    return sum(layers) + len(DENSITIES) * sum(sum(layers[i:]) for i in range(len(layers)))


def _sgemm(size: int = 1024, times: int = 10) -> float:
    """FLOP/s of the best of some matrix products, with torch's threads."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    seconds: list[float] = []
    for _ in range(times):
        _timed(seconds, lambda: a @ b)
    return 2 * size**3 / min(seconds)


def _timed(seconds: list[float], work: Callable, scale: float = 1.0):
    began = time.perf_counter()
    answer = work()
    seconds.append(scale * (time.perf_counter() - began))
    return answer


if __name__ == "__main__":
    main()
