"""The mask: layer name -> bool tensor, True where a weight is kept; and its receipt."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, TypedDict

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from pruning_lab import files
from pruning_lab.layers import Layer, NotCovered, prunable, unknown_layer
from pruning_lab.masks.holding import Hold
from pruning_lab.rows import Rows, counted, decode, plain, printable


@dataclass(frozen=True)
class ReceiptRow:
    """What one layer was asked for and what it got."""

    layer: str
    asked: str  # "quality 1.1", "density 0.08", "threshold 0.05", "-" where nothing was asked
    threshold: float | None  # the smallest saliency that stayed, where there is one
    sigma: float | None  # of the weights that were there at the time of the call
    weights: int
    kept: int
    density: float
    note: str = ""


class Receipt(Rows[ReceiptRow]):
    """A row per layer; `not_covered` lists the parameters outside of the mask."""

    columns: ClassVar = {
        "layer": lambda row: row.layer,
        "asked": lambda row: row.asked,
        "threshold": lambda row: "" if row.threshold is None else f"{row.threshold:.4g}",
        "sigma": lambda row: "" if row.sigma is None else f"{row.sigma:.4g}",
        "weights": lambda row: f"{row.weights:,}",
        "kept": lambda row: f"{row.kept:,}",
        "density": lambda row: f"{row.density:.1%}",
        "note": lambda row: row.note,
    }
    not_covered: tuple[NotCovered, ...] = ()

    @classmethod
    def of(cls, kept: Mapping[str, Tensor]) -> "Receipt":
        """The receipt of a mask that no call of `prune` made."""
        return cls(row_of(name, None, tensor) for name, tensor in kept.items())

    @property
    def total(self) -> ReceiptRow:
        weights, kept = sum(row.weights for row in self), sum(row.kept for row in self)
        return ReceiptRow("total", "", None, None, weights, kept, kept / max(weights, 1))

    def __str__(self) -> str:
        *others, vectors = self.not_covered or [None]
        lines = [f"{row.name}, {row.parameters:,} weights ({row.why})" for row in others]
        if vectors is not None:  # biases and normalisation
            lines.append(f"{vectors.parameters:,} {vectors.name} ({vectors.why})")
        lines = [printable(f"not covered: {line}") for line in lines]
        return "\n".join([self.table((*self, self.total)), *lines])


def row_of(layer: str, sigma: float | None, kept: Tensor) -> ReceiptRow:
    """The row of a layer of which nothing was asked."""
    weights, left = kept.numel(), int(kept.count_nonzero())
    return ReceiptRow(layer, "-", None, sigma, weights, left, left / max(weights, 1))


class Mask(Mapping[str, Tensor]):
    """Layer name -> bool tensor, True = kept, with the receipt of the call that made it.

    The tensors are the mask's own copies; make another mask to change something: `a & b`, `a | b`,
    `~a`, `Mask({**a, "fc1": other})`. (`a and b` is Python's, and gives b.)

    >>> few, many = Mask({"fc1": torch.tensor([1, 0, 0])}), Mask({"fc1": torch.tensor([1, 1, 0])})
    >>> (few & many).kept, (few and many).kept, (~many).kept
    (1, 2, 1)
    """

    def __init__(self, layers: Mapping[str, Tensor], receipt: Receipt | None = None):
        self._layers = {
            name: torch.as_tensor(kept).detach().to(torch.bool, copy=True)
            for name, kept in layers.items()
        }
        self.receipt = Receipt.of(self._layers) if receipt is None else receipt

    @classmethod
    def of(cls, model: nn.Module) -> "Mask":
        """The mask that a model's own zeros make."""
        return cls({name: layer.weight.detach() != 0 for name, layer in prunable(model).items()})

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._layers:
            raise KeyError(unknown_layer(name, self._layers))
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __repr__(self) -> str:
        layers = counted(len(self), "layer")
        return f"Mask({self.kept:,} of {self.weights:,} weights kept in {layers})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        return self.keys() == other.keys() and all(
            torch.equal(kept, other[name].to(kept.device)) for name, kept in self.items()
        )

    def __and__(self, other: "Mask") -> "Mask":
        return self._combined(other, torch.logical_and)

    def __or__(self, other: "Mask") -> "Mask":
        return self._combined(other, torch.logical_or)

    def __invert__(self) -> "Mask":
        return Mask({name: ~kept for name, kept in self.items()})

    def _combined(self, other: "Mask", operation: Callable[[Tensor, Tensor], Tensor]) -> "Mask":
        if not isinstance(other, Mask):
            return NotImplemented
        shapes, others = ({n: tuple(kept.shape) for n, kept in m.items()} for m in (self, other))
        if shapes != others:
            n = next(n for n in {**shapes, **others} if shapes.get(n) != others.get(n))
            raise ValueError(
                f"masks of different networks: layer {n!r} has shape {shapes.get(n)} in one and "
                f"{others.get(n)} in the other; combine masks of the same layers"
            )
        return Mask({n: operation(kept, other[n].to(kept.device)) for n, kept in self.items()})

    @property
    def weights(self) -> int:
        return sum(kept.numel() for kept in self.values())

    @property
    def kept(self) -> int:
        return sum(int(kept.sum()) for kept in self.values())

    @property
    def density(self) -> float:
        return self.kept / max(self.weights, 1)

    def apply_(self, model: nn.Module) -> nn.Module:
        """Set every weight that is not kept to zero, in place, and return the model.

        Training moves them again unless the mask is held (`hold`). Raises KeyError or ValueError,
        before anything is changed, where the mask does not fit.
        """
        with torch.no_grad():
            for layer, kept in self._placed(model):
                layer.weight.masked_fill_(~kept.to(layer.weight.device), 0)
        return model

    def hold(self, model: nn.Module) -> Hold:
        """Apply the mask and keep it: pruned weights stay zero after every step of any optimizer.

        Their gradients are zero too, so clipping, LBFGS and Muon see the pruned network, until
        `handle.remove()`. Optimizers may come later; loading a state_dict, moving the model,
        torch.compile and DDP keep it. A deep copy is not held until its own `hold`. While several
        masks hold a weight, what all of them keep stays.

        >>> layer = nn.Sequential(nn.Linear(2, 1))
        >>> with Mask({"0": torch.tensor([[True, False]])}).hold(layer):
        ...     layer(torch.ones(1, 2)).sum().backward()
        >>> layer[0].weight.grad
        tensor([[1., 0.]])
        """
        return Hold(self._placed(model))

    def to_torch(self, model: nn.Module) -> nn.Module:
        """Hand the mask over to torch.nn.utils.prune, in place, and return the model.

        Each layer gets torch's `weight_orig` and `weight_mask`, as of `prune.custom_from_mask`.
        KeyError or ValueError, before anything is changed, where the mask does not fit.
        """
        for layer, kept in self._placed(model):
            torch_prune.custom_from_mask(layer.module, layer.attribute, kept)
        return model

    @classmethod
    def from_torch(cls, model: nn.Module) -> "Mask":
        """Take over what torch.nn.utils.prune has pruned, in place: the masks of its layers.

        Their weights become plain parameters with torch's zeros, and the model answers as before.
        ValueError where it has pruned nothing.

        >>> layer = nn.Sequential(nn.Linear(10, 2))
        >>> _ = torch_prune.l1_unstructured(layer[0], "weight", amount=0.75)
        >>> Mask.from_torch(layer), Mask.of(layer)
        (Mask(5 of 20 weights kept in 1 layer), Mask(5 of 20 weights kept in 1 layer))
        """
        found = {}
        for module in model.modules():
            for hook in tuple(module._forward_pre_hooks.values()):
                if isinstance(hook, torch_prune.BasePruningMethod):
                    name = hook._tensor_name
                    found[id(module), name] = module._buffers[f"{name}_mask"]
                    torch_prune.remove(module, name)
        if not found:
            raise ValueError("torch.nn.utils.prune has pruned no layer of this model")
        places = {n: (id(layer.module), layer.attribute) for n, layer in prunable(model).items()}
        mask = cls({name: found[place] for name, place in places.items() if place in found})
        mask.apply_(model)  # torch multiplies by the mask, which leaves -0.0 in many places
        return mask

    def save(self, path: str | Path) -> Path:
        """Write the mask as packed bits (one per weight) in a safetensors file."""
        packed = {name: torch.from_numpy(_pack(kept)) for name, kept in self.items()}
        about = {
            "format": _FORMAT,
            "shapes": {name: list(kept.shape) for name, kept in self.items()},
            "receipt": plain(self.receipt),
            "not_covered": plain(self.receipt.not_covered),
        }
        return files.save_tensors(path, packed, about=about)

    @classmethod
    def load(cls, path: str | Path) -> "Mask":
        """Read what `save` wrote; ValueError, with the file's name, for any other file."""
        about = decode(_About, files.load_about(path), path, _FORMAT)
        bits, shapes = files.load_tensors(path)[0], about["shapes"]
        layers = {n: kept for n in shapes if (kept := _unpack(bits.get(n), shapes[n])) is not None}
        if not layers.keys() == shapes.keys() == bits.keys():
            raise files.wrong(path, f"is broken: its bits do not fill the shapes {shapes}")
        receipt = Receipt(about["receipt"], not_covered=tuple(about["not_covered"]))
        counted = [replace(row, asked="-", threshold=None, sigma=None, note="") for row in receipt]
        if counted != list(Receipt.of(layers)):
            raise files.wrong(path, "is broken: its receipt counts other weights than its bits")
        return cls(layers, receipt)

    def fingerprint(self) -> str:
        """SHA-256 of names and bits: two masks with the same one keep the same weights."""
        layers = sorted(self.items(), key=lambda item: item[0])
        return files.sha256(b"".join(n.encode() + _pack(kept).tobytes() for n, kept in layers))

    def _placed(self, model: nn.Module) -> list[tuple[Layer, Tensor]]:
        """Every masked layer of the model with what is kept; raises where they do not fit."""
        layers, placed = prunable(model), []
        for name, kept in self.items():
            if (shape := layers[name].weight.shape) != kept.shape:
                raise ValueError(
                    f"the mask of layer {name!r} has shape {tuple(kept.shape)}, its weight "
                    f"{tuple(shape)}; use the mask with the model it was made for"
                )
            placed.append((layers[name], kept))
        return placed


_FORMAT = "pruning_lab mask 2"


class _About(TypedDict):
    shapes: dict[str, list[int]]
    receipt: list[ReceiptRow]
    not_covered: list[NotCovered]


def _pack(kept: Tensor) -> np.ndarray:
    return np.packbits(kept.cpu().numpy().reshape(-1))


def _unpack(bits: Tensor | None, shape: list[int]) -> Tensor | None:
    """The inverse of `_pack`; None for what it cannot have written."""
    count, dtype = math.prod(shape), getattr(bits, "dtype", None)
    if dtype != torch.uint8 or bits.shape != (-(-count // 8),) or min(shape, default=0) < 0:
        return None
    flat = np.unpackbits(bits.numpy()).astype(bool)
    return None if flat[count:].any() else torch.from_numpy(flat[:count]).reshape(shape)


@contextmanager
def masked(model: nn.Module, mask: Mask) -> Iterator[nn.Module]:
    """The model with the mask applied; afterwards its weights are as before, after an error too."""
    placed = mask._placed(model)
    before = [layer.weight.detach().clone() for layer, _ in placed]
    try:
        yield mask.apply_(model)
    finally:
        with torch.no_grad():
            for (layer, _), old in zip(placed, before, strict=True):
                layer.weight.copy_(old)
