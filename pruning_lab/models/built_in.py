"""The built-in networks by name, and what a file needs to say so that one can be built again."""

import inspect
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from pruning_lab import files
from pruning_lab.models.chains import Model
from pruning_lab.models.lenets import lenet_5, lenet_300_100
from pruning_lab.models.photos import SMALL, SMALLEST, alexnet, alexnet_torchvision, vgg_16
from pruning_lab.models.stored import check_finite, check_fit

BUILT_IN: dict[str, Model] = {
    "lenet-300-100": lenet_300_100,
    "lenet-5": lenet_5,
    "alexnet": alexnet,
    "alexnet-torchvision": alexnet_torchvision,
    "vgg-16": vgg_16,
}


def settings(about: Mapping) -> dict:
    """What `about` says of a built-in network, and its defaults where it says nothing.

    {"network": "lenet-5", "classes": 10, "width": 1.0, "dropout": 0.0}, and "size" for photos; what
    else `about` holds is left out. Raises ValueError for an unknown network or an odd value.
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


_BOUNDS = {  # what a file may ask for without being broken
    "classes": (int, 1, 1_000_000),
    "width": (float, 0, 100),
    "size": (int, SMALLEST, 10_000),
    "dropout": (float, 0, 1),
}


def build(about: Mapping) -> nn.Sequential:
    """The network that `settings(about)` describes, with new random weights."""
    chosen = settings(about)
    return BUILT_IN[chosen.pop("network")](**chosen)


def load(path: str | Path, network: str | None = None) -> tuple[nn.Sequential, dict]:
    """The built-in network in a file of `save`, and what the file says of it.

    `network` is for files that do not name theirs. Nothing is allocated before the shapes agree.
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
    tensors, _ = files.load_tensors(path)
    check_finite(tensors, path)
    model.load_state_dict({name: t.float() for name, t in tensors.items()}, assign=True)
    return model.to(memory_format=torch.channels_last), about


def describe(about: Mapping) -> str:
    """`alexnet, width 0.25, 64 px (conv1 5 x 5), 10 classes`: what is not said is the paper's."""
    chosen = settings(about)
    words = [chosen["network"]]
    if chosen["width"] != 1:
        words.append(f"width {chosen['width']:g}")
    if size := chosen.get("size"):
        other = chosen["network"].startswith("alexnet") and size < SMALL
        words.append(f"{size} px (conv1 5 x 5)" if other else f"{size} px")
    return ", ".join([*words, f"{chosen['classes']:,} classes"])


def input_shape(network: str, size: int | None = None) -> tuple[int, int, int]:
    """(C, H, W) of the images that a built-in network takes; of photos, at `size` or its own."""
    about = {"network": network} if size is None else {"network": network, "size": size}
    chosen = settings(about)
    if "size" in chosen:
        return 3, chosen["size"], chosen["size"]
    if size not in (None, 28):
        raise ValueError(f"{network} takes images of 28 px only, got size {size}")
    return 1, 28, 28
