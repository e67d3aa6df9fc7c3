"""What a network costs: weights, FLOPs and activation density, read off the operations that ran.

These rules reproduce all rows of the paper's Tables 2-5: FLOPs are two per multiply-accumulate; an
activation is counted after ReLU and pooling; FLOP% of a layer is its weight density times the
density of the activations that enter it.
"""

import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.backends import mha
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from pruning_lab import data
from pruning_lab.data import Images
from pruning_lab.evaluation import measuring
from pruning_lab.layers import Layer, device_of, prunable, unwrapped
from pruning_lab.rows import Rows, printable

_SUMS = {torch.ops.aten.addmm, torch.ops.aten.baddbmm}  # first argument + product of the others
_COUNTING = threading.RLock()  # the switches that counting turns are torch's for all threads


@dataclass(frozen=True)
class LayerCount:
    """One layer, "other", or all together. Biases and normalisation are not counted."""

    layer: str
    weights: int
    kept: int  # weights that are not zero
    flops: int  # of the dense layer, per image, over all its uses
    neurons: int  # outputs per image that the next layer sees: after pooling
    input_density: float | None  # fraction of its inputs that are not zero; None: not measured
    activation_density: float | None  # the same of its outputs, after ReLU and pooling
    flops_kept: float  # operations left when zero weights and zero inputs are skipped

    @property
    def density(self) -> float:
        return self.kept / self.weights if self.weights else 1.0

    @property
    def flop_density(self) -> float:
        return self.flops_kept / self.flops if self.flops else 1.0


class Counts(Rows[LayerCount]):
    """A row per layer, then "other"; `.total` is the paper's last row.

    `not_counted` names modules with weights whose operations have no formula, such as nn.LSTM:
    these FLOPs are in no row, and not in the total.
    """

    not_counted: tuple[str, ...] = ()

    columns: ClassVar = {
        "layer": lambda row: row.layer,
        "weights": lambda row: f"{row.weights:,}",
        "FLOP": lambda row: f"{row.flops:,}",
        "act%": lambda row: "" if (d := row.activation_density) is None else f"{d:.0%}",
        "weights%": lambda row: f"{row.density:.1%}" if row.weights else "",
        "FLOP%": lambda row: f"{row.flop_density:.1%}" if row.flops else "",
    }

    @property
    def total(self) -> LayerCount:
        """Activation density weighted by neurons, FLOP density by FLOPs, as in Tables 2-5."""
        columns = ("weights", "kept", "flops", "neurons", "flops_kept")
        sums = {column: sum(getattr(row, column) for row in self) for column in columns}
        active = [(row.neurons, row.activation_density) for row in self if row.neurons]
        mean = None
        if active and all(density is not None for _, density in active):
            mean = sum(neurons * density for neurons, density in active) / sums["neurons"]
        return LayerCount("total", input_density=None, activation_density=mean, **sums)

    @property
    def weights_only_flop_density(self) -> float:
        """Operations left when only zero weights are skipped, and no zero activations."""
        left = [r.flops_kept if r.input_density is None else r.density * r.flops for r in self]
        return sum(left) / max(self.total.flops, 1)

    def __str__(self) -> str:
        lines = [self.table((*self, self.total))]
        if self.not_counted:
            lines.append(printable(f"not counted: {', '.join(self.not_counted)}"))
        return "\n".join(lines)


@dataclass(frozen=True)
class Parameters:
    """Parameters with biases, as Table 1 counts them."""

    total: int
    kept: int

    @property
    def compression(self) -> float:
        return self.total / max(self.kept, 1)


def parameters(model: nn.Module) -> Parameters:
    """All parameters, and those left when the zero weights of prunable layers go."""
    total = sum(p.numel() for p in model.parameters())
    gone = sum(int((layer.weight == 0).sum()) for layer in prunable(model).values())
    return Parameters(total, total - gone)


