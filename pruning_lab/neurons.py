"""Dead neurons: found to closure, and removed into a smaller network that answers the same.

A neuron is an output unit of a linear layer, or an output channel of a convolution, that the next
layer of the chain reads. It is dead when it has no input connections or no output connections
left, and goes with all its other connections (Han et al. 2015, section 3.5):

- *dead by output*: all weights that read it are zero, or belong to neurons dead by output that go.
  Nothing changes without it.
- *dead by input*: all its own weights are zero, or read neurons dead by input that go. It is then a
  constant: its bias after activation and pooling. A constant of 0 changes nothing; another one is
  added to the next layer's biases ("folded"), which is exact unless zeros are padded beside it.

The paper removes such a neuron whatever its bias; ours is kept where its constant cannot be folded,
and so are all neurons before a module that may mix them (in local response normalisation even a
channel of zeros separates its neighbours). Grouped convolutions keep their channels, and each layer
at least one neuron: dead ones are kept there without connections. The network's inputs and outputs
stay. Inputs are (N, C, H, W) or (N, features); equal answers are those in evaluation mode.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pruning_lab import counts
from pruning_lab.layers import device_of, mode, prunable, unknown_layer, unwrapped
from pruning_lab.rows import Rows

_ELEMENTWISE = {  # these types alone: a type derived from one may do something else
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus),
    *(nn.Tanh, nn.Hardtanh, nn.Hardswish, nn.Sigmoid, nn.Hardsigmoid, nn.Softsign, nn.Identity),
    *(nn.Dropout, nn.Dropout2d, nn.AlphaDropout),
}
_POOLS = {nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d}


@dataclass(frozen=True)
class LayerNeurons:
    """The dead neurons of one layer, or of all, and what goes with them."""

    layer: str
    neurons: int
    by_output: int  # dead by output
    by_input: int  # dead by input, and not by output
    folded: int  # of `by_input`: a constant that is not 0 moves into the next layer's biases
    removed: int  # of the dead: the layer that `remove` returns is smaller by these
    weights: int  # of this layer: not zero, and go with dead neurons of this or the layer before
    biases: int  # that go, with the parameters of batch normalisation
    note: str  # which dead neurons are kept, and why


class Neurons(Rows[LayerNeurons]):
    """A row per layer in running order; `.total` adds them up."""

    @property
    def total(self) -> LayerNeurons:
        numbers = [field.name for field in fields(LayerNeurons)][1:-1]
        sums = (sum(getattr(row, name) for row in self) for name in numbers)
        return LayerNeurons("total", *sums, note="")

    def __str__(self) -> str:
        return self.table((*self, self.total))


def find(model: nn.Module) -> Neurons:
    """The dead neurons of a chain, with those that die when others go; the model is not changed.

    A chain is an nn.Sequential (nested ones too) of Linear, Conv2d and what stands between them.
    TypeError for another model, ValueError for one without such layers or with shared parameters.
    """
    return remove(model)[1]


@torch.no_grad()
def remove(model: nn.Module) -> tuple[nn.Sequential, Neurons]:
    """A smaller chain of the same layers that answers the same up to rounding, and `find`'s report.

    The model is not changed. Names, dtype, device, memory format and mode are the model's, and
    zeros stay zeros, so that `Mask.of` finds them. Errors are those of `find`.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> model[0].weight.data[0] = 0  # dead by input
    >>> model[2].weight.data[:, 1] = 0  # dead by output
    >>> network, report = remove(model)
    >>> network[0], report.total.removed, report.total.biases
    (Linear(in_features=4, out_features=1, bias=True), 2, 2)
    """
    chain = unwrapped(model) if isinstance(model, nn.Module) else model
    if getattr(type(chain), "forward", None) is not nn.Sequential.forward:
        got = type(chain).__name__
        raise TypeError(f"neurons are found in a chain of layers, an nn.Sequential; got a {got}")
    network = copy.deepcopy(chain)
    stages = _stages(network)
    pairs, last = list(pairwise(stages)), stages[-1]
    before = [int(stage.layer.weight.count_nonzero()) for stage in stages]
    with mode(network, training=False):
        # One sweep against the signal and one along it are the whole closure: a neuron dead by
        # input reads nothing that stays, so that no other loses its last reader with it.
        unread = [_unread(stage, after) for stage, after in reversed(pairs)]
        rows = [_cut_(*pair, each) for pair, each in zip(pairs, reversed(unread), strict=True)]
    rows.append(LayerNeurons(last.name, len(last.layer.weight), 0, 0, 0, 0, 0, 0, ""))
    left = [int(stage.layer.weight.count_nonzero()) for stage in stages]
    report = (replace(r, weights=b - n) for r, b, n in zip(rows, before, left, strict=True))
    return network, Neurons(report)


@torch.no_grad()
def remove_smallest(model: nn.Module, kept: float | Mapping[str, float]) -> nn.Sequential:
    """A smaller chain that keeps `round(kept * n)` of a layer's n neurons, and one at least.

    The dead ones go first, as `remove` has it, then those whose incoming weights have the smallest
    L2 norm, ties by position. With its outputs goes what a neuron's bias did. `kept` is a fraction
    in [0, 1] for all layers, or for each that is named. The last layer, grouped convolutions and
    neurons before a module that may mix them stay as `remove` leaves them: ValueError where one is
    named. Torch-Pruning does more: networks that are no chain, other measures of importance.

    >>> model = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 2))
    >>> remove_smallest(model, 0.3)[0]
    Linear(in_features=4, out_features=3, bias=True)
    """
    network, report = remove(model)
    sizes, pairs = {row.layer: row.neurons for row in report}, list(pairwise(_stages(network)))
    with mode(network, training=False):
        alone = [pair for pair in pairs if _constants(*pair)[1] is not None]
    free = [stage.name for stage, after in alone if not _is_grouped(stage, after)]
    kept = kept if isinstance(kept, Mapping) else dict.fromkeys(free, kept)
    for name, fraction in kept.items():
        if name not in sizes:
            raise KeyError(unknown_layer(name, sizes))
        if name not in free:
            others = ", ".join(free) or "none"
            raise ValueError(f"no neurons of {name} can be removed; these layers' can: {others}")
        if not 0 <= fraction <= 1:
            raise ValueError(f"kept must lie in [0, 1], got {fraction}; for a percentage, / 100")
    norms = {stage.name: stage.layer.weight.flatten(1).norm(dim=1) for stage, _ in pairs}
    for stage, after in pairs:
        if stage.name in kept:
            count = max(1, round(kept[stage.name] * sizes[stage.name]))
            keep = torch.zeros_like(norms[stage.name], dtype=torch.bool)
            keep[norms[stage.name].argsort(descending=True, stable=True)[:count]] = True
            _keep_(stage, after, keep)
    return network


def parameters(model: nn.Module) -> counts.Parameters:
    """`counts.parameters`, where all that goes with dead neurons counts as gone, biases included.

    Dead neurons that are kept without connections count as gone, others that are kept do not.
    """
    plain, gone = counts.parameters(model), find(model).total
    return counts.Parameters(plain.total, plain.kept - gone.weights - gone.biases)


class _Stage(NamedTuple):
    name: str
    layer: nn.Linear | nn.Conv2d
    between: list[tuple[str, nn.Module]]  # up to the next layer


def _unread(stage: _Stage, after: _Stage) -> Tensor:
    """Which neurons are dead by output, bool (out,); their own connections become zero."""
    places, x, _ = _constants(stage, after)
    read = _grouped(after.layer).any(3).any(1).flatten()
    unread = ~read.view(-1, places).any(1) if places else read.new_zeros(len(stage.layer.weight))
    for parameter in () if x is None else stage.layer.parameters():
        parameter[unread] = 0
    return unread


def _cut_(stage: _Stage, after: _Stage, unread: Tensor) -> LayerNeurons:
    """Fold what is dead by input into the next layer, and make both layers smaller."""
    layer, reader = stage.layer, after.layer
    places, x, why = _constants(stage, after)
    constant = ~unread & ~_grouped(layer).any(3).any(2).flatten()
    gone, folded = torch.zeros_like(unread), 0
    if x is not None:
        exact = constant & x.isfinite().view(-1, places).all(1)
        inputs = exact.repeat_interleave(places)
        x, weight = x.where(inputs, 0), _grouped(reader)
        if folded := int(x.view(-1, places).any(1).sum()):
            reader.bias += torch.einsum("goik,gi->go", weight, x.view(len(weight), -1)).flatten()
        weight = weight.masked_fill(inputs.view(len(weight), 1, -1, 1), 0)
        reader.weight.copy_(weight.reshape(reader.weight.shape))
        gone = unread | exact
    vectors = [p for m in (layer, *_norms(stage)) for p in m.parameters() if p.dim() == 1]
    biases = int(gone.sum()) * sum(vector.numel() for vector in vectors) // len(gone)
    grouped = _is_grouped(stage, after)
    cut = gone & (not grouped)
    cut[0] &= not cut.all()
    if cut.any():
        _keep_(stage, after, ~cut)
    whole = "grouped convolutions keep their channels" if grouped else "a layer keeps one neuron"
    kept = {
        f" kept: {' and '.join(why)}": (unread | constant) & ~gone,
        f" kept without connections: {whole}": gone & ~cut,
    }
    note = "; ".join(f"{n:,}{text}" for text, neurons in kept.items() if (n := int(neurons.sum())))
    found = (int(neurons.sum()) for neurons in (unread, constant))
    return LayerNeurons(stage.name, len(gone), *found, folded, int(cut.sum()), 0, biases, note)


def _constants(stage: _Stage, after: _Stage) -> tuple[int, Tensor | None, list[str]]:
    """Inputs of `after` per neuron, the values there of neurons without inputs, and obstacles.

    The values, (inputs,), are NaN where they are not 0 and cannot be folded, and None where a
    module may mix neurons. 0 inputs: not known.
    """
    (_, layer, between), (reader_name, reader, _) = stage, after
    size, inputs = len(layer.weight), _grouped(reader)[:, 0, :, 0].numel()
    flat, mixed, why = isinstance(layer, nn.Linear), False, []
    x = layer.weight.new_zeros(size) if layer.bias is None else layer.bias.detach().clone()
    x = x.view(1, size) if flat else x.view(1, size, 1, 1)
    for name, module in between:
        kind, norm = type(module), nn.BatchNorm1d if flat else nn.BatchNorm2d
        if kind is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
            x = x if flat else x.flatten(1).repeat_interleave(inputs // size, 1)
            flat = True
        elif kind in _POOLS and not flat and not getattr(module, "divisor_override", None):
            if getattr(module, "count_include_pad", False) and module.padding not in (0, (0, 0)):
                why.append(f"{name} pads their constant with zeros")
                x = x.where(x == 0, torch.nan)
        elif kind in _ELEMENTWISE or (kind is norm and module.running_mean is not None):
            x = module.forward(x)  # without its hooks
        else:
            why, mixed = [f"{name} ({kind.__name__}) may mix neurons"], True
            if not isinstance(module, nn.LocalResponseNorm):
                return 0, None, why
    if flat is not isinstance(reader, nn.Linear) or x.numel() != inputs:
        return 0, None, [f"{reader_name} does not read neuron by neuron"]
    if mixed:
        return inputs // size, None, why
    padding = getattr(reader, "padding", "valid")
    if padding not in ("valid", (0, 0)) and reader.padding_mode == "zeros":
        why.append(f"{reader_name} pads their constant with zeros")
        x = x.where(x == 0, torch.nan)
    if reader.bias is None:
        why.append(f"{reader_name} has no bias for their constant")
        x = x.where(x == 0, torch.nan)
    return inputs // size, x.flatten(), why


def _grouped(layer: nn.Linear | nn.Conv2d) -> Tensor:
    """The weight as (groups, out / groups, in / groups, kh * kw)."""
    return layer.weight[..., None].unflatten(0, (getattr(layer, "groups", 1), -1)).flatten(3)


def _is_grouped(stage: _Stage, after: _Stage) -> bool:
    return max(len(_grouped(each.layer)) for each in (stage, after)) > 1


def _norms(stage: _Stage) -> list[nn.Module]:
    return [m for _, m in stage.between if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]


def _keep_(stage: _Stage, after: _Stage, keep: Tensor) -> None:
    """Make both layers smaller: of the first one's neurons, (out,), these stay."""
    _select_(after.layer, keep, dim=1)
    for module in (stage.layer, *_norms(stage)):
        _select_(module, keep)


