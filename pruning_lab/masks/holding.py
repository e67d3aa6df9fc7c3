"""Holding: pruned weights stay zero and have no gradient, in any loop with any optimizer.

torch's global hook after every optimizer step sets pruned weights to zero; a hook on each weight
does the same to its gradient once it is accumulated, so that clipping, LBFGS or Muon see the pruned
network.
"""

import weakref
from functools import reduce

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from pruning_lab.layers import Layer

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Hold:
    """What `Mask.hold` returns: `remove()` ends it, and so does the end of a `with` block."""

    def __init__(self, layers: list[tuple[Layer, Tensor]]):
        """`layers`: where each weight is stored, and what is kept of it (bool, shaped like it)."""
        if not _STEP_HOOK:  # at the first hold, not at import
            _STEP_HOOK.append(register_optimizer_step_post_hook(_after_step))
        self._held = []
        for layer, kept in layers:
            held = _HELD.get((id(layer.module), layer.attribute)) or _Held(layer)
            held.set(self, kept)
            self._held.append(held)

    def remove(self) -> None:
        """Pruned weights may change again, unless another mask holds them too."""
        for held in self._held:
            held.set(self, None)
        self._held = []

    def __enter__(self) -> "Hold":
        return self

    def __exit__(self, *_) -> None:
        self.remove()


class _Held:
    """A weight's place in a module, with what all masks that hold it keep; gone with the module."""

    def __init__(self, layer: Layer):
        key = id(layer.module), layer.attribute
        self.module = weakref.ref(layer.module, lambda _: _HELD.pop(key, None))
        self.attribute, self.key = layer.attribute, key
        self.masks: dict[Hold, Tensor] = {}
        self.bits: dict[tuple, Tensor] = {}  # of all masks together
        self.loading = layer.module.register_load_state_dict_post_hook(_after_loading)
        self.weight = self.gradient = None  # the parameter that has our hook, and the hook
        _HELD[key] = self

    def set(self, hold: Hold, kept: Tensor | None) -> None:
        """Add what one mask keeps, or remove that mask (None)."""
        self.bits.clear()
        if kept is not None:
            self.masks[hold] = kept
            self.zero_all()
        elif self.masks.pop(hold, None) is not None and not self.masks:
            self.gradient.remove()
            self.loading.remove()
            _HELD.pop(self.key, None)

    def current(self) -> nn.Parameter | None:
        """The parameter that is there now, with our hook: another one may have been put there."""
        module = self.module()
        weight = None if module is None else module._parameters.get(self.attribute)
        if weight is None or (self.weight is not None and self.weight() is weight):
            return weight
        if self.gradient is not None:
            self.gradient.remove()
        # A frozen weight can be unfrozen later, but takes no hook as long as it is.
        frozen = not weight.requires_grad
        weight.requires_grad_(True)
        self.gradient = weight.register_post_accumulate_grad_hook(self.zero_gradient)
        weight.requires_grad_(not frozen)
        self.weight = weakref.ref(weight)
        self.zero_all()
        return weight

    @torch.no_grad()
    def zero_all(self) -> None:
        if (weight := self.current()) is not None:
            self.zero_(weight)
            self.zero_gradient(weight)

    @torch.no_grad()
    def zero_gradient(self, weight: nn.Parameter) -> None:
        if weight.grad is not None:
            self.zero_(weight.grad)

    def zero_(self, tensor: Tensor) -> None:
        """Set what is not kept to zero in place: its bits ANDed with zeros, as inf x 0 is NaN.

        11 times as fast as masked_fill_ on a CPU.
        """
        key = tensor.device, tensor.element_size()
        if key not in self.bits:
            kept = reduce(torch.logical_and, self.masks.values())
            integers = _INTEGERS[tensor.element_size()]
            self.bits = {key: torch.empty_like(tensor, dtype=integers).copy_(kept).neg_()}
        tensor.view(self.bits[key].dtype).bitwise_and_(self.bits[key])


@torch.no_grad()
def _after_step(optimizer: Optimizer, *_) -> None:
    stepped = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    for held in tuple(_HELD.values()):
        if id(weight := held.current()) in stepped:
            held.zero_(weight)


def _after_loading(module: nn.Module, _) -> None:
    """After load_state_dict; a copy of a module or a pickled one has this hook, but is not held."""
    for attribute in module._parameters:
        if (held := _HELD.get((id(module), attribute))) is not None:
            held.zero_all()


_HELD: dict[tuple[int, str], _Held] = {}  # by module and attribute
_STEP_HOOK: list[RemovableHandle] = []
