"""Files that are whole or not there: written aside, synced, renamed; safetensors and JSON only.

Nothing that is loaded here is ever executed.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor


def write(path: str | Path, content: bytes | str) -> Path:
    """Write `content` so that a reader finds the old file or the new one, never a part of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = content.encode() if isinstance(content, str) else content
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, 0o666 & ~_umask())  # mkstemp's own 0600 would keep a class from reading
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def save_json(path: str | Path, value) -> Path:
    """Write `value` as JSON that a person can read and a diff can show."""
    return write(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_text(path: str | Path) -> str:
    """Read a text; a missing file is named, and one that is not text, with the place."""
    try:
        return _read(path).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text, byte {error.start}") from None


def load_json(path: str | Path):
    """Read JSON; a missing or broken file is named, with the place where it breaks."""
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
    """Write a safetensors file. `about` is kept with it as JSON under the key `about`."""
    metadata = {"about": json.dumps(about, ensure_ascii=False)} if about is not None else None
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # Two names for one storage (tied layers, views) become copies: the format allows no sharing.
    seen: set[int] = set()
    for name, tensor in flat.items():
        storage = tensor.untyped_storage().data_ptr()
        if storage in seen:
            flat[name] = tensor.clone()
        seen.add(storage)
    return write(path, safetensors.torch.save(flat, metadata))


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict | None]:
    """Tensors of a safetensors file (on the CPU) and what `save_tensors` kept as `about`."""
    content = _read(path)
    try:
        tensors = safetensors.torch.load(content)
        header_bytes = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + header_bytes]).get("__metadata__") or {}
        about = json.loads(metadata["about"]) if "about" in metadata else None
    except KeyError as error:
        raise ValueError(f"{path} holds numbers of a kind that torch lacks: {error}") from None
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from None
    return tensors, about


def sha256(*parts: bytes | np.ndarray) -> str:
    """Of all parts one after the other: bytes, or arrays as they lie in memory, never copied."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {path}; check the path") from None
    except IsADirectoryError:
        raise IsADirectoryError(f"{path} is a folder; name a file in it") from None
