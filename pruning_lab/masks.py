"""Masks: which weights of which layers stay, how they came about, and how they keep holding.

A `Mask` maps layer names (without `.weight`) to bool tensors shaped like the weights, True = kept.
Parameters keep their names, modules their types: a mask stands beside a model, never inside it.
"""

import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor, nn

from pruning_lab import criteria, files

Amount = float | Mapping[str, float]
Criterion = Callable[[Tensor], Tensor]  # a weight -> its saliency, same shape


def prunable(model: nn.Module) -> dict[str, nn.Module]:
    """The Conv2d and Linear layers of any model by dotted name; biases and norms are never pruned.

    A weight that two layers share appears once, under its first name. Raises TypeError where a
    layer computes its weight (a parametrization, torch.nn.utils.prune): a mask could not hold it.
    """
    layers, seen = {}, set()
    for name, module in model.named_modules():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        if "weight" not in module._parameters:
            raise TypeError(
                f"layer {name!r} computes its weight from other tensors; make it plain first "
                f"(torch.nn.utils.prune.remove or parametrize.remove_parametrizations)"
            )
        if id(module.weight) not in seen:
            seen.add(id(module.weight))
            layers[name] = module
    return layers


@dataclass(frozen=True)
class ReceiptRow:
    """What one layer was asked for and what it got."""

    layer: str
    asked: str  # "quality 1.1", "density 0.08", "threshold 0.05", "-" where nothing was asked
    threshold: float | None  # the smallest saliency that stayed, where the criterion has one
    sigma: float  # of the weights that were there at the time of the call
    weights: int
    kept: int
    density: float
    note: str = ""


class Receipt(tuple[ReceiptRow, ...]):
    """A row per layer; print it, or hand it to pandas.DataFrame."""

    def __str__(self) -> str:
        weights, kept = sum(r.weights for r in self), sum(r.kept for r in self)
        rows = [
            (
                r.layer,
                r.asked,
                "" if r.threshold is None else f"{r.threshold:.4g}",
                f"{r.sigma:.4g}",
                f"{r.weights:,}",
                f"{r.kept:,}",
                f"{r.density:.1%}",
                r.note,
            )
            for r in self
        ]
        rows.append(
            ("total", "", "", "", f"{weights:,}", f"{kept:,}", f"{kept / max(weights, 1):.1%}", "")
        )
        headers = ("layer", "asked", "threshold", "sigma", "weights", "kept", "density", "note")
        align = ("left", "left", "right", "right", "right", "right", "right", "left")
        return tabulate(rows, headers, colalign=align, disable_numparse=True)


