"""Holding: pruned weights stay zero and have no gradient, in any loop with any optimizer.

One registry says which parameter keeps what. torch's global hook after every optimizer step sets
pruned weights to zero, whatever the optimizer's groups are by then; a hook on each weight does the
same to its gradient when it has been accumulated, so that clipping, LBFGS or Muon see the pruned
network. Parameters, names and modules stay what they are.
"""

import weakref
from functools import reduce

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from pruning_lab.layers import Layer


class Hold:
    """What `Mask.hold` returns: `remove()` ends it, and so does the end of a `with` block."""

    def __init__(self, layers: list[tuple[Layer, Tensor]]):
        """`layers`: where each weight lives, and what stays of it (bool, shaped like it)."""
        if not _STEP_HOOK:  # at the first hold, not at import
            _STEP_HOOK.append(register_optimizer_step_post_hook(_after_step))
        self._slots = [_Slot(layer, kept) for layer, kept in layers]

    def remove(self) -> None:
        """Pruned weights may change again, unless another mask holds them too."""
        for slot in self._slots:
            slot.detach()
        self._slots = []

    def __enter__(self) -> "Hold":
        return self

    def __exit__(self, *_) -> None:
        self.remove()


class _Slot:
    """A weight's place in a module, with what one mask keeps there. It lives as the module does."""

    def __init__(self, layer: Layer, kept: Tensor):
        self.module, self.attribute, self.kept = weakref.ref(layer.module), layer.attribute, kept
        self.hook = layer.module.register_load_state_dict_post_hook(self)
        _SLOTS[id(self)] = weakref.ref(self)
        self.attach()

    def __call__(self, module: nn.Module, incompatible_keys: object) -> None:
        """After load_state_dict, which brings other values or (assign=True) another parameter."""
        self.follow()
        with torch.no_grad():
            _HELD[self.weight()].zero_(self.weight())

    def __reduce__(self):
        return _nothing_held, ()  # a copy of the module, or one from a pickle, is free

    def attach(self) -> None:
        weight = self.module()._parameters[self.attribute]
        self.weight = weakref.ref(weight)
        if weight not in _HELD:
            _HELD[weight] = _Held(weight)
        held = _HELD[weight]
        held.slots.append(self)
        held.bits.clear()
        with torch.no_grad():
            held.zero_(weight)
            if weight.grad is not None:
                held.zero_(weight.grad)

    def follow(self) -> None:
        """Hold the parameter that has taken the place of the one held so far, if one has."""
        module = self.module()
        if module is not None and module._parameters.get(self.attribute) is not self.weight():
            self.release()
            if module._parameters.get(self.attribute) is not None:
                self.attach()

    def release(self) -> None:
        weight = self.weight()
        held = None if weight is None else _HELD.get(weight)
        if held is not None and self in held.slots:
            held.slots.remove(self)
            held.bits.clear()
            if not held.slots:
                held.hook.remove()
                del _HELD[weight]

    def detach(self) -> None:
        self.release()
        self.hook.remove()
        _SLOTS.pop(id(self), None)

    def __del__(self):
        _SLOTS.pop(id(self), None)


def _nothing_held():
    return _do_nothing


def _do_nothing(module: nn.Module, incompatible_keys: object) -> None:
    pass


class _Held:
    """What all masks that hold a parameter together keep of it."""

    def __init__(self, weight: nn.Parameter):
        self.slots: list[_Slot] = []
        self.bits: dict[tuple, Tensor] = {}
        # A frozen weight can be unfrozen later, but takes no hook as long as it is.
        frozen = not weight.requires_grad
        self.hook: RemovableHandle = weight.requires_grad_(True).register_post_accumulate_grad_hook(
            _after_gradient
        )
        weight.requires_grad_(not frozen)

    def zero_(self, tensor: Tensor) -> None:
        """Set what is not kept to zero in place, infinities and NaN too.

        The bits of a number are ANDed with all ones or all zeros: as fast as a multiplication by 0
        or 1, in which inf x 0 is NaN, and 11 times as fast as masked_fill_ on a CPU.
        """
        key = (tensor.device, tensor.element_size())
        if key not in self.bits:
            kept = reduce(torch.logical_and, (slot.kept for slot in self.slots))
            integers = _INTEGERS[tensor.element_size()]
            self.bits = {key: torch.empty_like(tensor, dtype=integers).copy_(kept).neg_()}
        tensor.view(self.bits[key].dtype).bitwise_and_(self.bits[key])


@torch.no_grad()
def _after_step(optimizer: Optimizer, *_) -> None:
    for reference in tuple(_SLOTS.values()):
        if (slot := reference()) is not None:
            slot.follow()
    if _HELD:
        for group in optimizer.param_groups:
            for weight in group["params"]:
                if (held := _HELD.get(weight)) is not None:
                    held.zero_(weight)


@torch.no_grad()
def _after_gradient(weight: nn.Parameter) -> None:
    held = _HELD.get(weight)
    if held is not None and weight.grad is not None:
        held.zero_(weight.grad)


_HELD = WeakTensorKeyDictionary()  # parameter -> _Held
_SLOTS: dict[int, weakref.ref] = {}
_STEP_HOOK: list[RemovableHandle] = []
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
