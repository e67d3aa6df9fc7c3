"""Which files a folder of images holds, and which of them are train, val and test."""

import os
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


class Files(NamedTuple):
    """The image files of a part."""

    names: tuple[str, ...]  # relative to the folder of all parts
    labels: Tensor  # int64 (N,)


def split_files(
    root: Path, held_out: Sequence[str] = ("val", "test")
) -> tuple[dict[str, Files], str]:
    """The files of train, val and test, and a line about where they come from.

    With both val and test in the folder, each is what it is called. With one of them, that one is
    test, and val is every tenth image of each training class. All are labelled as torchvision's
    ImageFolder does it; the classes take turns, so that the first few images show all of them.
    """
    held_out = [part for part in held_out if (root / part).is_dir()]
    if not (root / "train").is_dir() or not held_out:
        raise FileNotFoundError(
            f"{root} needs the folder train and one or both of val and test, each with a folder "
            f"of images for each class (train/CLASS/IMAGE)"
        )
    listed = {part: _by_class(root, part) for part in ("train", *held_out)}
    train = listed["train"]
    for part in held_out:
        if odd := sorted(train.keys() ^ listed[part].keys()):
            raise ValueError(
                f"{root / 'train'} and {root / part} must hold the same classes, but only one of "
                f"them has {_first(odd)}"
            )
    origin = f"from {root}"
    if len(held_out) == 1:
        origin += f", where {held_out[0]} is test; val is every tenth of train"
        listed["test"] = listed[held_out[0]]
        for name, own in train.items():
            if len(own) == 1:
                raise ValueError(
                    f"{root / 'train' / name} holds a single image, and val takes one of each "
                    f"class; put more there, or make both {root / 'val'} and {root / 'test'}"
                )
        listed["val"] = {name: own[::10] for name, own in train.items()}
        listed["train"] = {
            name: [path for place, path in enumerate(own) if place % 10]
            for name, own in train.items()
        }
    return {part: _in_turns(listed[part].values()) for part in ("train", "val", "test")}, origin


def _by_class(root: Path, part: str) -> dict[str, list[str]]:
    """The image files of each class, all in torchvision's order."""
    folder = root / part
    names = sorted(e.name for e in os.scandir(folder) if e.is_dir() and _visible(e.name))
    if not names:
        raise FileNotFoundError(
            f"no classes in {folder}; it needs a folder of images for each class"
        )
    classes = {name: _image_files(root, folder / name) for name in names}
    if empty := [name for name, own in classes.items() if not own]:
        raise FileNotFoundError(
            f"no images in {folder} for the classes {_first(empty)}; put some there, or delete "
            f"these folders (images are files named {', '.join(EXTENSIONS)})"
        )
    return classes


def _image_files(root: Path, folder: Path) -> list[str]:
    """What is named as an image below a folder, in folders that links lead to as well."""
    found, entered = [], set()
    for path, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(path)) in entered:  # a link to above would never end
            folders.clear()
            continue
        entered.add(real)
        folders[:] = filter(_visible, folders)
        place = os.path.relpath(path, root)
        found += [(place, n) for n in names if _visible(n) and n.lower().endswith(EXTENSIONS)]
    return [os.path.join(place, name) for place, name in sorted(found)]


def _visible(name: str) -> bool:
    """False for what systems and tools leave beside the images: ._1.png, .ipynb_checkpoints."""
    return not name.startswith(".") and name != "__MACOSX"


def _in_turns(classes: Sequence[Sequence[str]]) -> Files:
    """The first of each class, then the second of each, and so on."""
    turns = (enumerate(turn) for turn in zip_longest(*classes))
    names, labels = zip(*((n, label) for t in turns for label, n in t if n), strict=True)
    return Files(names, torch.tensor(labels))


def _first(names: Sequence[str]) -> str:
    """The first few of many names."""
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
