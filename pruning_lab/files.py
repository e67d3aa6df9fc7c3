"""Atomic file writes: temporary file, fsync, rename. Safetensors and JSON, never pickle.

Nothing that is loaded here is ever executed.
"""

import errno
import hashlib
import json
import math
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypedDict

import numpy as np
import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pruning_lab.rows import decode


def write(path: str | Path, content: bytes | str) -> Path:
    """Write a file; readers see the old content or the new, never a part of it."""
    content = content.encode() if isinstance(content, str) else content
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return Path(path)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give an empty temporary file beside `path`; once written, it is synced and renamed to it.

    After an error or an interrupt the temporary file is deleted, and `path` is as before. An
    OSError names `path`, and what to do.
    """
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # By hand: tempfile's files are for their owner only, and these follow the umask.
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        mode = os.fstat(descriptor).st_mode
        os.close(descriptor)
        yield temporary
        os.chmod(temporary, mode)  # safetensors puts a file of mode 0600 in its place
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise type(error)(_unwritten(path, error)) from error
        raise
    _sync_folder(path.parent)


def _unwritten(path: Path, error: OSError) -> str:
    advice = {
        errno.ENOSPC: "free some space, or name another disk",
        errno.EDQUOT: "free some space, or name another disk",
        errno.ENAMETOOLONG: "give it a shorter name",
        errno.ENOTDIR: "a part of its path is a file; name another",
        errno.EEXIST: "a part of its path is a file; name another",
        errno.EISDIR: "it is a folder; name a file in it",
    }
    why = error.strerror or error
    todo = advice.get(error.errno, "name a place where you may write")
    return f"{path} could not be written: {why}; {todo}"


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power failure, where the system can."""
    if os.name == "nt":  # no folder can be opened there
        return
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def save_json(path: str | Path, value) -> Path:
    """Write `value` as JSON, indented, so that people can read it and diffs stay small."""
    return write(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_text(path: str | Path) -> str:
    """Read a text file. ValueError names the file and the first byte that is not UTF-8."""
    with open_file(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > _TEXT:
            raise ValueError(f"{path} is too large for a text of this library: {size:,} bytes")
        content = file.read()
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not text, byte {error.start} is not UTF-8; save it as UTF-8"
        ) from None


_TEXT = 2**28  # bytes of the largest text file that is read


def load_json(path: str | Path):
    """Read a JSON file. ValueError names the file and the place of the first mistake."""
    return parse_json(read_text(path), path)


def parse_json(text: str, path: str | Path):
    """JSON as its standard has it: no key twice, and no number that is not finite."""
    try:
        return json.loads(
            text, object_pairs_hook=_object, parse_constant=_finite, parse_float=_finite
        )
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not JSON: {error.msg}, line {error.lineno}, column {error.colno}"
        ) from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 100,000 brackets
        raise ValueError(f"{path} is not JSON that can be read: {error}") from None


def _object(pairs: list[tuple[str, object]]) -> dict:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return made


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is not a finite number")
    return number


def save_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], *, about: Mapping | None = None
) -> Path:
    """Write a safetensors file; `about` is stored in its header, as JSON under the key `about`.

    Raises OSError where the file cannot be written.
    """
    metadata = None
    if about is not None:
        metadata = {"about": json.dumps(about, ensure_ascii=False, allow_nan=False)}
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise ValueError(f"{name} is on the meta device, so it holds no numbers to save")
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # Tensors that share a storage (tied layers, views) become copies: the format has no sharing.
    seen: set[int] = set()
    for name, tensor in flat.items():
        storage = tensor.untyped_storage().data_ptr()
        if storage in seen:
            flat[name] = tensor.clone()
        seen.add(storage)
    with replacing(path) as temporary:
        try:
            safetensors.torch.save_file(flat, temporary, metadata)
        except SafetensorError as error:  # "I/O error: No space left on device (os error 28)"
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else None, str(error)) from None
    return Path(path)


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict | None]:
    """Read a safetensors file: its tensors (on the CPU), and what was saved as `about`.

    Raises ValueError for a broken file, or one with a dtype that torch lacks.
    """
    about = load_about(path)
    try:
        file = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from None
    with file:
        try:
            # Copies: the memory map would change, or crash, with a file that is written over.
            return {name: file.get_tensor(name).clone() for name in file.offset_keys()}, about
        except (SafetensorError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} holds numbers of a kind that torch lacks: {error}") from None


def load_about(path: str | Path) -> dict | None:
    """Read what was saved as `about` in a safetensors file; the tensors are not read."""
    return _header(path)[1]


def load_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Read the shapes of the tensors in a safetensors file, and no more."""
    return {name: tuple(entry["shape"]) for name, entry in _header(path)[0].items()}


class _Entry(TypedDict):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def _header(path: str | Path) -> tuple[dict[str, _Entry], dict | None]:
    """What the file says of its tensors and of itself, once its length agrees with that."""
    broken = f"{path} is not a whole safetensors file"
    with open_file(path) as file:
        size, start = os.fstat(file.fileno()).st_size, file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or not 2 <= length <= min(size - 8, _HEADER):
            raise ValueError(f"{broken}: it has {size:,} bytes and no header that fits")
        content = file.read(length)
    try:
        header = parse_json(content.decode(), path)
    except ValueError as error:
        raise ValueError(f"{broken}: {error}") from None
    metadata = header.pop("__metadata__", None) if isinstance(header, dict) else None
    entries = decode(dict[str, _Entry], header, broken)
    about = decode(dict[str, str] | None, metadata, broken) or {}
    end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    if 8 + length + end != size:
        raise ValueError(f"{broken}: it has {size:,} bytes, its header says {8 + length + end:,}")
    if "about" not in about:
        return entries, None
    said = parse_json(about["about"], f"about in {path}")
    if said is not None and not isinstance(said, dict):
        raise ValueError(f"{path}: its about must be an object, got {type(said).__name__}")
    return entries, said


_HEADER = 10**8  # bytes of the longest header, by the format's specification


def sha256(*parts: bytes | np.ndarray) -> str:
    """SHA-256 of all parts in order: bytes, or arrays as they lie in memory, without a copy."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def open_file(path: str | Path) -> BinaryIO:
    """Open a regular file for reading. A pipe or a device, on which reading may never end, is none.

    An OSError names the path, and what to do.
    """
    try:
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ValueError(f"{path} is a pipe, a socket or a device; name a regular file")
        return open(path, "rb")
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {path}; check the path") from None
    except IsADirectoryError:
        raise IsADirectoryError(f"{path} is a folder; name a file in it") from None
    except PermissionError:
        raise PermissionError(f"{path} may not be read; give yourself the permission") from None
    except OSError as error:
        raise OSError(f"{path} cannot be read: {error.strerror}; check the path") from None
