"""Image files decoded once, into a .npy file that later loads only map into memory.

Beside it lies a .json file with what the images were made of. Both lie beside the images; where
that cannot be written, in $XDG_CACHE_HOME/pruning_lab (~/.cache/pruning_lab); with
PRUNING_LAB_CACHE set, in that folder and nowhere else. They count only while both are whole, and
the image files have the same names, sizes and times.
"""

import json
import math
import os
import time
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pruning_lab import files, rows
from pruning_lab.data import decoding
from pruning_lab.data.decoding import Shape, listed
from pruning_lab.data.splits import Scale, batch_size_for, scale_of, too_large

_FORMAT = "pruning_lab images 3"


@dataclass(frozen=True)
class About:
    """What images were made of, and how."""

    key: str  # of the names, sizes and times of their files; nobody can set ctime
    left_out: dict[str, str]  # name -> why it cannot be used
    scale: Scale  # of the training pixels
    crc32: int = 0  # of both files: against accidents, and three times as fast as SHA-256


def load(
    root: Path, parts: Mapping[str, tuple[Sequence[str], Tensor]], size: int | None, broken: float
) -> tuple[dict[str, tuple[Tensor, Tensor]], Scale, str]:
    """uint8 (N, C, H, W) and labels of the files that can be used, and what the origin says.

    `parts` are the names, relative to `root`, and labels of train, val and test. Cached images are
    mapped: a page is read when it is used, and a write to it stays in this process.
    Raises ValueError where more than a fraction `broken`, or a whole part, cannot be used.
    """
    names = [name for own, _ in parts.values() for name in own]
    stamps = [decoding.stamp(root / name) for name in names]  # before a file is read
    content = [_FORMAT, size, [own for own, _ in parts.values()], stamps]
    key, places = files.sha256(json.dumps(content).encode()), _places(root, size)
    images, about, where = _found(places, key)
    if about:
        left_out = about.left_out
    else:
        images, left_out = _decoded(root, names, _shape_of(root, names, size))
    decoding.check_broken(root, left_out, broken, len(names))
    held, remaining = {}, images
    for part, (own, labels) in parts.items():
        usable = torch.tensor([name not in left_out for name in own])
        if not usable.any():
            raise ValueError(f"no image of {part} can be used: {listed(left_out, root)}")
        pixels, remaining = remaining.tensor_split([int(usable.sum())])
        held[part] = pixels, labels[usable]
    if not about:
        about = About(key, left_out, scale_of(held["train"][0]))
        where = _written(places, images.numpy(), about)
    if left_out:
        where = f"LEFT OUT {len(left_out):,} of {len(names):,}: {listed(left_out)}; {where}"
    return held, about.scale, where


def _decoded(root: Path, names: Sequence[str], shape: Shape) -> tuple[Tensor, dict[str, str]]:
    """The images that can be used, and why the others cannot."""
    images, count, left_out = torch.empty(len(names), *shape, dtype=torch.uint8), 0, {}
    step = batch_size_for(math.prod(shape))
    batches = [(names[start : start + step], None) for start in range(0, len(names), step)]
    with ThreadPoolExecutor() as pool:  # PIL decodes without blocking Python's other threads
        decode = partial(decoding.decode_all, root, shape, min(shape[1:]), 1.0)
        for pixels, _, why in pool.map(decode, batches):
            images[count : count + len(pixels)] = pixels
            count, left_out = count + len(pixels), left_out | why
    return images[:count], left_out


def _shape_of(root: Path, names: Sequence[str], size: int | None) -> Shape:
    """(C, H, W) of all images, read off their headers."""
    headers = {}
    for name in names:
        with suppress(decoding.BrokenImageError):  # it will be counted
            headers[name] = decoding.header(root / name)
    channels = 1 if all(grey for grey, *_ in headers.values()) else 3
    if size or not headers:
        return channels, size or 1, size or 1
    first, (_, width, height) = next(iter(headers.items()))
    short = min(width, height)
    for name, (_, *other) in headers.items():
        if other != [width, height]:
            raise ValueError(
                f"all images must have one size, but {root / first} has {width} x {height} pixels "
                f"and {root / name} {other[0]} x {other[1]}; give the size that all are brought to "
                f"(--size {short}, or size={short}), or resize a copy of them first, with "
                f"ImageMagick: mogrify -resize '{width}x{height}!' {root}/*/*/*"
            )
    if why := too_large(len(names), (channels, height, width)):
        raise ValueError(f"{why}; give a size to have them streamed (--size {short})")
    return channels, height, width


def _places(root: Path, size: int | None) -> list[Path]:
    """Where the cache may lie, the best place first."""
    label = f"{size or 'full'}px.npy"
    away = f"{root.resolve().name}-{files.sha256(str(root.resolve()).encode())[:8]}-{label}"
    if named := os.environ.get("PRUNING_LAB_CACHE"):
        return [Path(named).expanduser() / away]
    user = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return [root / ".pruning_lab" / label, user / "pruning_lab" / away]


def _found(places: Sequence[Path], key: str) -> tuple[Tensor | None, About | None, str]:
    """Images, and a word on where they lie; None where nothing is whole and of these files."""
    for path in places:
        side = path.with_suffix(".json")
        with suppress(OSError, ValueError):
            about = rows.decode(About, files.load_json(side), side)
            regular = path.is_file()  # a pipe would wait forever
            if regular and about.key == key and about.crc32 == _crc32(path, about):
                return torch.from_numpy(np.load(path, mmap_mode="c")), about, f"cached in {path}"
    return None, None, ""


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
                about = replace(about, crc32=_crc32(temporary, about))
            files.save_json(path.with_suffix(".json"), rows.plain(about))
            return f"cached in {path}"
        except OSError as error:
            why = str(error)
    return f"to be decoded again each time, as no cache can be written ({why})"


def _crc32(path: Path, about: About) -> int:
    text = json.dumps(rows.plain(replace(about, crc32=0))).encode()
    return zlib.crc32(np.memmap(path, np.uint8, "r"), zlib.crc32(text))
