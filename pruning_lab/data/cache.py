"""Image files decoded once, into a .npy file that later loads only map into memory.

Beside it lies a .json file with what the images were made of. Both lie beside the images; where
that cannot be written, in $XDG_CACHE_HOME/pruning_lab (~/.cache/pruning_lab); with
PRUNING_LAB_CACHE set, in that folder and nowhere else. They count while they are whole, and
while no file that they were made of has another size, or was touched.
"""

import json
import os
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from pruning_lab import files, rows
from pruning_lab.data.decoding import BrokenImageError, check_broken, decode, listed, stamp
from pruning_lab.data.splits import Scale, scale_of

_FORMAT = "pruning_lab images 3"


@dataclass(frozen=True)
class About:
    """What images were made of, and how."""

    key: str  # of the names, sizes and times of their files; nobody can set ctime
    left_out: dict[str, str]  # name -> why it cannot be used
    scale: Scale  # of the training pixels
    crc32: int = 0  # of both files: against accidents, and three times as fast as SHA-256


def load(
    root: Path,
    parts: Mapping[str, Sequence[str]],
    size: int | None,
    broken: float,
    shape: Callable[[Path, Sequence[str], int | None], tuple[int, int, int]],
) -> tuple[np.ndarray, About, str]:
    """uint8 (N, C, H, W) of all files that can be used, and a word on where they are cached.

    `parts` are the names of train, val and test below `root`; `shape` gives (C, H, W). Cached
    images are mapped: a page is read when it is used, and a write to it stays in this process.
    Raises ValueError where more than a fraction `broken`, or a whole part, cannot be used.
    """
    names = [name for part in parts.values() for name in part]
    stamps = [stamp(root / name) for name in names]  # before a file is read: it may change then
    content = json.dumps([_FORMAT, size, parts, stamps])
    key, places = files.sha256(content.encode()), _places(root, size)
    for path in places:
        if about := _found(path, key):
            check_broken(root, about.left_out, broken, len(names))
            return np.load(path, mmap_mode="c"), about, f"cached in {path}"
    images, left_out = _decoded(root, names, size, shape(root, names, size))
    check_broken(root, left_out, broken, len(names))
    for part, own in parts.items():
        if left_out.keys() >= set(own):
            raise ValueError(f"no image of {part} can be used: {listed(left_out, root)}")
    train = images[: sum(name not in left_out for name in parts["train"])]
    about = About(key, left_out, scale_of(torch.from_numpy(train)))
    return images, about, _written(places, images, about)


def _places(root: Path, size: int | None) -> list[Path]:
    """Where the cache may lie, the best place first."""
    label = f"{size or 'full'}px.npy"
    mark = files.sha256(str(root.resolve()).encode())[:8]
    away = f"{root.resolve().name}-{mark}-{label}"
    if named := os.environ.get("PRUNING_LAB_CACHE"):
        return [Path(named).expanduser() / away]
    user = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return [root / ".pruning_lab" / label, user / "pruning_lab" / away]


def _found(path: Path, key: str) -> About | None:
    """What was written there; None where it is not whole, or of other files."""
    side = path.with_suffix(".json")
    try:
        about = rows.decode(About, files.load_json(side), side)
        regular = path.is_file()  # a pipe would wait forever
        if regular and about.key == key and about.crc32 == _crc32(path, about):
            return about
    except (OSError, ValueError):
        pass
    return None


def _decoded(
    root: Path, names: Sequence[str], size: int | None, shape: tuple[int, int, int]
) -> tuple[np.ndarray, dict[str, str]]:
    """The images that can be used, and why the others cannot."""
    images = np.empty((len(names), *shape), np.uint8)

    def decode_one(place: int) -> str:
        try:
            images[place] = decode(root / names[place], grey=shape[0] == 1, size=size)
        except BrokenImageError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor() as pool:  # PIL decodes without blocking Python's other threads
        whys = list(pool.map(decode_one, range(len(names))))
    usable = [place for place, why in enumerate(whys) if not why]
    for new, old in enumerate(usable):
        if new < old:
            images[new] = images[old]
    left_out = {name: why for name, why in zip(names, whys, strict=True) if why}
    return images[: len(usable)], left_out


def _written(places: Sequence[Path], images: np.ndarray, about: About) -> str:
    """Write to the first place that takes it; a word on where, or why not."""
    for path in places:
        try:
            for left in path.parent.glob(f".{16 * '[0-9a-f]'}.tmp"):  # of a process that was killed
                if time.time() - left.stat().st_mtime > 3600:
                    left.unlink(missing_ok=True)
            with files.replacing(path) as temporary:
                with temporary.open("wb") as file:  # np.save would not say why a write failed
                    described = np.lib.format.header_data_from_array_1_0(images)
                    np.lib.format.write_array_header_1_0(file, described)
                    file.write(images)
                whole = replace(about, crc32=_crc32(temporary, about))
            files.save_json(path.with_suffix(".json"), rows.plain(whole))
            return f"cached in {path}"
        except OSError as error:
            why = str(error)
    return f"to be decoded again each time, as no cache can be written ({why})"


def _crc32(path: Path, about: About) -> int:
    text = json.dumps(rows.plain(replace(about, crc32=0))).encode()
    return zlib.crc32(np.memmap(path, np.uint8, "r"), zlib.crc32(text))
