"""Which files a folder of images holds, and which of them are train, val and test."""

import os
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

Sample = tuple[str, int]  # a file and its label

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def split_samples(
    root: Path, held_out: Sequence[str] = ("val", "test")
) -> tuple[dict[str, list[Sample]], str]:
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
    classes, train = _list_images(root / "train")
    samples = {"train": train}
    for part in held_out:
        theirs, samples[part] = _list_images(root / part)
        if odd := sorted({*classes} ^ {*theirs}):
            raise ValueError(
                f"{root / 'train'} and {root / part} must hold the same classes, but only one of "
                f"them has {_first(odd)}"
            )
    origin = f"from {root}"
    if len(held_out) == 1:
        kept, val = _every_tenth(train, classes, root)
        samples = {"train": kept, "val": val, "test": samples[held_out[0]]}
        origin += f", where {held_out[0]} is test; val is every tenth of train"
    return {part: _in_turns(samples[part]) for part in ("train", "val", "test")}, origin


def _list_images(folder: Path) -> tuple[list[str], list[Sample]]:
    """The classes of a folder, and its files with their labels, in torchvision's order."""
    classes = sorted(e.name for e in os.scandir(folder) if e.is_dir() and _visible(e.name))
    if not classes:
        raise FileNotFoundError(
            f"no classes in {folder}; it needs a folder of images for each class"
        )
    files = [_image_files(folder / name) for name in classes]
    if empty := [name for name, own in zip(classes, files, strict=True) if not own]:
        raise FileNotFoundError(
            f"no images in {folder} for the classes {_first(empty)}; put some there, or delete "
            f"these folders (images are files named {', '.join(EXTENSIONS)})"
        )
    return classes, [(path, label) for label, own in enumerate(files) for path in own]


def _image_files(folder: Path) -> list[str]:
    """What is named as an image below a folder, in folders that links lead to as well."""
    found, entered = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in entered:  # a link to above would never end
            folders.clear()
            continue
        entered.add(real)
        folders[:] = filter(_visible, folders)
        found += [(place, n) for n in names if _visible(n) and n.lower().endswith(EXTENSIONS)]
    return [os.path.join(place, name) for place, name in sorted(found)]


def _visible(name: str) -> bool:
    """False for what systems and tools leave beside the images: ._1.png, .ipynb_checkpoints."""
    return not name.startswith(".") and name != "__MACOSX"


def _every_tenth(
    samples: Sequence[Sample], classes: Sequence[str], root: Path
) -> tuple[list[Sample], list[Sample]]:
    """What stays and what goes: of each class every tenth, the first included."""
    kept, taken = [], []
    for own in _by_class(samples):
        if len(own) == 1:
            raise ValueError(
                f"{root / 'train' / classes[own[0][1]]} holds a single image, and val takes one of "
                f"each class; put more there, or make both {root / 'val'} and {root / 'test'}"
            )
        taken += own[::10]
        kept += [sample for place, sample in enumerate(own) if place % 10]
    return kept, taken


def _in_turns(samples: Sequence[Sample]) -> list[Sample]:
    """The first of each class, then the second of each, and so on."""
    turns = [(turn, *sample) for own in _by_class(samples) for turn, sample in enumerate(own)]
    return [(path, label) for _, path, label in sorted(turns, key=itemgetter(0))]


def _by_class(samples: Sequence[Sample]) -> list[list[Sample]]:
    return [list(own) for _, own in groupby(samples, key=itemgetter(1))]


def _first(names: Sequence[str]) -> str:
    """The first few of many names."""
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
