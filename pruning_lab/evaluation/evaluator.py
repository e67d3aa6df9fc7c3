"""A network asked again and again about the same images."""

from collections.abc import Iterator
from functools import partial
from operator import methodcaller

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning_lab.evaluation.accuracy import Accuracy, check_labels, check_logits, measuring, right
from pruning_lab.evaluation.suffix import (
    NOTHING,
    Calibration,
    Changes,
    Kept,
    Replicas,
    Whole,
    tensors_in,
)
from pruning_lab.evaluation.thresholded import prepared
from pruning_lab.layers import Images, device_of, find, prunable


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
        self.model, self.device = model, device_of(model)
        self._layers = prunable(model)
        self.base: Changes = {}
        self.bytes = 0
        self._labels: list[Tensor] = []  # of each batch
        self._batches: list[tuple[Tensor, Kept]] = []  # the base's answer to each, and what is kept
        self._calibration: Calibration | None = None
        with measuring(model):
            for x, y in images:
                x = x.to(self.device)
                if not self._labels:
                    self.image = x[:1].clone()  # (1, C, H, W): the first one
                    self._replicas = Replicas(model, x)
                    if recalibrate is not None:
                        self._calibration = Calibration.of(self._replicas.first, recalibrate)
                        self.base = self._calibration.buffers
                (batch,) = self._replicas.each([methodcaller("start", x, self.base)])
                check_labels(y, *check_logits(batch[0]))
                size = _bytes(batch)
                if self.bytes + size > budget:
                    break
                self.bytes += size
                self._labels.append(y.to(self.device))
                self._batches.append(batch)
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
        return self._replicas.how

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
                layer, base, _ = self._ready(changes)
                answers = [answer for _, answer, _ in self._resumed(layer, base, batches)]
        return torch.cat(answers)[:first]

    def hits(self, changes: Changes = NOTHING, *, first: int | None = None) -> Tensor:
        """bool (n,) on the CPU: which images are answered rightly."""
        logits = self.logits(changes, first=first)
        return right(logits, self.labels[: len(logits)]).cpu()

    def accuracy(self, changes: Changes = NOTHING, *, first: int | None = None) -> Accuracy:
        """With its interval; `evaluation.drop` of two of them is paired."""
        return Accuracy.of(self.hits(changes, first=first))

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
        layer, base, calibration = self._ready(changes)
        seen, done = 0, [[] for _ in self._batches]
        for number, answer, kept in self._resumed(layer, base, len(done)):
            done[number].append((answer, kept))
            yield right(answer, self.labels[seen : seen + len(answer)]).cpu()
            seen += len(answer)
        self._batches = [_joined(*pair) for pair in zip(self._batches, done, strict=True)]
        self.base, self._calibration = base, calibration

    def _resumed(
        self, layer: str, changes: Changes, batches: int
    ) -> Iterator[tuple[int, Tensor, Kept]]:
        """The number of a batch, the answer to a part of it, and what is kept; in order."""
        most = -(-self.n // self._replicas.workers)

        def resume(replica: Whole, number: int, part: Kept) -> tuple[int, Tensor, Kept]:
            return number, *replica.resume(layer, part, changes)

        return self._replicas.each(
            partial(resume, number=number, part=part)
            for number, (_, kept) in enumerate(self._batches[:batches])
            for part in self._replicas.first.parts(layer, kept, most)
        )

    def _ready(self, changes: Changes) -> tuple[str, Changes, Calibration | None]:
        """The first layer that changes, all weights and buffers from there on, and their source."""
        for name, weight in changes.items():
            own = find(self.model, name, self._layers).weight
            if weight.shape != own.shape:
                raise ValueError(
                    f"layer {name!r} has a weight of shape {tuple(own.shape)}, "
                    f"got one of {tuple(weight.shape)}"
                )
        with torch.no_grad():
            changes = {name: prepared(weight) for name, weight in changes.items()}
        layer = min(changes, key=self._replicas.layers.index)
        base = {**self.base, **changes}
        if self._calibration is None:
            return layer, base, None
        renew = partial(self._calibration.resumed, layer=layer, changes=base)
        (calibration,) = self._replicas.each([renew])
        return layer, {**base, **calibration.buffers}, calibration


def _joined(before: tuple[Tensor, Kept], parts: list[tuple[Tensor, Kept]]) -> tuple[Tensor, Kept]:
    """The parts of one batch as one again, with what is kept from before."""
    answers, kept = zip(*parts, strict=True)
    if len(parts) == 1:
        return answers[0], {**before[1], **kept[0]}
    joined = {key: torch.cat([part[key] for part in kept]) for key in kept[0]}
    return torch.cat(answers), {**before[1], **joined}


def _bytes(batch: tuple[Tensor, Kept]) -> int:
    """Of the tensors kept of one batch, each counted once."""
    storages = [tensor.untyped_storage() for tensor in tensors_in([batch[0], *batch[1].values()])]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
