"""Linear and convolution layers that store only their non-zero weights, and compute from them.

Stored are compressed sparse rows (CSR) with 32-bit indices: 8 bytes for each kept float32 weight. A
convolution multiplies the patches of its images (im2col), one image after the other.
"""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW, COLUMNS = 16, 64  # of the dense factor: from so many on by `_bags`, so many at once


def csr(weight: Tensor) -> Tensor:
    """The weight (out, ...) as a CSR matrix with 32-bit indices, half of what `to_sparse_csr` has.

    >>> csr(torch.tensor([[0.0, 3.0], [0.0, 0.0]])).col_indices()
    tensor([1], dtype=torch.int32)
    """
    with warnings.catch_warnings():  # torch's CSR is in beta, and says so once in a process
        warnings.simplefilter("ignore")
        made = weight.detach().flatten(1).to_sparse_csr()
    indices = made.crow_indices().int(), made.col_indices().int()
    return torch.sparse_csr_tensor(*indices, made.values(), made.shape, check_invariants=False)


def _bags(starts: Tensor, columns: Tensor, values: Tensor, x: Tensor) -> Tensor:
    """Sparse @ x (in, n): each row is a bag of rows of x, summed with its weights.

    torch's kernel for that is 1.5 to 4 times as fast as its CSR product from 16 columns on.
    """
    kept = {"per_sample_weights": values, "include_last_offset": True, "mode": "sum"}
    return F.embedding_bag(columns, x.contiguous(), starts, **kept)


class _NoGradient(torch.autograd.Function):
    """Passes an answer on; its gradient is an error that says what to train instead."""

    @staticmethod
    def forward(ctx, answer: Tensor, *inputs: Tensor) -> Tensor:
        return answer.view_as(answer)

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        raise RuntimeError(
            "a sparse network only answers and has no gradients; train the dense network, with its "
            "mask held (mask.hold), and call to_sparse again"
        )


class _Sparse:
    """What both layers share. Their state_dict is the dense layer's, their parameters are not."""

    unprunable = "stores only its non-zero weights; use the dense network that it was made from"

    @property
    def weight(self) -> Tensor:
        """The dense weight, made again at each access."""
        rows = torch.arange(len(self.starts) - 1, device=self.starts.device)
        dense = self.values.new_zeros(len(rows), self.shape[1:].numel())
        places = rows.repeat_interleave(self.starts.diff()), self.columns % dense.shape[1]
        return dense.index_put(places, self.values.detach()).view(self.shape)

    def store(self, weight: Tensor) -> None:
        """Keep what is not zero of a dense weight (out, in / groups, ...)."""
        made, groups = csr(weight), getattr(self, "groups", 1)
        starts, columns = made.crow_indices(), made.col_indices()
        if groups > 1:  # each reads its own input channels
            first = made.shape[1] * torch.arange(groups, dtype=torch.int32, device=weight.device)
            columns = columns + first.repeat_interleave(starts.diff().view(groups, -1).sum(1))
        self.register_buffer("starts", starts, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        self.values, self.shape = nn.Parameter(made.values()), weight.shape

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(kind := x.device.type):  # there is no such product in bfloat16
            with torch.autocast(kind, enabled=False):
                return self.forward(x.to(self.values.dtype))
        if not torch.is_grad_enabled():
            return self.answer(x)
        with torch.no_grad():
            y = self.answer(x)
        return _NoGradient.apply(y, x, self.values)

    def times(self, x: Tensor) -> Tensor:
        """(in, n) -> (out, n), with the bias."""
        parts, bias = (self.starts, self.columns, self.values), self.bias
        if x.shape[1] < FEW:  # the sparse factor to the left: F.linear puts it to the right
            size = len(self.starts) - 1, len(x)
            made = torch.sparse_csr_tensor(*parts, size, check_invariants=False)
            y = (made @ x[:, 0])[:, None] if x.shape[1] == 1 else made @ x.contiguous()
        else:
            y = torch.cat([_bags(*parts, part) for part in x.split(COLUMNS, dim=1)], dim=1)
        return y if bias is None else y.add_(bias[:, None])

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        destination[f"{prefix}weight"] = self.weight
        super()._save_to_state_dict(destination, prefix, keep_vars)
        del destination[f"{prefix}values"]

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, extra, errors):
        name, rest = f"{prefix}weight", {**state_dict}
        weight = rest.pop(name, None)
        if weight is None:
            missing.append(name)
        elif weight.shape != self.shape:
            found, ours = tuple(weight.shape), tuple(self.shape)
            errors.append(f"size mismatch for {name}: {found} in the state_dict, {ours} here")
        else:
            self.store(weight.to(self.values))
        rest[f"{prefix}values"] = self.values
        super()._load_from_state_dict(rest, prefix, metadata, strict, missing, extra, errors)


class SparseLinear(_Sparse, nn.Linear):
    """`nn.Linear` from its non-zero weights."""

    def answer(self, x: Tensor) -> Tensor:  # (..., in) -> (..., out)
        y = self.times(x.reshape(-1, x.shape[-1]).T)
        return y.T.reshape(*x.shape[:-1], len(y)).contiguous()


class SparseConv2d(_Sparse, nn.Conv2d):
    """`nn.Conv2d` from its non-zero weights."""

    def answer(self, x: Tensor) -> Tensor:  # (N, C, H, W), or (C, H, W)
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        images = x if x.dim() == 4 else x[None]
        images = F.pad(images, self._reversed_padding_repeated_twice, mode)  # that of "same", too
        sizes = zip(images.shape[2:], self.kernel_size, self.dilation, self.stride, strict=True)
        out = [(size - d * (k - 1) - 1) // step + 1 for size, k, d, step in sizes]
        y = self.values.new_empty(len(images), self.out_channels, *out)
        for image, answer in zip(images, y.flatten(2), strict=True):
            patches = F.unfold(image[None], self.kernel_size, self.dilation, 0, self.stride)
            answer.copy_(self.times(patches[0]))
        if x.dim() == 3:
            return y[0]
        last = x.is_contiguous(memory_format=torch.channels_last)  # as the dense layer answers
        return y.contiguous(memory_format=torch.channels_last) if last else y


TWINS = {nn.Linear: SparseLinear, nn.Conv2d: SparseConv2d}  # these types alone, not derived ones


def can_be_sparse(layer: nn.Module) -> bool:
    """Whether the layer is plain, and torch multiplies such sparse weights on its device."""
    weight = layer._parameters.get("weight") if type(layer) in TWINS else None
    known = weight is not None and weight.dtype in (torch.float32, torch.float64)
    return known and weight.device.type in ("cpu", "cuda")


def convert_(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    """Make the layer its own sparse twin, in place: hooks, mode and names stay."""
    weight = layer._parameters.pop("weight")
    layer.__class__ = TWINS[type(layer)]
    layer.store(weight)
    return layer
