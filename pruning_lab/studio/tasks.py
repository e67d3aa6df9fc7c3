"""The studio's long tasks, as functions of a snapshot: retrain, suggest, test."""

import copy
from collections.abc import Callable

from torch import Tensor, nn

from pruning_lab import retraining, sensitivity
from pruning_lab.data import Images, Part
from pruning_lab.evaluation import Accuracy, Drop, drop, evaluate, recalibrate
from pruning_lab.masks import Mask
from pruning_lab.studio.images import OwnRandom, Stopped, StudioImages
from pruning_lab.studio.versions import Version
from pruning_lab.training import Epoch, TrainConfig, train

SCAN_IMAGES = 2000  # for `suggest`
SCAN_DENSITIES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)

Check = Callable[[], None]  # raises Stopped where the task should end
Say = Callable[[str], None]


def retrain(
    model: nn.Module,
    mask: Mask,
    images: Images,
    config: TrainConfig,
    on_epoch: Callable[[Epoch], None],
    say: Say,
    check: Check,
) -> tuple[dict[str, Tensor] | None, int]:
    """Train the model in place, zeros staying zero: (weights, epochs) of the last whole epoch."""
    weights, done = None, 0
    try:
        with retraining.dropout_adjusted(model, mask):
            epochs = train(model, StudioImages(images, check), config, mask=mask)
            for epoch in OwnRandom(config.seed).each(epochs):
                weights = {name: t.detach().clone() for name, t in model.state_dict().items()}
                done = epoch.epoch
                say(f"retraining … epoch {done} of {config.epochs}, loss {epoch.loss:.3f}")
                on_epoch(epoch)
    except Stopped:
        pass
    return weights, done


def suggest(
    version: Version,
    images: Images,
    train_images: Images | None,
    choice: dict,
    say: Say,
    check: Check,
) -> sensitivity.Plan:
    """The plan that a scan of these weights gives; the scan is made once for each version."""

    def progress(seen: sensitivity.Progress) -> None:
        check()
        say(f"scanning … {f'{seen.images / seen.total:.0%}' if seen.total else ''}")

    def searched(done: int, most: int) -> None:
        check()
        say(f"searching … {done} of at most {most} networks")

    network, is_part = version.network(), isinstance(images, Part)
    images = images if is_part else StudioImages(images, check)
    if version.scan is None:
        version.scan = sensitivity.scan(
            network,
            images.head(SCAN_IMAGES) if is_part else images,
            SCAN_DENSITIES,
            recalibrate=train_images,
            notify=progress,
        )
    options = {"model": network, "images": images, "recalibrate": train_images, "notify": searched}
    options["method"] = "joint" if choice["density"] is None else "single"
    return sensitivity.choose(version.scan, **choice, **options)


def test(
    network: nn.Module, dense: nn.Module, images: Images, train_images: Images | None, check: Check
) -> tuple[Accuracy, Drop]:
    """Accuracy on test images, and the drop from the dense network."""
    images = StudioImages(images, check)
    after = evaluate(network, images)
    if train_images is not None:
        dense = copy.deepcopy(dense)
        recalibrate(dense, train_images)
    before = evaluate(dense, images)
    return after, drop(before, after)
