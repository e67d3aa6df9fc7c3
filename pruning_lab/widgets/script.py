"""The studio view's JavaScript as one module: notebooks cannot resolve relative imports."""

import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "pages" / "studio"
_IMPORT = re.compile(r"^import\s+(?:[^;'\"]*?\sfrom\s*)?[\"']\./([\w-]+)\.js[\"'];?[ \t]*\n", re.M)
_EXPORT = re.compile(r"^export (?=async |class |const |function |let )", re.M)


def script(name: str = "view", folder: Path = FOLDER) -> str:
    """The module with all that it imports before it, in one scope; only its own exports stay.

    Modules import each other's names as they are: no `as`, no default.
    """
    return "".join(_parts(name, folder, []))


def style(folder: Path = FOLDER) -> str:
    return (folder / "studio.css").read_text(encoding="utf-8")


def _parts(name: str, folder: Path, seen: list[str], *, last: bool = True) -> list[str]:
    seen.append(name)
    text, parts = (folder / f"{name}.js").read_text(encoding="utf-8"), []
    for other in _IMPORT.findall(text):
        if other not in seen:
            parts += _parts(other, folder, seen, last=False)
    text = _IMPORT.sub("", text)
    return [*parts, text if last else _EXPORT.sub("", text)]
