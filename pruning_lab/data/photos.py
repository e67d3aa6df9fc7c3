"""Photos: Imagenette, ImageNet and folders of your own; decoded into memory, else streamed."""

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pruning_lab.data import cache, splits
from pruning_lab.data.decoding import first
from pruning_lab.data.splits import Splits

IMAGENETTE = "imagenette2-160"  # its folder
Files = tuple[tuple[str, ...], Tensor]  # names, relative to the folder of all parts; int64 labels
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def imagenette(root: Path, size: int | None, broken: float, *, download: bool) -> Splits:
    """Imagenette as torchvision lays it out; its val is test, every tenth of train is val."""
    folder = root / IMAGENETTE
    if download and not folder.is_dir():
        from torchvision import datasets  # slow to import

        try:
            datasets.Imagenette(root, size="160px", download=True)
        except (OSError, RuntimeError) as error:
            raise ConnectionError(
                f"Imagenette could not be fetched ({error}); check the connection, unpack "
                f"imagenette2-160.tgz into {root} by hand, or take shapes"
            ) from None
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no Imagenette in {folder}; set PRUNING_LAB_DATA to the folder that holds "
            f"imagenette2-160/, or fetch it with --download (download=True), or take shapes"
        )
    return _loaded("imagenette", folder, size or 160, broken)


def imagenet(root: Path, size: int | None, broken: float) -> Splits:
    """ImageNet as torchvision lays it out, streamed; its val is test, every tenth of train is val.

    As is usual, the short side is scaled to 256 and the middle 224 cut out; others in proportion.
    """
    folder, size = root / "imagenet", size or 224
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no ImageNet in {folder}; put train/CLASS/*.JPEG and val/CLASS/*.JPEG there by hand, "
            f"as data/README.md says (nobody may offer it for download), or take imagenette"
        )
    return _loaded("imagenet", folder, size, broken, short=round(size * 256 / 224))


def folder(name: str, size: int | None, broken: float) -> Splits:
    """Images of your own; grey where every image is grey, else RGB. Too large for memory: streamed.

    Without a size all must have one size, and fit into memory.
    """
    root = Path(os.path.expanduser(name.removeprefix("folder:")))
    if name == "folder:" or not os.path.isdir(root):
        raise FileNotFoundError(
            f"no folder {str(root)!r} for the data {name!r}; type folder:PATH, where PATH/train "
            f"holds a folder of images for each class"
        )
    return _loaded(name, root, size, broken)


def _loaded(name: str, root: Path, size: int | None, broken: float, short: int = 0) -> Splits:
    """Streamed where `short` is given or memory cannot hold the images, else from memory."""
    parts, origin = split_files(root, ["val", "test"] if name.startswith("folder:") else ["val"])
    shape, count = (3, size, size), sum(len(labels) for _, labels in parts.values())
    if short or (size and splits.too_large(count, shape)):
        scale = (*splits.IMAGENET, splits.batch_size_for(math.prod(shape)), splits.IMAGENET_AXES)
        shown = {"root": root, "shape": shape, "short": short or size, "broken": broken}
        made = {part: splits.Stream(part, *own, *scale, **shown) for part, own in parts.items()}
        return Splits(name, origin=f"{origin}; streamed, never all in memory", **made)
    held, scale, where = cache.load(root, parts, size, broken)
    return splits.in_memory(name, f"{origin}; {where}", held, scale)


def split_files(root: Path, held_out: Sequence[str]) -> tuple[dict[str, Files], str]:
    """The files and labels of train, val and test below `root`, and a line on their origin.

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
    classes = {part: _by_class(root, part) for part in ("train", *held_out)}
    train, origin = classes["train"], f"from {root}"
    for part in held_out:
        if odd := sorted(train.keys() ^ classes[part].keys()):
            raise ValueError(
                f"{root / 'train'} and {root / part} must hold the same classes, but only one of "
                f"them has {first(odd)}"
            )
    parts = {part: _in_turns(own.values()) for part, own in classes.items()}
    if len(held_out) == 1:
        origin += f", where {held_out[0]} is test; val is every tenth of train"
        if single := [name for name, own in train.items() if len(own) == 1]:
            raise ValueError(
                f"{root / 'train' / single[0]} holds a single image, and val takes one of each "
                f"class; put more there, or make both {root / 'val'} and {root / 'test'}"
            )
        both, test = parts["train"], parts[held_out[0]]
        tenth = [file for file in both if file[0] % 10 == 0]
        parts = {"train": [file for file in both if file[0] % 10], "val": tenth, "test": test}
    columns = {part: zip(*own, strict=True) for part, own in parts.items()}
    return {part: (names, torch.tensor(y)) for part, (_, y, names) in columns.items()}, origin


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
            f"no images in {folder} for the classes {first(empty)}; put some there, or delete "
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


def _in_turns(classes: Iterable[Sequence[str]]) -> list[tuple[int, int, str]]:
    """(turn, label, name): the first of each class, then the second of each, and so on."""
    return sorted((turn, y, name) for y, own in enumerate(classes) for turn, name in enumerate(own))
