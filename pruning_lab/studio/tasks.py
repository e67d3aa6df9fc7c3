"""The studio's long tasks, as functions of a snapshot: retrain, suggest, test.

`control` says what is done (`say`), and raises Stopped where the user asked for an end (`check`).
The points that it says are (epochs done, mean loss, accuracy) of the latest batches in a training,
and (density of the whole network, accuracy) of each network that a search tries.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning_lab import retraining, sensitivity
from pruning_lab.data import Images, Part
from pruning_lab.evaluation import Accuracy, Drop, drop, evaluate, recalibrate, right
from pruning_lab.masks import Mask
from pruning_lab.rows import counted
from pruning_lab.studio.images import OwnRandom, Stopped, StudioImages
from pruning_lab.studio.layers import Version
from pruning_lab.studio.measurer import Measurer
from pruning_lab.training import Epoch, TrainConfig, batches, train

SCAN_IMAGES, EVALUATIONS = 2000, 60  # for `suggest`; with 80 it finds nothing better
SCAN_DENSITIES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
SAY_SECONDS = 1 / 8  # between two points of a training


def retrain(
    model: nn.Module,
    mask: Mask,
    images: Images,
    config: TrainConfig,
    on_epoch: Callable[[Epoch], None],
    control: Measurer,
) -> tuple[dict[str, Tensor] | None, str]:
    """Train in place, zeros staying zero: the weights, and what was done.

    Stopped, it keeps what was learnt until then; before the first step that is None.
    """
    learning, end = _Learning(images, config, control), ""
    try:
        with retraining.dropout_adjusted(model, mask):
            images = StudioImages(images, learning.check)
            epochs = train(model, images, config, mask=mask, loss=learning.loss)
            for epoch in OwnRandom(config.seed).each(epochs):
                learning.finished(epoch)
                on_epoch(epoch)
    except Stopped:
        end = f", stopped before {config.epochs}"
        if not learning.done:
            control.say("retraining … stopped before its first step: nothing was learnt")
    what = f"retrained {_epochs(learning.done)} from {_percent(mask.density)} kept{end}"
    return (model.state_dict() if learning.done else None), what


class _Learning:
    """Follows a training batch by batch: by its loss, and by `check` between two batches."""

    def __init__(self, images: Images, config: TrainConfig, control: Measurer):
        self._all, self._epochs, self._control = batches(images, config), config.epochs, control
        self._whole = self._seen = 0  # epochs done, and batches since then
        self._new = []  # of the batches since the last point: (loss, right), images
        self._began, self._said = time.perf_counter(), -math.inf

    @property
    def done(self) -> float:
        """In epochs."""
        if not self._seen:
            return float(self._whole)
        return self._whole + (min(1.0, self._seen / self._all) if self._all else 0.5)

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        loss = F.cross_entropy(logits, y)
        sums = torch.stack([loss.detach().float() * len(y), right(logits, y).sum().float()])
        self._new.append((sums, len(y)))
        self._seen += 1
        return loss

    def check(self) -> None:
        self._control.check()
        if self._new and time.perf_counter() - self._said >= SAY_SECONDS:
            self._say(self._whole + 1)

    def finished(self, epoch: Epoch) -> None:
        self._whole, self._seen, self._all = epoch.epoch, 0, self._seen
        self._say(epoch.epoch, epoch.loss)

    def _say(self, epoch: int, mean: float | None = None) -> None:
        point = None
        if self._new:
            sums, images = (sum(part) for part in zip(*self._new, strict=True))
            loss, accuracy = (sums / images).tolist()
            point = self.done, loss, accuracy
            mean = loss if mean is None else mean
        self._new, self._said = [], time.perf_counter()
        text = f"retraining … epoch {epoch} of {self._epochs}, loss {mean:.3f}"
        done = self.done / self._epochs
        self._control.say(text, done, _left(self._began, done), point)


def _left(began: float, done: float) -> float | None:
    """Seconds, if the remainder of a task goes on as fast."""
    return (time.perf_counter() - began) * (1 - done) / done if done else None


def _epochs(done: float) -> str:
    """`1 epoch`, `2 epochs`; of a part no more than was done: `0.4 epochs`."""
    if done.is_integer():
        return counted(int(done), "epoch")
    return f"{math.floor(10 * done) / 10:g} epochs" if done >= 0.1 else f"{done:.1g} epochs"


def _percent(density: float) -> str:
    return f"{100 * density:.0f} %" if density >= 0.0995 else f"{100 * density:.2g} %"


def suggest(
    version: Version,
    locked: Mapping[str, Tensor],
    images: Images,
    train_images: Images | None,
    choice: dict,
    control: Measurer,
) -> sensitivity.Plan:
    """The plan by a scan of these weights, which is made once for each version.

    `locked` says what stays of the layers that the plan is not for.
    """
    began, begun = time.perf_counter(), 0
    scans = 0 if version.scan else len(version.layers) * len(SCAN_DENSITIES)

    def say(text: str, evaluations: float, point: tuple | None = None) -> None:
        control.check()
        done = evaluations / (scans + EVALUATIONS)
        control.say(text, done, _left(began, done), point)

    def scanned(seen: sensitivity.Progress) -> None:
        part = seen.images / seen.total if seen.total else 0.0
        say(f"scanning … {f'{part:.0%}' if seen.total else ''}", part * scans)

    def tried(density: float, accuracy: Accuracy) -> None:
        how = f"{begun} of at most {EVALUATIONS} networks, on {accuracy.n:,} images"
        say(f"searching … {how}", scans + begun, (density, accuracy.value))

    def searched(number: int, most: int) -> None:
        nonlocal begun
        begun = number
        if not number:
            say("searching …", scans)

    network, options = version.network(), {"recalibrate": train_images}
    is_part = isinstance(images, Part)
    images = images if is_part else StudioImages(images, control.check)
    if version.scan is None:
        first = images.head(SCAN_IMAGES) if is_part else images
        version.scan = sensitivity.scan(network, first, SCAN_DENSITIES, notify=scanned, **options)
    options |= {"model": network, "images": images, "fixed": locked}
    options |= {"evaluations": EVALUATIONS, "notify": searched, "tried": tried}
    return sensitivity.choose(version.scan, **choice, **options)


def test(
    network: nn.Module,
    dense: nn.Module,
    images: Images,
    train_images: Images | None,
    control: Measurer,
) -> tuple[Accuracy, Drop]:
    """Accuracy on test images, and the drop from the dense network."""
    images = StudioImages(images, control.check)
    after = evaluate(network, images)
    if train_images is not None:
        dense = copy.deepcopy(dense)
        recalibrate(dense, train_images)
    return after, drop(evaluate(dense, images), after)
