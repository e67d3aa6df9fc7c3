"""`pruning-lab cost`: bytes, operations and modelled energy of a network."""

from __future__ import annotations

from typing import Annotated

import pruning_lab as lab
from pruning_lab.cli import common

IMAGES = 32  # whose activations are counted: each layer has thousands in every image


def cost(
    file: common.NetworkFile = None,
    *,
    sram: Annotated[float, common.number(0.0, 1e6, above=True)] = 8.0,
    encoding: str = "ours",
    network: common.Network = common.Network(),
    images: common.Images = common.Images(),
    output: common.Output = common.Output(),
) -> None:
    """Print what a network costs, layer by layer: bytes, operations and energy.

    Activations are those of 32 val images. The energy is a model, not a
    measurement: what reading the weights and the operations take at 45 nm.

    example:
      pruning-lab cost pruned.safetensors
      pruning-lab cost pruned.safetensors --sram 0.1 --encoding codebook

    Args:
        sram: Memory for weights on the chip, in MB.
        encoding: How the weights are stored, for the energy: ours, or another of those printed.
    """
    model, about = network.load(file)
    splits = images.load(about, output, model)
    size = max(1, round(1e6 * sram))
    costs = lab.cost.table(model, splits.val.head(IMAGES), sram=size, encoding=encoding)
    record = {"sram": costs.sram, "encoding": costs.encoding, "conclusions": costs.conclusions}
    record |= {"layers": lab.rows.plain(costs), "total": lab.rows.plain(costs.total)}
    output.show(record, f"\n{costs}")
