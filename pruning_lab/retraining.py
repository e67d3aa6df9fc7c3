"""Prune and retrain: once, iteratively or gradually; between two stages the model can be measured.

Surviving weights keep their values; initialising them again is worse (Han et al. 2015, section
3.3), which `reinitialise` tries. Retraining is also called fine-tuning.
"""

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from pruning_lab import criteria, data, processes
from pruning_lab.checkpoints import Epoch, fingerprint
from pruning_lab.criteria import Saliency
from pruning_lab.data import Images
from pruning_lab.evaluation import batch_norms
from pruning_lab.layers import device_of, seeded, unwrapped
from pruning_lab.masks import Amount, Mask, prunable, prune, unknown_layer
from pruning_lab.models.stored import check_fit
from pruning_lab.training import TrainConfig, train


@dataclass(frozen=True)
class Stage:
    """Where a retraining stands: the model has been pruned, or has been retrained since."""

    kind: str  # "cut", "retrained" or "gradual"
    round: int  # from 1; of gradual pruning, an epoch
    rounds: int
    mask: Mask
    epochs: tuple[Epoch, ...] = ()


def once(
    model: nn.Module, images: Images, config: TrainConfig, amounts: Mapping, **options
) -> Iterator[Stage]:
    """One-shot: `iterative` with the one round `amounts`, and the same options."""
    return iterative(model, images, config, [amounts], **options)


def iterative(
    model: nn.Module,
    images: Images,
    config: TrainConfig | Sequence[TrainConfig],
    rounds: Sequence[Mapping],
    *,
    freeze: Sequence[str] | Sequence[Sequence[str]] = (),
    rewind: TrainConfig | None = None,
    adjust_dropout: bool = True,
    reinitialise: Callable[[], nn.Module] | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    checkpoints: str | Path | None = None,
    **options,
) -> Iterator[Stage]:
    """Prune and retrain once per entry of `rounds`; pruned weights stay pruned.

    An entry holds the keywords of `masks.prune`: `[{"quality": 0.8}] * 3` prunes three times, with
    thresholds that grow because sigma is that of the survivors (paper, section 3.4). Its saliency
    may be "obd", "taylor" or "gradient", which is computed again before each pruning, on the first
    10,000 of `images`. `config` is one for all rounds or one for each. Dropout is lowered while
    retraining (`dropout_adjusted`), unless `adjust_dropout=False`. Layers in `freeze` stay as they
    are (`frozen`): names, or names for each round, since the paper retrains the fully connected
    layers with the convolutions fixed, and then those (section 3.3).
    `checkpoints` names a folder from which an interrupted call resumes; it holds a file for each
    round. `options` are those of `training.train`. Yields a stage after each pruning and after each
    retraining.

    With `rewind`, the config of the dense training, every round repeats the learning rates of its
    last `config.epochs` epochs (learning rate rewinding: Renda, Frankle and Carbin 2020).

    With `reinitialise`, a function that makes the network with new random weights, such as
    `models.lenet_5`, only the mask of a round is kept: before it is retrained, every parameter that
    is trained, biases too, gets its value in a network made with a seed drawn from `config.seed`.

    Raises ValueError where one of several processes would prune other weights than the others.
    """
    rounds = list(rounds)
    configs = _for_each(rounds, "config", config, isinstance(config, TrainConfig))
    freezes = _for_each(rounds, "freeze", freeze, all(isinstance(name, str) for name in freeze))
    longest = max((own.epochs for own in configs), default=0)
    if rewind is not None and longest > rewind.epochs:
        raise ValueError(
            f"rewinding repeats the last epochs of the dense training, which has only "
            f"{rewind.epochs}, not {longest}; give config.epochs <= rewind.epochs"
        )
    dense = options.get("schedule") or (rewind and replace(rewind, lr=1.0).learning_rate)
    each = zip(rounds, configs, freezes, strict=True)
    for number, (amounts, settings, names) in enumerate(each, start=1):
        mask = _pruned(model, f"round {number}", **_with_saliency(model, images, amounts))
        mask.apply_(model)
        yield Stage("cut", number, len(rounds), mask)
        if rewind:
            last = settings.epochs / max(rewind.epochs, 1)
            options["schedule"] = partial(_in_last, dense, last)
            settings = replace(settings, lr=rewind.lr)
        if checkpoints is not None:
            options["checkpoint"] = Path(checkpoints) / f"round-{number}.safetensors"
        epochs = []
        adjusted = dropout_adjusted(model, mask) if adjust_dropout else nullcontext()
        with adjusted, frozen(model, names):
            if reinitialise:
                _initialise_(model, reinitialise, f"{settings.seed} {number}")
            with closing(train(model, images, settings, mask=mask, **options)) as training:
                for epoch in training:
                    on_epoch(epoch)
                    epochs.append(epoch)
        yield Stage("retrained", number, len(rounds), mask, tuple(epochs))


