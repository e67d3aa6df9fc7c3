"""Which weights stay: saliencies, and functions from a saliency and one number to a bool tensor.

A *saliency* says how much a weight matters: a function of a weight (`magnitude`, `random(seed)`),
or a dict of layer name -> tensor computed beforehand (`gradient`, `taylor`). In a bool tensor True
means kept. `kept` restricts a choice to the weights that are still there; the number always refers
to the whole layer, so repeating a call never compounds.
"""

import hashlib
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning_lab.layers import device_of, generators, mode, prunable, seeded

Saliency = Callable[[Tensor], Tensor] | Mapping[str, Tensor]

# ------------------------------------------------------------------------------------- saliencies


def magnitude(weight: Tensor) -> Tensor:
    """|w|: the saliency of Han et al. 2015, section 3."""
    return weight.detach().abs()


@dataclass(frozen=True)
class Random:
    """What `random` makes: a function of a weight, and of its layer's name."""

    seed: int

    def __call__(self, weight: Tensor, layer: str = "") -> Tensor:
        mixed = zlib.crc32(f"{self.seed} {layer}".encode())  # else layers of one shape would tie
        generator = torch.Generator().manual_seed(mixed)  # which takes 32 bits
        return torch.rand(weight.shape, generator=generator).to(weight.device)


def random(seed: int = 0) -> Random:
    """A saliency that knows nothing, uniform in [0, 1): the control of every comparison.

    The same seed gives a layer the same numbers again, on every device.
    """
    return Random(seed)


class Computed(dict[str, Tensor]):
    """Saliencies computed beforehand, layer name -> tensor, with the name of how."""

    def __init__(self, name: str, saliencies: Mapping[str, Tensor]):
        super().__init__(saliencies)
        self.name = name


def gradient(model: nn.Module, images: Iterable[tuple[Tensor, Tensor]]) -> Computed:
    """|g|: g is the gradient of the mean cross-entropy over `images`, in evaluation mode.

    Give training images. The model, its mode and its gradients stay as they are. Raises ValueError
    for the test split, and where there are no images.
    """
    return Computed("gradient", {n: g.abs() for n, g in _gradients(model, images).items()})


def taylor(model: nn.Module, images: Iterable[tuple[Tensor, Tensor]]) -> Computed:
    """|w g|: the first-order change of the loss when a weight goes (Molchanov et al. 2017).

    As `gradient` otherwise. It belongs to the weights it was computed with: compute it again after
    they have changed.
    """
    layers, gradients = prunable(model), _gradients(model, images)
    saliencies = {n: (layers[n].weight.detach() * g).abs() for n, g in gradients.items()}
    return Computed("taylor", saliencies)


def _gradients(model: nn.Module, images: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    if getattr(images, "name", None) == "test":
        raise ValueError("a saliency chooses, and the test split is not for choosing; give train")
    layers, device, seen = prunable(model), device_of(model), 0
    weights = [layer.weight for layer in layers.values()]
    frozen = [weight for weight in weights if not weight.requires_grad]
    sums = [torch.zeros_like(weight) for weight in weights]
    try:
        for weight in frozen:
            weight.requires_grad_(True)
        draws = torch.random.fork_rng(generators(device))  # a DataLoader draws
        with draws, mode(model, training=False), torch.enable_grad():
            for x, y in images:
                logits = model(x.to(device))
                if not isinstance(logits, Tensor):
                    raise ValueError(
                        f"a network must answer with a tensor, got a {type(logits).__name__}; wrap "
                        f"it in a module whose forward returns the logits alone"
                    )
                loss = F.cross_entropy(logits, y.to(device), reduction="sum")
                # allow_unused: a layer that did not run has no gradient, and its saliency is 0.
                for total, part in zip(
                    sums, torch.autograd.grad(loss, weights, allow_unused=True), strict=True
                ):
                    if part is not None:
                        total += part
                seen += len(y)
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
    if not seen:
        raise ValueError("no images to compute a saliency with")
    return {name: total / seen for name, total in zip(layers, sums, strict=True)}


def saliency_of(saliency: Saliency, layer: str, weight: Tensor) -> Tensor:
    """The saliency of one layer, shaped like its weight.

    Raises KeyError where a dict lacks the layer, ValueError for another shape or for NaN.
    """
    if isinstance(saliency, Mapping):
        if layer not in saliency:
            raise KeyError(
                f"the saliency has no layer {layer!r}, only {', '.join(saliency) or 'none'}; "
                f"compute it with this network"
            )
        values = saliency[layer]
    elif isinstance(saliency, Random):
        values = saliency(weight, layer)
    else:
        values = saliency(weight)
    if not isinstance(values, Tensor) or values.shape != weight.shape:
        what = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"the saliency of layer {layer!r} must be a tensor shaped like its weight, "
            f"{tuple(weight.shape)}, got {what}"
        )
    _check_comparable(values, signed=True)
    return values.detach().to(weight.device)


