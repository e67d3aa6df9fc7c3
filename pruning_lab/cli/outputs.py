"""What a command may write, checked before it starts: no input of its own, no file of another kind.

A file of the same kind is replaced with --force only.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from pruning_lab import files

INPUTS = ("file", "weights", "scan", "mask", "plan", "within", "dense")  # options that name files
KINDS = {  # command -> option that names a file to write -> what it will hold
    "train": {"out": "network"},
    "scan": {"out": "scan"},
    "choose": {"out": "plan"},
    "prune": {"out": "mask", "save_model": "network"},
    "retrain": {"out": "network"},
    "report": {"out": "page"},
}


def check(options: argparse.Namespace) -> None:
    """Raise ValueError or OSError, before any work, where the command must not write."""
    if options.command == "report" and options.out is None:
        own = Path(options.file).is_dir()  # a run's own page is made again unasked
        options.out = str(Path(options.file if own else "") / "report.html")
        options.force |= own
    inputs = list(_inputs(options))
    seen: list[tuple[str, Path]] = []
    for word, path, kind in _outputs(options):
        check_place(path, word)
        for name, other in seen:
            if _same(path, other):
                raise ValueError(f"{word} {path} is written by {name} too; name two files")
        for other in inputs:
            if _same(path, other):
                raise ValueError(
                    f"{word} {path} would replace {other}, which this command reads; name another "
                    f"file"
                )
        _check_old(options, word, path, kind)
        seen.append((word, path))


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
        return _said(files.load_about(path)) or "network"
    except (ValueError, OSError):  # no safetensors file
        pass
    try:
        text = files.read_text(path)
        if text.startswith("layer,asked,density,quality,threshold,"):
            return "scan"
        if (
            text.startswith("<!doctype html>")
            and "<meta name='generator' content='pruning_lab'>" in text
        ):
            return "page"
        return _said(files.parse_json(text, path)) or "other"
    except (ValueError, OSError):
        return "other"


def _said(about: object) -> str | None:
    form = about.get("format") if isinstance(about, dict) else None
    words = form.split() if isinstance(form, str) else []
    return words[1] if len(words) == 3 and words[0] == "pruning_lab" else None


def _inputs(options: argparse.Namespace) -> Iterator[Path]:
    for name in INPUTS:
        if value := getattr(options, name, None):
            path = Path(value)
            yield path
            if name == "scan" and path.name:
                yield path.with_suffix(".json")


def _outputs(options: argparse.Namespace) -> Iterator[tuple[str, Path, str]]:
    for name, kind in KINDS.get(options.command, {}).items():
        if (value := getattr(options, name)) is None:
            continue
        word, path = f"--{name.replace('_', '-')}", Path(value)
        yield word, path, kind
        if kind == "scan" and path.suffix == ".json":
            raise ValueError(f"{word} {path}: the rows go to a .csv, and a .json beside it")
        if kind == "scan" and path.name:
            yield "the .json beside", path.with_suffix(".json"), kind
        if options.command in ("train", "retrain"):
            yield "the checkpoint", Path(f"{value}.checkpoint"), "checkpoint"


def _same(one: Path, other: Path) -> bool:
    """Whether two paths are one file, through links too; or would be, where none is there."""
    if one.exists() and other.exists():
        return os.path.samefile(one, other)
    return os.path.realpath(one) == os.path.realpath(other)


def _check_old(options: argparse.Namespace, word: str, path: Path, kind: str) -> None:
    if not path.exists():
        return
    if (there := kind_of(path)) != kind:
        what = "of another kind" if there == "other" else f"a {there}"
        raise FileExistsError(
            f"{word} {path} is there, and {what}, which is never replaced by a {kind}; name "
            f"another file"
        )
    resumed = getattr(options, "resume", False) and not Path(options.out).exists()
    if options.force or resumed or kind == "checkpoint":  # of which `train` says more
        return
    raise FileExistsError(
        f"{word} {path} is there already; add --force to replace it, or name another file"
    )
