"""What the studio reports: rows by layer, by class, and by image whose answer changed."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from pruning_lab import paper
from pruning_lab.evaluation import Accuracy, Drop, drop
from pruning_lab.rows import Rows
from pruning_lab.studio.history import Setting


@dataclass(frozen=True)
class LayerMetrics:
    """One layer of the current attempt."""

    layer: str
    asked: Setting
    threshold: float  # |w| from here on stays
    quality: float  # threshold / sigma
    sigma: float  # of the weights that this network still has
    weights: int
    kept: int
    flops: int | None  # of the dense layer, per image; None until it has been counted
    locked: bool
    is_conv: bool

    @property
    def density(self) -> float:
        return self.kept / max(self.weights, 1)

    @property
    def bytes(self) -> int:
        """Stored as the paper does: 32 bits for a kept weight, 8 or 5 for its relative index.

        Or dense, where that is smaller. Fillers for long gaps are not counted (section 5).
        """
        index = paper.INDEX_BITS["conv" if self.is_conv else "fc"]
        return min(-(-self.kept * (32 + index) // 8), 4 * self.weights)


class Layers(Rows[LayerMetrics]):
    columns: ClassVar = {
        "layer": lambda row: row.layer,
        "asked": lambda row: str(row.asked) if row.asked.amount else "-",
        "threshold": lambda row: f"{row.threshold:.4g}",
        "weights": lambda row: f"{row.weights:,}",
        "kept": lambda row: f"{row.kept:,}",
        "density": lambda row: f"{row.density:.1%}",
        "bytes": lambda row: f"{row.bytes:,}",
        "locked": lambda row: "locked" if row.locked else "",
    }

    @property
    def weights(self) -> int:
        return sum(row.weights for row in self)

    @property
    def kept(self) -> int:
        return sum(row.kept for row in self)

    @property
    def density(self) -> float:
        return self.kept / max(self.weights, 1)

    @property
    def bytes(self) -> int:
        return sum(row.bytes for row in self)


@dataclass(frozen=True)
class ClassChange:
    """The images of one label, before pruning and after."""

    label: int
    n: int
    before: Accuracy
    after: Accuracy
    drop: Drop


class Classes(Rows[ClassChange]):
    columns: ClassVar = {
        "label": lambda row: str(row.label),
        "images": lambda row: f"{row.n:,}",
        "before": lambda row: f"{row.before.value:.1%}",
        "after": lambda row: f"{row.after.value:.1%}",
        "change": lambda row: str(row.drop),
    }


@dataclass(frozen=True)
class Flip:
    """An image that one of two networks answers rightly and the other does not.

    A margin is the label's logit less the largest other: positive where the answer is right.
    """

    index: int  # of the image, in its split
    label: int
    before: int  # the class that the network as it came names
    after: int
    margin_before: float
    margin_after: float
    lost: bool  # right before and wrong after


class Flips(Rows[Flip]):
    columns: ClassVar = {
        "image": lambda row: str(row.index),
        "label": lambda row: str(row.label),
        "before": lambda row: str(row.before),
        "after": lambda row: str(row.after),
        "margin before": lambda row: f"{row.margin_before:.3g}",
        "margin after": lambda row: f"{row.margin_after:.3g}",
        "": lambda row: "lost" if row.lost else "won",
    }


@dataclass(frozen=True, eq=False)
class Answers:
    """What a network answered to the first n images, without its logits."""

    labels: Tensor  # int64 (n,)
    named: Tensor  # int64 (n,): the class with the largest logit
    margins: Tensor  # float32 (n,): the label's logit less the largest other

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor) -> "Answers":
        """Logits (n, classes), labels (n,); a label that is no class has no margin of its own."""
        place = labels.clamp(0, logits.shape[1] - 1).unsqueeze(1)
        others = logits.scatter(1, place, -torch.inf).amax(1)
        margins = logits.gather(1, place).squeeze(1) - others
        return cls(labels.cpu(), logits.argmax(1).cpu(), margins.float().cpu())

    @classmethod
    def joined(cls, parts: list["Answers"]) -> "Answers":
        names = ("labels", "named", "margins")
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))

    def first(self, n: int) -> "Answers":
        return Answers(self.labels[:n], self.named[:n], self.margins[:n])

    @property
    def hits(self) -> Tensor:
        return self.named == self.labels

    @cached_property
    def accuracy(self) -> Accuracy:
        return Accuracy.of(self.hits)


@dataclass(frozen=True, eq=False)
class Change:
    """The answers of two networks to the same images."""

    before: Answers
    after: Answers

    @cached_property
    def drop(self) -> Drop:
        return drop(self.before.accuracy, self.after.accuracy)

    def per_class(self) -> Classes:
        rows, (before, after) = [], (self.before.hits, self.after.hits)
        for label in self.before.labels.unique().tolist():
            own = self.before.labels == label
            pair = Accuracy.of(before[own]), Accuracy.of(after[own])
            rows.append(ClassChange(label, int(own.sum()), *pair, drop(*pair)))
        return Classes(rows)

    def flips(self) -> Flips:
        """Lost images first, both in the order of the images."""
        rows, (before, after) = [], (self.before, self.after)
        for lost in (before.hits & ~after.hits, ~before.hits & after.hits):
            for index in lost.nonzero().squeeze(1).tolist():
                rows.append(
                    Flip(
                        index,
                        int(before.labels[index]),
                        int(before.named[index]),
                        int(after.named[index]),
                        float(before.margins[index]),
                        float(after.margins[index]),
                        bool(before.hits[index]),
                    )
                )
        return Flips(rows)


@dataclass(frozen=True)
class Metrics:
    """Of the current attempt. `accuracy` and `drop` are None until there is an estimate.

    `final` says that they are of all the images and nothing is left to do.
    """

    attempt: int
    made: str  # what made its weights: "as it came", "retrained 2 epochs from 26 % kept"
    layers: Layers
    accuracy: Accuracy | None
    drop: Drop | None  # against the network as it came, on the same images
    final: bool
    status: str  # "ready", "measuring", "preparing ...", "retraining ...", "failed: ..."
    change: Change | None = field(default=None, repr=False, compare=False)

    @property
    def weights(self) -> int:
        return self.layers.weights

    @property
    def kept(self) -> int:
        return self.layers.kept

    @property
    def density(self) -> float:
        return self.layers.density

    @property
    def bytes(self) -> int:
        return self.layers.bytes

    @property
    def flops(self) -> int | None:
        """Of the dense network, per image."""
        flops = [row.flops for row in self.layers]
        return None if None in flops else sum(flops)

    @property
    def flops_kept(self) -> float | None:
        """What remains when zero weights are skipped, and no zero activations."""
        if self.flops is None:
            return None
        return sum(row.flops * row.density for row in self.layers)

    @cached_property
    def per_class(self) -> Classes:
        """Accuracy of each label before and after; no rows until it has been measured."""
        return Classes() if self.change is None else self.change.per_class()