def name_of(saliency: Saliency) -> str:
    """What scans and plans call a saliency, so that another one is noticed.

    "magnitude" and "random(seed=0)" say all; any other name ends in a digest, of a dict's values or
    of what a function makes of fixed weights: "taylor 1f0c9a2b8d7e".
    """
    if saliency is magnitude:
        return "magnitude"
    if isinstance(saliency, Random):
        return f"random(seed={saliency.seed})"
    if isinstance(saliency, Mapping):
        name, values = getattr(saliency, "name", "computed"), saliency
    else:
        name = getattr(saliency, "__qualname__", type(saliency).__name__)
        values = {n: _tried(saliency, n, weight) for n, weight in _samples().items()}
    digest = hashlib.sha256()
    for layer, tensor in sorted(values.items()):
        digest.update(layer.encode())
        digest.update(_sortable(tensor).cpu().contiguous().numpy())
    return f"{name} {digest.hexdigest()[:12]}"


def _tried(saliency: Saliency, layer: str, weight: Tensor) -> Tensor:
    """What a function makes of a weight; nothing where it is meant for other shapes."""
    try:
        return saliency_of(saliency, layer, weight)
    except Exception:  # whatever a function of a user's raises
        return torch.empty(0)


def by_name(name: str) -> Saliency | None:
    """The saliency that `name_of` named, where its name says all of it; else None."""
    if name == "magnitude":
        return magnitude
    seeded = re.fullmatch(r"random\(seed=(\d+)\)", name)
    return Random(int(seeded[1])) if seeded else None


def _samples() -> dict[str, nn.Parameter]:
    """Fixed weights on which a function is tried; some are zero, as after pruning."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"linear": (3, 5), "conv": (4, 2, 3, 3), "one": (1, 1)}
    samples = {n: torch.randn(shape, generator=generator) for n, shape in shapes.items()}
    samples["pruned"] = samples["linear"].relu()
    return {name: nn.Parameter(weight) for name, weight in samples.items()}


def check(saliency: Saliency, model: nn.Module | None = None) -> None:
    """Test a saliency of your own: shape, finite values, the same twice, no trace on the weight.

    It is tried on a few weights, or on those of `model` (which a dict needs). Raises ValueError
    with a sentence about the first thing that is wrong.

    >>> check(lambda weight: weight.abs() ** 2)
    >>> check(lambda weight: weight.norm(dim=1))
    Traceback (most recent call last):
    ValueError: the saliency of layer 'linear' must be a tensor shaped like its weight, (3, 5), ...
    """
    if model is not None:
        samples = {name: layer.weight for name, layer in prunable(model).items()}
    elif isinstance(saliency, Mapping):
        raise ValueError("a dict of saliencies is checked with its network: check(saliency, model)")
    else:
        samples = _samples()
    for layer, weight in samples.items():
        before, flag = weight.detach().clone(), weight.requires_grad
        first = saliency_of(saliency, layer, weight)
        with seeded(1, weight.device):  # a saliency that draws from torch's generator shows here
            again = saliency_of(saliency, layer, weight)
        wrong = [
            (not first.isfinite().all(), "has values that are not finite"),
            (not torch.equal(weight.detach(), before), "changes the weight"),
            (weight.requires_grad != flag, "changes the weight's requires_grad"),
            (weight.grad is not None and model is None, "leaves a gradient on the weight"),
            (not torch.equal(first, again), "differs from one call to the next"),
        ]
        for is_wrong, what in wrong:
            if is_wrong:
                raise ValueError(f"the saliency {what} (layer {layer!r}, {tuple(weight.shape)})")


# -------------------------------------------------------------------------------------- selection


def sigma(weight: Tensor, kept: Tensor | None = None) -> float:
    """Population standard deviation of the surviving weights, 0 where none survive.

    Survivors are the weights that are not zero, of those in `kept` where it is given. Our reading
    of the paper, which does not say: thresholds grow as a network is pruned again.
    """
    count, mean = _mean(weight, kept, lambda part: part)
    if not count:
        return 0.0
    return math.sqrt(_mean(weight, kept, lambda part: (part - mean).square())[1])


def _mean(weight: Tensor, kept: Tensor | None, of: Callable[[Tensor], Tensor]) -> tuple[int, float]:
    """How many survivors there are, and the mean of a function of them.

    Part by part: a large layer's survivors, taken out at once, need four times the layer's memory.
    """
    parts = weight.detach().reshape(-1).split(_PART)
    masks = [None] * len(parts) if kept is None else kept.reshape(-1).split(_PART)
    count, total = 0, 0.0
    for part, mask in zip(parts, masks, strict=True):
        survivors = part[part != 0 if mask is None else mask & (part != 0)]
        count += survivors.numel()
        total += of(_widened(survivors)).sum().item()
    return count, total / max(count, 1)


_PART = 2**20  # weights


def sigma_of(layer: str, weight: Tensor) -> float:
    """`sigma` of a layer. Raises ValueError, with its name, where a weight is not finite."""
    value = sigma(weight)
    if not math.isfinite(value):
        raise ValueError(
            f"layer {layer!r} has a weight that is infinite or not a number; train again with a "
            f"lower lr"
        )
    return value


def _widened(values: Tensor) -> Tensor:
    """In float64, or in float32 on devices that lack it (Apple's MPS, some of Intel's)."""
    try:
        return values.to(torch.float64)
    except (TypeError, RuntimeError):
        return values.to(torch.float32)


def by_quality(weight: Tensor, quality: float, kept: Tensor | None = None) -> Tensor:
    """Keep |w| >= quality * sigma, one layer at a time (Han et al. 2015, section 4).

    Takes a weight, for sigma is the weights' own. A zero weight is gone and stays gone.
    Raises ValueError unless quality is a finite number >= 0.
    """
    check_amount("quality", quality)
    kept = weight.detach() != 0 if kept is None else kept & (weight.detach() != 0)
    return by_threshold(magnitude(weight), quality * sigma(weight, kept), kept)


def by_threshold(
    saliency: Tensor, threshold: float, kept: Tensor | None = None, *, signed: bool = False
) -> Tensor:
    """Keep saliency >= threshold.

    Takes a saliency, not a weight: by_threshold(w, 0.3) would drop -0.7, and is refused, as in
    `by_density`. Raises ValueError unless threshold is a finite number >= 0.
    """
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

    Raises ValueError unless density lies in [0, 1].
    """
    kept, _ = next(by_densities(saliency, [density], kept, signed=signed))
    return kept