def layers(model: nn.Module, images: Images | Sequence[int]) -> Counts:
    """Count operation by operation: a row per prunable layer in running order, then "other".

    `images` is a split (or any re-iterable of (x, y)), over which activations are measured, or the
    shape (C, H, W) of one image, for the counts alone.

    >>> [row.flops for row in layers(nn.Sequential(nn.Linear(4, 3)), (4,))]
    [24]

    An operation belongs to the layer whose weight, or a view of it, is one of its operands; the
    other operand is what enters the layer. The activation density of a layer is that of the next
    layer's input, so after a branch too; the last layer's is that of the network's output. Layers
    that never ran follow, with 0 FLOPs. "other" holds what belongs to no layer: operations (of
    attention, between its projections) and parameters of two or more dimensions (embeddings).
    """
    found = prunable(model)
    outside = _outside(model, found)
    operations, outputs, idle, seen = _Operations(found), _Tally(), _Tally(), 0
    with measuring(model), ExitStack() as hooks:
        for norm in (m for m in model.modules() if isinstance(m, nn.LocalResponseNorm)):
            hooks.enter_context(norm.register_forward_pre_hook(operations.switch))
            hooks.enter_context(norm.register_forward_hook(operations.switch))
        for name, module in outside.items():
            if not isinstance(module, nn.Embedding | nn.EmbeddingBag):  # a look-up has no FLOPs
                enter, leave = partial(operations.enter, name), partial(operations.leave, name)
                hooks.enter_context(module.register_forward_pre_hook(enter))
                hooks.enter_context(module.register_forward_hook(leave))
        measured = not _is_shape(images)
        for x in _inputs(images) if measured else [torch.zeros(1, *images)]:
            x = x.to(device_of(model))
            with _unfused(), operations:
                output = model(x)
            outputs.take_in(output)
            seen += len(x)
    if not seen:
        raise ValueError("no images to count with")

    ran, rows = operations.tallies, []
    other = ran.pop(None, idle).flops // seen
    after = dict(zip(ran, [*ran.values(), outputs][1:], strict=True))
    for name in dict.fromkeys((*ran, *found)):  # those that never ran come last
        weight, tally, taken = found[name].weight, ran.get(name, idle), after.get(name, idle)
        size, kept, flops = weight.numel(), int(weight.count_nonzero()), tally.flops // seen
        density, active = (tally.density, taken.density) if measured else (None, None)
        left = flops * kept / max(size, 1) * (1.0 if density is None else density)
        row = (name, size, kept, flops, taken.inputs // seen, density, active, left)
        rows.append(LayerCount(*row))
    others = {p for m in outside.values() for p in m.parameters(recurse=False) if p.dim() > 1}
    others -= {layer.weight for layer in found.values()}
    size, kept = sum(p.numel() for p in others), sum(int(p.count_nonzero()) for p in others)
    if size or other:
        rows.append(LayerCount("other", size, kept, other, 0, None, None, float(other)))
    return Counts(rows, not_counted=tuple(operations.silent))


def _outside(model: nn.Module, found: Mapping[str, Layer]) -> dict[str, nn.Module]:
    """The modules with parameters of two or more dimensions of no layer, but normalisation."""
    own = {layer.weight for layer in found.values()}
    return {
        name or type(module).__name__: module
        for name, module in unwrapped(model).named_modules()
        if "norm" not in type(module).__name__.lower()
        and any(p.dim() > 1 and p not in own for p in module.parameters(recurse=False))
    }


class _Tally:
    """Sums over all images of what one layer did and took in."""

    def __init__(self):
        self.flops = self.inputs = self.nonzero = 0

    def take_in(self, x: Tensor) -> None:
        self.inputs += x.numel()
        self.nonzero += x.count_nonzero()  # a tensor on the device: int() would wait for it

    @property
    def density(self) -> float | None:
        return int(self.nonzero) / self.inputs if self.inputs else None


class _Operations(TorchDispatchMode):
    """Tallies FLOPs, by torch's formulas, per layer in running order; under None is "other"."""

    _should_skip_dynamo = classmethod(lambda cls: False)  # or torch loads its compiler: seconds

    def __init__(self, found: Mapping[str, Layer]):
        super().__init__()
        self.tallies: dict[str | None, _Tally] = {}
        self.silent: dict[str, None] = {}  # modules that ran without an operation that counts
        self._on, self._done, self._entered = True, 0, {}
        weights = [(name, layer.weight) for name, layer in found.items()]
        self._spans = [(w.data_ptr(), w.data_ptr() + w.nbytes, name) for name, w in weights]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, packet = kwargs or {}, func._overloadpacket
        if packet not in flop_registry or not self._on:
            with self:  # a composite operation arrives whole in inference mode
                out = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if out is NotImplemented else out
        out = func(*args, **kwargs)
        name, x = self._layer([a for a in args[packet in _SUMS :] if isinstance(a, Tensor)])
        self._done += 1
        tally = self.tallies.setdefault(name, _Tally())
        tally.flops += flop_registry[packet](*args, **kwargs, out_val=out)
        if name is not None:
            tally.take_in(x)
        return out

    def enter(self, module: str, *_) -> None:
        self._entered[module] = self._done

    def leave(self, module: str, *_) -> None:
        if self._done == self._entered[module]:
            self.silent[module] = None

    def switch(self, *_) -> None:
        """Off and on: our response norm sums by a convolution, and torch's has no FLOPs."""
        self._on = not self._on

    def _layer(self, operands: list[Tensor]) -> tuple[str | None, Tensor | None]:
        """The layer whose weight is an operand, by its memory, and the operand that enters it."""
        for place, operand in enumerate(operands):
            for start, stop, name in self._spans:  # addresses, since weights may share a storage
                if start <= operand.data_ptr() < stop:
                    return name, operands[0 if place else -1]
        return None, None


@contextmanager
def _unfused() -> Iterator[None]:
    """Runs no compiled code, and no attention fused into one operation without a formula."""
    with _COUNTING, sdpa_kernel(SDPBackend.MATH), ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and it takes seconds to load
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.callback(mha.set_fastpath_enabled, mha.get_fastpath_enabled())
        mha.set_fastpath_enabled(False)
        yield


def _is_shape(images: object) -> bool:
    sizes = images if isinstance(images, Sequence) else ()
    return len(sizes) > 0 and all(isinstance(n, Integral) and n > 0 for n in sizes)


def _inputs(images: Images) -> Iterator[Tensor]:
    other = ", or the shape of one image, such as (1, 28, 28)"
    return (x for x, _ in data.checked(images, other=other))
