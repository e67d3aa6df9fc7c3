"""Atomic file writes: temporary file, fsync, rename. Safetensors and JSON; nothing is executed."""

import errno
import hashlib
import json
import math
import os
import re
import secrets
import shlex
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pruning_lab.rows import printable

_MOST_TEXT = 2**28  # bytes


def wrong(path: str | Path, what: str) -> ValueError:
    """The error of a file that cannot be used: "plan.json is not JSON: ..."."""
    return ValueError(printable(f"{path} {what}"))


def write(path: str | Path, content: bytes | str) -> Path:
    """Write a file; readers see the old content or the new, never a part of it."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    return Path(path)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """An empty temporary file beside `path`, renamed to it after the block.

    After an error or an interrupt it is deleted, and `path` is as before.
    """
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not by tempfile, whose files are for their owner only: these follow the umask.
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        mode = os.fstat(descriptor).st_mode
        os.close(descriptor)
        yield temporary
        os.chmod(temporary, mode)  # safetensors puts a file of mode 0600 in its place
        _sync(temporary, os.O_RDWR)
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _explained(error, path, "written") from error
        raise
    if os.name != "nt":  # no folder can be opened there
        with suppress(OSError):  # some file systems cannot sync a folder
            _sync(path.parent, os.O_RDONLY)


_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space, or name another disk"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a part of its path is a file; name another"),
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.EISDIR: "it is a folder; name a file in it",
    errno.ENOENT: "check the path",
}


def _explained(error: OSError, path: str | Path, done: str) -> OSError:
    """The error with the path and what to do."""
    advice = _ADVICE.get(error.errno, f"name a place where it may be {done}")
    why = f"could not be {done}: {error.strerror or error}; {advice}"
    return type(error)(f"{printable(path)} {why}")


def _sync(path: Path, flags: int) -> None:
    """Write a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_file(path: str | Path) -> BinaryIO:
    """Open a regular file for reading; reading a pipe or a device might never end."""
    try:
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise wrong(path, "is a pipe, a socket or a device; name a regular file")
        return open(path, "rb")
    except OSError as error:
        raise _explained(error, path, "read") from None


def read_text(path: str | Path) -> str:
    """Read a text file of at most 256 MiB. ValueError names a file that is not UTF-8."""
    with open_file(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > _MOST_TEXT:
            raise wrong(path, f"has {size:,} bytes, too many for a text file here")
        try:
            return file.read().decode()
        except UnicodeDecodeError as error:
            raise wrong(path, f"is not text: {error}; save it as UTF-8") from None


def save_json(path: str | Path, value: object) -> Path:
    """Write `value` as JSON, indented, so that people can read it and diffs stay small."""
    return write(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def load_json(path: str | Path):
    """Read a JSON file. ValueError names the file and the place of the first mistake."""
    return parse_json(read_text(path), path)


def parse_json(text: str, path: str | Path):
    """Read JSON strictly: no key twice in an object, no number that is not finite."""
    try:
        return json.loads(
            text, object_pairs_hook=_object, parse_constant=_finite, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 100,000 brackets
        raise wrong(path, f"is not JSON that can be read: {error}") from None


def _object(pairs: list[tuple[str, object]]) -> dict:
    if len(made := dict(pairs)) < len(pairs):
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
    """Write a safetensors file; `about` is stored in its header, as JSON under the key `about`."""
    text = json.dumps(about, ensure_ascii=False, allow_nan=False)
    metadata = None if about is None else {"about": text}
    own, storages = {}, set()
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise ValueError(f"{name} is on the meta device, so it holds no numbers to save")
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        own[name] = tensor.clone() if storage in storages else tensor  # the format has no sharing
        storages.add(storage)
    with replacing(path) as temporary:
        try:
            safetensors.torch.save_file(own, temporary, metadata)
        except SafetensorError as error:  # "I/O error: No space left on device (os error 28)"
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else None, str(error)) from None
    return Path(path)


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict | None]:
    """Read a safetensors file: its tensors (on the CPU), and what was saved as `about`."""
    about = load_about(path)
    with _opened(path) as file:
        # Copies: the memory map would change, or crash, with a file that is written over.
        return {name: file.get_tensor(name).clone() for name in file.offset_keys()}, about


def load_about(path: str | Path) -> dict | None:
    """Read what was saved as `about` in a safetensors file; the tensors are not read."""
    with _opened(path) as file:
        text = (file.metadata() or {}).get("about", "null")
    about = parse_json(text, f"about in {path}")
    if not isinstance(about, dict | None):
        raise wrong(f"{path}:", f"its about must be an object, got {type(about).__name__}")
    return about


def load_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Read the shapes of the tensors in a safetensors file; the tensors are not read."""
    with _opened(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.offset_keys()}


@contextmanager
def _opened(path: str | Path) -> Iterator[safe_open]:
    """A safetensors file whose header is valid and agrees with the file's length."""
    open_file(path).close()
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, KeyError, AttributeError) as error:
        what = f"is not a whole safetensors file that torch can read: {error}"
        with open_file(path) as file:
            head = file.read(512)
        if re.match(rb"PK\x03\x04.*/data\.pkl|\x80[\x02-\x05]", head, re.DOTALL):
            what = f"is a pickle of torch.save, which is not run here; convert it: {_convert(path)}"
        raise wrong(path, what) from None


def _convert(path: str | Path) -> str:
    """What to type to have a state_dict of torch.save as safetensors."""
    load = "torch.load(sys.argv[1], map_location='cpu', weights_only=True)"
    code = f"import sys, torch, pruning_lab as lab; lab.files.save_tensors(sys.argv[2], {load})"
    return f'python -c "{code}" {shlex.quote(str(path))} {shlex.quote(f"{path}.safetensors")}'


def sha256(*parts: bytes | np.ndarray) -> str:
    """SHA-256 of all parts in order: bytes, or arrays as they lie in memory, without a copy."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
