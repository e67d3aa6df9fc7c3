"""Dense or sparse, layer by layer: both are timed in turn on this machine, the faster one stays."""

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral
from statistics import median, quantiles
from typing import ClassVar

import torch
from torch import Tensor, nn

from pruning_lab.data import Images
from pruning_lab.evaluation import measuring
from pruning_lab.layers import device_of, prunable, unwrapped
from pruning_lab.masks import Mask
from pruning_lab.rows import Rows
from pruning_lab.sparse.layers import can_be_sparse, convert_

WHOLE = "whole network"
MARGIN = 1.05  # how much faster a sparse layer has to be: networks answer with dense ones as well
SECONDS, LEAST, MOST = 0.4, 5, 200  # for two sides timed in turn, and their turns


@dataclass(frozen=True)
class Spread:
    """The median of several measurements, and their quartiles."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, measured: Sequence[float]) -> "Spread":
        low, _, high = quantiles(measured, n=4)
        return cls(median(measured), low, high)

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True)
class SparseRow:
    """One layer (or the whole network) dense and sparse, timed in turn at one batch size."""

    layer: str
    batch: int
    density: float
    dense_ms: Spread
    sparse_ms: Spread
    speedup: Spread  # dense / sparse, of each turn
    dense_bytes: int  # moved at least: weights once, inputs and outputs once
    sparse_bytes: int  # 8 for each kept weight; patches of a convolution twice
    chosen: str  # "dense" or "sparse"
    break_even: float | None = None  # density from which on sparse is faster; of `bench` alone

    @property
    def ceiling(self) -> float:
        """The speed-up of a product that waits for memory alone."""
        return self.dense_bytes / self.sparse_bytes


class Choices(Rows[SparseRow]):
    """A row per layer that ran, in running order, then one for the whole network."""

    columns: ClassVar = {
        "layer": lambda row: row.layer,
        "batch": lambda row: str(row.batch),
        "density": lambda row: f"{row.density:.1%}",
        "dense ms": lambda row: str(row.dense_ms),
        "sparse ms": lambda row: str(row.sparse_ms),
        "speed-up": lambda row: str(row.speedup),
        "chosen": lambda row: row.chosen,
    }


def to_sparse(
    model: nn.Module,
    mask: Mask | None = None,
    *,
    example: Images | Tensor | Sequence[int],
    batch: int = 1,
) -> nn.Module:
    """A copy whose layers compute from their non-zero weights, where that is faster here.

    `example` is the shape (C, H, W) of an image, images (N, C, H, W) or a split; `batch` is how
    many of them will come at once. Every linear layer and 2-d convolution is timed dense and
    sparse, in turn, on this machine, with torch's threads as they are; then the whole network, which
    stays dense unless it is faster. Its `choices` are what was measured.

    Answers and state_dict are those of the model with the mask applied; load_state_dict takes a
    dense network's. It answers only: a backward pass raises RuntimeError. The model is not changed.
    """
    network, rows = choices(model, mask, example_images(example, batch, device_of(model)))
    network.choices = rows
    return network


def choices(
    model: nn.Module,
    mask: Mask | None,
    x: Tensor,
    look: Callable[[nn.Module, Tensor, SparseRow], SparseRow] = lambda layer, x, row: row,
) -> tuple[nn.Module, Choices]:
    """`to_sparse` for these images; `look` adds to the row of each layer."""
    prunable(model)  # raises for a network that is sparse already
    dense = copy.deepcopy(unwrapped(model))
    if mask is not None:
        mask.apply_(dense)
    rows: dict[str, SparseRow] = {}

    def measure(name: str, layer: nn.Module, inputs: tuple) -> None:
        if name not in rows and inputs:
            rows[name] = look(layer, inputs[0], timed(name, layer, inputs[0]))

    with measuring(dense), ExitStack() as hooks:
        for name, layer in dense.named_modules():
            if can_be_sparse(layer):
                handle = layer.register_forward_pre_hook(partial(measure, name))
                hooks.callback(handle.remove)
        dense(x)
    network, faster = copy.deepcopy(dense), [n for n, row in rows.items() if row.chosen == "sparse"]
    for name in faster:
        convert_(network.get_submodule(name))
    with measuring(dense), measuring(network):
        times = in_turn(lambda: dense(x), lambda: network(x), device=x.device)
    whole = _row(WHOLE, len(x), *times, _density(dense), *_bytes(rows.values()))
    if not faster or whole.chosen == "dense":
        whole = replace(whole, chosen="dense")
        network, rows = dense, {n: replace(row, chosen="dense") for n, row in rows.items()}
    return network, Choices([*rows.values(), whole])


def in_turn(*works: Callable[[], object], device: torch.device) -> tuple[list[float], ...]:
    """Milliseconds of each work, of turns in which every work runs once."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    seconds: list[list[float]] = [[] for _ in works]
    for work in works:  # the first time costs more
        work()
    wait()
    end = time.perf_counter() + SECONDS
    while len(seconds[0]) < LEAST or (len(seconds[0]) < MOST and time.perf_counter() < end):
        for work, taken in zip(works, seconds, strict=True):
            began = time.perf_counter()
            work()
            wait()
            taken.append(1e3 * (time.perf_counter() - began))
    return tuple(seconds)


