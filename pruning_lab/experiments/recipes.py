"""How each network is trained, pruned and retrained."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from pruning_lab import models, paper, sensitivity
from pruning_lab.masks import prunable
from pruning_lab.training import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained, pruned and retrained. `rounds` are keywords of `masks.prune`.

    With `choose`, keywords of `sensitivity.choose`, the rounds go down in equal steps to the
    densities chosen from the scan.
    """

    network: str  # a name in models.BUILT_IN, or package.module:function of one's own
    dense: TrainConfig
    rounds: tuple[dict, ...] = ()
    retrain: tuple[TrainConfig, ...] = ()  # one for each round
    scan: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7)  # densities
    choose: dict | None = None
    freeze: tuple[tuple[str, ...], ...] = ()  # layers that a round leaves as they are
    shape: dict = field(default_factory=dict)  # classes, width, size: what is not the paper's

    @property
    def about(self) -> dict:
        """What a file says of the network, so that `models.build` can build it again."""
        return {"network": self.network, **self.shape}

    def total_epochs(self, control: bool = True) -> int:
        """Of all trainings: the dense network's, the pruned one's, and the control's."""
        retrain = sum(config.epochs for config in self.retrain)
        return self.dense.epochs + retrain * (2 if control else 1)

    @property
    def control(self) -> "Recipe":
        """The dense network trained on for exactly as long: the same recipe, which prunes nothing.

        Every training has the epochs, schedule, seed and augmentation that the pruned one has.
        """
        return replace(self, rounds=({"density": 1.0},) * len(self.retrain), choose=None)

    def seeded(self, seed: int) -> "Recipe":
        """The same recipe with a different order of images in every phase."""
        configs = enumerate((self.dense, *self.retrain))
        dense, *retrain = (replace(config, seed=100 * seed + phase) for phase, config in configs)
        return replace(self, dense=dense, retrain=tuple(retrain))

    def trained_with(self, **changes) -> "Recipe":
        """The same recipe with these fields of every `TrainConfig` changed, such as bf16=True."""
        dense, *retrain = (replace(config, **changes) for config in (self.dense, *self.retrain))
        return replace(self, dense=dense, retrain=tuple(retrain))

    def unaugmented(self) -> "Recipe":
        """The same recipe on the images as they are: not shifted, mirrored, cropped or tinted."""
        return self.trained_with(shift=0, flip=False, crop=1.0, colour=0.0)


# What trains each network well, found by trying, on val.
_PHOTOS = TrainConfig(epochs=60, lr=0.03, weight_decay=1e-3, flip=True, crop=0.25)
_DENSE = {
    "lenet-300-100": TrainConfig(epochs=10, lr=0.1, weight_decay=1e-4, shift=1),
    "lenet-5": TrainConfig(epochs=4, lr=0.05, weight_decay=5e-4, shift=1),
    "alexnet": _PHOTOS,
    "vgg-16": replace(_PHOTOS, lr=0.02, batch_size=64, weight_decay=5e-4),
}
# What a CPU of two cores trains, prunes and retrains in minutes: a quarter of the channels and
# units, with less dropout, on photos of 64 px.
REDUCED = {
    "alexnet": {"width": 0.25, "size": 64, "dropout": 0.2},
    "vgg-16": {"width": 0.125, "size": 64, "dropout": 0.2},
}
_SMALL = TrainConfig(epochs=14, lr=0.015, batch_size=32, weight_decay=5e-4, flip=True, crop=0.35)
# Caffe's solver of AlexNet, with fewer epochs, and our schedule of the learning rate.
_IMAGENET = replace(_PHOTOS, lr=0.02, batch_size=256, weight_decay=5e-4, crop=0.08, colour=0.1)

# A little less of the largest layer than the paper's rounded densities say, so that the parameters
# stay within those of its Table 1 with the biases counted too.
_LARGEST = {"lenet-300-100": {"fc1": 0.078}, "lenet-5": {"fc1": 0.077}}


def paper_recipe(network: str, data: str = "mnist", shape: Mapping | None = None) -> Recipe:
    """Down to the density that the paper reports for each layer, in rounds.

    The paper retrains LeNets at a tenth of the learning rate and AlexNet at a hundredth, for a time
    it does not say. Here the rate rises to its old height and falls again, which recovers a cut in
    a few epochs. `shape` (classes, width, size, dropout) is that of the network where it is not the
    paper's. Where layers of other sizes make its densities come to less than its compression, all
    of them keep a little less.
    """
    recipe = _trained(network, data, shape)
    densities = {row.layer: row.density for row in paper.LAYER_TABLES[network][:-1]}
    if network not in REDUCED:
        rounds = down_to(densities | _LARGEST[network], 3)
        return replace(recipe, rounds=rounds, retrain=_three(recipe.dense))
    total, weights = _sizes(recipe)
    allowed = total / paper.TABLE_1[network].compression - (total - sum(weights.values()))
    allowed -= len(weights) / 2  # each layer keeps a whole number, by rounding
    fraction = min(1.0, allowed / sum(densities[name] * n for name, n in weights.items()))
    densities = {name: fraction * value for name, value in densities.items()}
    # The fully connected layers with the convolutions frozen, then the convolutions, twice; then
    # all: the paper's section 3.3 freezes one kind, its section 4.2 retrains AlexNet whole.
    conv = tuple(layer for layer in densities if layer.startswith("conv"))
    fc = tuple(layer for layer in densities if layer not in conv)
    steps = [step["density"] for step in down_to(densities, 2)]
    rounds = [{"density": {n: step[n] for n in kind}} for step in steps for kind in (fc, conv)]
    short, long = (_scaled(recipe.dense, factor) for factor in (0.1, 0.5))
    return replace(
        recipe,
        rounds=(*rounds, {"density": densities}),
        retrain=(*4 * (short,), long),
        freeze=(conv, fc, conv, fc, ()),
    )


