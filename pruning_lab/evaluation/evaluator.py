"""A network asked again and again about the same images, with other weights in some layers."""

from collections.abc import Iterator
from functools import partial
from itertools import chain
from operator import methodcaller

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning_lab import data
from pruning_lab.data import Images
from pruning_lab.evaluation import workers
from pruning_lab.evaluation.accuracy import Accuracy, check_labels, check_logits, measuring, right
from pruning_lab.evaluation.replica import (
    NOTHING,
    Changes,
    Kept,
    Replica,
    described,
    replicas,
    tensors_in,
)
from pruning_lab.evaluation.thresholded import prepared
from pruning_lab.layers import device_of, prunable


class Evaluator:
    """A network's answers on the same images again and again, with other weights in some layers.

    What enters each layer is kept, for as many images (whole batches, from the first on) as
    `budget` bytes hold: `n` of them, `bytes` in all; a change computes only what follows the first
    changed layer. With `recalibrate`, training images, BatchNorm layers get their statistics from
    these, after every change again. The model itself is never touched, and must not be changed
    meanwhile. Raises ValueError where not even one batch fits.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        *,
        budget: int = 2**30,
        recalibrate: Images | None = None,
    ):
        self.model, device = model, device_of(model)
        self.base: Changes = {}
        self.bytes = 0
        self._batches: list[tuple[Tensor, Kept]] = []  # the base's answer to each, and what is kept
        labels = []
        with measuring(model):
            batches = ((x.to(device), y) for x, y in data.checked(images))
            if (first := next(batches, None)) is None:
                raise ValueError("no images to measure an accuracy on")
            self.image = first[0][:1].clone()  # (1, C, H, W)
            self._replicas = replicas(model, *first)
            recalibrate = () if recalibrate is None else recalibrate
            self._calibration = [(x.to(device), y) for x, y in data.checked(recalibrate)]
            self.base = self._recalibrated({})
            jobs = (partial(_start, *batch, self.base) for batch in chain([first], batches))
            for y, answer, kept in workers.each(self._replicas, jobs):
                check_labels(y, *check_logits(answer))
                storages = [t.untyped_storage() for t in [answer, *tensors_in(kept)]]
                size = sum({at.data_ptr(): at.nbytes() for at in storages}.values())
                if self.bytes + size > budget:
                    break
                self.bytes += size
                labels.append(y.to(device))
                self._batches.append((answer, kept))
        if not labels:
            raise ValueError(
                f"no batch of images fits into {budget:,} bytes; give smaller batches, or a larger "
                f"budget="
            )
        self.labels = torch.cat(labels)
        self.how = described(self._replicas)

    @property
    def n(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Evaluator({self.how}, {self.n:,} images, {self.bytes / 1e6:,.0f} MB)"

    def logits(self, changes: Changes = NOTHING, *, first: int | None = None) -> Tensor:
        """(n, classes): with other weights in the layers that `changes` names, on the base.

        `first` asks for no more than that many images. Raises KeyError for an unknown layer,
        ValueError for a weight of another shape.
        """
        if first is not None and first < 1:
            raise ValueError(f"first must be 1 or more, got {first}")
        ends = torch.tensor([len(answer) for answer, _ in self._batches]).cumsum(0)
        batches = self._batches[: None if first is None else int((ends < first).sum()) + 1]
        if changes:
            with measuring(self.model):
                batches = list(self._resumed(*self._ready(changes), batches))
        return torch.cat([answer for answer, _ in batches])[:first]

    def accuracy(self, changes: Changes = NOTHING, *, first: int | None = None) -> Accuracy:
        """With its interval and hits; `evaluation.drop` of two of them is paired."""
        logits = self.logits(changes, first=first)
        labels = self.labels[: len(logits)]
        return Accuracy.of(right(logits, labels).cpu(), labels)

    def loss(self, changes: Changes = NOTHING, *, first: int | None = None) -> float:
        """Mean cross-entropy: it moves before the accuracy does."""
        logits = self.logits(changes, first=first)
        return F.cross_entropy(logits, self.labels[: len(logits)]).item()

    def commit(self, changes: Changes) -> None:
        """From here on, these weights belong to the base that later changes are made on."""
        with measuring(self.model):
            for _ in self.advance(changes):
                pass

    def advance(self, changes: Changes) -> Iterator[Tensor]:
        """`commit` part by part: yields logits (n, classes) of some images, in order, as measured.

        A caller who stops asking before the end leaves the base as it was.
        """
        if not changes:
            yield from (answer.clone() for answer, _ in self._batches)
            return
        (layer, base), new = self._ready(changes), []
        for answer, kept in self._resumed(layer, base, self._batches):
            new.append((answer, {**self._batches[len(new)][1], **kept}))
            yield answer.clone()
        self._batches, self.base = new, base

    def _resumed(
        self, layer: str, changes: Changes, batches: list[tuple[Tensor, Kept]]
    ) -> Iterator[tuple[Tensor, Kept]]:
        jobs = (methodcaller("resume", layer, kept, changes) for _, kept in batches)
        return workers.each(self._replicas, jobs)

    def _ready(self, changes: Changes) -> tuple[str, Changes]:
        """The first layer that changes, and what stands in for weights and buffers from there."""
        layers = prunable(self.model)
        for name, weight in changes.items():
            own = layers[name].weight
            if weight.shape != own.shape:
                raise ValueError(
                    f"layer {name!r} has a weight of shape {tuple(own.shape)}, "
                    f"got one of {tuple(weight.shape)}"
                )
        with torch.no_grad():
            changes = {name: prepared(weight) for name, weight in changes.items()}
        layer = min(changes, key=self._replicas[0].layers.index)
        return layer, self._recalibrated({**self.base, **changes})

    def _recalibrated(self, changes: Changes) -> Changes:
        if not self._calibration:
            return changes
        job = methodcaller("statistics", self._calibration, changes)
        (buffers,) = workers.each(self._replicas, [job])
        return {**changes, **buffers}


def _start(x: Tensor, y: Tensor, base: Changes, replica: Replica) -> tuple[Tensor, Tensor, Kept]:
    return y, *replica.start(x, base)
