"""What a network costs to store, to compute and to read: bytes, FLOPs, and a model of the energy.

The energies are a MODEL, not a measurement, made of the 45 nm figures of Han et al. 2015, Figure 1
(`paper.ENERGY_PJ`). For one image every stored weight is read once, in words of 32 bits; a
multiply-accumulate is a float multiplication and a float addition. Activations, caches, the reuse
of weights within a batch and decoding are left out. The paper's example, a network of a billion
connections at 20 Hz, takes 12.8 W for DRAM alone:

>>> print(f"{20 * read_energy(4 * 10**9):.1f} W")
12.8 W
"""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import ClassVar

import torch
from torch import Tensor, nn

from pruning_lab import counts, paper, storage
from pruning_lab.data import Images
from pruning_lab.layers import prunable
from pruning_lab.rows import Rows

SRAM = 8_000_000  # bytes on the chip: an assumption, since Figure 1 names no size
_MEMORIES = {"DRAM": "32 bit DRAM memory", "SRAM": "32 bit SRAM cache"}
_SAMPLE = 2**18  # weights of a large layer, from which its bytes are estimated


@dataclass(frozen=True)
class LayerCost:
    """One layer, "other" or all. Biases are not counted. Energies: a model, joules per image."""

    layer: str
    weights: int
    kept: int
    sizes: dict[str, int]  # encoding -> bytes, as of `storage.sizes`, and "gzip" of the float32
    is_estimate: bool  # whether these are estimated, all but float32
    flops: int  # of the dense layer, per image
    flops_by_weights: float  # left when zero weights are skipped
    flops_kept: float | None  # left when zero activations are skipped too; None: not measured
    compression: float  # float32 bytes / bytes in the encoding that is used
    fits_from: float  # the compression from which it fits into SRAM; <= 1: as float32 too
    dense_energy: float  # as float32, from SRAM where it fits, and nothing skipped
    dram_energy: float  # in the encoding that is used, from DRAM, and zeros skipped
    sram_energy: float  # the same from SRAM

    @property
    def fits(self) -> bool:
        """Whether it fits into SRAM in the encoding that is used."""
        return self.compression >= self.fits_from


class Costs(Rows[LayerCost]):
    """A row per layer as `counts.layers` has them; `.total` is the whole network.

    A layer's row says whether that layer alone fits into SRAM, the total whether all together do.
    """

    total: LayerCost
    encoding: str  # that energies and fit are of
    sram: int  # bytes
    columns: ClassVar = {
        "layer": lambda row: row.layer,
        "weights": lambda row: f"{row.weights:,}",
        "kept": lambda row: f"{row.kept:,}",
        "weights%": lambda row: _percent(row.kept, row.weights),
        "FLOP": lambda row: f"{row.flops:,}",
        "FLOP%\nby weights": lambda row: _percent(row.flops_by_weights, row.flops),
        "FLOP% by weights\nx activations": lambda row: _percent(row.flops_kept, row.flops),
    }

    def __str__(self) -> str:
        rows, columns = (*self, self.total), {"bytes": attrgetter("layer")}
        for name in self.total.sizes:
            columns[name] = partial(_size, name)
        others = (type("Table", (Rows,), {"columns": columns}) for columns in (columns, _ENERGIES))
        return "\n\n".join([*(kind.table(rows) for kind in (Costs, *others)), *self.conclusions])

    @property
    def conclusions(self) -> list[str]:
        """What the energies assume, what is estimated, and what fitting into SRAM changes."""
        total, memory = self.total, f"{self.sram / 1e6:g} MB of SRAM"
        fit = f"float32 weights fit into {memory} as they are"
        if total.fits_from > 1:
            fit = f"float32 weights fit into {memory} from a compression of {total.fits_from:.3g}x"
        sentences = [
            f"Energies are a MODEL, not a measurement: 45 nm (Han et al. 2015, Figure 1), every "
            f"weight read once per image, stored as {self.encoding!r}, {memory}.",
            f"{fit}; {self.encoding!r} has {total.compression:.3g}x and "
            f"{'fits' if total.fits else 'does not fit'}.",
            f"By the model an image takes {_microjoules(total.dense_energy)} µJ dense, from "
            f"{'SD'[total.fits_from > 1]}RAM; as stored, {_microjoules(total.dram_energy)} µJ from "
            f"DRAM or {_microjoules(total.sram_energy)} µJ from SRAM.",
        ]
        if total.is_estimate:
            sentences.append(
                f"~ is an estimate from {_SAMPLE:,} weights of a large layer (float32: exact); "
                f"pruning-lab pack gives the exact size."
            )
        return sentences


