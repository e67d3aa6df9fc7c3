"""What the studio reports: rows by layer, by class, and by image whose answer changed."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

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
    bytes: int  # as `storage` keeps them exactly; of many weights estimated from some of its rows
    flops: int | None  # of the dense layer, per image; None until it has been counted
    locked: bool
    is_conv: bool

    @property
    def density(self) -> float:
        return self.kept / max(self.weights, 1)


@dataclass(frozen=True)
class ClassChange:
    """The images of one label, answered by the network as it came and by the pruned one."""

    label: int
    n: int
    before: Accuracy
    after: Accuracy
    drop: Drop


class PerClass(Rows[ClassChange]):
    """A row for each label."""

    columns: ClassVar = {
        "label": lambda row: str(row.label),
        "images": lambda row: f"{row.n:,}",
        "before": lambda row: f"{row.before.value:.2%}",
        "after": lambda row: f"{row.after.value:.2%}",
        "change": lambda row: str(row.drop),
    }


@dataclass(frozen=True)
class Flip:
    """An image that one of the two networks answers rightly, and the other does not."""

    index: int  # of the image, in its split
    label: int
    before: int  # the class that the network as it came names
    after: int
    margin_before: float  # the label's logit less the largest other: above 0 where it is right
    margin_after: float
    lost: bool  # right before, wrong after


def answers_of(logits: Tensor, labels: Tensor) -> Tensor:
    """(n, 3) of logits (n, classes): the label, the class named, the label's margin."""
    place = labels.long().clamp(0, logits.shape[1] - 1).unsqueeze(1)  # a label may be no class
    others = logits.scatter(1, place, -torch.inf).amax(1)
    margins = logits.gather(1, place).squeeze(1) - others
    return torch.stack([labels.double(), logits.argmax(1).double(), margins.double()], 1).cpu()


def hits(answers: Tensor) -> Tensor:
    return answers[:, 0] == answers[:, 1]


def accuracy_of(answers: Tensor) -> Accuracy:
    return Accuracy.of(hits(answers), answers[:, 0])


@dataclass(frozen=True, eq=False)
class Change:
    """What two networks answered to the same images: two tensors (n, 3) of `answers_of`."""

    before: Tensor
    after: Tensor

    @cached_property
    def accuracy(self) -> Accuracy:
        return accuracy_of(self.after)

    @cached_property
    def drop(self) -> Drop:
        return drop(accuracy_of(self.before), self.accuracy)

    @property
    def per_class(self) -> PerClass:
        rows, labels = [], self.before[:, 0]
        for label in labels.unique().tolist():
            own = labels == label
            pair = [accuracy_of(answers[own]) for answers in (self.before, self.after)]
            rows.append(ClassChange(int(label), pair[0].n, *pair, drop(*pair)))
        return PerClass(rows)

    @property
    def flips(self) -> Rows[Flip]:
        """Lost images first, both kinds in the order of the images."""
        lost = hits(self.before) & ~hits(self.after)
        won = hits(self.after) & ~hits(self.before)
        rows = []
        for index in [*lost.nonzero().flatten().tolist(), *won.nonzero().flatten().tolist()]:
            label, named, margin = self.before[index].tolist()
            _, now, margin_now = self.after[index].tolist()
            classes = int(label), int(named), int(now)
            rows.append(Flip(index, *classes, margin, margin_now, bool(lost[index])))
        return Rows(rows)


class Metrics(Rows[LayerMetrics]):
    """The current attempt: a row for each layer, and what is known of the whole network."""

    attempt: int
    made: str  # what made its weights: "as it came", "retrained 2 epochs from 26 % kept"
    accuracy: Accuracy | None  # None until there is an estimate
    drop: Drop | None  # from the network as it came, on the same images
    final: bool  # these two are of all the images
    status: str  # "ready", "measuring", "preparing …", "retraining …", "failed: …"
    change: Change | None
    columns: ClassVar = {
        "layer": lambda row: row.layer,
        "asked": lambda row: str(row.asked) if row.asked.amount else "-",
        "threshold": lambda row: f"{row.threshold:.4g}",
        "weights": lambda row: f"{row.weights:,}",
        "kept": lambda row: f"{row.kept:,}",
        "density": lambda row: f"{row.density:.1%}",
        "bytes": lambda row: f"~{row.bytes:,}",
        "locked": lambda row: "locked" if row.locked else "",
    }

    @property
    def layers(self) -> "Metrics":
        return self

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

    @property
    def flops(self) -> int | None:
        """Of the dense network, per image; None until it has been counted."""
        flops = [row.flops for row in self]
        return None if None in flops else sum(flops)

    @property
    def flops_kept(self) -> float | None:
        """What remains when zero weights are skipped, and no zero activations."""
        return None if self.flops is None else sum(row.flops * row.density for row in self)

    @property
    def per_class(self) -> PerClass:
        """The accuracy of each label before and after; no rows until there is an estimate."""
        return PerClass() if self.change is None else self.change.per_class

    @property
    def flipped(self) -> Rows[Flip]:
        return Rows() if self.change is None else self.change.flips
