"""Prune, retrain, repeat: each way yields stages, and between two stages the model may be measured.

Surviving weights keep their values; starting them afresh is worse (Han et al. 2015, section 3.3).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from pruning_lab import processes
from pruning_lab.evaluation import Images
from pruning_lab.masks import Mask, prunable, prune, unknown_layer
from pruning_lab.training import Epoch, TrainConfig, train


@dataclass(frozen=True)
class Stage:
    """Where a retraining stands: the model has just been cut, or has just been retrained."""

    kind: str  # "cut" or "retrained"
    round: int  # from 1
    rounds: int
    mask: Mask
    epochs: tuple[Epoch, ...] = ()


def once(
    model: nn.Module, images: Images, config: TrainConfig, amounts: Mapping, **options
) -> Iterator[Stage]:
    """Prune once and retrain: `iterative` with the one round `amounts`, and the same options."""
    return iterative(model, images, config, [amounts], **options)


def iterative(
    model: nn.Module,
    images: Images,
    config: TrainConfig | Sequence[TrainConfig],
    rounds: Sequence[Mapping],
    *,
    within: Mask | None = None,
    freeze: Sequence[str] | Sequence[Sequence[str]] = (),
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    checkpoints: str | Path | None = None,
    checkpoint_minutes: float = 10.0,
) -> Iterator[Stage]:
    """Prune and retrain once per entry of `rounds`, each within what the round before left.

    An entry holds the keywords of `masks.prune`: `[{"quality": 0.8}] * 3` prunes three times, with
    thresholds that grow because sigma is that of the survivors (paper, section 3.4). `config` is
    one for all rounds or one for each. Dropout is lowered while retraining, as `dropout_adjusted`
    says. Layers in `freeze` keep their weights: names, or names for each round, since the paper
    retrains the fully connected layers with the convolutions fixed, and then those (section 3.3).
    `checkpoints` names a folder from which an interrupted call goes on; it holds a file for each
    round, and `training.train` says how often they are written. Yields a stage after each cut and
    after each retraining.

    Raises ValueError where one of several processes would prune other weights than the others.
    """
    rounds = list(rounds)
    configs = list(config) if isinstance(config, Sequence) else [config] * len(rounds)
    if len(configs) != len(rounds):
        raise ValueError(
            f"give one config, or one for each of {len(rounds)} rounds, not {len(configs)}"
        )
    if all(isinstance(layer, str) for layer in freeze):
        freeze = [freeze] * len(rounds)
    if len(freeze) != len(rounds):
        raise ValueError(
            f"freeze the same layers in all rounds, or some in each of {len(rounds)}, "
            f"not in {len(freeze)}"
        )
    mask = within
    rounds_ = zip(rounds, configs, freeze, strict=True)
    for number, (amounts, settings, held) in enumerate(rounds_, start=1):
        mask = prune(model, **amounts, within=mask)
        _check_alike(mask, number)
        mask.apply_(model)
        yield Stage("cut", number, len(rounds), mask)
        options = {"mask": mask, "checkpoint_minutes": checkpoint_minutes}
        if checkpoints is not None:
            options["checkpoint"] = Path(checkpoints) / f"round-{number}.safetensors"
        epochs = []
        with dropout_adjusted(model, mask), frozen(model, held):
            for epoch in train(model, images, settings, **options):
                on_epoch(epoch)
                epochs.append(epoch)
        yield Stage("retrained", number, len(rounds), mask, tuple(epochs))


def _check_alike(mask: Mask, number: int) -> None:
    if not processes.agree(mask.fingerprint()):
        raise ValueError(
            f"in round {number} the processes would prune different weights; give all the same "
            f"network and amounts, and call torch.manual_seed with the same number in each"
        )


def dropout_rate(original: float, density: float) -> float:
    """D_r = D_o * sqrt(C_ir / C_io): a sparser layer needs less dropout (paper, equation 2).

    `density` is C_ir / C_io, the share of the layer's connections that are left.
    """
    return original * math.sqrt(density)


@contextmanager
def dropout_adjusted(model: nn.Module, mask: Mask) -> Iterator[nn.Module]:
    """Every dropout layer at the rate its layer's density asks for; the old rates come back.

    A dropout layer belongs to the fully connected layer whose neurons it drops, the one before it;
    where a convolution comes before it (torchvision's AlexNet), to the fully connected layer it
    feeds. Before and after are read in the order in which the model lists its modules.
    """
    before = {dropout: dropout.p for dropout in model.modules() if _is_dropout(dropout)}
    try:
        for dropout, layer in _dropout_layers(model).items():
            if layer in mask:
                share = mask[layer].float().mean().item()
                dropout.p = dropout_rate(before[dropout], share)
        yield model
    finally:
        for dropout, rate in before.items():
            dropout.p = rate


def _dropout_layers(model: nn.Module) -> dict[nn.Module, str]:
    """Dropout layer -> name of the fully connected layer it belongs to."""
    names = {module: name for name, module in prunable(model).items()}
    order = [module for module in model.modules() if module in names or _is_dropout(module)]
    owners = {}
    for place, module in enumerate(order):
        if not _is_dropout(module):
            continue
        behind = [other for other in order[:place] if other in names][-1:]
        ahead = [other for other in order[place:] if other in names][:1]
        owner = next((other for other in behind + ahead if isinstance(other, nn.Linear)), None)
        if owner is not None:
            owners[module] = names[owner]
    return owners


def _is_dropout(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.dropout._DropoutNd)


@contextmanager
def frozen(model: nn.Module, layers: Sequence[str]) -> Iterator[nn.Module]:
    """The named layers require no gradient, so training leaves them (paper, section 3.3)."""
    known = dict(model.named_modules())
    for name in layers:
        if name not in known:
            raise KeyError(unknown_layer(name, prunable(model)))
    held = [p for name in layers for p in known[name].parameters() if p.requires_grad]
    try:
        for parameter in held:
            parameter.requires_grad_(False)
        yield model
    finally:
        for parameter in held:
            parameter.requires_grad_(True)
