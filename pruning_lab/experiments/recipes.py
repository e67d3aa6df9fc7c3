"""How each network is trained, cut and retrained."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from pruning_lab import models, paper, sensitivity
from pruning_lab.masks import prunable
from pruning_lab.training import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained, cut and retrained. `rounds` are keywords of `masks.prune`.

    With `choose`, keywords of `sensitivity.choose`, the rounds go down in equal steps to what is
    chosen from the scan.
    """

    network: str  # a name in models.BUILT_IN
    dense: TrainConfig
    rounds: tuple[dict, ...]
    retrain: tuple[TrainConfig, ...]  # one for each round
    scan: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7)  # densities
    choose: dict | None = None
    freeze: tuple[tuple[str, ...], ...] = ()  # layers that a round leaves as they are
    shape: dict = field(default_factory=dict)  # classes, width, size: what is not the paper's

    @property
    def about(self) -> dict:
        """What a file says of the network, so that `models.build` can build it again."""
        return {"network": self.network, **self.shape}

    @property
    def epochs(self) -> int:
        return self.dense.epochs + sum(config.epochs for config in self.retrain)

    def seeded(self, seed: int) -> "Recipe":
        """The same recipe with a different order of images in every phase."""
        retrain = tuple(
            replace(config, seed=100 * seed + number)
            for number, config in enumerate(self.retrain, start=1)
        )
        return replace(self, dense=replace(self.dense, seed=100 * seed), retrain=retrain)

    def in_bf16(self) -> "Recipe":
        """The same recipe with every forward pass in bfloat16."""
        retrain = tuple(replace(config, bf16=True) for config in self.retrain)
        return replace(self, dense=replace(self.dense, bf16=True), retrain=retrain)


_DENSE = {
    "lenet-300-100": TrainConfig(epochs=10, lr=0.1, weight_decay=1e-4, shift=1),
    "lenet-5": TrainConfig(epochs=4, lr=0.05, weight_decay=5e-4, shift=1),
    # On the 8,516 photos of Imagenette; crops as small as these make many out of few.
    "alexnet": TrainConfig(epochs=60, lr=0.03, weight_decay=1e-3, flip=True, crop=0.25),
    "vgg-16": TrainConfig(
        epochs=60, lr=0.02, batch_size=64, weight_decay=5e-4, flip=True, crop=0.25
    ),
}
# 1,294 images instead of 55,000: more passes, and gentle ones (at 0.1 some seeds diverge).
_DIGITS_PASSES, _DIGITS_LR = 5, 0.03

# What a CPU of two cores trains, prunes and retrains in minutes: a quarter of the channels and
# units, which want less dropout, on photos of 64 px.
REDUCED = {
    "alexnet": {"width": 0.25, "size": 64, "dropout": 0.2},
    "vgg-16": {"width": 0.125, "size": 64, "dropout": 0.2},
}
_SMALL = TrainConfig(
    epochs=14, lr=0.015, batch_size=32, weight_decay=5e-4, flip=True, crop=0.35
)  # for those
# Caffe's solver of AlexNet, with fewer passes and the climb and fall of ours.
_IMAGENET = TrainConfig(
    epochs=60, lr=0.02, batch_size=256, weight_decay=5e-4, flip=True, crop=0.08, colour=0.1
)

# A little less of the largest layer than the paper's rounded densities say, so that the parameters
# stay within those of its Table 1 with the biases counted too.
_LARGEST = {"lenet-300-100": {"fc1": 0.078}, "lenet-5": {"fc1": 0.077}}


def paper_recipe(network: str, data: str = "mnist", shape: Mapping | None = None) -> Recipe:
    """Down to the density that the paper reports for each layer, in rounds.

    The paper retrains LeNets at a tenth of the learning rate and AlexNet at a hundredth, for a time
    it does not say. A rate that climbs to the old height and falls again mends a cut in a few
    epochs. `shape` (classes, width, size, dropout) is that of the network where it is not the
    paper's. Where layers of other sizes make its densities come to less than its compression, all
    of them keep a little less.
    """
    dense = _dense(network, data, shape)
    reported = {row.layer: row.density for row in paper.LAYER_TABLES[network][:-1]}
    if network in REDUCED:
        return _alternating(network, _as_compressed(network, reported, shape), dense, shape)
    rounds = down_to(reported | _LARGEST[network], 3)
    return Recipe(network=network, dense=dense, rounds=rounds, retrain=_three(dense))


