"""Training speed: an epoch against the usual DataLoader loop, a masked step against other loops.

    python benchmarks/training.py                  # both, about twelve minutes; needs MNIST
    python benchmarks/training.py --only steps     # the second, which needs no data
    python benchmarks/training.py --only steps --busy    # the same beside a process that computes

Both sides of a ratio run in this process, in turn. Ratios are medians over the turns; a ratio above
1 means that the other side took longer (epochs), or longer than dense (steps).
"""

import argparse
import copy
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does

import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import nn
from torch.nn.utils import prune as torch_prune

from pruning_lab import data, files, masks, models, provenance, training

RESULTS = Path(__file__).resolve().parent.parent / "results"
LENETS = ("lenet-300-100", "lenet-5")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", choices=("epochs", "steps"))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, torch.get_num_threads()])
    parser.add_argument("--turns", type=int, default=3, help="of the epochs; steps take 40")
    parser.add_argument("--busy", action="store_true", help="steps beside another busy process")
    parser.add_argument("--save", action="store_true", help="write results/training-speed.json")
    options = parser.parse_args()
    rows: dict[str, list[dict]] = {}
    if options.save and (RESULTS / "training-speed.json").exists():
        kept = files.load_json(RESULTS / "training-speed.json")
        rows = {name: kept[name] for name in ("epochs", "steps", "steps, busy") if name in kept}
    if options.only != "steps":
        rows["epochs"] = epochs(sorted(set(options.threads)), options.turns)
        print(tabulate(rows["epochs"], headers="keys", floatfmt=".2f"), flush=True)
    if options.only != "epochs":
        name = "steps, busy" if options.busy else "steps"
        with beside_a_busy_process() if options.busy else nullcontext():
            rows[name] = steps(sorted(set(options.threads)), turns=40)
        print(tabulate(rows[name], headers="keys", floatfmt=".3f"))
    if options.save:
        about = {
            "versions": provenance.versions(),
            "machine": provenance.machine(),
        }
        files.save_json(RESULTS / "training-speed.json", {**about, **rows})


# --------------------------------------------------------------------- an epoch of 55,000 images


def epochs(threads: list[int], turns: int) -> list[dict]:
    splits = data.load("mnist")
    root = os.environ.get("PRUNING_LAB_DATA", "data")
    rows = []
    for name in LENETS:
        build = models.BUILT_IN[name]
        for count in threads:
            torch.set_num_threads(count)
            sides = {
                "ours": _ours(build, splits.train),
                "ours, bf16": _ours(build, splits.train, bf16=True),
                "DataLoader": _usual(build, root, workers=0),
                "DataLoader, 2 workers": _usual(build, root, workers=2),
            }
            seconds = _in_turn(sides, turns)
            for side, times in seconds.items():
                ratios = [t / o for t, o in zip(times, seconds["ours"], strict=True)]
                rows.append(
                    {
                        "network": name,
                        "threads": count,
                        "loop": side,
                        "seconds, median": statistics.median(times),
                        "minimum": min(times),
                        "times ours, median": statistics.median(ratios),
                        "turns": turns,
                    }
                )
                print(rows[-1], flush=True)
    return rows


def _ours(build: models.Model, images: data.Split, *, bf16: bool = False) -> Callable[[], None]:
    model, config = build(), training.TrainConfig(epochs=1, lr=0.01, bf16=bf16)
    return lambda: list(training.train(model, images, config))


def _usual(build: models.Model, root: str, workers: int) -> Callable[[], None]:
    """What most people write: a torchvision data set, its transforms, a DataLoader, SGD."""
    from torchvision import datasets, transforms

    transform = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
    )
    images = torch.utils.data.Subset(
        datasets.MNIST(root, train=True, transform=transform), range(55_000)
    )
    model = build().to(memory_format=torch.contiguous_format)
    loader = torch.utils.data.DataLoader(images, 128, shuffle=True, num_workers=workers)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4
    )

    def epoch() -> None:
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()

    return epoch


# ------------------------------------------------------------------------------- a masked step


@contextmanager
def beside_a_busy_process() -> Iterator[None]:
    """Another process keeps one core at work meanwhile."""
    code = "import torch; torch.set_num_threads(1); a = torch.randn(500, 500)\nwhile True: a @ a"
    other = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield
    finally:
        other.kill()
        other.wait()


