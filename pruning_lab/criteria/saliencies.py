"""Saliencies, how much each weight matters: magnitude, random, gradient, Taylor, one's own."""

import hashlib
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning_lab.layers import check_logits, device_of, generators, mode, prunable, seeded
from pruning_lab.rows import printable

Saliency = Callable[[Tensor], Tensor] | Mapping[str, Tensor]


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
    def of_batch(x: Tensor, y: Tensor, weights: Sequence[nn.Parameter]) -> Sequence[Tensor]:
        logits = model(x)
        check_logits(logits)
        loss = F.cross_entropy(logits, y, reduction="sum")
        # A layer that did not run has no gradient, and its saliency is 0.
        return torch.autograd.grad(loss, weights, materialize_grads=True)

    return mean_over(model, images, of_batch)


def mean_over(
    model: nn.Module,
    images: Iterable[tuple[Tensor, Tensor]],
    of_batch: Callable[[Tensor, Tensor, Sequence[nn.Parameter]], Sequence[Tensor]],
) -> dict[str, Tensor]:
    """A mean over training images by layer name, in evaluation mode; the model stays as it was.

    `of_batch(x, y, weights)` gives a tensor for each weight: the sum over the images of a batch.
    Raises ValueError for the test split and for no images.
    """
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
            parts = of_batch(x.to(device), y.to(device), [*weights.values()])
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
    check_comparable(values, signed=True)
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
        digest.update(sortable(tensor).cpu().contiguous().numpy())
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


def sortable(saliency: Tensor) -> Tensor:
    """Half precisions widened: numpy does not know all of them."""
    return saliency.detach().float() if saliency.element_size() < 4 else saliency.detach()


def check_comparable(saliency: Tensor, signed: bool) -> None:
    if saliency.numel() and saliency.max().isnan():  # max of all is NaN where one is
        raise ValueError(
            "a weight is not a number (NaN), so it has no rank; train again with a lower lr"
        )
    if not signed and saliency.numel() and (smallest := saliency.min().item()) < 0:
        raise ValueError(
            f"a saliency below 0 ({smallest:.4g}): rank weights by magnitude(w), or say "
            f"signed=True where the sign is meant"
        )