def _alternating(
    network: str, densities: Mapping[str, float], dense: TrainConfig, shape: Mapping | None
) -> Recipe:
    """The fully connected layers with the convolutions fixed, then those, twice; then all of it.

    The paper's section 3.3 fixes one kind while it retrains the other, and its section 4.2 retrains
    AlexNet as a whole: we do both.
    """
    conv = tuple(layer for layer in densities if layer.startswith("conv"))
    fc = tuple(layer for layer in densities if layer not in conv)
    steps = [step["density"] for step in down_to(densities, 2)]
    rounds = [
        {"density": {name: step[name] for name in kind}} for step in steps for kind in (fc, conv)
    ]
    short = replace(dense, epochs=max(1, dense.epochs // 10))
    last = replace(dense, epochs=max(1, dense.epochs // 2))
    return Recipe(
        network=network,
        dense=dense,
        rounds=(*rounds, {"density": dict(densities)}),
        retrain=(*4 * (short,), last),
        freeze=(conv, fc, conv, fc, ()),
        shape=dict(shape or {}),
    )


def _as_compressed(
    network: str, densities: Mapping[str, float], shape: Mapping | None
) -> dict[str, float]:
    """The paper's densities, all lowered by the same share where its compression asks for it."""
    model = _on_meta(network, shape)
    total = sum(p.numel() for p in model.parameters())
    weights = {name: layer.weight.numel() for name, layer in prunable(model).items()}
    allowed = total / paper.TABLE_1[network].compression - (total - sum(weights.values()))
    allowed -= len(weights) / 2  # each layer keeps a whole number, by rounding
    kept = sum(densities[name] * count for name, count in weights.items())
    share = min(1.0, allowed / kept)
    return {name: density * share for name, density in densities.items()}


def _on_meta(network: str, shape: Mapping | None) -> torch.nn.Module:
    with torch.device("meta"):  # sizes alone: nothing random is drawn
        return models.build({"network": network, **(shape or {})})


def chosen_recipe(
    network: str, choose: dict, data: str = "mnist", shape: Mapping | None = None
) -> Recipe:
    """Three rounds down to densities chosen from this network's own scan.

    `choose` are keywords of `sensitivity.choose`: {"density": 0.08} or {"max_drop": 0.5}, and
    {"method": "joint"} with either.
    """
    sensitivity.check_choice(**choose)  # now, not after an hour of training
    dense = _dense(network, data, shape)
    if choose.get("density", 1) < (lowest := 0.002):
        raise ValueError(
            f"a run chooses among densities that keep {lowest} of the weights at least, got "
            f"{choose['density']:g}"
        )
    levels = (lowest, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
    retrain = _three(dense)
    return Recipe(
        network=network,
        dense=dense,
        rounds=(),
        retrain=retrain,
        scan=levels,
        choose=choose,
        shape=dict(shape or {}),
    )


def _three(dense: TrainConfig) -> tuple[TrainConfig, ...]:
    """Two short retrainings and a whole one."""
    short = replace(dense, epochs=max(1, dense.epochs // 4))
    return short, short, replace(dense, weight_decay=1e-4)


def down_to(densities: Mapping[str, float], rounds: int) -> tuple[dict, ...]:
    """Every round keeps the same share of what the one before left."""
    return tuple(
        {"density": {layer: density ** (number / rounds) for layer, density in densities.items()}}
        for number in range(1, rounds + 1)
    )


def compressed_recipe(
    network: str,
    compression: float,
    data: str = "mnist",
    shape: Mapping | None = None,
    *,
    rounds: int | None = None,
) -> Recipe:
    """Equal steps to 1 / compression of all parameters, biases counted; layers ranked together.

    Ranking together lets each layer keep what it needs at sparsities where no one has looked up
    densities; it wants many small steps and a long last retraining.
    """
    dense = _dense(network, data, shape)
    model = _on_meta(network, shape)
    total = sum(p.numel() for p in model.parameters())
    weights = sum(layer.weight.numel() for layer in prunable(model).values())
    density = (total / (compression or math.nan) - (total - weights)) / weights
    if not 0 < density <= 1:
        highest = total / (total - weights)
        raise ValueError(
            f"compression must be at least 1 and below {highest:.0f} (biases are never pruned), "
            f"got {compression:g}"
        )
    photos = network in REDUCED
    rounds = rounds or (10 if photos else 12)
    steps = tuple(
        {"density": density ** (number / rounds), "across": "network"}
        for number in range(1, rounds + 1)
    )
    if photos:
        short = replace(dense, epochs=max(1, dense.epochs // 10))
        last = replace(dense, epochs=max(1, round(0.7 * dense.epochs)))
    else:
        short = replace(dense, epochs=max(1, round(0.4 * dense.epochs)), weight_decay=1e-4)
        last = replace(short, epochs=4 * dense.epochs)
    retrain = (short,) * (rounds - 1) + (last,)
    return Recipe(
        network=network, dense=dense, rounds=steps, retrain=retrain, shape=dict(shape or {})
    )


def _dense(network: str, data: str, shape: Mapping | None = None) -> TrainConfig:
    """What trains a network well: found by trying, on val."""
    if network not in _DENSE:
        raise ValueError(f"no recipe for {network!r}; there are {', '.join(_DENSE)}")
    if network in REDUCED:
        if data == "imagenet":
            return _IMAGENET
        return _SMALL if (shape or {}).get("width", 1) < 1 else _DENSE[network]
    if data == "digits":
        passes = _DENSE[network].epochs * _DIGITS_PASSES
        return replace(_DENSE[network], epochs=passes, lr=_DIGITS_LR)
    return _DENSE[network]
