"""Folders of images decoded once, into a .npy file that later loads only map into memory.

Beside it lies a .json file with what the images were made of. Both lie beside the images; where
that cannot be written, in $XDG_CACHE_HOME/pruning_lab (~/.cache/pruning_lab); with
PRUNING_LAB_CACHE set, in that folder and nowhere else. They count only for the very bytes that they
were made of, and only while both are whole.
"""

import json
import os
import re
import time
import zlib
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from pruning_lab import files
from pruning_lab.data.decoding import BrokenImageError, check_broken, decode, listed, read, stamp
from pruning_lab.data.splits import Scale, scale_of


class Decoded(NamedTuple):
    """Images as they come from the cache or go there."""

    images: np.ndarray  # uint8 (N, C, H, W), without those left out
    left_out: dict[str, str]  # name -> why it cannot be used
    scale: Scale  # of the training pixels
    where: str  # a word on where they lie


@dataclass(frozen=True)
class Source:
    """Image files below a folder, to be decoded at one size (None: as they are)."""

    root: Path
    parts: Mapping[str, Sequence[str]]  # of train, val and test: the names, relative to root
    size: int | None

    @cached_property
    def names(self) -> list[str]:
        return [name for part in self.parts.values() for name in part]

    def slices(self, left_out: Collection[str]) -> dict[str, slice]:
        """Where the images of each part lie, one part after the other."""
        slices, start = {}, 0
        for part, names in self.parts.items():
            count = sum(name not in left_out for name in names)
            if not count:
                raise ValueError(f"no image of {part} can be used: {listed(left_out, self.root)}")
            slices[part] = slice(start, start := start + count)
        return slices

    @cached_property
    def known(self) -> dict[str, str]:
        """What tells these files from others without reading them: `key` must be equal.

        Like git's index: a file with the old `times`, and nobody can set ctime, is the old one.
        """
        stamps = [stamp(self.root / name) for name in self.names]
        key = _digest(_FORMAT, self.size, dict(self.parts), [size for size, *_ in stamps])
        return {"key": key, "times": _digest([times for _, *times in stamps])}

    def content(self) -> str:
        """SHA-256 over that of each file; of what is no file to read, over nothing."""
        return _digest([_sha256(self.root / name) for name in self.names])

    def places(self) -> list[Path]:
        """Where the cache may lie, the best place first."""
        label = f"{self.size or 'full'}px.npy"
        mark = files.sha256(str(self.root.resolve()).encode())[:8]
        away = f"{self.root.resolve().name}-{mark}-{label}"
        if named := os.environ.get("PRUNING_LAB_CACHE"):
            return [Path(named).expanduser() / away]
        user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        beside = self.root / ".pruning_lab" / label
        return [beside, Path(user).expanduser() / "pruning_lab" / away]


def find(source: Source) -> Decoded | None:
    """What `build` wrote; None where there is nothing whole, or something of other files.

    The images are mapped: a page is read when it is used, and a write to it stays in this process.
    """
    for path in source.places():
        side = path.with_suffix(".json")
        if not (path.is_file() and side.is_file()):  # a pipe would wait forever
            continue
        try:
            saved = files.load_json(side)
            about = saved["about"]
            if about["key"] != source.known["key"] or saved["crc32"] != _crc32(path, about):
                continue
            # A copy of the folder has other times, and the same bytes.
            if about["times"] == source.known["times"] or about["content"] == source.content():
                images, scale = np.load(path, mmap_mode="c"), Scale(*_tuples(about["scale"]))
                return Decoded(images, about["left_out"], scale, f"cached in {path}")
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def build(source: Source, shape: tuple[int, int, int], allowed: int) -> Decoded:
    """As `find` gives them, decoded now and written for the next time where that can be done.

    `shape` is (C, H, W). Raises ValueError where more than `allowed` images cannot be used.
    """
    known = source.known  # before a file is read: what changes from here on has other times
    images = np.empty((len(source.names), *shape), np.uint8)

    def decode_one(place: int) -> tuple[str, str]:
        """SHA-256 of a file, and why it is no image; "" where it is one."""
        digest = ""
        try:
            content = read(source.root / source.names[place])
            digest = files.sha256(content)
            images[place] = decode(content, grey=shape[0] == 1, size=source.size)
        except BrokenImageError as broken:
            return digest, str(broken)
        return digest, ""

    with ThreadPoolExecutor() as pool:  # PIL decodes without holding up Python's other threads
        digests, whys = zip(*pool.map(decode_one, range(len(images))), strict=True)
    left_out = {name: why for name, why in zip(source.names, whys, strict=True) if why}
    check_broken(source.root, left_out, allowed, len(images))
    good = [place for place, why in enumerate(whys) if not why]
    for new, old in enumerate(good) if left_out else ():
        images[new] = images[old]
    images = images[: len(good)]
    scale = scale_of(torch.from_numpy(images[source.slices(left_out)["train"]]))
    about = {"content": _digest(digests), "left_out": left_out, "scale": scale, **known}
    return Decoded(images, left_out, scale, _write(source.places(), images, about))


def _write(places: Sequence[Path], images: np.ndarray, about: dict) -> str:
    """Write to the first place that takes it; a word on where, or why not."""
    for path in places:
        try:
            _sweep(path.parent, path.stem)
            with files.replacing(path) as temporary:
                with temporary.open("wb") as file:  # np.save would not say why a write failed
                    described = np.lib.format.header_data_from_array_1_0(images)
                    np.lib.format.write_array_header_1_0(file, described)
                    file.write(images)
                saved = {"about": about, "crc32": _crc32(temporary, about)}
            files.write(path.with_suffix(".json"), json.dumps(saved))
            return f"cached in {path}"
        except OSError as error:
            why = str(error)
    return f"to be decoded again each time, as no cache can be written ({why})"


def _sweep(folder: Path, stem: str) -> None:
    """Remove what a process that was killed an hour ago or longer has left of these files."""
    temporary = re.compile(
        rf"\.({re.escape(stem)}\.(npy|json)\.[0-9a-f]{{16}}|[0-9a-f]{{16}}\.tmp)"
    )
    for path in folder.glob(".*"):
        if temporary.fullmatch(path.name) and time.time() - path.stat().st_mtime > 3600:
            path.unlink(missing_ok=True)


def _crc32(path: Path, about: dict) -> str:
    """Of all that both files hold: against accidents, and three times as fast as SHA-256."""
    known = json.dumps(about, sort_keys=True).encode()
    return f"{zlib.crc32(np.memmap(path, np.uint8, 'r'), zlib.crc32(known)):08x}"


def _tuples(value):
    """JSON has lists only."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _sha256(path: Path) -> str:
    try:
        return files.sha256(read(path))
    except BrokenImageError:
        return ""


def _digest(*parts) -> str:
    return files.sha256(json.dumps(parts).encode())


_FORMAT = "pruning_lab images 2"
