"""`pruning-lab report`: a pruned network beside the dense one and the paper."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Annotated

import pruning_lab as lab
from pruning_lab.cli import common, outputs


def report(
    file: Annotated[str, common.File()],
    *,
    dense: common.InputFile = None,
    out: Annotated[str | None, common.File("page"), common.FILE] = None,
    network: common.Network = common.Network(),
    images: common.Images = common.Images(),
    output: common.WritingOutput = common.WritingOutput(),
) -> None:
    """Compare a pruned network with the dense one and with the paper (uses the test images).

    example:
      pruning-lab report runs/first
      pruning-lab report pruned.safetensors --dense dense.safetensors

    Args:
        file: The folder of a run, or a pruned network's file.
        dense: The network before pruning.
        out: File for the page (default: report.html, in the folder of the run).
    """
    is_run = Path(file).is_dir()
    page = Path(out or Path(file if is_run else "") / "report.html")
    # The page that a run has made itself is made again unasked.
    outputs.check_file("--out", page, "page", replace=output.force or (is_run and not out))
    if is_run:
        result = lab.experiments.Run.load(file)
    elif not Path(file).exists():
        raise FileNotFoundError(f"no file or folder {file}; check the path")
    elif not dense:
        raise ValueError(
            f"{file} is one network; name the one before pruning with --dense FILE, or give the "
            f"folder of a run"
        )
    else:
        (model, about), (before, _) = network.load(file), network.load(dense)
        splits = images.load(about, output, model)
        record = lab.experiments.compare(before.to(splits.val.device), model, splits)
        record = {"recipe": {"network": about["network"]}, **record}
        result = lab.experiments.Run(record, before, model, lab.Mask.of(model))
    network_name = result.record["recipe"]["network"]
    if network_name in common.RECIPES:
        text, html = lab.reports.text(result.record), lab.reports.html(result)
    else:
        text, html = _without_paper(result.record, lab.counts.layers(model, splits.val))
    lab.files.write(page, html)
    output.show(result.record, f"\n{text}\n\nOpen {page} for the plots")


def _without_paper(record: dict, layers: lab.counts.Counts) -> tuple[str, str]:
    """Text and page of a network that is not in the paper."""
    test, images = record["test"], record["data"]["images"]["test"]
    lines = [
        f"{record['recipe']['network']}, on {images:,} test images of {record['data']['name']}"
    ]
    for which in ("dense", "pruned"):
        accuracy = lab.evaluation.Accuracy(**test[which])
        lines.append(f"{which}: accuracy {accuracy}, {record['parameters'][which]:,} parameters")
    lines.append(f"change of accuracy: {lab.evaluation.Drop(**test['drop'])}\n\n{layers}")
    text = "\n".join(lines)
    head = "<meta charset='utf-8'><meta name='generator' content='pruning_lab'>"
    return text, f"<!doctype html>\n<html><head>{head}</head><pre>{escape(text)}</pre></html>\n"
