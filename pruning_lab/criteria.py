"""Which weights stay: saliencies, and functions from a saliency and one number to a bool tensor.

A *saliency* says how much a weight matters: a function of a weight (`magnitude`, `random(seed)`),
or a dict of layer name -> tensor computed beforehand (`gradient`, `taylor`). In a bool tensor True
means kept; `kept` says which weights are still there. A density refers to the whole layer all the
same, so repeating a call never compounds.
"""

import hashlib
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from numbers import Real

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning_lab.layers import check_logits, device_of, generators, mode, prunable, seeded
from pruning_lab.rows import printable

Saliency = Callable[[Tensor], Tensor] | Mapping[str, Tensor]
_PART = 2**20  # weights that `sigma` takes at a time: a layer's copies would be four times as large


def magnitude(weight: Tensor) -> Tensor:
    """|w|: the saliency of Han et al. 2015, section 3."""
    return weight.detach().abs()


@dataclass(frozen=True)
class Random:
    """A saliency that knows nothing: uniform in [0, 1), the same for a layer on every device."""

    seed: int = 0

    def __call__(self, weight: Tensor, layer: str = "") -> Tensor:
        mixed = zlib.crc32(f"{self.seed} {layer}".encode())  # else layers of one shape would tie
        generator = torch.Generator().manual_seed(mixed)
        return torch.rand(weight.shape, generator=generator).to(weight.device)


random = Random  # a control, as in random(seed)


class Probabilistic(Random):
    """|w| / e, e exponential: a density keeps weights at random, with chances that grow with |w|.

    The weights that stay are drawn one after the other without replacement, each time with chances
    in proportion to |w| (Efraimidis and Spirakis 2006). Our reading of the probabilistic pruning
    that Han et al. 2015 found worse (section 3.4) and do not describe.
    """

    def __call__(self, weight: Tensor, layer: str = "") -> Tensor:
        return magnitude(weight) / -super().__call__(weight, layer).log()


probabilistic = Probabilistic
_SEEDED = {"random": Random, "probabilistic": Probabilistic}


class Computed(dict[str, Tensor]):
    """Saliencies computed beforehand, layer name -> tensor, with the name of the method."""

    def __init__(self, name: str, saliencies: Mapping[str, Tensor]):
        super().__init__(saliencies)
        self.name = name


def gradient(model: nn.Module, images: Iterable[tuple[Tensor, Tensor]]) -> Computed:
    """|g|: g is the gradient of the mean cross-entropy over training images, in evaluation mode."""
    return Computed("gradient", {n: g.abs() for n, g in _gradients(model, images).items()})


def taylor(model: nn.Module, images: Iterable[tuple[Tensor, Tensor]]) -> Computed:
    """|w g|: the first-order change of the loss when a weight is removed (Molchanov et al. 2017).

    g as in `gradient`. Compute it again after the weights have changed.
    """
    layers, gradients = prunable(model), _gradients(model, images)
    return Computed("taylor", {n: magnitude(layers[n].weight * g) for n, g in gradients.items()})


def _gradients(model: nn.Module, images: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    if getattr(images, "name", None) == "test":
        raise ValueError("a saliency chooses, and the test split is not for choosing; give train")
    device, seen = device_of(model), 0
    weights = {name: layer.weight for name, layer in prunable(model).items()}
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(generators(device)))  # a DataLoader draws
        stack.enter_context(mode(model, training=False))
        stack.enter_context(torch.enable_grad())
        for weight in weights.values():  # a frozen one too
            stack.callback(weight.requires_grad_, weight.requires_grad)
            weight.requires_grad_(True)
        for x, y in images:
            logits = model(x.to(device))
            check_logits(logits)
            loss = F.cross_entropy(logits, y.to(device), reduction="sum")
            # A layer that did not run has no gradient, and its saliency is 0.
            parts = torch.autograd.grad(loss, [*weights.values()], materialize_grads=True)
            for total, part in zip(sums.values(), parts, strict=True):
                total += part
            seen += len(y)
    if not seen:
        raise ValueError("no images to compute a saliency with")
    return {name: total / seen for name, total in sums.items()}