def gradual(
    model: nn.Module,
    images: Images,
    config: TrainConfig,
    density: Amount,
    *,
    begin: float = 0.0,
    end: float = 0.75,
    updates: int = 50,
    across: str = "layer",
    saliency: Saliency = criteria.magnitude,
    freeze: Sequence[str] = (),
    adjust_dropout: bool = True,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    checkpoints: str | Path | None = None,
    **options,
) -> Iterator[Stage]:
    """Prune during one training, from the present density down to `density`, as `cubic` says.

        for stage in gradual(model, splits.train, TrainConfig(epochs=10), 0.1): print(stage.mask)

    The `updates` prunings are spread evenly between the fractions `begin` and `end` of all steps;
    those that a training of few steps has not reached are made after its last one. Pruned weights
    stay pruned, and dropout follows the density. `density`, `across` and `saliency` are those of
    `masks.prune`, the other keywords those of `iterative`. Yields a stage per epoch, with the mask
    as it is then; epochs that a checkpoint gives again come with the mask of the weights restored.
    """
    if not (0 <= begin < end <= 1 and updates >= 1):
        raise ValueError(
            f"begin and end must be fractions with 0 <= begin < end <= 1, updates >= 1, got "
            f"{begin}, {end} and {updates}"
        )
    how = {"across": across, "saliency": saliency}
    _pruned(model, "gradual pruning", density=density, **how)  # raises where these do not fit
    mask, last, held = Mask.of(model), -1, ExitStack()
    initial = {name: int(kept.sum()) / kept.numel() for name, kept in mask.items()}
    initial[_ALL] = mask.density
    names = mask if across == "layer" else [_ALL]
    final = density if isinstance(density, Mapping) else dict.fromkeys(names, density)

    def before_step(progress: float) -> None:
        nonlocal mask, last
        update = max(0, math.floor(updates * min(1, (progress - begin) / (end - begin)) + 1e-9))
        if update > last:
            amounts = {n: cubic(initial[n], final[n], update / updates) for n in final}
            amounts = amounts.get(_ALL, amounts)
            last, mask = update, _pruned(model, f"update {update}", density=amounts, **how)
            held.close()
            held.enter_context(mask.hold(model))
            if adjust_dropout:
                held.enter_context(dropout_adjusted(model, mask))

    plan = (density, begin, end, updates, across, saliency, adjust_dropout, initial)
    before_step.fingerprint = lambda: fingerprint(plan)
    if checkpoints is not None:
        options["checkpoint"] = Path(checkpoints) / "gradual.safetensors"
    training = train(model, images, config, before_step=before_step, **options)
    with held, frozen(model, freeze), closing(training):
        for epoch in training:
            if epoch.epoch == epoch.epochs:
                before_step(1.0)
            on_epoch(epoch)
            mask = Mask.of(model) if last < 0 else mask
            yield Stage("gradual", epoch.epoch, epoch.epochs, mask, (epoch,))


_ALL = ""  # in place of a layer's name: all layers together


def cubic(initial: float, final: float, done: float) -> float:
    """The density after a fraction `done` of gradual pruning (Zhu and Gupta 2017, equation 1).

    s_t = s_f + (s_i - s_f)(1 - (t - t_0) / (n dt))^3, in which 1 - s is the density.

    >>> [round(cubic(1.0, 0.1, done), 4) for done in (0, 0.5, 1)]
    [1.0, 0.2125, 0.1]
    """
    return final + (initial - final) * (1 - done) ** 3


def _with_saliency(model: nn.Module, images: Images, amounts: Mapping) -> dict:
    """Keywords of `masks.prune`, in which a saliency that is named has been computed."""
    name = amounts.get("saliency")
    if not isinstance(name, str):
        return dict(amounts)
    found = criteria.by_name(name)
    if found is None and name not in _COMPUTED:
        raise ValueError(f"no saliency {name!r}; there are magnitude, {', '.join(_COMPUTED)}")
    return {**amounts, "saliency": found or _COMPUTED[name](model, _first(images))}


_COMPUTED = {"obd": criteria.obd, "taylor": criteria.taylor, "gradient": criteria.gradient}


