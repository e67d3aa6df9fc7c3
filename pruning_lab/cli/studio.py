"""`pruning-lab studio`: the threshold studio on a page of its own."""

from __future__ import annotations

import contextlib
import shlex
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypedDict

import pruning_lab as lab
from pruning_lab.cli import common, outputs
from pruning_lab.cli.scan import load_scan


def studio(
    file: common.NetworkFile = None,
    *,
    scan: common.InputFile = None,
    save: Annotated[str | None, common.FILE] = None,
    resume: common.InputFile = None,
    port: Annotated[int | None, common.number(0, 65_535)] = None,
    no_browser: bool = False,
    recalibrate: common.Recalibrate = None,
    network: common.Network = common.Network(),
    images: common.Images = common.Images(),
    seed: common.Seed = 0,
    output: common.Output = common.Output(),
) -> None:
    """Drag thresholds and see the network change, in the browser (uses the val images).

    Without a file it opens the trained lenet-5 that comes with pruning_lab. Every attempt is saved.

    example:
      pruning-lab studio dense.safetensors --scan scan.csv
      pruning-lab studio own.safetensors --model nets:make --data folder:photos
      pruning-lab studio --resume studio.json

    Args:
        scan: The rows of a scan of this network (scan.csv), to start with.
        save: Where attempts are saved (default: studio.json, or studio-2.json, ...).
        resume: A saved studio, to open it again with its network and images.
        port: Port on this machine (default: any free one).
        no_browser: Only print the address.
    """
    from pruning_lab.cli import page  # needs what the course needs

    given = {"a network's file": file, "--scan": scan, "--save": save, "--recalibrate": recalibrate}
    if resume is not None and (wrong := [word for word, value in given.items() if value]):
        raise ValueError(
            f"--resume opens a saved studio with its network, and saves to it: leave out {wrong[0]}"
        )
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(page.listen(port))
        if resume is None:
            path = free_path(save)
            opened = open_studio(file, scan, recalibrate, seed, network, images, output)
        else:
            path, opened = Path(resume), open_again(resume, network, images, output)
        stack.callback(opened.close)
        opened.autosave(path)
        output.say(f"attempts are saved in {path}")
        folder = stack.enter_context(tempfile.TemporaryDirectory())

        def ready(address: str) -> None:
            record = {"address": address, "path": str(path)}
            output.show(record, f"The studio is at {address}\nCtrl-C ends it")
            if not no_browser:
                page.browse(address, folder)

        page.serve(opened, listening, ready)
    again = ["pruning-lab", "studio", "--resume", str(opened.path)]
    again += ["--model", network.model] if network.model else []  # code is run only where typed
    output.say(f"\nthe studio is closed; {shlex.join(again)} opens it again")


def free_path(save: str | None) -> Path:
    """Where to save: never over other files. Raises OSError or ValueError where it cannot be."""
    if save is None:
        path = lab.studio.files.free_path(Path("studio.json"))
    elif (path := Path(save)).suffix != ".json":
        raise ValueError(f"--save {path}: a studio is JSON; name it {path.with_suffix('.json')}")
    elif there := lab.studio.files.files_of(path):
        is_studio = path.is_file() and outputs.kind_of(path) == "studio"
        again = f"open it again with --resume {path}, or " if is_studio else ""
        raise FileExistsError(f"--save {path}: {there[0]} is there already; {again}name another")
    outputs.check_place("--save", path)
    return path


def open_studio(file, scan, recalibrate, seed, network, images, output) -> lab.Studio:
    """The studio of the network and the images that were typed."""
    import torch

    torch.manual_seed(seed)
    if file is None and (name := network.model or "lenet-5") in common.RECIPES[:2]:
        model, about = lab.models.BUILT_IN[name](trained="mnist"), {"network": name}
    else:
        model, about = network.load(file)
    splits = images.load(about, output, model, training=True)
    scanned = load_scan(scan, model, splits, recalibrate) if scan else None
    if scanned:
        lab.choose(scanned, density=1.0)  # raises where nothing can be chosen by it
    train = common.recalibration(recalibrate, model, splits)
    opened = Opened(
        data=common.full_name(splits.name),
        root=images.root and str(Path(images.root).absolute()),
        size=images.size,
        recalibrate=recalibrate,
    )
    about = {**about, "opened": opened}
    return lab.Studio(model, splits, scan=scanned, about=about, recalibrate=train)


class Opened(TypedDict):
    """What a studio was opened with, besides its network."""

    data: str
    root: str | None
    size: int | None
    recalibrate: int | None


def open_again(path, network, images, output) -> lab.Studio:
    """A saved studio, with the network and the images that it was opened with."""
    about = lab.studio.files.read(path)["about"] or {}
    about = about | {"network": network.name(about, path)}
    none = Opened(data=None, root=None, size=None, recalibrate=None)  # saved by Studio.save
    opened = lab.rows.decode(Opened, about["opened"], path) if "opened" in about else none
    model = common.build(about)
    kept = {key: getattr(images, key) or opened[key] for key in ("data", "root", "size")}
    splits = replace(images, **kept).load(about, output, model, training=True)
    train = common.recalibration(opened["recalibrate"], model, splits)
    return lab.Studio.load(path, model, splits, recalibrate=train)
