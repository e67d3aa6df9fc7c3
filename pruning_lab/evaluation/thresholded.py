"""A weight cut at a threshold that is never made as a whole."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_PART = 2**19  # weights at a time: what a core's cache holds


@dataclass(frozen=True, eq=False)
class Thresholded:
    """Stands for `weight` (out, in, ...) with zeros where |w| < threshold.

    It takes no memory: a linear layer makes the rows that it is at, uses them and lets them go,
    which costs less than to read them from a copy.
    """

    weight: Tensor
    threshold: float

    @property
    def shape(self) -> torch.Size:
        return self.weight.shape

    @property
    def is_small(self) -> bool:
        """Whether to make it once, for many batches, costs less than a part at a time."""
        return self.weight.numel() <= _PART

    def whole(self) -> Tensor:
        return _cut(self.weight, self.threshold)

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """(..., in) -> (..., out), as F.linear does with the whole."""
        if self.weight.device.type != "cpu" or self.is_small:
            return F.linear(x, self.whole(), bias)
        rows = max(1, _PART // self.weight[0].numel())
        answers = [F.linear(x, _cut(part, self.threshold)) for part in self.weight.split(rows)]
        answer = torch.cat(answers, -1)
        return answer if bias is None else answer.add_(bias)


def whole(weight: Tensor | Thresholded) -> Tensor:
    return weight.whole() if isinstance(weight, Thresholded) else weight


def _cut(weight: Tensor, threshold: float) -> Tensor:
    if weight.dtype not in (torch.float32, torch.float64):
        return weight * (weight.abs() >= threshold)
    # In one pass. Hardshrink keeps what is larger than its limit, and we what is not smaller.
    limit, zero = torch.tensor([threshold, 0], dtype=weight.dtype)
    limit = torch.nextafter(limit, zero)
    return torch.hardshrink(weight, limit.item())