def saliency_of(saliency: Saliency, layer: str, weight: Tensor) -> Tensor:
    """The saliency of one layer; KeyError where a dict lacks it, ValueError for a wrong shape."""
    if not isinstance(saliency, Mapping):
        values = saliency(weight, layer) if isinstance(saliency, Random) else saliency(weight)
    elif (values := saliency.get(layer)) is None:
        names = printable(", ".join(saliency) or "none")
        raise KeyError(
            f"the saliency has no layer {layer!r}, only {names}; compute it with this network"
        )
    shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
    if shape != tuple(weight.shape):
        raise ValueError(
            f"the saliency of layer {layer!r} must be a tensor shaped like its weight, "
            f"{tuple(weight.shape)}, got {shape}"
        )
    _check_comparable(values, signed=True)
    return values.detach().to(weight.device)


def name_of(saliency: Saliency) -> str:
    """What scans and plans call a saliency, so that another one is noticed.

    "magnitude", "random(seed=0)" and "probabilistic(seed=0)" say all; any other name ends in a
    digest of a dict's values, or of a function's values for fixed weights: "taylor 1f0c9a2b8d7e".
    """
    if saliency is magnitude:
        return "magnitude"
    if isinstance(saliency, Random):
        return f"{type(saliency).__name__.lower()}(seed={saliency.seed})"
    if isinstance(saliency, Mapping):
        name, values = getattr(saliency, "name", "computed"), saliency
    else:
        name = getattr(saliency, "__qualname__", type(saliency).__name__)
        values = dict.fromkeys(_samples(), torch.empty(0))
        for layer, weight in _samples().items():
            with suppress(Exception):  # a user's function raises for shapes it is not meant for
                values[layer] = saliency_of(saliency, layer, weight)
    digest = hashlib.sha256()
    for layer, tensor in sorted(values.items()):
        digest.update(layer.encode())
        digest.update(_sortable(tensor).cpu().contiguous().numpy())
    return f"{name} {digest.hexdigest()[:12]}"


def by_name(name: str) -> Saliency | None:
    """The saliency that `name_of` named, where its name says all of it; else None."""
    if name == "magnitude":
        return magnitude
    seeded = re.fullmatch(r"(random|probabilistic)\(seed=(\d+)\)", name)
    return _SEEDED[seeded[1]](int(seeded[2])) if seeded else None


