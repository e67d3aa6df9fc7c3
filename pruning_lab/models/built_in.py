"""The built-in networks by name, built from what a file says of its network."""

import inspect
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from pruning_lab import files
from pruning_lab.models import networks
from pruning_lab.models.networks import SMALL, SMALLEST, Model
from pruning_lab.models.stored import check_fit, load_

BUILT_IN: dict[str, Model] = {
    "lenet-300-100": networks.lenet_300_100,
    "lenet-5": networks.lenet_5,
    "alexnet": networks.alexnet,
    "alexnet-torchvision": networks.alexnet_torchvision,
    "vgg-16": networks.vgg_16,
}
_BOUNDS = {  # what a file may ask for without being broken
    "classes": (int, 1, 1_000_000),
    "width": (float, 0, 100),
    "size": (int, SMALLEST, 10_000),
    "dropout": (float, 0, 1),
}


def settings(about: Mapping) -> dict:
    """What `about` says of a built-in network, with defaults for what it does not say.

    {"network": "lenet-5", "classes": 10, "width": 1.0, "dropout": 0.0}, and "size" for photos.
    Raises ValueError for an unknown network or an impossible value.
    """
    name = about.get("network")
    if not isinstance(name, str) or name not in BUILT_IN:
        raise ValueError(f"no built-in network {name!r}; there are {', '.join(BUILT_IN)}")
    parameters = inspect.signature(BUILT_IN[name]).parameters.values()
    chosen = {p.name: about.get(p.name, p.default) for p in parameters if p.name != "trained"}
    for key, value in chosen.items():
        kind, least, most = _BOUNDS[key]
        if type(value) not in (int, kind) or not least <= value <= most:
            words = "a whole number" if kind is int else "a number"
            raise ValueError(f"{key} of {name} must be {words} {least} ... {most:,}, got {value!r}")
    return {"network": name, **chosen}


def build(about: Mapping) -> nn.Sequential:
    """The network that `settings(about)` describes, with new random weights."""
    chosen = settings(about)
    return BUILT_IN[chosen.pop("network")](**chosen)


def load(path: str | Path, network: str | None = None) -> tuple[nn.Sequential, dict]:
    """The built-in network in a file of `save`, and what the file says of it.

    `network` is for files that do not name theirs. No memory is taken before the shapes agree.
    """
    about = files.load_about(path) or {}
    if network is not None:
        about["network"] = network
    try:
        with torch.device("meta"):
            model = build(about)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    check_fit(model, files.load_shapes(path), path)
    load_(model.to_empty(device="cpu"), path)
    return model, about


def describe(about: Mapping) -> str:
    """`alexnet, width 0.25, 64 px (conv1 5 x 5), 10 classes`: what is not said is the paper's."""
    chosen = settings(about)
    words = [chosen["network"]]
    if chosen["width"] != 1:
        words.append(f"width {chosen['width']:g}")
    if size := chosen.get("size"):
        small = size < SMALL and chosen["network"].startswith("alexnet")
        words.append(f"{size} px (conv1 5 x 5)" if small else f"{size} px")
    return ", ".join([*words, f"{chosen['classes']:,} classes"])


def input_shape(network: str, size: int | None = None) -> tuple[int, int, int]:
    """(C, H, W) of the images that a built-in network takes; of photos, at `size` or its own."""
    chosen = settings({"network": network} | ({} if size is None else {"size": size}))
    if "size" in chosen:
        return 3, chosen["size"], chosen["size"]
    if size not in (None, 28):
        raise ValueError(f"{network} takes images of 28 px only, got size {size}")
    return 1, 28, 28