def _first(images: Images, wanted: int = 10_000) -> Iterator[tuple]:
    """Batches until there are so many images."""
    for x, y in data.checked(images):
        yield x, y
        wanted -= len(x)
        if wanted <= 0:
            return


def _pruned(model: nn.Module, when: str, **amounts) -> Mask:
    """The mask of `prune`, once it is the same in all processes."""
    mask = prune(model, **amounts)
    if not processes.agree(mask.fingerprint()):
        raise ValueError(
            f"in {when} the processes would prune different weights; give all the same "
            f"network and amounts, and call torch.manual_seed with the same number in each"
        )
    return mask


def _for_each(rounds: list, name: str, values, is_one: bool) -> list:
    values = [values] * len(rounds) if is_one else list(values)
    if len(values) != len(rounds):
        got = f"{len(values)} for {len(rounds)}"
        raise ValueError(f"give one {name} for all rounds, or one for each: {got}")
    return values


def _in_last(schedule: Callable[[float], float], last: float, progress: float) -> float:
    """`schedule` at a progress within its last fraction."""
    return schedule(1 - last * (1 - progress))


@torch.no_grad()
def _initialise_(model: nn.Module, make: Callable[[], nn.Module], seed: str) -> None:
    """Set every parameter that is trained to its value in the network that `make` makes."""
    # A seed as plain as `config.seed` may well be the dense network's, whose first values would
    # come back: that is another technique (Frankle and Carbin 2019).
    with seeded(zlib.crc32(f"initial values {seed}".encode()), device_of(model)):
        new = unwrapped(make())
    model = unwrapped(model)
    check_fit(model, new.state_dict(), "the network of reinitialise")
    values = dict(new.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.copy_(values[name])


def dropout_rate(original: float, density: float) -> float:
    """D_r = D_o * sqrt(C_ir / C_io): a sparser layer needs less dropout (paper, equation 2).

    `density` is C_ir / C_io, the fraction of the layer's connections that are left.
    """
    return original * math.sqrt(density)


@contextmanager
def dropout_adjusted(model: nn.Module, mask: Mask) -> Iterator[nn.Module]:
    """Every dropout layer at the rate its layer's density asks for; the old rates come back.

    A dropout layer belongs to the fully connected layer whose neurons it drops, the one before it;
    where a convolution comes before it (torchvision's AlexNet), to the fully connected layer it
    feeds. Before and after are read in the order in which the model lists its modules.
    """
    names = {layer.module: name for name, layer in prunable(model).items()}
    owners, owner, waiting = {}, None, []  # dropout layer -> name of its fully connected layer
    for module in model.modules():
        if module in names:
            owner = names[module] if isinstance(module, nn.Linear) else None
            owners |= dict.fromkeys(waiting, owner) if owner else {}
            waiting = []
        elif isinstance(module, nn.modules.dropout._DropoutNd):
            if owner:
                owners[module] = owner
            else:
                waiting.append(module)
    rates = {dropout: dropout.p for dropout, owner in owners.items() if owner in mask}
    try:
        for dropout, rate in rates.items():
            dropout.p = dropout_rate(rate, mask[owners[dropout]].float().mean().item())
        yield model
    finally:
        for dropout, rate in rates.items():
            dropout.p = rate


@contextmanager
def frozen(model: nn.Module, names: Sequence[str]) -> Iterator[nn.Module]:
    """The named layers stay bit for bit while the others are trained (paper, section 3.3).

    Their parameters require no gradient, so neither weight decay nor momentum moves them. Any
    module can be named: a BatchNorm, or a block with some, keeps its running statistics, by which
    it then normalises as in evaluation. A BatchNorm that is not named belongs to no layer and is
    trained on, between frozen convolutions too.
    """
    layers = prunable(model)
    known = {n: layer.module for n, layer in layers.items()} | dict(model.named_modules())
    if unknown := [name for name in names if name not in known]:
        raise KeyError(unknown_layer(unknown[0], layers))
    modules = [known[name] for name in names]
    held = [p for module in modules for p in module.parameters() if p.requires_grad]
    norms = {norm for module in modules for norm in batch_norms(module).values()}
    hooks = [norm.register_forward_pre_hook(_as_in_evaluation) for norm in norms]
    try:
        for parameter in held:
            parameter.requires_grad_(False)
        yield model
    finally:
        for parameter in held:
            parameter.requires_grad_(True)
        for hook in hooks:
            hook.remove()


def _as_in_evaluation(norm: nn.Module, _) -> None:
    norm.training = False  # here, as training switches the mode of all modules
