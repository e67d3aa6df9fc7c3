"""Prune and retrain: once, iteratively or gradually; between two stages the model can be measured.

Surviving weights keep their values; initialising them again is worse (Han et al. 2015, section
3.3). `rewind` says otherwise. Retraining is also called fine-tuning.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from pruning_lab import criteria, processes
from pruning_lab.checkpoints import Epoch, fingerprint
from pruning_lab.criteria import Saliency
from pruning_lab.data import Images
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
    rewind: str | None = None,
    original: TrainConfig | None = None,
    early: Mapping[str, Tensor] | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    checkpoints: str | Path | None = None,
    **options,
) -> Iterator[Stage]:
    """Prune and retrain once per entry of `rounds`; what is gone stays gone.

    An entry holds the keywords of `masks.prune`: `[{"quality": 0.8}] * 3` prunes three times, with
    thresholds that grow because sigma is that of the survivors (paper, section 3.4). `config` is
    one for all rounds or one for each. Dropout is lowered while retraining, as `dropout_adjusted`
    says. Layers in `freeze` keep their weights: names, or names for each round, since the paper
    retrains the fully connected layers with the convolutions fixed, and then those (section 3.3).
    `checkpoints` names a folder from which an interrupted call resumes; it holds a file for each
    round. `options` are those of `training.train`. Yields a stage after each pruning and after each
    retraining.

    `rewind="lr"` retrains every round with the learning rates of the last `config.epochs` epochs of
    the dense training, whose config is `original`. "weights" does so too, and first sets the
    surviving weights and all other parameters and buffers back to `early`, a state_dict from the
    beginning of these epochs (Renda, Frankle and Carbin 2020).

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
    _check_rewind(model, rewind, configs, original, early, any(freeze))
    rounds_ = zip(rounds, configs, freeze, strict=True)
    for number, (amounts, settings, fixed) in enumerate(rounds_, start=1):
        mask = prune(model, **amounts)
        _check_alike(mask, f"round {number}")
        mask.apply_(model)
        yield Stage("cut", number, len(rounds), mask)
        if early is not None:
            model.load_state_dict(early)
        more = dict(options)
        if rewind:
            settings, more["schedule"] = _rewound(settings, original, options.get("schedule"))
        if checkpoints is not None:
            more["checkpoint"] = Path(checkpoints) / f"round-{number}.safetensors"
        epochs = []
        with (
            dropout_adjusted(model, mask),
            frozen(model, fixed),
            closing(train(model, images, settings, mask=mask, **more)) as training,
        ):
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
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    checkpoints: str | Path | None = None,
    **options,
) -> Iterator[Stage]:
    """Prune during one training, from the present density down to `density`, as `cubic` says.

        for stage in gradual(model, splits.train, TrainConfig(epochs=10), 0.1): print(stage.mask)

    The `updates` prunings are spread evenly between the fractions `begin` and `end` of all steps;
    what a training of few steps has not reached is pruned after its last one. What is gone stays
    gone, and dropout follows the density. `density`, `across` and `saliency` are those of
    `masks.prune`, `options` those of `training.train`. Yields a stage per epoch, with the mask as
    it is then. `checkpoints` names a folder from which an interrupted call resumes; the epochs that
    it had done come with the mask of the weights restored.
    """
    pruning = _Gradual(model, density, begin, end, updates, across, saliency)
    if checkpoints is not None:
        options["checkpoint"] = Path(checkpoints) / "gradual.safetensors"
    with (
        pruning.held,
        frozen(model, freeze),
        closing(train(model, images, config, before_step=pruning, **options)) as training,
    ):
        for epoch in training:
            if epoch.epoch == epoch.epochs:
                pruning(1.0)
            on_epoch(epoch)
            yield Stage("gradual", epoch.epoch, epoch.epochs, pruning.present(), (epoch,))


def cubic(initial: float, final: float, done: float) -> float:
    """The density after a fraction `done` of gradual pruning (Zhu and Gupta 2017, equation 1).

    s_t = s_f + (s_i - s_f)(1 - (t - t_0) / (n dt))^3, in which 1 - s is the density.

    >>> [round(cubic(1.0, 0.1, done), 4) for done in (0, 0.5, 1)]
    [1.0, 0.2125, 0.1]
    """
    return final + (initial - final) * (1 - done) ** 3


