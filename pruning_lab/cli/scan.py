"""`pruning-lab scan`: prune one layer at a time, and measure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pruning_lab as lab
from pruning_lab.cli import common

DENSITIES = (0.9, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02)


def scan(
    file: common.NetworkFile = None,
    *,
    densities: Annotated[list[float] | None, common.MANY, common.FRACTION] = None,
    qualities: Annotated[list[float] | None, common.MANY, common.AMOUNT] = None,
    saliency: common.Saliency = "magnitude",
    layers: common.Layers = None,
    resume: bool = False,
    out: Annotated[str, common.File("scan"), common.FILE] = "scan.csv",
    recalibrate: common.Recalibrate = None,
    network: common.Network = common.Network(),
    images: common.Images = common.Images(),
    seed: common.Seed = 0,
    output: common.WritingOutput = common.WritingOutput(),
) -> None:
    """Prune one layer at a time, and measure the change of accuracy (on the val images).

    example:
      pruning-lab scan dense.safetensors --densities 0.5 0.2 0.1 0.05 --out scan.csv
      pruning-lab scan own.safetensors --model nets:make --data folder:photos
    with several processes:
      python -m torch.distributed.run --nproc-per-node=2 -m pruning_lab scan ...

    Args:
        densities: Fractions of weights to keep (default: 0.9 0.7 0.5 0.4 0.3 0.2 0.1 0.05 0.02).
        qualities: Thresholds in units of sigma, instead of densities.
        saliency: Which weights stay: the largest, or random ones.
        layers: Only these layers.
        resume: Continue after the last finished batch.
        out: File for the rows; a .json is written beside it.
    """
    model, about = network.load(file)
    splits = images.load(about, output, model)
    densities = densities or (None if qualities else list(DENSITIES))
    points = len(set(layers or lab.masks.prunable(model))) * len(densities or qualities)
    line = f"{lab.rows.counted(points, 'point')} on {splits.val.n:,} images"
    if (world := lab.processes.world()) > 1:
        line += f", shared by {world} processes"
    with output.bar(splits.val.n, "images") as bar:

        def notify(progress: lab.sensitivity.Progress) -> None:
            if progress.images == 0:
                output.say(f"{line} ({progress.how})" if output.verbose else line)
            bar.update(progress.images - bar.n)

        result = lab.scan(
            model,
            splits.val,
            densities,
            qualities=qualities,
            saliency=lab.criteria.random(seed) if saliency == "random" else lab.criteria.magnitude,
            layers=layers,
            recalibrate=common.recalibration(recalibrate, model, splits),
            out=out,
            resume=resume,
            notify=notify,
        )
    output.say(f"\n{result}\n")
    rows = {"dense": lab.rows.plain(result.dense), "points": lab.rows.plain(result)}
    json = Path(out).with_suffix(".json")
    output.show({"out": out, **result.about, **rows}, f"wrote {out} and {json}")


def load_scan(path: str, model=None, splits=None, recalibrate=None) -> lab.sensitivity.Scan:
    """A scan from its file. Raises ValueError unless it is of this network and these images.

    And, where a network is given, unless --recalibrate is given if it was for the scan.
    """
    scanned = lab.sensitivity.Scan.load(path)
    if lab.criteria.by_name(saliency := scanned.about["saliency"]) is None:
        raise ValueError(
            f"{path} was made with the saliency {saliency!r}, which its name alone does not make; "
            f"continue in Python, with saliency=..."
        )
    if model is not None:
        try:
            lab.sensitivity.check_same_weights(scanned, model)
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path}: {error.args[0]}") from None
        if scanned.about["images_sha256"] not in (None, splits.val.fingerprint()):
            raise ValueError(
                f"{path} was made on other images than these; name the same --data as for the scan"
            )
        if (recalibrated := scanned.about.get("recalibrated", False)) != bool(recalibrate):
            did, todo = "was not", "leave --recalibrate out, or scan again with it"
            if recalibrated:
                did, todo = "was", "add --recalibrate N, as for the scan"
            raise ValueError(f"{path} {did} made with BatchNorm recalibrated; {todo}")
    return scanned