class Mask(Mapping[str, Tensor]):
    """Layer name -> bool tensor, True = kept, with the receipt of the call that made it."""

    def __init__(self, layers: Mapping[str, Tensor], receipt: Receipt | None = None):
        self._layers = {name: kept.bool() for name, kept in layers.items()}
        self.receipt = receipt if receipt is not None else Receipt()

    @classmethod
    def dense(cls, model: nn.Module) -> "Mask":
        """The mask that keeps everything."""
        return cls({n: torch.ones_like(m.weight, dtype=bool) for n, m in prunable(model).items()})

    @classmethod
    def of(cls, model: nn.Module) -> "Mask":
        """The mask that a model's own zeros make."""
        return cls({name: module.weight.detach() != 0 for name, module in prunable(model).items()})

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._layers:
            raise KeyError(unknown_layer(name, self._layers))
        return self._layers[name]

    def __contains__(self, name: object) -> bool:
        return name in self._layers

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __repr__(self) -> str:
        return f"Mask({self.kept:,} of {self.weights:,} weights kept in {len(self)} layers)"

    @property
    def weights(self) -> int:
        return sum(kept.numel() for kept in self.values())

    @property
    def kept(self) -> int:
        return sum(int(kept.sum()) for kept in self.values())

    @property
    def density(self) -> float:
        return self.kept / max(self.weights, 1)

    def apply_(self, model: nn.Module) -> None:
        """Set every weight that is not kept to zero, in place."""
        with torch.no_grad():
            for weight, kept in self._pairs(model):
                weight.masked_fill_(~kept.to(weight.device), 0)

    def attach(self, optimizer: torch.optim.Optimizer, model: nn.Module):
        """Apply the mask now and after every step of `optimizer`, whatever loop calls it.

        Momentum moves weights whose gradient is masked, so the weights are masked, not the
        gradients. Returns a handle; `handle.remove()` lets the weights go. Raises ValueError where
        the optimizer trains none of the masked weights.
        """
        pairs = self._pairs(model)
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        pairs = [(weight, kept) for weight, kept in pairs if id(weight) in trained]
        if not pairs:
            raise ValueError(
                "this optimizer trains none of the model's masked weights; "
                "make it from the parameters() of the same model"
            )
        self.apply_(model)
        hold = _Hold(pairs)
        return optimizer.register_step_post_hook(lambda *_: hold())

    def save(self, path: str | Path) -> Path:
        """Write the mask as packed bits (one per weight) in a safetensors file."""
        packed = {name: torch.from_numpy(_pack(kept)) for name, kept in self.items()}
        shapes = {name: list(kept.shape) for name, kept in self.items()}
        receipt = [vars(row) for row in self.receipt]
        return files.save_tensors(
            path, packed, about={"format": _FORMAT, "shapes": shapes, "receipt": receipt}
        )

    @classmethod
    def load(cls, path: str | Path) -> "Mask":
        """Read what `save` wrote; a file that is something else is refused with its name."""
        packed, about = files.load_tensors(path)
        if not isinstance(about, dict) or about.get("format") != _FORMAT:
            raise ValueError(f"{path} is not a mask file; expected one that Mask.save wrote")
        try:
            layers = {name: _unpack(packed[name], shape) for name, shape in about["shapes"].items()}
            receipt = Receipt(ReceiptRow(**row) for row in about["receipt"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ValueError(f"{path} is a broken mask file: {error}") from None
        return cls(layers, receipt)

    def fingerprint(self) -> str:
        """SHA-256 of names and bits: two masks with the same one keep the same weights."""
        layers = sorted(self.items(), key=lambda item: item[0])
        return files.sha256(b"".join(n.encode() + _pack(kept).tobytes() for n, kept in layers))

    def _pairs(self, model: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
        """(weight, kept) of every masked layer; raises where model and mask do not fit."""
        layers = prunable(model)
        pairs = []
        for name, kept in self.items():
            if name not in layers:
                raise KeyError(unknown_layer(name, layers))
            weight = layers[name].weight
            if weight.shape != kept.shape:
                raise ValueError(
                    f"the mask of layer {name!r} has shape {tuple(kept.shape)}, its weight "
                    f"{tuple(weight.shape)}; use the mask with the model it was made for"
                )
            pairs.append((weight, kept))
        return pairs


_FORMAT = "pruning_lab mask 1"


def _pack(kept: Tensor) -> np.ndarray:
    return np.packbits(kept.cpu().numpy().reshape(-1))


def _unpack(bits: Tensor, shape: list[int]) -> Tensor:
    count = math.prod(shape)
    if bits.dtype != torch.uint8 or bits.numel() != -(-count // 8):
        raise ValueError(f"{bits.numel()} bytes of {bits.dtype} cannot hold {count} bits")
    flat = np.unpackbits(bits.numpy(), count=count).astype(bool)
    return torch.from_numpy(flat).reshape(shape)


class _Hold:
    """What runs after each optimizer step: weights times 0 or 1, in one call for all layers."""

    def __init__(self, pairs: list[tuple[nn.Parameter, Tensor]]):
        self.weights = [weight for weight, _ in pairs]
        self.kept = [kept for _, kept in pairs]
        self.factors: list[Tensor] = []

    @torch.no_grad()
    def __call__(self) -> None:
        if not self.factors or any(
            f.device != w.device or f.dtype != w.dtype
            for f, w in zip(self.factors, self.weights, strict=True)
        ):  # the first step, or the model has moved
            self.factors = [
                torch.empty_like(w).copy_(k) for w, k in zip(self.weights, self.kept, strict=True)
            ]
        torch._foreach_mul_(self.weights, self.factors)


@contextmanager
def masked(model: nn.Module, mask: Mask) -> Iterator[nn.Module]:
    """The model with the mask applied; the weights come back, after an error too."""
    pairs = mask._pairs(model)
    before = [weight.detach().clone() for weight, _ in pairs]
    try:
        mask.apply_(model)
        yield model
    finally:
        with torch.no_grad():
            for (weight, _), old in zip(pairs, before, strict=True):
                weight.copy_(old)


def prune(
    model: nn.Module,
    *,
    quality: Amount | None = None,
    density: Amount | None = None,
    threshold: Amount | None = None,
    criterion: Criterion = criteria.magnitude,
    within: Mask | None = None,
    across_layers: bool = False,
) -> Mask:
    """Choose a mask by one of quality, density or threshold; the model is not changed.

    An amount is one number for every layer or a dict of layer name -> number; layers that a dict
    does not name stay as they are. `within` restricts the choice to what an earlier mask kept,
    while amounts still refer to the whole layer. `across_layers=True` ranks all layers together by
    one density. Raises KeyError for an unknown layer, ValueError for an impossible amount.
    """
    asked = {"quality": quality, "density": density, "threshold": threshold}
    given = [kind for kind, amount in asked.items() if amount is not None]
    if len(given) != 1:
        got = " and ".join(given) or "none"
        raise ValueError(f"give exactly one of quality, density and threshold, got {got}")
    (kind,) = given
    if kind == "quality" and criterion is not criteria.magnitude:
        raise ValueError(
            "quality is a multiple of the weights' own sigma, so it goes with magnitude; "
            "give another criterion a density or a threshold"
        )
    if across_layers and (kind != "density" or isinstance(density, Mapping)):
        raise ValueError("across_layers ranks all layers by one density; give density=NUMBER")
    layers = prunable(model)
    if not layers:
        raise ValueError("this model has no Conv2d or Linear layer, so there is nothing to prune")
    amounts = _per_layer(kind, asked[kind], layers)
    if within is not None:
        within._pairs(model)  # raises where it is of another model

    start = {**Mask.dense(model), **(within or {})}
    kept = {name: start[name].to(layer.weight.device) for name, layer in layers.items()}
    saliencies = {name: criterion(layers[name].weight.detach()) for name in amounts}
    sigmas = {name: criteria.sigma(layer.weight, kept[name]) for name, layer in layers.items()}
    if across_layers:
        chosen = criteria.across_layers(saliencies, density, kept)
    elif kind == "density":
        chosen = {n: criteria.by_density(saliencies[n], a, kept[n]) for n, a in amounts.items()}
    else:
        if kind == "quality":
            cuts = {name: amount * sigmas[name] for name, amount in amounts.items()}
        else:
            cuts = amounts
        chosen = {n: criteria.by_threshold(saliencies[n], cut, kept[n]) for n, cut in cuts.items()}

    rows = []
    for name in layers:
        if name not in amounts:
            rows.append(_untouched(name, sigmas[name], kept[name]))
            continue
        saliency, before, after = saliencies[name], kept[name], chosen[name]
        if kind == "density":
            cut = saliency[after].min().item() if after.any() else None
        else:
            cut = cuts[name]
        note = _note(kind, saliency, before, after, cut)
        asked_for = f"{kind} {amounts[name]:g}"
        rows.append(
            replace(
                _untouched(name, sigmas[name], after), asked=asked_for, threshold=cut, note=note
            )
        )
    return Mask({**kept, **chosen}, Receipt(rows))


def _per_layer(kind: str, amount: Amount, layers: Mapping[str, nn.Module]) -> dict[str, float]:
    if not isinstance(amount, Mapping):
        amount = dict.fromkeys(layers, amount)
    for name, value in amount.items():
        if name not in layers:
            raise KeyError(unknown_layer(name, layers))
        criteria.check_amount(kind, value)
    return dict(amount)


def _untouched(layer: str, sigma: float, kept: Tensor) -> ReceiptRow:
    """The row of a layer of which nothing was asked."""
    weights, left = kept.numel(), int(kept.sum())
    return ReceiptRow(layer, "-", None, sigma, weights, left, left / max(weights, 1))


def _note(kind: str, saliency: Tensor, before: Tensor, after: Tensor, cut: float | None) -> str:
    """A word on whatever a reader should not overlook."""
    if not after.any():
        return "all gone: this layer now answers with its biases alone"
    if torch.equal(before, after):
        return "nothing gone"
    dropped = before & ~after
    if kind == "density" and (ties := int((saliency[dropped] == cut).sum())):
        return f"ties: {ties:,} of the dropped equal the smallest kept; earlier positions stayed"
    return ""


def unknown_layer(name: str, known: Mapping[str, object]) -> str:
    """The sentence for a layer that is not there, with the nearest names first."""
    name = str(name)
    near = difflib.get_close_matches(name.removesuffix(".weight"), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    names = ", ".join(known) or "none"
    return f"no layer {name!r} to prune; {hint}this network has {names}"