def _samples() -> dict[str, nn.Parameter]:
    """Fixed weights on which a function is tried; some are zero, as after pruning."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"linear": (3, 5), "conv": (4, 2, 3, 3), "one": (1, 1)}
    samples = {n: torch.randn(shape, generator=generator) for n, shape in shapes.items()}
    samples["pruned"] = samples["linear"].relu()
    return {name: nn.Parameter(weight) for name, weight in samples.items()}


def check(saliency: Saliency, model: nn.Module | None = None) -> None:
    """Test a saliency of your own: shape, finite values, the same twice, no change of the weight.

    It is tried on a few weights, or on those of `model` (which a dict needs). ValueError names
    the first thing that is wrong.

    >>> check(lambda weight: weight.abs() ** 2)
    >>> check(lambda weight: weight.norm(dim=1))
    Traceback (most recent call last):
    ValueError: the saliency of layer 'linear' must be a tensor shaped like its weight, (3, 5), ...
    """
    if model is None and isinstance(saliency, Mapping):
        raise ValueError("a dict of saliencies is checked with its network: check(saliency, model)")
    layers = {} if model is None else prunable(model)
    samples = {name: layer.weight for name, layer in layers.items()} or _samples()
    for layer, weight in samples.items():
        before, flag = weight.detach().clone(), weight.requires_grad
        first = saliency_of(saliency, layer, weight)
        with seeded(1, weight.device):  # a saliency that draws from torch's generator shows here
            again = saliency_of(saliency, layer, weight)
        wrong = {
            "has values that are not finite": not first.isfinite().all(),
            "changes the weight": not torch.equal(weight.detach(), before),
            "changes the weight's requires_grad": weight.requires_grad != flag,
            "leaves a gradient on the weight": weight.grad is not None and model is None,
            "differs from one call to the next": not torch.equal(first, again),
        }
        for what in filter(wrong.get, wrong):
            raise ValueError(f"the saliency {what} (layer {layer!r}, {tuple(weight.shape)})")


def sigma(weight: Tensor, kept: Tensor | None = None, *, layer: str | None = None) -> float:
    """Population standard deviation of the weights that are not zero (and in `kept`); 0 of none.

    Our reading of the paper, which does not say: thresholds grow as a network is pruned again.
    With the name of its `layer`, ValueError where a weight is not finite.
    """
    flat = weight.detach().reshape(-1)
    alive = flat != 0 if kept is None else (flat != 0) & kept.reshape(-1)
    parts = list(zip(flat.split(_PART), alive.split(_PART), strict=True))
    count = max(int(alive.count_nonzero()), 1)
    mean = sum(_widened(w[mask]).sum().item() for w, mask in parts) / count
    squares = sum((_widened(w[mask]) - mean).square().sum().item() for w, mask in parts)
    value = math.sqrt(squares / count)
    if layer is not None and not math.isfinite(value):
        what = f"layer {layer!r} has a weight that is infinite or not a number"
        raise ValueError(f"{what}; train again with a lower lr")
    return value


def by_quality(weight: Tensor, quality: float, kept: Tensor | None = None) -> Tensor:
    """Keep |w| >= quality * sigma, one layer at a time (Han et al. 2015, section 4).

    Takes a weight: sigma is the weights' own. A zero weight is gone and stays gone.
    """
    alive = weight.detach() != 0
    alive = alive if kept is None else alive & kept
    ((chosen, _),) = by_levels("quality", [quality], magnitude(weight), alive, sigma(weight, alive))
    return chosen


def by_threshold(
    saliency: Tensor, threshold: float, kept: Tensor | None = None, *, signed: bool = False
) -> Tensor:
    """Keep saliency >= threshold. Takes a saliency, not a weight, as `by_density` does."""
    _check_comparable(saliency, signed)
    check_amount("threshold", threshold)
    chosen = saliency >= threshold
    return chosen if kept is None else chosen & kept


def by_density(
    saliency: Tensor, density: float, kept: Tensor | None = None, *, signed: bool = False
) -> Tensor:
    """Keep the round(density * n) most salient of a layer's n weights, never one more.

    Ties go to the earlier position. With `kept`, at most as many as are still there. Takes a
    saliency, not a weight: by_density(w, 0.5) would rank signed weights and drop -0.7, so a
    negative saliency is refused unless `signed=True` says that the sign is meant.

    >>> by_density(magnitude(torch.tensor([0.9, -0.1, -0.7])), 1 / 3)
    tensor([ True, False, False])
    >>> by_density(torch.tensor([0.9, -0.1, -0.7]), 1 / 3)
    Traceback (most recent call last):
    ValueError: a saliency below 0 (-0.7): rank weights by magnitude(w), or say signed=True ...
    """
    ((chosen, _),) = by_densities(saliency, [density], kept, signed=signed)
    return chosen


def by_densities(
    saliency: Tensor,
    densities: Sequence[float],
    kept: Tensor | None = None,
    *,
    signed: bool = False,
) -> Iterator[tuple[Tensor, float | None]]:
    """`by_density` for several densities of one layer, which is ranked only once.

    Each comes with its threshold: the smallest saliency that stayed, None where nothing did.
    """
    for density in densities:
        check_amount("density", density)
    _check_comparable(saliency, signed)
    flat = _sortable(saliency).reshape(-1)
    alive = None if kept is None else kept.reshape(-1)
    pool = flat if alive is None else flat[alive]
    counts = [min(round(density * flat.numel()), pool.numel()) for density in densities]
    places = sorted({pool.numel() - count for count in counts if count})
    if flat.device.type == "cpu":  # four times as fast as sorting everything
        ranked = torch.from_numpy(np.partition(pool.numpy(), places)) if places else pool
    else:
        ranked = pool.sort().values
    for count in counts:
        if count == 0:
            yield torch.zeros_like(saliency, dtype=torch.bool), None
            continue
        cut = ranked[pool.numel() - count]
        stays = flat >= cut if alive is None else (flat >= cut) & alive
        if surplus := int(stays.count_nonzero()) - count:  # sum() takes 20 times as long
            ties = (stays & (flat == cut)).nonzero().squeeze(1)
            stays[ties[-surplus:]] = False
        yield stays.reshape(saliency.shape), cut.item()


def by_levels(
    kind: str, levels: Sequence[float], saliency: Tensor, kept: Tensor, sigma: float
) -> Iterator[tuple[Tensor, float | None]]:
    """What stays of a layer's survivors `kept` at each quality, density or threshold, and the cut.

    Here and nowhere else a level becomes a threshold; `prune`, `scan` and the studio call it.
    """
    if kind == "density":
        yield from by_densities(saliency, levels, kept, signed=True)
        return
    for level in levels:
        check_amount(kind, level)
        cut = level * sigma if kind == "quality" else level
        yield by_threshold(saliency, cut, kept, signed=True), cut


def across_layers(
    saliencies: Mapping[str, Tensor],
    density: float,
    kept: Mapping[str, Tensor] | None = None,
    *,
    signed: bool = False,
) -> dict[str, Tensor]:
    """Rank all layers together and keep the round(density * n) most salient of their n weights.

    Ties go to the earlier layer, then to the earlier position. The result has the same keys.
    """
    device = next(iter(saliencies.values())).device
    flat = torch.cat([_sortable(s).reshape(-1).to(device) for s in saliencies.values()])
    alive = [] if kept is None else [kept[name].reshape(-1).to(device) for name in saliencies]
    chosen = by_density(flat, density, torch.cat(alive) if alive else None, signed=signed)
    parts = chosen.split([s.numel() for s in saliencies.values()])
    return {
        name: part.reshape(saliency.shape).to(saliency.device)
        for part, (name, saliency) in zip(parts, saliencies.items(), strict=True)
    }


def lamp(saliency: Tensor) -> Tensor:
    """The score by which LAMP ranks across layers (Lee et al. 2021, equation 3); same shape.

    s^2 over the sum of the s^2 of all weights of the layer that rank at least as high: 1 for the
    largest, so that no layer is removed. Of ties the earlier position has the higher score.
    """
    squares = _widened(saliency.detach()).reshape(-1).square()
    ranked, order = squares.sort(descending=True, stable=True)
    sums = ranked.cumsum(0)  # of this weight and all that rank higher
    scores = torch.zeros_like(squares)
    scores[order] = torch.where(sums > 0, ranked / sums, sums)
    return scores.reshape(saliency.shape)


def check_amount(kind: str, amount: float) -> None:
    """Raise TypeError or ValueError unless `amount` is a number that a `kind` can have."""
    if isinstance(amount, bool) or not isinstance(amount, Real):
        raise TypeError(f"{kind} must be a number, got {amount!r}")
    if kind == "density" and not 0 <= amount <= 1:
        raise ValueError(
            f"density must lie in [0, 1], got {amount:g}; for a percentage, divide by 100"
        )
    if not (math.isfinite(amount) and amount >= 0):
        raise ValueError(f"{kind} must be a finite number >= 0, got {amount}")


def _widened(values: Tensor) -> Tensor:
    """In float64, or in float32 on devices that lack it (Apple's MPS, some of Intel's)."""
    try:
        return values.to(torch.float64)
    except (TypeError, RuntimeError):
        return values.to(torch.float32)


def _sortable(saliency: Tensor) -> Tensor:
    """Half precisions widened: numpy does not know all of them."""
    return saliency.detach().float() if saliency.element_size() < 4 else saliency.detach()


def _check_comparable(saliency: Tensor, signed: bool) -> None:
    if saliency.isnan().any():
        raise ValueError(
            "a weight is not a number (NaN), so it has no rank; train again with a lower lr"
        )
    if not signed and saliency.numel() and (smallest := saliency.min().item()) < 0:
        raise ValueError(
            f"a saliency below 0 ({smallest:.4g}): rank weights by magnitude(w), or say "
            f"signed=True where the sign is meant"
        )