def _select_(module: nn.Module, keep: Tensor, dim: int = 0) -> None:
    """Keep these neurons as a module's outputs (`dim` 0) or inputs (1), in its memory format."""
    for name, old in [*module.named_parameters(), *module.named_buffers()]:
        if old.dim() > dim:
            index = keep.repeat_interleave(old.shape[dim] // len(keep)).nonzero().flatten()
            form = torch.channels_last if old.dim() == 4 else torch.contiguous_format
            if old.stride() != torch.empty_like(old, device="meta", memory_format=form).stride():
                form = torch.contiguous_format
            new = old.index_select(dim, index).clone(memory_format=form)
            parameter = isinstance(old, nn.Parameter)
            setattr(module, name, nn.Parameter(new, old.requires_grad) if parameter else new)
    side = "in" if dim else "out"
    for size in {f"{side}_features", f"{side}_channels", "num_features"} & vars(module).keys():
        setattr(module, size, len(index))


def _stages(chain: nn.Sequential) -> list[_Stage]:
    device_of(chain)  # raises for the meta device
    found = {layer.module for layer in prunable(chain).values()}
    leaves, stages = list(_leaves(chain)), []
    if sum(len(list(m.parameters())) for _, m in leaves) > len(list(chain.parameters())):
        raise ValueError("layers of this chain share parameters; give each its own")
    for name, module in leaves:
        if type(module) in (nn.Linear, nn.Conv2d) and module in found:
            stages.append(_Stage(name, module, []))
        elif stages:
            stages[-1].between.append((name, module))
    if not stages:
        raise ValueError("no neurons in this chain: it has no Linear or Conv2d layer")
    return stages


def _leaves(chain: nn.Sequential, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, module in chain._modules.items():
        if type(module).forward is nn.Sequential.forward:
            yield from _leaves(module, f"{path}{name}.")
        else:
            yield f"{path}{name}", module
