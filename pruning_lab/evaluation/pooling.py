"""Max pooling by comparing slices: on a CPU several times as fast as torch's, forward only."""

from functools import reduce

import torch
from torch import Tensor, nn


class MaxPool(nn.MaxPool2d):
    """Answers as nn.MaxPool2d does. For measuring: equal maxima would share a gradient."""

    @classmethod
    def like(cls, pool: nn.MaxPool2d) -> "MaxPool":
        settings = (pool.padding, pool.dilation, pool.return_indices, pool.ceil_mode)
        return cls(pool.kernel_size, pool.stride, *settings)

    def forward(self, x: Tensor) -> Tensor:
        size = self.kernel_size
        plain = (size, 0, 1, False) == (self.stride, self.padding, self.dilation, self.ceil_mode)
        if (
            not plain
            or not isinstance(size, int)
            or self.return_indices
            or min(x.shape[-2:]) < size
        ):
            return super().forward(x)
        for dim in (-1, -2):
            end = x.shape[dim] // size * size
            slices = (x.transpose(dim, 0)[start:end:size] for start in range(size))
            x = reduce(torch.maximum, slices).transpose(dim, 0)
        return x