@dataclass
class _Gradual:
    """Prunes before a step, when the progress has reached the next update; `held` ends it."""

    model: nn.Module
    density: Amount
    begin: float
    end: float
    updates: int
    across: str
    saliency: Saliency
    update: int = -1  # the last one that was made
    mask: Mask | None = None
    held: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self):
        if not (0 <= self.begin < self.end <= 1 and self.updates >= 1):
            raise ValueError(
                f"begin and end must be fractions with 0 <= begin < end <= 1, updates >= 1, got "
                f"{self.begin}, {self.end} and {self.updates}"
            )
        prune(self.model, density=self.density, across=self.across, saliency=self.saliency)
        present = Mask.of(self.model)
        self.initial = present.density
        if self.across == "layer":
            names = self.density if isinstance(self.density, Mapping) else present
            self.initial = {n: int(present[n].sum()) / present[n].numel() for n in names}

    def __call__(self, progress: float) -> None:
        done = (progress - self.begin) / (self.end - self.begin)
        update = min(max(math.floor(self.updates * done + 1e-9), 0), self.updates)
        if update > self.update:
            amount = self.amount(update / self.updates)
            options = {"across": self.across, "saliency": self.saliency}
            self.update, self.mask = update, prune(self.model, density=amount, **options)
            _check_alike(self.mask, f"update {update}")
            self.held.close()
            self.held.enter_context(self.mask.hold(self.model))
            self.held.enter_context(dropout_adjusted(self.model, self.mask))

    def amount(self, done: float) -> Amount:
        """The density after a fraction `done`, for all layers together or for each."""
        if not isinstance(self.initial, Mapping):
            return cubic(self.initial, self.density, done)
        final = self.density
        final = final if isinstance(final, Mapping) else dict.fromkeys(self.initial, final)
        return {name: cubic(now, final[name], done) for name, now in self.initial.items()}

    def present(self) -> Mask:
        return Mask.of(self.model) if self.mask is None else self.mask

    def fingerprint(self) -> str:
        """Of what decides the prunings, for a checkpoint."""
        plan = (self.density, self.begin, self.end, self.updates, self.across, self.saliency)
        return fingerprint((plan, self.initial))


def _check_rewind(model, rewind, configs, original, early, freezes: bool) -> None:
    """That the arguments of `iterative` about rewinding fit each other and the model."""
    if rewind not in (None, "lr", "weights"):
        raise ValueError(f"rewind must be None, 'lr' or 'weights', got {rewind!r}")
    if (original is None) is (rewind is not None):
        raise ValueError(
            "rewind='lr' or 'weights' and original=, the TrainConfig of the dense training, go "
            "together; give both or none"
        )
    if (early is None) is (rewind == "weights"):
        raise ValueError(
            "rewind='weights' and early=, a state_dict of the dense training, go together; give "
            "both or none"
        )
    if longest := max(
        (c.epochs for c in configs if rewind and c.epochs > original.epochs), default=0
    ):
        raise ValueError(
            f"rewinding repeats the last epochs of the dense training, which has only "
            f"{original.epochs}, not {longest}; give config.epochs <= original.epochs"
        )
    if early is None:
        return
    if freezes:
        raise ValueError("rewind='weights' sets frozen layers back too; give no freeze=")
    check_fit(model, early, "early")
    state = model.state_dict()
    if any(early[name].data_ptr() == t.data_ptr() for name, t in state.items() if t.numel()):
        raise ValueError(
            "early shares its memory with the model, and so changes with it; give "
            "copy.deepcopy(model.state_dict()), made at that epoch"
        )


def _rewound(
    config: TrainConfig, original: TrainConfig, schedule: Callable[[float], float] | None
) -> tuple[TrainConfig, Callable[[float], float]]:
    """Config and schedule of a retraining that repeats the last epochs of the original one."""
    schedule = schedule or replace(original, lr=1.0).learning_rate
    last = config.epochs / max(original.epochs, 1)
    return replace(config, lr=original.lr), partial(_in_last, schedule, last)


def _in_last(schedule: Callable[[float], float], last: float, progress: float) -> float:
    """`schedule` at a progress within its last fraction."""
    return schedule(1 - last * (1 - progress))


def _check_alike(mask: Mask, when: str) -> None:
    if not processes.agree(mask.fingerprint()):
        raise ValueError(
            f"in {when} the processes would prune different weights; give all the same "
            f"network and amounts, and call torch.manual_seed with the same number in each"
        )


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
    before = {dropout: dropout.p for dropout in model.modules() if _is_dropout(dropout)}
    try:
        for dropout, layer in _dropout_layers(model).items():
            if layer in mask:
                density = mask[layer].float().mean().item()
                dropout.p = dropout_rate(before[dropout], density)
        yield model
    finally:
        for dropout, rate in before.items():
            dropout.p = rate


def _dropout_layers(model: nn.Module) -> dict[nn.Module, str]:
    """Dropout layer -> name of the fully connected layer it belongs to."""
    names = {layer.module: name for name, layer in prunable(model).items()}
    order = [module for module in model.modules() if module in names or _is_dropout(module)]
    owners = {}
    for place, module in enumerate(order):
        if not _is_dropout(module):
            continue
        before = [other for other in order[:place] if other in names][-1:]
        after = [other for other in order[place:] if other in names][:1]
        owner = next((other for other in before + after if isinstance(other, nn.Linear)), None)
        if owner is not None:
            owners[module] = names[owner]
    return owners


def _is_dropout(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.dropout._DropoutNd)


@contextmanager
def frozen(model: nn.Module, names: Sequence[str]) -> Iterator[nn.Module]:
    """The named layers require no gradient, so training leaves them (paper, section 3.3)."""
    known, layers = dict(model.named_modules()), prunable(model)
    held = []
    for name in names:
        if name not in known and name not in layers:
            raise KeyError(unknown_layer(name, layers))
        module = known[name] if name in known else layers[name].module
        held += [p for p in module.parameters() if p.requires_grad]
    try:
        for parameter in held:
            parameter.requires_grad_(False)
        yield model
    finally:
        for parameter in held:
            parameter.requires_grad_(True)
