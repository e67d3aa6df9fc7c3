"""A network asked again and again about the same images."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning_lab.evaluation.accuracy import (
    Accuracy,
    Images,
    check_labels,
    device_of,
    measuring,
    right,
)
from pruning_lab.evaluation.suffix import NOTHING, Changes, State, suffixes, tensors_in
from pruning_lab.evaluation.teams import Team
from pruning_lab.masks import prunable, unknown_layer


class SuffixEvaluator:
    """A network's answers on the same images again and again, with other weights in some layers.

    What enters each layer is kept, for as many images (whole batches, from the first on) as
    `budget` bytes hold: `n` of them, `bytes` in all. A change of one layer then computes what lies
    behind it and nothing else; `how` says which way: chain, graph or whole. The model itself is
    never touched. Parts of it are kept too: after changing the model, make a new evaluator.

    Raises ValueError where not even one batch fits.
    """

    def __init__(self, model: nn.Module, images: Images, *, budget: int = 2**30):
        self.model, self.device = model, device_of(model)
        self.base: Changes = {}
        self.bytes = 0
        self._labels: list[Tensor] = []  # batch by batch
        self._starts: list[tuple[Tensor, dict[str, State]]] = []
        with measuring(model):
            for x, y in images:
                x = x.to(self.device)
                if not self._labels:
                    self.image = x[:1].clone()  # (1, C, H, W): the first one
                    self._way = suffixes(model, x[:64])
                    self.pace = self._way.prepare(x)
                (start,) = self._run([partial(self._way.start, x)])
                check_labels(start[0], y)
                size = _bytes(start)
                if self.bytes + size > budget:
                    break
                self.bytes += size
                self._labels.append(y.to(self.device))
                self._starts.append(start)
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
        return self._way.how

    def __repr__(self) -> str:
        return f"SuffixEvaluator({self.how}, {self.n:,} images, {self.bytes / 1e6:,.0f} MB)"

    def logits(self, changes: Changes = NOTHING, *, first: int | None = None) -> Tensor:
        """(n, classes): with other weights in the layers that `changes` names, on the base.

        `first` asks for no more than that many images. Raises KeyError for an unknown layer,
        ValueError for a weight of another shape.
        """
        changes = self._ready(changes)
        starts = self._starts[: self._count(first)]
        if changes:
            layer = min(changes, key=self._way.layers.index)
            answer = partial(self._way.answer, layer, changes={**self.base, **changes})
            with measuring(self.model):
                answers = self._run([partial(answer, kept[layer]) for _, kept in starts])
        else:
            answers = [answer for answer, _ in starts]
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
        for _ in self.advance(changes):
            pass

    def advance(self, changes: Changes) -> Iterator[Tensor]:
        """`commit` batch by batch: gives the hits of each, in order, as it is done.

        Whoever stops asking before the end leaves the base as it was.
        """
        changes = self._ready(changes)
        base, starts = {**self.base, **changes}, []
        for answer, kept in self._resumed(changes, base) if changes else self._starts:
            _, before = self._starts[len(starts)]
            y = self._labels[len(starts)]
            starts.append((answer, {**before, **kept}))
            yield right(answer, y).cpu()
        self.base, self._starts = base, starts

    def _count(self, first: int | None) -> int:
        """How many batches hold the first so many images."""
        if first is None:
            return len(self._labels)
        if first < 1:
            raise ValueError(f"first must be 1 or more, got {first}")
        count = images = 0
        while images < first and count < len(self._labels):
            images += len(self._labels[count])
            count += 1
        return count

    def _run(self, jobs: list[Callable[[], object]]) -> list:
        with Team(self.pace) as team:
            return team.do(jobs)

    def _resumed(self, changes: Changes, base: Changes) -> Iterator[tuple[Tensor, dict]]:
        """From the first changed layer on, batch by batch: the answers, and what to keep.

        Between two of them nobody sees that something is measured.
        """
        layer = min(changes, key=self._way.layers.index)
        jobs = [
            partial(self._way.resume_all, layer, [kept[layer] for _, kept in some], base)
            for some in self._groups(self._way.together(layer))
        ]
        if self.pace.workers > 1:  # threads of their own, and steps that are in evaluation mode
            with Team(self.pace) as team:
                for done in team.each(jobs):
                    yield from done
            return
        with Team(self.pace) as team:
            for job in jobs:
                with measuring(self.model):
                    (done,) = team.do([job])
                yield from done

    def _groups(self, images: int) -> list[list[tuple[Tensor, dict[str, State]]]]:
        """Batches in groups of so many images, fewer where a worker would have nothing to do."""
        most = min(images, -(-self.n // self.pace.workers))
        groups, size = [[]], 0
        for y, start in zip(self._labels, self._starts, strict=True):
            if groups[-1] and size + len(y) > most:
                groups.append([])
                size = 0
            groups[-1].append(start)
            size += len(y)
        return groups

    def _ready(self, changes: Changes) -> Changes:
        self._check(changes)
        with torch.no_grad():
            return {name: self._way.ready(name, weight) for name, weight in changes.items()}

    def _check(self, changes: Changes) -> None:
        layers = prunable(self.model)
        for name, weight in changes.items():
            if name not in layers:
                raise KeyError(unknown_layer(name, layers))
            if weight.shape != layers[name].weight.shape:
                raise ValueError(
                    f"layer {name!r} has a weight of shape {tuple(layers[name].weight.shape)}, "
                    f"got one of {tuple(weight.shape)}"
                )


def _bytes(start: tuple[Tensor, dict[str, State]]) -> int:
    """Of the tensors kept of one batch, each counted once."""
    storages = [tensor.untyped_storage() for tensor in tensors_in(start)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