def by_densities(
    saliency: Tensor,
    densities: Sequence[float],
    kept: Tensor | None = None,
    *,
    signed: bool = False,
) -> Iterator[tuple[Tensor, float | None]]:
    """`by_density` for several densities of one layer, which is ranked only once.

    Each comes with its threshold: the smallest saliency that stayed, None where nothing did. They
    come one by one, since all together may take more memory than the network.
    """
    for density in densities:
        check_amount("density", density)
    _check_comparable(saliency, signed)
    return _largest(saliency, densities, kept)


def _largest(
    saliency: Tensor, densities: Sequence[float], kept: Tensor | None
) -> Iterator[tuple[Tensor, float | None]]:
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
            ties = (flat == cut) if alive is None else (flat == cut) & alive
            stays[ties.nonzero().squeeze(1)[-surplus:]] = False
        yield stays.reshape(saliency.shape), cut.item()


def by_levels(
    kind: str, levels: Sequence[float], saliency: Tensor, kept: Tensor, sigma: float
) -> Iterator[tuple[Tensor, float | None]]:
    """What stays of a layer's survivors `kept` at each quality, density or threshold, and the cut.

    Here and nowhere else a level becomes a threshold; `prune`, `scan` and the studio call it.
    """
    for level in levels:
        check_amount(kind, level)
    if kind == "density":
        return by_densities(saliency, levels, kept, signed=True)
    cuts = [level * sigma if kind == "quality" else level for level in levels]
    return ((by_threshold(saliency, cut, kept, signed=True), cut) for cut in cuts)


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
    alive = None
    if kept is not None:
        alive = torch.cat([kept[name].reshape(-1).to(device) for name in saliencies])
    chosen = by_density(flat, density, alive, signed=signed)
    parts = chosen.split([s.numel() for s in saliencies.values()])
    return {
        name: part.reshape(saliency.shape).to(saliency.device)
        for part, (name, saliency) in zip(parts, saliencies.items(), strict=True)
    }


def lamp(saliency: Tensor) -> Tensor:
    """The score by which LAMP ranks across layers (Lee et al. 2021, equation 3); same shape.

    s^2 over the sum of the s^2 of all weights of the layer that rank at least as high: 1 for the
    largest, so that no layer goes altogether. Of ties the earlier position has the higher score.
    """
    squares = _widened(saliency.detach()).reshape(-1).square()
    order = squares.flip(0).sort(stable=True).indices  # ascending, of ties the later ones first
    order = squares.numel() - 1 - order
    ranked = squares[order]
    rest = ranked.flip(0).cumsum(0).flip(0)  # of this weight and all that rank higher
    scores = torch.zeros_like(squares)
    scores[order] = torch.where(rest > 0, ranked / rest, rest)
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
