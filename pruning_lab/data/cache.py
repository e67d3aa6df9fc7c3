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
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from pruning_lab import files
from pruning_lab.data.decoding import BrokenImageError, check_broken, decode, listed, read, stamp
from pruning_lab.data.scale import Scale, scale_of

Shape = tuple[int, int, int]  # C, H, W


@dataclass(frozen=True)
class About:
    """What a cache knows of its images."""

    key: str  # of the names and sizes of the files, and of what was asked
    stamps: str  # of the times of the files when they were decoded
    content: str  # SHA-256 over the SHA-256 of each file
    left_out: dict[str, str]  # name -> why it cannot be used
    scale: Scale  # of the training pixels


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
    def _stamps(self) -> list[tuple[int, int, int]]:
        return [stamp(self.root / name) for name in self.names]

    @cached_property
    def key(self) -> str:
        sizes = [size for size, *_ in self._stamps]
        return _digest(_FORMAT, self.size, dict(self.parts), sizes)

    @cached_property
    def stamps(self) -> str:
        """Like git's index: a file with the old times, and nobody can set ctime, is the old one."""
        return _digest([times for _, *times in self._stamps])

    @cached_property
    def content(self) -> str:
        return _digest([self.sha256(name) for name in self.names])

    def sha256(self, name: str) -> str:
        """Of a file's bytes; empty for what is no file to read."""
        try:
            return files.sha256(read(self.root / name))
        except BrokenImageError:
            return ""

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


def find(source: Source) -> tuple[np.ndarray, About, str] | None:
    """Images (N, C, H, W), what is known of them, and a word on where they lie; None: not there.

    The images are mapped: a page is read when it is used, and a write to it stays in this process.
    """
    for path in source.places():
        found = _open(path, source.key)
        if found and (
            found[1].stamps == source.stamps or found[1].content == source.content
        ):  # a copy of the folder has other times, and the same bytes
            return *found, f"cached in {path}"
    return None


def build(source: Source, shape: Shape, allowed: int) -> tuple[np.ndarray, About, str]:
    """As `find` gives them, decoded now and written for the next time where that can be done.

    Raises ValueError where more than `allowed` images cannot be used.
    """
    images = np.empty((len(source.names), *shape), np.uint8)
    digests, left_out = _decode_into(images, source, allowed)
    good = [place for place, name in enumerate(source.names) if name not in left_out]
    for new, old in enumerate(good) if left_out else ():
        images[new] = images[old]
    images = images[: len(good)]
    scale = scale_of(torch.from_numpy(images[source.slices(left_out)["train"]]))
    about = About(source.key, source.stamps, _digest(digests), left_out, scale)
    return images, about, _write(source.places(), images, about)


def _decode_into(
    images: np.ndarray, source: Source, allowed: int
) -> tuple[list[str], dict[str, str]]:
    """SHA-256 of each file, and which of them are no images, and why."""

    def decode_one(place: int) -> tuple[str, str | None]:
        digest = ""
        try:
            content = read(source.root / source.names[place])
            digest = files.sha256(content)
            images[place] = decode(content, grey=images.shape[1] == 1, size=source.size)
        except BrokenImageError as broken:
            return digest, str(broken)
        return digest, None

    digests, left_out = [], {}
    pool = ThreadPoolExecutor()  # PIL decodes without holding up Python's other threads
    try:
        decoded = pool.map(decode_one, range(len(images)))
        for name, (digest, why) in zip(source.names, decoded, strict=True):
            digests.append(digest)
            if why is not None:
                left_out[name] = why
                check_broken(source.root, left_out, allowed, len(images))
    finally:
        pool.shutdown(cancel_futures=True)
    return digests, left_out


def _write(places: Sequence[Path], images: np.ndarray, about: About) -> str:
    """Write to the first place that takes it; a word on where, or why not."""
    for path in places:
        try:
            for written in (path, _beside(path)):
                _sweep(written)
            with files.replacing(path) as temporary:
                with temporary.open("wb") as file:  # np.save would not say why a write failed
                    described = np.lib.format.header_data_from_array_1_0(images)
                    np.lib.format.write_array_header_1_0(file, described)
                    file.write(images)
                check = _check(temporary, asdict(about))
            files.write(_beside(path), json.dumps({"about": asdict(about), "crc32": check}))
            return f"cached in {path}"
        except OSError as error:
            why = f"{os.strerror(error.errno or 0)}: {path}"
    return f"to be decoded again each time, as no cache can be written ({why})"


def _sweep(path: Path) -> None:
    """Remove what a process that was killed an hour ago or longer has left of this file."""
    temporary = re.compile(rf"\.({re.escape(path.name)}\.[0-9a-f]{{16}}|[0-9a-f]{{16}}\.tmp)")
    for other in path.parent.glob(".*"):
        if temporary.fullmatch(other.name) and time.time() - other.stat().st_mtime > 3600:
            other.unlink(missing_ok=True)


def _open(path: Path, key: str) -> tuple[np.ndarray, About] | None:
    """What `build` wrote; None where there is nothing, or nothing whole, or of something else."""
    if not (path.is_file() and _beside(path).is_file()):  # a pipe of that name would wait forever
        return None
    try:
        read = files.load_json(_beside(path))
        about = read["about"]
        if about["key"] == key and read["crc32"] == _check(path, about):
            images = np.load(path, mmap_mode="c")
            return images, About(**{**about, "scale": Scale(*_tuples(about["scale"]))})
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _beside(path: Path) -> Path:
    return path.with_suffix(".json")


def _check(path: Path, about: dict) -> str:
    """CRC-32 of all that both files hold: three times as fast as SHA-256, and against accidents."""
    known = json.dumps(about, sort_keys=True).encode()
    return f"{zlib.crc32(np.memmap(path, np.uint8, 'r'), zlib.crc32(known)):08x}"


def _tuples(value):
    """JSON has lists only."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _digest(*parts) -> str:
    return files.sha256(json.dumps(parts).encode())


_FORMAT = "pruning_lab images 2"
