"""`pruning-lab unpack`: a packed network as a safetensors file again."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

import pruning_lab as lab
from pruning_lab.cli import common


def unpack(
    file: Annotated[str, common.File()],
    *,
    out: Annotated[
        str, common.File("network"), common.FILE, Parameter(name=("--out", "-o"))
    ] = "model.safetensors",
    output: common.WritingOutput = common.WritingOutput(),
) -> None:
    """Write a packed network as the safetensors file that it was packed from.

    example:
      pruning-lab unpack pruned.packed -o pruned.safetensors

    Args:
        file: A packed network's file.
        out: File for the network.
    """
    tensors, about = lab.storage.unpack(file)
    lab.files.save_tensors(out, tensors, about=about)
    weights = sum(tensor.numel() for tensor in tensors.values())
    record = {"out": out, "tensors": len(tensors), "numbers": weights, "about": about}
    output.show(record, f"wrote {out}: {len(tensors)} tensors, {weights:,} numbers")