def chosen_recipe(
    network: str,
    choose: dict,
    data: str = "mnist",
    shape: Mapping | None = None,
    dense: TrainConfig | None = None,
) -> Recipe:
    """Three rounds down to densities chosen from this network's own scan.

    `choose` are keywords of `sensitivity.choose`: {"density": 0.08} or {"max_drop": 0.5}, and
    {"method": "joint"} with either. `dense` says how to train any network: two short retrainings
    take a quarter of its epochs, the last as many. Without it there are the paper's networks.
    """
    sensitivity.check_choice(**choose)  # now, not after an hour of training
    if dense is None:
        recipe = _trained(network, data, shape)
    else:
        recipe = Recipe(network=network, dense=dense, shape=dict(shape or {}))
    levels = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
    if (choose.get("density") or 1) < levels[0]:
        raise ValueError(
            f"a run chooses among densities that keep {levels[0]} of the weights at least, got "
            f"{choose['density']:g}"
        )
    return replace(recipe, retrain=_three(recipe.dense), scan=levels, choose=dict(choose))


def compressed_recipe(
    network: str, compression: float, data: str = "mnist", shape: Mapping | None = None
) -> Recipe:
    """Equal steps to 1 / compression of all parameters, biases counted; layers ranked together.

    Ranking together lets each layer keep what it needs at sparsities for which no densities are
    published; it takes many small steps and a long last retraining. A LeNet that keeps less than
    0.6 % is ranked by Optimal Brain Damage, in more steps, and trained for longer.
    """
    recipe = _trained(network, data, shape)
    total, sizes = _sizes(recipe)
    weights = sum(sizes.values())
    density = (total / (compression or math.nan) - (total - weights)) / weights
    if not 0 < density <= 1:
        raise ValueError(
            f"compression must be at least 1 and below {total / (total - weights):.0f} (biases are "
            f"never pruned), got {compression:g}"
        )
    if network in REDUCED:
        rounds, short, last = 10, _scaled(recipe.dense, 0.1), _scaled(recipe.dense, 0.7)
    else:
        dense = replace(recipe.dense, weight_decay=1e-4)
        rounds, short, last = 12, _scaled(dense, 0.4), _scaled(dense, 4)
    how = {"across": "network"}
    if density < 0.006 and network not in REDUCED:
        rounds, short, last = 16, _scaled(dense, 0.75), _scaled(dense, 10)
        how["saliency"] = "obd"
    steps = (density ** (number / rounds) for number in range(1, rounds + 1))
    return replace(
        recipe,
        rounds=tuple({"density": step, **how} for step in steps),
        retrain=(*[short] * (rounds - 1), last),
    )


def down_to(densities: Mapping[str, float], rounds: int) -> tuple[dict, ...]:
    """Rounds of which each keeps the same fraction of what the one before left."""
    return tuple(
        {"density": {layer: density ** (number / rounds) for layer, density in densities.items()}}
        for number in range(1, rounds + 1)
    )


def _trained(network: str, data: str, shape: Mapping | None) -> Recipe:
    """The part that trains the dense network."""
    if network not in _DENSE:
        raise ValueError(f"no recipe for {network!r}; there are {', '.join(_DENSE)}")
    shape, dense = dict(shape or {}), _DENSE[network]
    if network in REDUCED and data == "imagenet":
        dense = _IMAGENET
    elif network in REDUCED and shape.get("width", 1) < 1:
        dense = _SMALL
    elif network not in REDUCED and data == "mnist-5k":
        dense = replace(dense, epochs=3 * dense.epochs)  # of 3,000 images instead of 55,000
    return Recipe(network=network, dense=dense, shape=shape)


def _scaled(config: TrainConfig, factor: float) -> TrainConfig:
    """The same training in a fraction or a multiple of its epochs."""
    return replace(config, epochs=max(1, round(factor * config.epochs)))


def _three(dense: TrainConfig) -> tuple[TrainConfig, ...]:
    """Two short retrainings and a full one."""
    short = replace(dense, epochs=max(1, dense.epochs // 4))
    return short, short, replace(dense, weight_decay=1e-4)


def _sizes(recipe: Recipe) -> tuple[int, dict[str, int]]:
    """All parameters of the network, and the weights of each layer that is pruned."""
    with torch.device("meta"):  # sizes alone: nothing random is drawn
        model = models.build(recipe.about)
    weights = {name: layer.weight.numel() for name, layer in prunable(model).items()}
    return sum(p.numel() for p in model.parameters()), weights
