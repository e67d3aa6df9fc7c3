"""What a command may write, checked before it starts: no input of its own, no file of another kind.

A file of the same kind is replaced with --force only.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pruning_lab as lab
from pruning_lab.cli.common import File


def check(command: Callable, values: Mapping) -> None:
    """Raise ValueError or OSError where the command, called with these options, must not write.

    The `File` marks of its options say what it reads and what it writes.
    """
    options = {name: (value, mark) for name, value, mark in _options(command, values)}
    named = [entry for name, option in options.items() for entry in _files(name, *option)]
    written = [entry for entry in named if entry[2]]
    for place, (word, path, kind) in enumerate(written):
        check_place(word, path)
        for other, path_, _ in written[:place]:
            if _same(path, path_):
                raise ValueError(f"{word} {path} is written by {other} too; name two files")
        for _, path_, kind_ in named:
            if not kind_ and _same(path, path_):
                raise ValueError(
                    f"{word} {path} would replace {path_}, which this command reads; name another "
                    f"file"
                )
        resumes = options.get("resume", [False])[0] and not Path(options["out"][0]).exists()
        replace = options["force"][0] or resumes or kind == "checkpoint"
        check_file(word, path, kind, replace=replace)


def check_file(word: str, path: Path, kind: str, *, replace: bool) -> None:
    """Raise OSError or ValueError where no such file can be written, or one is to stay."""
    check_place(word, path)
    there = kind_of(path) if path.exists() else kind
    if there != kind:
        what = "of another kind" if there == "other" else f"a {there}"
        raise FileExistsError(
            f"{word} {path} is there, and {what}, which is never replaced by a {kind}; name "
            f"another file"
        )
    if path.exists() and not replace:
        raise FileExistsError(
            f"{word} {path} is there already; add --force to replace it, or name another file"
        )


def check_place(word: str, path: Path) -> None:
    """Raise OSError or ValueError where no file can be written under this name."""
    try:
        os.stat(path)  # raises for a name too long, a file in place of a folder, a loop of links
        if not path.is_file():
            what = "is a folder; name a file in it"
            other = "is a pipe or a device; name a regular file"
            raise ValueError(f"{word} {path} {what if path.is_dir() else other}")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise OSError(f"{word} {path}: {error.strerror}; give it another name") from None
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(
            f"{word} {path}: you may not write to {parent}; name a place where you may"
        )


def kind_of(path: Path) -> str:
    """What a file of this library holds, "network", "mask", "plan", ...; "other" for any other."""
    try:
        about, default = lab.files.load_about(path), "network"
    except (ValueError, OSError):  # no safetensors file
        try:
            text = lab.files.read_text(path)
            if text.startswith("layer,asked,density,quality,threshold,"):
                return "scan"
            if text.startswith("<!doctype html>") and "content='pruning_lab'" in text:
                return "page"
            about = lab.files.parse_json(text, path)
            default = "notebook" if isinstance(about, dict) and "nbformat" in about else "other"
        except ValueError:
            with lab.files.open_file(path) as file:
                head = file.read(64)
            if head[:4] == b"PK\x03\x04" or (head[:1] == b"\x08" and b"pytorch" in head):
                return "model for export"  # a state_dict for torch.load, or ONNX
            return "picture" if head[:4] == b"\x89PNG" else "other"
        except OSError:
            return "other"
    form = about.get("format") if isinstance(about, dict) else None
    words = form.split() if isinstance(form, str) else []
    return words[1] if len(words) == 3 and words[0] == "pruning_lab" else default


def _options(where: Callable, values: Mapping) -> Iterator[tuple[str, object, File | None]]:
    """Name, value and mark of every option, those of the option groups too."""
    for name, hint in get_type_hints(where, include_extras=True).items():
        if is_dataclass(value := values.get(name)):
            yield from _options(type(value), vars(value))
        elif name in values:
            yield name, value, next((m for m in get_args(hint) if isinstance(m, File)), None)


def _files(name: str, value: str | None, mark: File | None) -> Iterator[tuple[str, Path, str]]:
    """The option as typed, the path, and the kind that is written ("" where it is read)."""
    if value is None or mark is None:
        return
    word, path, kind = f"--{name.replace('_', '-')}", Path(value), mark.writes or ""
    yield word, path, kind
    if kind == "scan" and path.suffix == ".json":
        raise ValueError(f"{word} {path}: the rows go to a .csv, and a .json beside it")
    if "scan" in (kind, name) and path.name:
        yield "the .json beside", path.with_suffix(".json"), kind
    if mark.checkpoint:
        yield "the checkpoint", Path(f"{value}.checkpoint"), "checkpoint"


def _same(one: Path, other: Path) -> bool:
    """Whether two paths are one file, through links too; or would be, where none is there."""
    if one.exists() and other.exists():
        return os.path.samefile(one, other)
    return os.path.realpath(one) == os.path.realpath(other)
