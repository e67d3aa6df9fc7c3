"""`pruning-lab bench`: whether zeros make a network faster on this machine."""

from __future__ import annotations

from typing import Annotated

import pruning_lab as lab
from pruning_lab.cli import common


def bench(
    file: common.NetworkFile = None,
    *,
    batches: Annotated[list[int] | None, common.MANY, common.number(1, 10_000)] = None,
    network: common.Network = common.Network(),
    images: common.Images = common.Images(),
    output: common.Output = common.Output(),
) -> None:
    """Time a pruned network dense and sparse, layer by layer, on this machine.

    Both sides run in turn; shown are medians and quartiles. The break-even is
    the density below which a layer is faster sparse, measured with random masks.

    example:
      pruning-lab bench pruned.safetensors
      pruning-lab bench pruned.safetensors --batches 1 --threads 1

    Args:
        batches: How many images at once (default: 1 16 64).
    """
    model, about = network.load(file)
    splits = images.load(about, output, model)
    rows = lab.sparse.bench(model, splits.val, batches or (1, 16, 64))
    threads = lab.provenance.machine(splits.val.device)["threads"]
    record = {"threads": threads, "rows": lab.rows.plain(rows), "verdicts": rows.verdicts}
    output.show(record, f"\n{rows}")
