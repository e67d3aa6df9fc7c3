"""The studio's long tasks, as functions of a snapshot: retrain, suggest, test.

`control` says what is done (`say`), and raises Stopped where the user asked for an end (`check`).
"""

import copy
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from pruning_lab import retraining, sensitivity
from pruning_lab.data import Images, Part
from pruning_lab.evaluation import Accuracy, Drop, drop, evaluate, recalibrate
from pruning_lab.masks import Mask
from pruning_lab.rows import counted
from pruning_lab.studio.images import OwnRandom, Stopped, StudioImages
from pruning_lab.studio.layers import Version
from pruning_lab.studio.measurer import Measurer
from pruning_lab.training import Epoch, TrainConfig, train

SCAN_IMAGES, EVALUATIONS = 2000, 80  # for `suggest`, which the user waits for
SCAN_DENSITIES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)


def retrain(
    model: nn.Module,
    mask: Mask,
    images: Images,
    config: TrainConfig,
    on_epoch: Callable[[Epoch], None],
    control: Measurer,
) -> tuple[dict[str, Tensor] | None, str]:
    """Train in place, zeros staying zero: the last whole epoch's weights, and what was done."""
    weights, done, end = None, 0, ""
    try:
        with retraining.dropout_adjusted(model, mask):
            epochs = train(model, StudioImages(images, control.check), config, mask=mask)
            for epoch in OwnRandom(config.seed).each(epochs):
                weights = {name: t.detach().clone() for name, t in model.state_dict().items()}
                done = epoch.epoch
                loss = f"loss {epoch.loss:.3f}"
                control.say(f"retraining … epoch {done} of {config.epochs}, {loss}")
                on_epoch(epoch)
    except Stopped:
        end = f", stopped before {config.epochs}"
    what = f"retrained {counted(done, 'epoch')} from {_percent(mask.density)} kept{end}"
    return weights, what


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

    def scanned(seen: sensitivity.Progress) -> None:
        control.check()
        control.say(f"scanning … {f'{seen.images / seen.total:.0%}' if seen.total else ''}")

    def searched(done: int, most: int) -> None:
        control.check()
        if done % 10 == 0:
            control.say(f"searching … {done} networks of at most {most}")

    network, options = version.network(), {"recalibrate": train_images}
    is_part = isinstance(images, Part)
    images = images if is_part else StudioImages(images, control.check)
    if version.scan is None:
        first = images.head(SCAN_IMAGES) if is_part else images
        version.scan = sensitivity.scan(network, first, SCAN_DENSITIES, notify=scanned, **options)
    options |= {"model": network, "images": images, "fixed": locked}
    options |= {"evaluations": EVALUATIONS, "notify": searched}
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