def steps(threads: list[int], turns: int, each: int = 25) -> list[dict]:
    """Training steps at 8 % density; every loop starts from the same network and batch."""
    optimizers = {
        "SGD": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9),
        "SGD, fused": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, fused=True),
        "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-4),
        "AdamW, fused": lambda p: torch.optim.AdamW(p, lr=1e-4, fused=True),
    }
    cases = itertools.product(LENETS, threads, (64, 256), optimizers.items())
    rows = []
    for network, count, batch, (label, make) in cases:
        torch.set_num_threads(count)
        torch.manual_seed(0)
        model = models.BUILT_IN[network]()
        mask = masks.prune(model, density=0.08)
        few = max(2, each // 8) if network == "lenet-5" else each  # its steps are ten times longer
        x, y = torch.randn(batch, 1, 28, 28), torch.randint(10, (batch,))
        sides = {
            loop.__name__: _stepper(loop, copy.deepcopy(model), mask, make, x, y, few)
            for loop in (dense, held, short, utils_prune, gradient_hook)
        }
        seconds = _in_turn(sides, turns if network != "lenet-5" else max(5, turns // 3))
        row = {"network": network, "threads": count, "batch": batch, "optimizer": label}
        row["dense, ms"] = 1e3 * statistics.median(seconds["dense"]) / few
        for side, times in seconds.items():
            if side != "dense":
                pairs = zip(times, seconds["dense"], strict=True)
                row[side] = statistics.median(t / d for t, d in pairs)
        rows.append({**row, "turns": len(seconds["dense"]), "steps a turn": few})
        print(rows[-1], flush=True)
    return rows


def dense(model: nn.Module, mask: masks.Mask, optimizer: torch.optim.Optimizer) -> None:
    """No mask at all."""


def held(model: nn.Module, mask: masks.Mask, optimizer: torch.optim.Optimizer) -> None:
    """Ours: weights after each step, gradients after each backward pass."""
    mask.hold(model)


def short(model: nn.Module, mask: masks.Mask, optimizer: torch.optim.Optimizer) -> None:
    """What ours does, the short form: masked_fill_ in two hooks."""
    mask.apply_(model)
    pairs = [(model.get_submodule(name).weight, ~kept) for name, kept in mask.items()]
    for weight, gone in pairs:

        def zero(weight: torch.Tensor, gone: torch.Tensor = gone) -> None:
            weight.grad.masked_fill_(gone, 0)

        weight.register_post_accumulate_grad_hook(zero)

    @torch.no_grad()
    def after(*_) -> None:
        for weight, gone in pairs:
            weight.masked_fill_(gone, 0)

    optimizer.register_step_post_hook(after)


def utils_prune(model: nn.Module, mask: masks.Mask, optimizer: torch.optim.Optimizer) -> None:
    """torch.nn.utils.prune: weight = weight_orig * mask before every forward pass."""
    for name, kept in mask.items():
        # Before the optimizer is made a second time below: the parameter changes its name.
        torch_prune.custom_from_mask(model.get_submodule(name), "weight", kept)


def gradient_hook(model: nn.Module, mask: masks.Mask, optimizer: torch.optim.Optimizer) -> None:
    """Gradients times the mask; weights stay zero only while nothing else moves them."""
    mask.apply_(model)
    for name, kept in mask.items():
        factor = kept.float()
        model.get_submodule(name).weight.register_hook(lambda grad, factor=factor: grad * factor)


def _stepper(loop, model, mask, make, x, y, count) -> Callable[[], None]:
    if loop is utils_prune:
        loop(model, mask, None)
    optimizer = make(model.parameters())
    if loop is not utils_prune:
        loop(model, mask, optimizer)

    def run() -> None:
        for _ in range(count):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    run()  # momentum buffers and factors are made in the first step
    return run


def _in_turn(sides: dict[str, Callable[[], None]], turns: int) -> dict[str, list[float]]:
    """Seconds of every side, A B C A B C ..., so that a change of the machine's mood hits all."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, side in sides.items():
            began = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - began)
    return seconds


if __name__ == "__main__":
    main()
