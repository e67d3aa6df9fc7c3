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
    seen: list[tuple[str, Path]] = []
    for word, path, kind in named:
        if not kind:
            continue
        for name, other in seen:
            if _same(path, other):
                raise ValueError(f"{word} {path} is written by {name} too; name two files")
        for _, other, written in named:
            if not written and _same(path, other):
                raise ValueError(
                    f"{word} {path} would replace {other}, which this command reads; name another "
                    f"file"
                )
        resume, out = options.get("resume", (False,))[0], Path(options["out"][0])
        replace = options["force"][0] or (resume and not out.exists()) or kind == "checkpoint"
        check_file(word, path, kind, replace=replace)
        seen.append((word, path))


def check_file(word: str, path: Path, kind: str, *, replace: bool) -> None:
    """Raise OSError or ValueError where no such file can be written, or one is to stay."""
    check_place(path, word)
    if not path.exists():
        return
    if (there := kind_of(path)) != kind:
        what = "of another kind" if there == "other" else f"a {there}"
        raise FileExistsError(
            f"{word} {path} is there, and {what}, which is never replaced by a {kind}; name "
            f"another file"
        )
    if not replace:
        raise FileExistsError(
            f"{word} {path} is there already; add --force to replace it, or name another file"
        )


def check_place(path: Path, word: str) -> None:
    """Raise OSError or ValueError where no file can be written under this name."""
    try:
        if path.is_dir():
            raise IsADirectoryError(f"{word} {path} is a folder; name a file in it")
        if path.exists() and not path.is_file():
            raise ValueError(f"{word} {path} is a pipe or a device; name a regular file")
        os.stat(path)  # raises for a name too long, a file in place of a folder, a loop of links
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno is None:  # it is ours
            raise
        raise OSError(f"{word} {path}: {error.strerror}; give it another name") from None
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise NotADirectoryError(f"{word} {path}: {parent} is a file; name a file in a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(
            f"{word} {path}: you may not write to {parent}; name a place where you may"
        )


def kind_of(path: Path) -> str:
    """What a file of this library holds, "network", "mask", "plan", ...; "other" for any other."""
    try:
        return _format(lab.files.load_about(path)) or "network"
    except (ValueError, OSError):  # no safetensors file
        pass
    try:
        text = lab.files.read_text(path)
        if text.startswith("layer,asked,density,quality,threshold,"):
            return "scan"
        if text.startswith("<!doctype html>") and "name='generator' content='pruning_lab'" in text:
            return "page"
        about = lab.files.parse_json(text, path)
        return "notebook" if "nbformat" in about else _format(about) or "other"
    except (ValueError, OSError, TypeError):
        return "other"


def _format(about: object) -> str | None:
    form = about.get("format") if isinstance(about, dict) else None
    words = form.split() if isinstance(form, str) else []
    return words[1] if len(words) == 3 and words[0] == "pruning_lab" else None


def _options(where: Callable, values: Mapping) -> Iterator[tuple[str, object, File | None]]:
    """Name, value and mark of every option, those of the option groups too."""
    for name, hint in get_type_hints(where, include_extras=True).items():
        if is_dataclass(value := values.get(name)):
            yield from _options(type(value), vars(value))
        elif name in values:
            yield name, value, next((m for m in get_args(hint) if isinstance(m, File)), None)


def _files(name: str, value: str | None, mark: File | None) -> Iterator[tuple[str, Path, str]]:
    """The option as typed, the path, and the kind that is written ("" where it is read)."""
    if value is None or mark is None or (not value and not mark.writes):
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