def timed(name: str, layer: nn.Linear | nn.Conv2d, x: Tensor) -> SparseRow:
    twin = convert_(copy.deepcopy(layer))
    works = (lambda: type(layer).forward(layer, x)), (lambda: type(twin).forward(twin, x))
    y = works[0]()
    times = in_turn(*works, device=x.device)
    size, weight = y.element_size(), layer.weight
    ends = (x.numel() + y.numel()) * size
    patches = 0 if weight.dim() == 2 else 2 * y[:, 0].numel() * weight[0].numel() * layer.groups
    kept = twin.values.numel()
    stored = kept * (size + 4) + 4 * len(twin.starts)
    moved = ends + weight.numel() * size, ends + stored + patches * size
    return _row(name, len(x), *times, kept / max(weight.numel(), 1), *moved)


def _row(
    name: str,
    batch: int,
    dense: list[float],
    sparse: list[float],
    density: float,
    dense_bytes: int,
    sparse_bytes: int,
) -> SparseRow:
    speedup = Spread.of([a / b for a, b in zip(dense, sparse, strict=True)])
    least = 1.0 if name == WHOLE else MARGIN
    chosen = "sparse" if speedup.value > least and speedup.low > 1 else "dense"
    times = Spread.of(dense), Spread.of(sparse), speedup
    return SparseRow(name, batch, density, *times, dense_bytes, sparse_bytes, chosen)


def _density(model: nn.Module) -> float:
    weights = [layer.weight for layer in prunable(model).values()]
    kept, size = (sum(map(count, weights)) for count in (Tensor.count_nonzero, Tensor.numel))
    return int(kept) / max(size, 1)


def _bytes(rows: Iterable[SparseRow]) -> tuple[int, int]:
    """Of all layers dense, and of all layers as they were chosen."""
    rows = list(rows)
    sparse = (row.sparse_bytes if row.chosen == "sparse" else row.dense_bytes for row in rows)
    return sum(row.dense_bytes for row in rows), sum(sparse)


def example_images(example: Images | Tensor | Sequence[int], batch: int, device: torch.device) -> Tensor:
    """(batch, C, H, W): the example's first images, again and again if there are too few."""
    if isinstance(example, Sequence) and example and all(isinstance(n, Integral) for n in example):
        drawn = torch.Generator().manual_seed(0)
        return torch.randn(batch, *example, generator=drawn).to(device)
    x = example if isinstance(example, Tensor) else next(iter(example), (None,))[0]
    if not isinstance(x, Tensor) or len(x) == 0:
        raise ValueError(
            "expected images, or the shape of one such as (1, 28, 28); got "
            f"{' '.join(repr(example).split()):.60}"
        )
    return x.repeat(-(-batch // len(x)), *[1] * (x.dim() - 1))[:batch].to(device)
