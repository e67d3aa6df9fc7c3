"""Atomic file writes: temporary file, fsync, rename. Safetensors and JSON, never pickle.

Nothing that is loaded here is ever executed.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor


def write(path: str | Path, content: bytes | str) -> Path:
    """Write a file; readers see the old content or the new, never a part of it."""
    content = content.encode() if isinstance(content, str) else content
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return Path(path)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give an empty temporary file beside `path`; once written, it is synced and renamed to it.

    After an error or an interrupt the temporary file is deleted, and `path` is as before.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        # By hand: tempfile's files are for their owner only, and these follow the umask.
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        mode = os.fstat(descriptor).st_mode
        os.close(descriptor)
        yield temporary
        os.chmod(temporary, mode)  # safetensors puts a file of mode 0600 in its place
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


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
    try:
        return _read(path).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text, byte {error.start}") from None


def load_json(path: str | Path):
    """Read a JSON file. ValueError names the file and the place of the first mistake."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not JSON: {error.msg}, line {error.lineno}, column {error.colno}"
        ) from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 100,000 brackets
        raise ValueError(f"{path} is not JSON that can be read: {error}") from None


def save_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], *, about: Mapping | None = None
) -> Path:
    """Write a safetensors file; `about` is stored in its header, as JSON under the key `about`.

    Raises OSError where the file cannot be written.
    """
    metadata = {"about": json.dumps(about, ensure_ascii=False)} if about is not None else None
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
        except SafetensorError as error:
            raise OSError(f"{path} could not be written: {error}") from None
    return Path(path)


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict | None]:
    """Read a safetensors file: its tensors (on the CPU), and what was saved as `about`.

    Raises ValueError for a broken file, or one with a dtype that torch lacks.
    """
    with _opened(path) as file:
        about = _about(path, file)
        try:
            # Copies: the memory map would change, or crash, with a file that is written over.
            return {name: file.get_tensor(name).clone() for name in file.offset_keys()}, about
        except (SafetensorError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} holds numbers of a kind that torch lacks: {error}") from None


def load_about(path: str | Path) -> dict | None:
    """Read what was saved as `about` in a safetensors file; the tensors are not read."""
    with _opened(path) as file:
        return _about(path, file)


def _opened(path: str | Path) -> safe_open:
    with _open(path):  # its errors name the path, those of safe_open do not
        pass
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from None


def _about(path: str | Path, file: safe_open) -> dict | None:
    metadata = file.metadata() or {}
    try:
        return json.loads(metadata["about"]) if "about" in metadata else None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from None


def sha256(*parts: bytes | np.ndarray) -> str:
    """SHA-256 of all parts in order: bytes, or arrays as they lie in memory, without a copy."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _read(path: str | Path) -> bytes:
    with _open(path) as file:
        return file.read()


def _open(path: str | Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {path}; check the path") from None
    except IsADirectoryError:
        raise IsADirectoryError(f"{path} is a folder; name a file in it") from None
