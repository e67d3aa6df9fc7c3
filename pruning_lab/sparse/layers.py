"""Linear and convolution layers that store only their non-zero weights, and compute from them.

Stored is compressed sparse rows (CSR) with 32-bit indices: 8 bytes per kept weight. A convolution
multiplies the patches of its images (im2col), one image at a time.
"""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COLUMNS = 32  # of the dense factor, multiplied at once: more of them leave the CPU's cache


class _NoGradient(torch.autograd.Function):
    """Passes an answer on; whoever asks for its gradient is told what to train instead."""

    @staticmethod
    def forward(ctx, answer: Tensor, *inputs: Tensor) -> Tensor:
        return answer.view_as(answer)

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        raise RuntimeError(
            "a sparse network only answers and has no gradients; train the dense network, with its "
            "mask held (mask.hold), and type to_sparse again"
        )


class _Sparse:
    """What both layers share. Their state_dict is the dense layer's, their parameters are not."""

    unprunable = "stores only its non-zero weights; use the dense network that it was made from"

    @property
    def weight(self) -> Tensor:
        """The dense weight, made again at each access."""
        per_row = self.starts.diff()
        rows = torch.arange(len(per_row), device=per_row.device).repeat_interleave(per_row)
        dense = self.values.new_zeros(len(per_row), self.shape[1:].numel())
        dense[rows, self.columns % dense.shape[1]] = self.values.detach()
        return dense.view(self.shape)

    def store(self, weight: Tensor) -> None:
        """Keep what is not zero of a dense weight (out, in / groups, ...)."""
        with warnings.catch_warnings():  # that CSR is in beta: said once per process
            warnings.simplefilter("ignore")
            csr = weight.detach().flatten(1).to_sparse_csr()
        starts, columns = csr.crow_indices().int(), csr.col_indices().int()
        if (groups := getattr(self, "groups", 1)) > 1:  # each reads its own input channels
            first = torch.arange(groups, dtype=torch.int32, device=weight.device) * csr.shape[1]
            rows = starts.diff().view(groups, -1).sum(1)
            columns = columns + first.repeat_interleave(rows)
        self.register_buffer("starts", starts, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        self.values, self.shape = nn.Parameter(csr.values()), weight.shape

    @torch.no_grad()
    def times(self, x: Tensor) -> Tensor:
        """(in, n) -> (out, n), with the bias."""
        size = len(self.starts) - 1, len(x)
        parts = self.starts, self.columns, self.values
        csr = torch.sparse_csr_tensor(*parts, size, check_invariants=False)
        if x.shape[1] == 1:
            y = (csr @ x[:, 0])[:, None]
        else:  # a CSR factor to the left: F.linear with a CSR weight is up to 14 times slower
            y = torch.cat([csr @ part.contiguous() for part in x.split(COLUMNS, dim=1)], dim=1)
        return y if self.bias is None else y.add_(self.bias[:, None])

    def answered(self, y: Tensor, x: Tensor) -> Tensor:
        return _NoGradient.apply(y, x, self.values) if torch.is_grad_enabled() else y

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        destination[f"{prefix}weight"] = self.weight
        super()._save_to_state_dict(destination, prefix, keep_vars)
        del destination[f"{prefix}values"]

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, extra, errors):
        name, rest = f"{prefix}weight", {**state_dict}
        weight = rest.pop(name, None)
        if weight is None:
            missing.extend([name] * strict)
        elif weight.shape != self.shape:
            found, ours = tuple(weight.shape), tuple(self.shape)
            errors.append(f"size mismatch for {name}: {found} in the state_dict, {ours} here")
        else:
            self.store(weight.to(self.values))
        rest[f"{prefix}values"] = self.values
        super()._load_from_state_dict(rest, prefix, metadata, strict, missing, extra, errors)


class SparseLinear(_Sparse, nn.Linear):
    """`nn.Linear` from its non-zero weights."""

    def forward(self, x: Tensor) -> Tensor:  # (..., in) -> (..., out)
        y = self.times(x.reshape(-1, x.shape[-1]).T).T.contiguous()
        return self.answered(y.view(*x.shape[:-1], -1), x)


class SparseConv2d(_Sparse, nn.Conv2d):
    """`nn.Conv2d` from its non-zero weights."""

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W), or (C, H, W)
        images = x.detach() if x.dim() == 4 else x.detach()[None]
        zeros = self.padding_mode == "zeros"
        padding = self._reversed_padding_repeated_twice  # that of "same", too
        images = F.pad(images, padding, "constant" if zeros else self.padding_mode)
        sizes = zip(images.shape[2:], self.kernel_size, self.dilation, self.stride, strict=True)
        out = [(size - d * (k - 1) - 1) // step + 1 for size, k, d, step in sizes]
        y = self.values.new_empty(len(images), self.out_channels, *out)
        for image, answer in zip(images, y.flatten(2), strict=True):
            patches = F.unfold(image[None], self.kernel_size, self.dilation, 0, self.stride)
            answer.copy_(self.times(patches[0]))
        if x.dim() == 3:
            y = y[0]
        elif x.is_contiguous(memory_format=torch.channels_last):  # as the dense layer answers
            y = y.contiguous(memory_format=torch.channels_last)
        return self.answered(y, x)


TWINS = {nn.Linear: SparseLinear, nn.Conv2d: SparseConv2d}  # these types alone, not derived ones


def can_be_sparse(module: nn.Module) -> bool:
    """Whether the layer is plain, and torch multiplies such sparse weights on its device."""
    weight = module._parameters.get("weight")
    if type(module) not in TWINS or weight is None or weight.is_meta:
        return False
    known = weight.dtype in (torch.float32, torch.float64)
    return known and weight.device.type in ("cpu", "cuda")


def convert_(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    """Make the layer its own sparse twin, in place: hooks, mode and names stay."""
    weight = layer._parameters.pop("weight")
    layer.__class__ = TWINS[type(layer)]
    layer.store(weight)
    return layer
