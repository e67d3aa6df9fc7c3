"""`pruning-lab report`: a pruned network beside the dense one and the paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import pruning_lab as lab
from pruning_lab.cli import common, outputs


def report(
    file: Annotated[str | None, common.File()] = None,
    *,
    paper: Annotated[bool, Parameter(name="--all")] = False,
    dense: common.InputFile = None,
    out: Annotated[str | None, common.File("page"), common.FILE] = None,
    network: common.Network = common.Network(),
    images: common.Images = common.Images(),
    output: common.WritingOutput = common.WritingOutput(),
) -> None:
    """Compare a pruned network with the dense one and with the paper (uses the test images).

    With --all: the paper's tables and figures on one page, each beside ours
    where `table` or `figure` has made it. Nothing is measured for it.

    example:
      pruning-lab report runs/first
      pruning-lab report pruned.safetensors --dense dense.safetensors
      pruning-lab report --all

    Args:
        file: A run's folder, or a pruned network's file; with --all the
            folder of tables and figures (default: runs/paper).
        paper: Show all of the paper's tables and figures.
        dense: The network before pruning.
        out: File for the page (default: report.html in the folder of the run; paper.html).
    """
    if paper:
        _of_the_paper(file, dense, out, output)
        return
    if file is None:
        raise ValueError(
            "name the folder of a run or a pruned network's file, or add --all for the page of "
            "the paper"
        )
    is_run = Path(file).is_dir()
    page = Path(out or Path(file if is_run else "") / "report.html")
    # The page that a run has made itself is made again unasked.
    outputs.check_file("--out", page, "page", replace=output.force or (is_run and not out))
    if is_run:
        result = lab.experiments.Run.load(file, network.load)
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
    lab.files.write(page, lab.reports.html(result, None if is_run else output.command))
    output.show(result.record, f"\n{lab.reports.text(result.record)}\n\nOpen {page} for the plots")


def _of_the_paper(
    folder: str | None, dense: str | None, out: str | None, output: common.WritingOutput
) -> None:
    if dense:
        raise ValueError("--dense goes with one network's file; leave it out, or --all")
    if folder and not Path(folder).is_dir():
        raise FileNotFoundError(f"no folder {folder}; name one that has tables and figures")
    place = Path(folder or lab.experiments.results.FOLDER)
    page = Path(out or place / "paper.html")
    outputs.check_file("--out", page, "page", replace=output.force or not out)
    sections = lab.reports.paper_sections(place)
    lab.files.write(page, lab.reports.paper_html(sections))
    record = {"out": str(page), "verdicts": {part.name: part.verdict for part in sections}}
    output.show(record, f"{lab.reports.paper_text(sections)}\n\nOpen {page}")
