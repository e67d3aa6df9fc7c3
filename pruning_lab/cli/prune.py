"""`pruning-lab prune`: choose which weights stay."""

from __future__ import annotations

import math
import sys
from typing import Annotated, Literal

from cyclopts import Parameter

import pruning_lab as lab
from pruning_lab.cli import common

Amounts = Annotated[list[str] | None, common.MANY, Parameter(metavar="X|LAYER=X")]


def prune(
    file: common.NetworkFile = None,
    *,
    quality: Amounts = None,
    density: Amounts = None,
    threshold: Amounts = None,
    plan: common.InputFile = None,
    saliency: common.Saliency | None = None,
    within: common.InputFile = None,
    across: Literal["layer", "network", "lamp"] | None = None,
    out: Annotated[str, common.File("mask"), common.FILE] = "mask.safetensors",
    save_model: Annotated[str | None, common.File("network"), common.FILE] = None,
    recalibrate: common.Recalibrate = None,
    network: common.Network = common.Network(),
    images: common.Images = common.Images(),
    seed: common.Seed = 0,
    output: common.WritingOutput = common.WritingOutput(),
) -> None:
    """Choose which weights stay, and print the receipt.

    Images are read with --recalibrate only, which is for the network that --save-model writes.

    example:
      pruning-lab prune dense.safetensors --quality fc1=1.4 fc2=1.1 --out mask.safetensors
      pruning-lab prune dense.safetensors --plan plan.json

    Args:
        quality: Threshold in units of the layer's sigma, for all layers or for each.
        density: Fraction of weights to keep, for all layers or for each.
        threshold: Smallest |w| to keep, for all layers or for each.
        plan: What `choose` wrote, instead of these three.
        saliency: Which weights stay: the largest (default), or random ones.
        within: A mask's file: prune what it keeps.
        across: Rank each layer alone (default), the whole network, or by LAMP (with --density).
        out: File for the mask.
        save_model: Also write the network with the mask applied.
    """
    if recalibrate and not save_model:
        raise ValueError("--recalibrate is for the network that is saved; add --save-model FILE")
    if images != common.Images() and not recalibrate:
        raise ValueError("prune reads images for --recalibrate only; add it, or leave them out")
    model, about = network.load(file)
    given = {"quality": quality, "density": density, "threshold": threshold}
    given |= {"saliency": saliency, "within": within, "across": across}
    given = {name: value for name, value in given.items() if value}
    if plan:
        for name in given:
            raise ValueError(f"--plan says what to keep of each layer; leave --{name} out")
        made = lab.sensitivity.Plan.load(plan)
        try:
            mask = made.mask(model)
        except (KeyError, ValueError) as error:
            raise ValueError(f"{plan}: {error.args[0]}") from None
    else:
        if within:
            lab.Mask.load(within).apply_(model)
        mask = lab.masks.prune(
            model,
            **{kind: _amounts(kind, given[kind]) for kind in _KINDS if kind in given},
            saliency=lab.criteria.random(seed) if saliency == "random" else lab.criteria.magnitude,
            across=across or "layer",
        )
    if recalibrate:
        train = common.recalibration(recalibrate, model, images.load(about, output, model))
        lab.evaluation.recalibrate(mask.apply_(model), train)
    elif save_model and plan and made.recalibrated:
        note = f"NOTE: {plan} was measured with BatchNorm recalibrated, and {save_model} is not"
        print(f"{note}; add --recalibrate N", file=sys.stderr)
    mask.save(out)
    if save_model:
        lab.models.save(save_model, mask.apply_(model), about=about)
    output.say(mask.receipt)
    record = {"out": out, "save_model": save_model, "density": mask.density}
    record["receipt"] = lab.rows.plain(mask.receipt)
    output.show(record, f"wrote {out}" + (f" and {save_model}" if save_model else ""))


_KINDS = ("quality", "density", "threshold")


def _amounts(kind: str, texts: list[str]) -> float | dict[str, float]:
    """`0.08`, or `fc1=0.08 fc2=0.1`, as masks.prune takes it."""
    pairs = [text.rpartition("=") for text in texts]
    try:
        if texts == [pairs[0][2]]:
            return float(texts[0])
        values = {layer: float(number) for layer, _, number in pairs}
    except ValueError:
        values = {"": math.nan}
    if "" in values or len(values) < len(texts):
        raise ValueError(
            f"--{kind} takes one number (0.08), or LAYER=NUMBER for each layer once "
            f"(fc1=0.08 fc2=0.1), got {' '.join(texts)}"
        )
    return values