def table(
    model: nn.Module, images: Images | Sequence[int], *, sram: int = SRAM, encoding: str = "ours"
) -> Costs:
    """The cost of every layer and of the whole network; the model is not changed.

    `images` are those of `counts.layers`: a split, over which activations are measured, or the
    shape (C, H, W) of one image, for which operations are counted by weights alone. `sram` is the
    memory for weights on the chip, in bytes. Energy and fit are of `encoding`, a key of
    `storage.sizes`. Raises ValueError for another one, for less than a byte, and for a model
    without prunable layers.
    """
    found = prunable(model)
    if not found:
        raise ValueError("this model has no layer to prune, so its cost is that of any dense one")
    if sram < 1:
        raise ValueError(f"sram must be at least 1 byte, got {sram}; type 8_000_000 for 8 MB")
    known = [*storage.sizes(torch.zeros(1, 1)), "gzip"]
    if encoding not in known:
        raise ValueError(f"no encoding {encoding!r}; there are {', '.join(known)}")
    counted = []
    for row in counts.layers(model, images):
        if row.layer in found:
            left = None if row.input_density is None else row.flops_kept
            own = *sizes(found[row.layer].weight), row.flops, row.flops * row.density, left
        else:  # "other": parameters that stay dense, and operations without a weight
            own = dict.fromkeys(known, 4 * row.weights), False, *3 * (row.flops,)
        counted.append((row.layer, row.weights, row.kept, *own))
    _, weights, kept, stored, guessed, flops, skipped, left = zip(*counted, strict=True)
    stored = {name: sum(each[name] for each in stored) for name in known}
    left = None if None in left else sum(left)
    total = sum(weights), sum(kept), stored, any(guessed), sum(flops), sum(skipped), left
    *rows, total = (_cost(own, sram, encoding) for own in (*counted, ("total", *total)))
    return Costs(rows, total=total, encoding=encoding, sram=sram)


def read_energy(size: int, memory: str = "DRAM") -> float:
    """Joules to read `size` bytes in words of 32 bits from "DRAM" or "SRAM"."""
    return size / 4 * paper.ENERGY_PJ[_MEMORIES[memory]] * 1e-12


def operation_energy(flops: float) -> float:
    """Joules of `flops` operations, half of them float multiplications, half float additions."""
    pair = paper.ENERGY_PJ["32 bit float MULT"] + paper.ENERGY_PJ["32 bit float ADD"]
    return flops / 2 * pair * 1e-12


def sizes(weight: Tensor) -> tuple[dict[str, int], bool]:
    """Encoding -> bytes, "gzip" last, and whether they are estimated: of more than 2^19 weights.

    An estimate is that of a `sample` of 2^18, scaled. gzip packs float32 weights, zeros included.
    """
    weight = weight.detach()
    part = sample(weight, _SAMPLE)
    found = storage.sizes(part)
    content = part.contiguous().view(-1).float().cpu().numpy()
    found["gzip"] = len(gzip.compress(content, compresslevel=6))
    ratio = scale(part, weight.numel(), int(weight.count_nonzero()))
    found = {name: round(ratio * size) for name, size in found.items()}
    return found | {"float32": 4 * weight.numel()}, part is not weight


def sample(weight: Tensor, most: int) -> Tensor:
    """Rows (of the first dimension) at equal distances, about `most` weights together.

    A weight of at most twice as many comes back as it is.
    """
    if weight.numel() <= 2 * most or len(weight) == 1:
        return weight
    number = max(1, most * len(weight) // weight.numel())
    return weight[torch.linspace(0, len(weight) - 1, number, device=weight.device).long()]


def scale(part: Tensor, weights: int, kept: int) -> float:
    """By how much more a layer takes than a sample of it: as much as it keeps more weights."""
    found = int(part.count_nonzero())
    return kept / found if found else weights / max(1, part.numel())


def _cost(counted: tuple, sram: int, encoding: str) -> LayerCost:
    """The row of what was counted: the fields of `LayerCost` down to `flops_kept`."""
    _, _, _, sizes, _, flops, by_weights, left = counted
    dense, stored = sizes["float32"], sizes[encoding]
    operations = operation_energy(by_weights if left is None else left)
    return LayerCost(
        *counted,
        compression=dense / max(stored, 1),
        fits_from=dense / sram,
        dense_energy=read_energy(dense, "DS"[dense <= sram] + "RAM") + operation_energy(flops),
        dram_energy=read_energy(stored, "DRAM") + operations,
        sram_energy=read_energy(stored, "SRAM") + operations,
    )


def _size(name: str, row: LayerCost) -> str:
    return f"{'~' * (row.is_estimate and name != 'float32')}{row.sizes[name]:,}"


def _percent(part: float | None, whole: int) -> str:
    return f"{part / whole:.1%}" if whole and part is not None else ""


def _microjoules(energy: float) -> str:
    return f"{1e6 * energy:,.3g}" if energy < 1e-3 else f"{1e6 * energy:,.0f}"


_ENERGIES = {
    "µJ per image (model)": attrgetter("layer"),
    "dense": lambda row: _microjoules(row.dense_energy),
    "from DRAM": lambda row: _microjoules(row.dram_energy),
    "from SRAM": lambda row: _microjoules(row.sram_energy),
    "compression": lambda row: f"{row.compression:.1f}x" if row.weights else "",
    "fits from": lambda row: f"{max(1, row.fits_from):.3g}x" if row.weights else "",
    "in SRAM": lambda row: "yes" if row.fits else "no",
}
