"""A weight cut at a threshold, without a copy of it in memory."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map

SMALL = 2**19  # weights: what a core's cache holds; more are cut in parts of so many


@dataclass(frozen=True, eq=False)
class Thresholded:
    """Stands for `weight` with zeros where its saliency (|weight| unless given) < threshold.

    It takes no memory. F.linear cuts the rows that it needs, uses them and drops them, which costs
    less than reading a copy; any other function of torch gets the whole, made for that call.
    """

    weight: Tensor  # (out, in, ...)
    threshold: float
    saliency: Tensor | None = None  # shaped like the weight

    @property
    def shape(self) -> torch.Size:
        return self.weight.shape

    def whole(self, out: Tensor | None = None) -> Tensor:
        weight, saliency = self.weight, self.saliency
        if saliency is not None or weight.dtype not in (torch.float32, torch.float64):
            kept = (weight.abs() if saliency is None else saliency) >= self.threshold
            return torch.mul(weight, kept, out=out)
        # In one pass. Hardshrink keeps what is larger than its limit, and we what is not smaller.
        limit, zero = torch.tensor([self.threshold, 0], dtype=weight.dtype)
        return torch.hardshrink(weight, torch.nextafter(limit, zero).item(), out=out)

    def __getattr__(self, name: str):
        if name.startswith("__"):  # what Python itself looks for, such as __deepcopy__
            raise AttributeError(name)
        return getattr(self.whole(), name)

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is F.linear and len(args) == 3 and isinstance(args[1], cls):
            return args[1]._linear(args[0], args[2])
        return function(*tree_map(whole, args), **tree_map(whole, kwargs or {}))

    def _linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """(..., in) -> (..., out)"""
        if self.weight.device.type != "cpu" or self.weight.numel() <= SMALL:
            return F.linear(x, self.whole(), bias)
        # Into the same memory part by part: a malloc of its own for each would leave gaps.
        step, y = max(1, SMALL // self.weight[0].numel()), None
        room = torch.empty_like(self.weight[:step])
        for first in range(0, len(self.weight), step):
            weight, saliency = (
                t if t is None else t[first : first + step] for t in (self.weight, self.saliency)
            )
            rows = Thresholded(weight, self.threshold, saliency).whole(room[: len(weight)])
            part = F.linear(x, rows)
            y = part.new_empty(*part.shape[:-1], len(self.weight)) if y is None else y
            y[..., first : first + step] = part
        return y if bias is None else y.add_(bias)


def _operator(name: str):
    return lambda self, *others: getattr(self.whole(), name)(*others)


for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "matmul", "neg", "getitem"):
    setattr(Thresholded, f"__{_name}__", _operator(f"__{_name}__"))  # Python asks the class for it


def whole(weight):
    return weight.whole() if isinstance(weight, Thresholded) else weight


def prepared(weight: Tensor | Thresholded) -> Tensor | Thresholded:
    """As it is best used many times: a small one is cut once."""
    return whole(weight) if weight.shape.numel() <= SMALL else weight
