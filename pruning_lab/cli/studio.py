"""`pruning-lab studio`: the threshold studio on a page of its own."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import replace
from typing import Annotated

import pruning_lab as lab
from pruning_lab.cli import common, page
from pruning_lab.cli.scan import load_scan


def studio(
    file: common.NetworkFile = None,
    *,
    scan: common.InputFile = None,
    port: Annotated[int | None, common.number(0, 65_535)] = None,
    no_browser: bool = False,
    recalibrate: common.Recalibrate = None,
    network: common.Network = common.Network(),
    images: common.Images = common.Images(),
    seed: common.Seed = 0,
    output: common.Output = common.Output(),
) -> None:
    """Drag thresholds and see the network change, in the browser (uses the val images).

    Without a file it opens the trained lenet-5 that comes with pruning_lab.

    example:
      pruning-lab studio dense.safetensors --scan scan.csv
      pruning-lab studio own.safetensors --model nets:make --data folder:photos

    Args:
        scan: The rows of a scan of this network (scan.csv), to start with.
        port: Port on this machine (default: any free one).
        no_browser: Only print the address.
    """
    port = page.free_port(port)
    typed = {"file": file, "scan": scan, "recalibrate": recalibrate, "seed": seed}
    # Errors are said before there is a server; the page opens a studio of its own.
    on_cpu = replace(images, device="cpu")
    open_studio(**typed, network=network, images=on_cpu, output=output).close()
    typed |= {"network": vars(network), "images": vars(images)}
    with tempfile.TemporaryDirectory() as folder:

        def ready(address: str) -> None:
            output.show({"address": address}, f"The studio is at {address}\nCtrl-C ends it")
            if not no_browser:
                page.browse(address, folder)

        page.serve(typed, port, ready, debug=output.debug)
    output.say("\nthe studio is closed")


def open_studio(file, scan, recalibrate, seed, network, images, output) -> lab.Studio:
    """The studio of the network and the images that were typed."""
    import torch

    torch.manual_seed(seed)
    if file is None and (name := network.model or "lenet-5") in common.RECIPES[:2]:
        model, about = lab.models.BUILT_IN[name](trained="mnist"), {"network": name}
    else:
        model, about = network.load(file)
    splits = images.load(about, output, model, training=True)
    scanned = load_scan(scan, model, splits) if scan else None
    if scanned:
        lab.choose(scanned, density=1.0)  # raises where nothing can be chosen by it
    train = common.recalibration(recalibrate, model, splits)
    return lab.Studio(model, splits, scan=scanned, about=about, recalibrate=train)


def panel():
    """The studio's panel for what was typed: the one cell of the page."""
    from pruning_lab.widgets import StudioPanel  # no other command needs matplotlib's widgets

    typed = json.loads(os.environ.get(page.TYPED, "{}"))
    os.chdir(typed.pop("folder", "."))
    options = {"file": None, "scan": None, "recalibrate": None, "seed": 0, **typed}
    options["network"] = common.Network(**typed.get("network", {}))
    options["images"] = common.Images(**typed.get("images", {}))
    return StudioPanel(open_studio(**options, output=common.Output()))
