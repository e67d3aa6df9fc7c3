"""A network asked again and again about the same images."""

from collections.abc import Iterator
from functools import partial
from operator import methodcaller

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
    `budget` bytes hold: `n` of them, `bytes` in all. A change then computes what follows the first
    changed layer and nothing else; `how` says which way: graph or whole. With `recalibrate`,
    training images, BatchNorm layers get their statistics from these, after every change again.

    The model itself is never touched, and must not be changed meanwhile. Raises ValueError where
    not even one batch fits.
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
        self.bytes = size = 0
        self._labels: list[Tensor] = []  # of each batch
        self._batches: list[tuple[Tensor, Kept]] = []  # the base's answer to each, and what is kept
        with measuring(model):
            self._calibration = [x.to(device) for x, _ in recalibrate or ()]
            for x, y in images:
                x = x.to(device)
                if not self._labels:
                    self.image = x[:1].clone()  # (1, C, H, W): the first one
                    self._replicas = replicas(model, x)
                    self.base = self._recalibrated({})
                (batch,) = workers.each(self._replicas, [methodcaller("start", x, self.base)])
                check_labels(y, *check_logits(batch[0]))
                storages = [t.untyped_storage() for t in [batch[0], *tensors_in(batch[1])]]
                size = sum({at.data_ptr(): at.nbytes() for at in storages}.values())
                if self.bytes + size > budget:
                    break
                self.bytes += size
                self._labels.append(y.to(device))
                self._batches.append(batch)
        if size == 0:
            raise ValueError("no images to measure an accuracy on")
        if not self._labels:
            raise ValueError(
                f"no batch of images fits into {budget:,} bytes; give smaller batches, or a larger "
                f"budget="
            )
        self.labels = torch.cat(self._labels)

    @property
    def n(self) -> int:
        return len(self.labels)

    @property
    def how(self) -> str:
        return described(self._replicas)

    def __repr__(self) -> str:
        return f"Evaluator({self.how}, {self.n:,} images, {self.bytes / 1e6:,.0f} MB)"

    def logits(self, changes: Changes = NOTHING, *, first: int | None = None) -> Tensor:
        """(n, classes): with other weights in the layers that `changes` names, on the base.

        `first` asks for no more than that many images. Raises KeyError for an unknown layer,
        ValueError for a weight of another shape.
        """
        if first is not None and first < 1:
            raise ValueError(f"first must be 1 or more, got {first}")
        ends = torch.tensor([len(y) for y in self._labels]).cumsum(0)
        batches = len(ends) if first is None else int((ends < first).sum()) + 1
        answers = [answer for answer, _ in self._batches[:batches]]
        if changes:
            with measuring(self.model):
                answers = [y for _, y, _ in self._resumed(*self._ready(changes), batches)]
        return torch.cat(answers)[:first]

    def accuracy(self, changes: Changes = NOTHING, *, first: int | None = None) -> Accuracy:
        """With its interval and hits; `evaluation.drop` of two of them is paired."""
        logits = self.logits(changes, first=first)
        return Accuracy.of(right(logits, self.labels[: len(logits)]).cpu())

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
        """`commit` part by part: gives the hits of some images, in order, as they are measured.

        A caller who stops asking before the end leaves the base as it was.
        """
        if not changes:
            for (answer, _), y in zip(self._batches, self._labels, strict=True):
                yield right(answer, y).cpu()
            return
        layer, base = self._ready(changes)
        seen, parts = 0, [[] for _ in self._batches]
        for number, answer, kept in self._resumed(layer, base, len(parts)):
            parts[number].append((answer, kept))
            yield right(answer, self.labels[seen : seen + len(answer)]).cpu()
            seen += len(answer)
        for number, ((_, before), several) in enumerate(zip(self._batches, parts, strict=True)):
            answers, kept = zip(*several, strict=True)
            new = kept[0]
            if len(several) > 1:
                new = {node: torch.cat([part[node] for part in kept]) for node in new}
            self._batches[number] = torch.cat(answers), {**before, **new}
        self.base = base

    def _resumed(
        self, layer: str, changes: Changes, batches: int
    ) -> Iterator[tuple[int, Tensor, Kept]]:
        """The number of a batch, the answer to a part of it, and what is kept; in order."""
        most = -(-self.n // len(self._replicas))

        def resume(replica: Replica, number: int, part: Kept) -> tuple[int, Tensor, Kept]:
            return number, *replica.resume(layer, part, changes)

        jobs = (
            partial(resume, number=number, part=part)
            for number, (_, kept) in enumerate(self._batches[:batches])
            for part in self._replicas[0].parts(layer, kept, most)
        )
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
