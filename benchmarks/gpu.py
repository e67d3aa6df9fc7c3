"""What a GPU does with AlexNet on photos of 128 px: training, masked steps, slider moves, a scan.

    python benchmarks/gpu.py                # about two minutes; needs a GPU, and Imagenette
    python benchmarks/gpu.py --save         # also write results/gpu.json

Training is compared with a plain DataLoader loop (torchvision's ImageFolder and transforms, 8
workers) and with the ceiling of the card: forward, backward and step on one constant batch.
Everything runs in one process, AlexNet of full width with ten classes, in batches of 128, bfloat16.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch.utils.data import DataLoader

from pruning_lab import data, evaluation, files, masks, models, provenance, sensitivity, training
from pruning_lab.data.photos import IMAGENETTE
from pruning_lab.studio import Studio

RESULTS = Path(__file__).resolve().parent.parent / "results"
SIZE, BATCH, TURNS = 128, 128, 5
DEVICE = torch.device("cuda")
CONFIG = training.TrainConfig(
    epochs=TURNS + 1, lr=0.01, batch_size=BATCH, flip=True, crop=0.25, bf16=True
)
DENSITIES = (0.9, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--save", action="store_true", help="write results/gpu.json")
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder of the photos")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a GPU, and torch sees none here")
    splits = data.load("imagenette", root=options.root, device=DEVICE, size=SIZE)
    print(splits, flush=True)
    rows = [
        *_training(splits, options.root / IMAGENETTE / "train"),
        *_masked_step(splits),
        *_moves(splits),
        *_scan(splits),
    ]
    print(tabulate(rows, headers="keys", floatfmt=".4g"))
    if options.save:
        about = {"versions": provenance.versions(), "machine": provenance.machine(DEVICE)}
        files.save_json(RESULTS / "gpu.json", {**about, "rows": rows})


def _network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return models.alexnet(classes=10, size=SIZE).to(DEVICE)


def _row(what: str, value: float, unit: str, how: str) -> dict:
    return {"what": what, "value": value, "unit": unit, "how": how}


def _training(splits: data.Splits, folder: Path) -> list[dict]:
    epochs = list(training.train(_network(), splits.train, CONFIG))[1:]  # the first is slow
    ours = statistics.median(epoch.images_per_second for epoch in epochs)

    model = _network()
    loader = _plain_loader(folder)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    plain = []
    for _ in range(2):
        began, seen = time.perf_counter(), 0
        for x, y in loader:
            _step(model, optimizer, x.to(DEVICE, non_blocking=True), y.to(DEVICE))
            seen += len(y)
        torch.cuda.synchronize()
        plain.append(seen / (time.perf_counter() - began))

    model = _network()
    x = torch.randn(BATCH, *splits.train.shape, device=DEVICE)
    y = torch.randint(10, (BATCH,), device=DEVICE)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True
    )
    ceiling = BATCH / _seconds(lambda: _step(model, optimizer, x, y), 200)
    return [
        _row("training, ours", ours, "images/s", f"median of {TURNS} epochs of {splits.train.n}"),
        _row("training, DataLoader", max(plain), "images/s", "the better of 2 epochs, 8 workers"),
        _row("training, ceiling", ceiling, "images/s", "200 steps on one batch"),
        _row("ours / DataLoader", ours / max(plain), "x", ""),
        _row("ours / ceiling", ours / ceiling, "x", ""),
    ]


def _plain_loader(folder: Path) -> DataLoader:
    from torchvision import datasets, transforms

    steps = [
        transforms.RandomResizedCrop(SIZE, scale=(0.25, 1)),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize((0.46, 0.46, 0.43), (0.28, 0.28, 0.3)),
    ]
    images = datasets.ImageFolder(str(folder), transforms.Compose(steps))
    return DataLoader(
        images, BATCH, shuffle=True, num_workers=8, pin_memory=True, persistent_workers=True
    )


def _step(model, optimizer, x: torch.Tensor, y: torch.Tensor) -> None:
    with torch.autocast("cuda", torch.bfloat16):
        loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _seconds(work: Callable[[], object], times: int) -> float:
    """Of one call, with the card's queue empty before and after so many."""
    for _ in range(10):
        work()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(times):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / times


def _masked_step(splits: data.Splits) -> list[dict]:
    x = torch.randn(BATCH, *splits.train.shape, device=DEVICE)
    y = torch.randint(10, (BATCH,), device=DEVICE)
    steps = {}
    for name in ("dense", "masked"):
        model = _network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
        if name == "masked":
            masks.prune(model, density=0.1).hold(model)
        steps[name] = lambda model=model, optimizer=optimizer: _step(model, optimizer, x, y)
    ratios = []
    for _ in range(2 * TURNS):
        dense, masked = (_seconds(steps[name], 40) for name in ("dense", "masked"))
        ratios.append(masked / dense)
    how = f"median of {2 * TURNS} turns of 40 steps each"
    return [_row("masked step / dense step", statistics.median(ratios), "x", how)]


def _moves(splits: data.Splits) -> list[dict]:
    """A slider moved in the studio, to the accuracy on all of val."""
    studio = Studio(_network(), splits).settle()
    rows = []
    for layer in ("conv1", "conv3", "fc1", "fc3"):
        seconds = []
        for turn in range(15):
            began = time.perf_counter()
            studio.set({layer: 0.5 + turn / 20}).settle()
            seconds.append(time.perf_counter() - began)
        studio.set({layer: 0.0}).settle()
        how = f"median of 15, accuracy on {studio.dense.n} images"
        rows.append(_row(f"move of {layer}", 1000 * statistics.median(seconds), "ms", how))
    studio.close()
    return rows


def _scan(splits: data.Splits) -> list[dict]:
    model, images = _network(), splits.train.head(4000)
    ours, plain = [], []
    for _ in range(3):
        began = time.perf_counter()
        scan = sensitivity.scan(model, images, DENSITIES)
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        for layer in masks.prunable(model):
            for density in DENSITIES:
                with masks.masked(model, masks.prune(model, density={layer: density})):
                    evaluation.evaluate(model, images)
        plain.append(time.perf_counter() - began)
    points = f"{len(scan)} points on {scan.dense.n} images, median of 3"
    ratios = [b / a for a, b in zip(ours, plain, strict=True)]
    return [
        _row("scan, ours", statistics.median(ours), "s", points),
        _row("scan, whole forward", statistics.median(plain), "s", points),
        _row("scan, whole forward / ours", statistics.median(ratios), "x", ""),
    ]


if __name__ == "__main__":
    main()
