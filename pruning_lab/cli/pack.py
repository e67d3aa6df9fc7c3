"""`pruning-lab pack`: a pruned network as one small file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

import pruning_lab as lab
from pruning_lab.cli import common


def pack(
    file: common.NetworkFile = None,
    *,
    values: Literal["float32", "float16", "bfloat16", "codebook"] = "float32",
    out: Annotated[
        str, common.File("pack"), common.FILE, Parameter(name=("--out", "-o"))
    ] = "model.packed",
    network: common.Network = common.Network(),
    output: common.WritingOutput = common.WritingOutput(),
) -> None:
    """Write a pruned network as a packed file, which holds no zeros.

    example:
      pruning-lab pack pruned.safetensors -o pruned.packed
      pruning-lab pack pruned.safetensors -o small.packed --values codebook

    Args:
        values: How weights are stored: float32 is exact, a codebook has 32 values per layer.
        out: File for the packed network.
    """
    model, about = network.load(file)
    packed = lab.storage.pack(out, model, values=values, about=about)
    dense = Path(file).stat().st_size if file else packed.dense_bytes
    output.say(packed)
    record = {"out": out, "bytes": packed.file_bytes, "dense_bytes": dense}
    smaller = f"{packed.file_bytes:,} bytes, {dense / packed.file_bytes:.1f} times smaller"
    output.show(
        {**record, "values": values, "rows": lab.rows.plain(packed)},
        f"wrote {out}: {smaller} than the dense file ({dense:,} bytes)",
    )
