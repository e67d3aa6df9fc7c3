"""Dense or sparse, layer by layer: both are timed in turn on this machine, the faster one stays."""

import copy
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
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
MARGIN = 1.05  # how much faster a layer has to be sparse
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
    """One layer, or the whole network, dense and sparse, at one batch size."""

    layer: str
    batch: int
    density: float
    dense_ms: Spread
    sparse_ms: Spread
    speedup: Spread  # dense / sparse, of each turn
    chosen: str  # "dense" or "sparse"
    # Bytes moved, dense / sparse: the speed-up where both wait for memory alone, as large layers do
    # at batch 1. Where arithmetic takes longer, a product may gain more.
    ceiling: float | None
    break_even: float | None = None  # the density below which it is faster sparse; of `bench`


class Choices(Rows[SparseRow]):
    """A row for each layer that ran, in running order, then one for the whole network."""

    columns: ClassVar = {
        "layer": lambda row: row.layer,
        "batch": lambda row: str(row.batch),
        "density": lambda row: f"{row.density:.1%}",
        "dense ms": lambda row: str(row.dense_ms),
        "sparse ms": lambda row: str(row.sparse_ms),
        "speed-up": lambda row: str(row.speedup),
        "by bytes": lambda row: "" if row.ceiling is None else f"{row.ceiling:.3g}",
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

    `example` is the shape (C, H, W) of an image, images (N, C, H, W) or a split; `batch`: how many
    will come at once. Linear layers and 2-d convolutions are timed dense and sparse, in turn, with
    torch's threads as they are; then the whole network, which stays dense where that is faster. Its
    attribute `choices` is what was measured.

    Answers and state_dict are those of the model with the mask applied, and load_state_dict takes a
    dense network's. A backward pass raises RuntimeError. The model is not changed.
    """
    network, rows = chosen(model, mask, example_images(example, batch, model))
    network.choices = rows
    return network


def chosen(
    model: nn.Module,
    mask: Mask | None,
    x: Tensor,
    look: Callable[[SparseRow, nn.Module, Tensor], SparseRow] = lambda row, layer, x: row,
) -> tuple[nn.Module, Choices]:
    """`to_sparse` for these images; `look` adds to the row of a layer, given what enters it."""
    prunable(model)  # raises where a layer's weight is not a plain one
    dense = copy.deepcopy(unwrapped(model))
    if mask is not None:
        mask.apply_(dense)
    weights = [layer.weight for layer in prunable(dense).values()]
    kept, size = sum(int(w.count_nonzero()) for w in weights), sum(w.numel() for w in weights)
    rows: dict[str, SparseRow] = {}

    def measure(name: str, layer: nn.Module, inputs: tuple) -> None:
        if name not in rows and inputs:
            rows[name] = look(timed(name, layer, *inputs), layer, *inputs)

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
        row = _row(WHOLE, x, lambda: dense(x), lambda: network(x), kept / max(size, 1), None)
    if not faster or row.speedup.value <= 1:
        network, rows = dense, {n: replace(r, chosen="dense") for n, r in rows.items()}
    row = replace(row, chosen="dense" if network is dense else "sparse")
    return network, Choices([*rows.values(), row])


def timed(name: str, layer: nn.Linear | nn.Conv2d, x: Tensor) -> SparseRow:
    """The layer beside its sparse twin, on what enters it."""
    twin, weight = convert_(copy.deepcopy(layer)), layer.weight
    dense, sparse = partial(type(layer).forward, layer, x), partial(type(twin).forward, twin, x)
    kept, item = twin.values.numel(), weight.element_size()
    ends = item * (x.numel() + dense().numel())
    stored = kept * (item + 4) + 4 * len(twin.starts)
    ceiling = (ends + item * weight.numel()) / (ends + stored)
    return _row(name, x, dense, sparse, kept / max(weight.numel(), 1), ceiling)


def _row(
    name: str, x: Tensor, dense: Callable, sparse: Callable, density: float, ceiling: float | None
) -> SparseRow:
    """Times of turns in which both run once."""
    wait = torch.cuda.synchronize if x.is_cuda else lambda: None
    pairs: list[list[float]] = []
    dense(), sparse()  # the first time costs more
    end = time.perf_counter() + SECONDS
    while len(pairs) < LEAST or (len(pairs) < MOST and time.perf_counter() < end):
        pairs.append([])
        for work in (dense, sparse):
            wait()
            began = time.perf_counter()
            work()
            wait()
            pairs[-1].append(1e3 * (time.perf_counter() - began))
    spreads = [Spread.of(times) for times in zip(*pairs, strict=True)]
    speedup = Spread.of([a / b for a, b in pairs])
    side = "sparse" if speedup.value > MARGIN and speedup.low > 1 else "dense"
    return SparseRow(name, len(x), density, *spreads, speedup, side, ceiling)


def example_images(
    example: Images | Tensor | Sequence[int], batch: int, model: nn.Module
) -> Tensor:
    """(batch, C, H, W): the example's first images, repeated where they are too few."""
    device = device_of(model)
    if isinstance(example, Sequence) and example and all(isinstance(n, int) for n in example):
        kind = next((p.dtype for p in model.parameters()), torch.float32)
        drawn = torch.Generator().manual_seed(0)
        return torch.randn(batch, *example, generator=drawn, dtype=kind).to(device)
    x = example if isinstance(example, Tensor) else next(iter(example), (None,))[0]
    if not isinstance(x, Tensor) or len(x) == 0:
        raise ValueError(
            "expected images, or the shape of one such as (1, 28, 28); got "
            f"{' '.join(repr(example).split()):.60}"
        )
    return x.repeat(-(-batch // len(x)), *[1] * (x.dim() - 1))[:batch].to(device)
