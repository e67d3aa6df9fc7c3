"""Folders of images decoded once, into a safetensors file that later loads only map into memory.

The file lies beside the images; where that cannot be written, in $XDG_CACHE_HOME/pruning_lab
(~/.cache/pruning_lab). With PRUNING_LAB_CACHE set, in that folder and nowhere else. It counts only
for the very bytes that it was made of, and only while it is whole.
"""

import json
import math
import os
import time
import zlib
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from pruning_lab import files
from pruning_lab.data.decoding import BrokenImageError, decode
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
                raise ValueError(f"no image of {part} can be used: {said(left_out, self.root)}")
            slices[part] = slice(start, start := start + count)
        return slices

    @cached_property
    def _stats(self) -> list[os.stat_result]:
        return [os.stat(self.root / name) for name in self.names]

    @cached_property
    def key(self) -> str:
        sizes = [stat.st_size for stat in self._stats]
        return _digest(_FORMAT, self.size, dict(self.parts), sizes)

    @cached_property
    def stamps(self) -> str:
        """Like git's index: a file with the old times, and nobody can set ctime, is the old one."""
        return _digest([[stat.st_mtime_ns, stat.st_ctime_ns] for stat in self._stats])

    @cached_property
    def content(self) -> str:
        return _digest([files.sha256(self.read(name)) for name in self.names])

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def places(self) -> list[Path]:
        """Where the cache may lie, the best place first."""
        label = f"{self.size or 'full'}px.safetensors"
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
    room = -(-(65_536 + 512 * allowed) // 4096) * 4096  # for the header, before the images
    buffer = np.empty(room + len(source.names) * math.prod(shape), np.uint8)
    images = buffer[room:].reshape(len(source.names), *shape)
    digests, left_out = _decode_into(images, source, allowed)
    images = _closed_up(images, [name not in left_out for name in source.names])
    scale = scale_of(torch.from_numpy(images[source.slices(left_out)["train"]]))
    about = About(source.key, source.stamps, _digest(digests), left_out, scale)
    header = _header(images, about)
    buffer[:room] = ord(" ")  # which safetensors lets follow a header
    start = (room - 8).to_bytes(8, "little") + header
    buffer[: len(start)] = np.frombuffer(start, np.uint8)
    return images, about, _write(source.places(), memoryview(buffer[: room + images.size]))


def _decode_into(
    images: np.ndarray, source: Source, allowed: int
) -> tuple[list[str], dict[str, str]]:
    """SHA-256 of each file, and which of them are no images, and why."""

    def one(place: int) -> tuple[str, str | None]:
        content = source.read(source.names[place])
        try:
            images[place] = decode(content, grey=images.shape[1] == 1, size=source.size)
        except BrokenImageError as broken:
            return files.sha256(content), str(broken)
        return files.sha256(content), None

    digests, left_out = [], {}
    pool = ThreadPoolExecutor()  # PIL decodes without holding up Python's other threads
    try:
        for name, (digest, why) in zip(
            source.names, pool.map(one, range(len(images))), strict=True
        ):
            digests.append(digest)
            if why is not None:
                left_out[name] = why
                check_broken(source.root, left_out, allowed, len(images))
    finally:
        pool.shutdown(cancel_futures=True)
    return digests, left_out


def check_broken(root: Path, left_out: Mapping[str, str], allowed: int, count: int) -> None:
    """Raise ValueError when too many images are broken."""
    if len(left_out) > allowed:
        raise ValueError(
            f"{said(left_out, root)}; of {count:,} images {allowed:,} may be left out: replace "
            f"these files, delete them, or call data.load with a larger share, broken=0.1"
        )


def said(left_out: Mapping[str, str], root: Path | str = "") -> str:
    """The first few images that cannot be used, each with the reason."""
    some = ", ".join(f"{Path(root, name)} ({why})" for name, why in list(left_out.items())[:3])
    more = len(left_out) - 3
    return some + (f" and {more:,} more" if more > 0 else "")


def _closed_up(images: np.ndarray, good: list[bool]) -> np.ndarray:
    """The good ones, moved to the front in place."""
    places = [place for place, is_good in enumerate(good) if is_good]
    for new, old in enumerate(places):
        if new != old:
            images[new] = images[old]
    return images[: len(places)]


def _write(places: Sequence[Path], content: memoryview) -> str:
    """Write to the first place that takes it; a word on where, or why not."""
    for path in places:
        try:
            _sweep(path)
            files.write(path, content)
            return f"cached in {path}"
        except OSError as error:
            why = f"{error.strerror}: {path}"
    return f"to be decoded anew each time, as no cache can be written ({why})"


def _sweep(path: Path) -> None:
    """Remove what a process that was killed an hour ago or longer has left of this file."""
    for aside in path.parent.glob(f".{path.name}.*"):
        if time.time() - aside.stat().st_mtime > 3600:
            aside.unlink(missing_ok=True)


def _open(path: Path, key: str) -> tuple[np.ndarray, About] | None:
    """What `build` wrote; None where there is nothing, or nothing whole, or of something else."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, _LONGEST)))
        about = About(**json.loads(header["__metadata__"]["about"]))
        about = replace(about, scale=Scale(*_tuples(about.scale)))
        if about.key != key:
            return None
        images = np.memmap(path, np.uint8, "c", 8 + length, tuple(header["images"]["shape"]))
        whole = path.stat().st_size == 8 + length + images.size
        if whole and header == json.loads(_header(images, about)):
            return images, about
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return None


def _header(images: np.ndarray, about: About) -> bytes:
    """safetensors's header, with a check of all that the file holds."""
    told = json.dumps(asdict(about), sort_keys=True)
    check = zlib.crc32(images, zlib.crc32(told.encode()))
    tensor = {"dtype": "U8", "shape": images.shape, "data_offsets": [0, images.size]}
    metadata = {"about": told, "crc32": f"{check:08x}"}
    return json.dumps({"__metadata__": metadata, "images": tensor}).encode()


def _tuples(value):
    """JSON has lists only."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _digest(*parts) -> str:
    return files.sha256(json.dumps(parts).encode())


_FORMAT = "pruning_lab images 1"
_LONGEST = 100_000_000  # bytes of a header, as safetensors has it
