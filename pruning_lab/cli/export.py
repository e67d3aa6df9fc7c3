"""`pruning-lab export`: a network for other programs."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

import pruning_lab as lab
from pruning_lab.cli import common


def export(
    file: common.NetworkFile = None,
    *,
    to: Literal["onnx", "torch", "csr"],
    out: Annotated[
        str, common.File("model for export"), common.FILE, Parameter(name=("--out", "-o"))
    ],
    network: common.Network = common.Network(),
    images: common.Images = common.Images(),
    output: common.WritingOutput = common.WritingOutput(),
) -> None:
    """Write a network for other programs.

    example:
      pruning-lab export pruned.safetensors --to onnx -o pruned.onnx
      pruning-lab export pruned.safetensors --to csr -o pruned.pt

    Args:
        to: onnx is checked with onnxruntime on val images; torch is a state_dict
            for torch.load; csr the same with sparse matrices.
        out: File to write.
    """
    model, about = network.load(file)
    if to == "onnx":
        val = images.load(about, output, model).val
        written = lab.sparse.to_onnx(model, out, next(iter(val.head(8)))[0])
    else:
        written = lab.sparse.to_torch(model, out, as_csr=to == "csr")
    output.show(lab.rows.plain(written), str(written))
