"""`pruning-lab choose`: what to keep of each layer."""

from __future__ import annotations

import shlex
from typing import Annotated

import pruning_lab as lab
from pruning_lab.cli import common
from pruning_lab.cli.scan import load_scan


def choose(
    scan: Annotated[str, common.File()],
    file: common.NetworkFile = None,
    *,
    max_drop: Annotated[float | None, common.POINTS] = None,
    max_drop_per_layer: Annotated[float | None, common.POINTS] = None,
    density: Annotated[float | None, common.FRACTION] = None,
    method: common.Method = None,
    evaluations: common.Evaluations = None,
    out: Annotated[str, common.File("plan"), common.FILE] = "plan.json",
    recalibrate: common.Recalibrate = None,
    network: common.Network = common.Network(),
    images: common.Images = common.Images(),
    seed: common.Seed = 0,
    output: common.WritingOutput = common.WritingOutput(),
) -> None:
    """Choose from a scan what to keep of each layer (measures on the val images).

    example:
      pruning-lab choose scan.csv dense.safetensors --max-drop 0.5 --out plan.json
      pruning-lab choose scan.csv dense.safetensors --density 0.1 --method joint

    Args:
        scan: The rows of a scan (scan.csv).
        max_drop: Percentage points that the network may lose, all layers pruned together.
        max_drop_per_layer: Percentage points that each layer may lose, pruned alone.
        density: Fraction of all weights to keep.
        method: Choose a density by what each layer loses alone (default), or by a joint search.
        out: File for the plan.
    """
    asked = {"max_drop": max_drop, "max_drop_per_layer": max_drop_per_layer, "density": density}
    asked = {name: value for name, value in asked.items() if value is not None}
    if len(asked) != 1:
        raise ValueError("give one of --max-drop, --max-drop-per-layer and --density")
    is_search = max_drop is not None or method == "joint"
    if evaluations and not is_search:
        raise ValueError("--evaluations goes with --max-drop or --method joint")
    words = " ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in asked.items())
    words = f"pruning-lab choose {scan} NETWORK.safetensors {words}"
    scanned, options = load_scan(scan), {"method": method, "evaluations": evaluations or 1000}
    if scanned.about.get("recalibrated"):
        words += f" --recalibrate {recalibrate or 1000}"
    if file or network.model:
        model, about = network.load(file)
        splits = images.load(about, output, model)
        load_scan(scan, model, splits, recalibrate)
        options |= {"model": model, "images": splits.val}
        options["recalibrate"] = common.recalibration(recalibrate, model, splits)
    elif is_search:
        raise ValueError(f"this measures all layers together; name the network's file: {words}")
    with output.bar(evaluations or 1000, "evaluations") as bar:

        def notify(done: int, most: int) -> None:
            if done == 0:
                output.say(f"a search of at most {most:,} evaluations, each on 1,000 images")
            bar.update(done - bar.n)

        plan = lab.choose(scanned, **asked, notify=notify, **options)
    plan.save(out)
    output.say(plan)
    if "model" not in options:
        output.say(f"To measure them: {words}")
    record = {"out": out, "density": plan.density, **lab.rows.plain(plan)}
    output.show(record, f"wrote {out}")
    words = [] if network.model and not file else [file or "NETWORK.safetensors"]
    options = {"model": network.model, "plan": out, "seed": None if file else seed or None}
    if plan.recalibrated:
        options |= {"save-model": "cut.safetensors", "recalibrate": recalibrate}
        options |= {"data": images.data, "root": images.root, "size": images.size}
    for option, value in options.items():
        words += [] if value is None else [f"--{option}", str(value)]
    output.say(f"next: pruning-lab prune {shlex.join(words)}")
