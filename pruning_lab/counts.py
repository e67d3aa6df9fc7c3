"""What a network costs: weights, FLOPs and activation density, read off what a forward pass made.

The columns are those of the paper's Tables 2-5, which never says how it counted. These rules
reproduce all of its rows: FLOPs are two per multiply-accumulate, before pooling; an activation is
counted after ReLU and pooling; FLOP% of a layer is its weight density times the density of the
activations that enter it.
"""

from dataclasses import dataclass

import torch
from tabulate import tabulate
from torch import Tensor, nn

from pruning_lab.evaluation import Images, device_of, measuring
from pruning_lab.masks import prunable


@dataclass(frozen=True)
class LayerCount:
    """One layer, or all of them together. Biases are not counted (as in Tables 2-5)."""

    layer: str
    weights: int
    kept: int  # weights that are not zero
    flops: int  # of the dense layer, per image
    neurons: int  # outputs per image that the next layer sees: after pooling
    input_density: float | None  # share of its inputs that are not zero; None: not measured
    activation_density: float | None  # the same of its outputs, after ReLU and pooling
    flops_kept: float  # operations left when zero weights and zero inputs are skipped

    @property
    def density(self) -> float:
        return self.kept / max(self.weights, 1)

    @property
    def flop_density(self) -> float:
        return self.flops_kept / max(self.flops, 1)


class Counts(tuple[LayerCount, ...]):
    """A row per layer; `.total` is the paper's last row."""

    @property
    def total(self) -> LayerCount:
        """Activation density weighted by neurons, FLOP density by FLOPs, as in Tables 2-5."""
        neurons = sum(row.neurons for row in self)
        measured = [row for row in self if row.activation_density is not None]
        active = sum(row.activation_density * row.neurons for row in measured)
        return LayerCount(
            "total",
            sum(row.weights for row in self),
            sum(row.kept for row in self),
            sum(row.flops for row in self),
            neurons,
            None,
            active / neurons if neurons and len(measured) == len(self) else None,
            sum(row.flops_kept for row in self),
        )

    @property
    def weights_only_flop_density(self) -> float:
        """Operations left when only zero weights are skipped, and no zero activations."""
        left = sum(row.density * row.flops for row in self)
        return left / max(sum(row.flops for row in self), 1)

    def __str__(self) -> str:
        rows = [
            (
                row.layer,
                f"{row.weights:,}",
                f"{row.flops:,}",
                "" if row.activation_density is None else f"{row.activation_density:.0%}",
                f"{row.density:.1%}",
                f"{row.flop_density:.1%}",
            )
            for row in (*self, self.total)
        ]
        headers = ("layer", "weights", "FLOP", "act%", "weights%", "FLOP%")
        align = ("left",) + 5 * ("right",)
        return tabulate(rows, headers, colalign=align, disable_numparse=True)


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
    gone = sum(int((module.weight == 0).sum()) for module in prunable(model).values())
    return Parameters(total, total - gone)


def layers(model: nn.Module, images: Images | tuple[int, ...]) -> Counts:
    """Count every Conv2d and Linear layer, in the order in which they run.

    `images` is a split (or any re-iterable of (x, y)), over which activations are measured, or the
    shape (C, H, W) of one image, for the counts alone. The density of a layer's activations is read
    where the next layer takes them in, so behind a branch it is that layer's input; the last
    layer's is that of the network's answer. A layer that never ran is left out.
    """
    tallies = {module: _Tally(name) for name, module in prunable(model).items()}
    order: list[nn.Module] = []
    handles = []

    def count(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        if module not in order:
            order.append(module)
        tallies[module].add(module, inputs[0], output)

    measured = not isinstance(images, tuple)
    device = device_of(model)
    batches = images if measured else [(torch.zeros(1, *images), None)]
    seen = nonzero = outputs = 0
    try:
        handles = [module.register_forward_hook(count) for module in tallies]
        with measuring(model):
            for x, _ in batches:
                answer = model(x.to(device))
                seen += len(x)
                nonzero += int(answer.count_nonzero())
                outputs += answer.numel()
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise ValueError("no images to count with")

    rows = [tallies[module] for module in order]
    counts = []
    for place, tally in enumerate(rows):
        last = place + 1 == len(rows)
        neurons = outputs if last else rows[place + 1].inputs
        alive = nonzero if last else rows[place + 1].nonzero_inputs
        input_density = tally.nonzero_inputs / tally.inputs
        weight = order[place].weight
        kept = int(weight.count_nonzero())
        flops = tally.flops // seen
        share = kept / weight.numel() * (input_density if measured else 1.0)
        counts.append(
            LayerCount(
                tally.name,
                weight.numel(),
                kept,
                flops,
                neurons // seen,
                input_density if measured else None,
                alive / neurons if measured else None,
                flops * share,
            )
        )
    return Counts(counts)


class _Tally:
    """Sums over the images that one layer saw."""

    def __init__(self, name: str):
        self.name = name
        self.flops = self.inputs = self.nonzero_inputs = 0

    def add(self, module: nn.Module, x: Tensor, output: Tensor) -> None:
        # Each output value is one dot product with one filter: its weights for one output channel.
        self.flops += 2 * output.numel() * module.weight[0].numel()
        self.inputs += x.numel()
        self.nonzero_inputs += int(x.count_nonzero())
