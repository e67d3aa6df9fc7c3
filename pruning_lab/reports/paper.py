"""The paper's tables and figures, each beside ours where it was made, on one page."""

import base64
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader

from pruning_lab import files, paper
from pruning_lab.experiments import Result
from pruning_lab.experiments.results import FOLDER
from pruning_lab.experiments.rivals import Rival
from pruning_lab.experiments.tables import (
    Cells,
    LayerRow,
    LayerTable,
    NetworkRow,
    described,
    error_of,
    images_of,
    short,
)
from pruning_lab.plots import DPI
from pruning_lab.reports.claims import CLAIMS, Claim, Finding, known

_PNG = b"\x89PNG\r\n\x1a\n"
_CONTROL = "The paper has no control: the dense network trained on for exactly as long."
_LAYERS = {f"table-{number}": name for name, number in paper.TABLE_NUMBERS.items()}
_ACTIVATIONS = "act%, and FLOP% with it, depend on the images and on training."
_REASONS = {
    "table-1": _CONTROL,
    "figure-5": _CONTROL,
    **dict.fromkeys(_LAYERS, _ACTIVATIONS),
    "table-6": "Ours are all made as small as the pruned network; the paper's differ in size. "
    + _CONTROL,
    "figure-1": "Nothing is measured here: these are the paper's numbers.",
}


@dataclass(frozen=True)
class Section:
    """A table or figure on the page; without a result the paper's alone."""

    name: str
    command: str  # that makes it
    cells: Cells | None  # of a table
    result: Result | None = None
    findings: tuple[Finding, ...] = ()
    differences: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()  # what was made in another way than in the paper
    picture: tuple[str, float] | None = None  # PNG in base64, and its width in inches

    @property
    def claim(self) -> Claim:
        return CLAIMS[self.name]

    @property
    def label(self) -> str:
        return self.name.capitalize().replace("-", " ")

    @property
    def verdict(self) -> str:
        found = {holds for holds, _ in self.findings} or {None}
        if len(found) > 1:
            return "holds in part" if True in found else "does not hold"
        return {True: "holds", False: "does not hold", None: "not tried"}[found.pop()]

    @property
    def caption(self) -> str:
        """What the paper's is of, and what ours is of."""
        if self.result and self.name.startswith("figure"):
            return self.result.caption
        networks = (f"{paper.TABLE_1[n].network} on {images_of(n)}" for n in self.claim.networks)
        theirs = f"Paper: {', '.join(networks) or 'a 45 nm process'}."
        ours = self.result.caption.removeprefix(f"{self.label}: ") if self.result else ""
        return f"{theirs} Here: {ours}." if ours else theirs

    @property
    def about(self) -> list[str]:
        """Where the numbers come from."""
        made = self.result
        parts = [f"{name} {value}" for name, value in (made.versions | made.machine).items()]
        return [f"seeds {', '.join(map(str, made.seeds))}" if made.trained else "no seed", *parts]


def paper_sections(folder: str | Path) -> list[Section]:
    """Every table and figure of the paper, with what a folder has of them (`experiments.Result`).

    Raises ValueError where a file is broken, or of something else.
    """
    return [_section(Path(folder), name) for name in CLAIMS]


def paper_html(sections: Sequence[Section]) -> str:
    """One page that needs nothing else."""
    pages = Environment(loader=PackageLoader("pruning_lab", "pages"), autoescape=True)
    return pages.get_template("paper.html").render(sections=sections, summary=_summary(sections))


def paper_text(sections: Sequence[Section]) -> str:
    """The summary for a terminal."""
    lines = (f"{part.label:10}{part.verdict:15}{part.claim.text}" for part in sections)
    return "\n".join((_summary(sections), "", *lines))


def _summary(sections: Sequence[Section]) -> str:
    found = Counter(part.verdict for part in sections)
    return (
        f"Of the paper's {len(sections)} tables and figures with numbers, "
        f"{len(sections) - found['not tried']} have been made here. What it says of them holds for "
        f"{found['holds']}, in part for {found['holds in part']}, and not for "
        f"{found['does not hold']}."
    )


def _section(folder: Path, name: str) -> Section:
    path, kind = folder / f"{name}.json", name.partition("-")[0]
    out = path.with_suffix(".png") if kind == "figure" else path
    words = [*name.split("-"), *(("--out", str(out)) if folder != FOLDER else ())]
    command = shlex.join(("pruning-lab", *words))
    if not path.exists():
        return Section(name, command, _cells(name, ()))
    result, claim = Result.load(path, name), CLAIMS[name]
    try:
        findings, differences = tuple(claim.judge(result)), tuple(claim.differences(result))
        reasons = tuple(_reasons(name, result))
        cells = _cells(name, result.rows)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        what = f"is broken: its rows are not those of {name}; make it again: {command}"
        raise files.wrong(path, what) from error
    picture = _picture(out) if kind == "figure" else None
    return Section(name, command, cells, result, findings, differences, reasons, picture)


def _picture(path: Path) -> tuple[str, float]:
    with files.open_file(path) as file:
        content = file.read()
    width = int.from_bytes(content[16:20])  # of the header, which stands first
    if not (content.startswith(_PNG) and width):
        raise files.wrong(path, "is not a PNG picture; make it again, or delete the .json beside")
    return base64.b64encode(content).decode(), width / DPI


def _reasons(name: str, result: Result) -> Iterator[str]:
    networks = CLAIMS[name].networks
    for made in result.trained:
        recipe, shape, parts = made.recipe, made.recipe.shape, []
        theirs = recipe.network if recipe.network in networks else networks[0]
        if recipe.network != theirs:
            parts.append(f"another network than the paper's, {paper.TABLE_1[theirs].network}")
        if made.data != images_of(theirs):
            classes = f", of {shape['classes']} classes" if "classes" in shape else ""
            parts.append(f"images of {made.data}{classes}, not of {images_of(theirs)}")
        if shape.get("width", 1) < 1:
            parts.append(f"{shape['width']:g} of the channels and units")
        if recipe.dense.shift:
            parts.append("trained on images that are shifted at random")
        if name in _LAYERS and isinstance((recipe.rounds or ({},))[-1].get("density"), dict):
            parts.append("densities taken from the paper, so that weights% agree by construction")
        if parts:
            yield f"{described(recipe.network, shape)}: {'; '.join(parts)}."
    if name in _REASONS:
        yield _REASONS[name]


def _cells(name: str, rows: Sequence) -> Cells | None:
    """A table's cells; without rows, the paper's alone."""
    if name in _LAYERS:
        return _layer_cells(_LAYERS[name], rows)
    if name == "table-1":
        header = "error", "change to\nthe pruned", "parameters", "compression\n(of weights)"
        return _pairs(header, _networks(rows))
    if name == "table-6":
        header = "error", "change from\nthe control", "parameters", "compression"
        return _pairs(header, _rivals(rows))
    return None


def _layer_cells(network: str, rows: Sequence[LayerRow]) -> Cells:
    theirs = {row.layer: row for row in paper.LAYER_TABLES[network]}
    if rows:
        return LayerTable(LayerRow(r.layer, r.ours, theirs.get(r.layer)) for r in rows).cells
    columns = {h: cell for h, cell in LayerTable.columns.items() if not h.endswith("ours")}
    lines = [LayerRow(layer, None, row) for layer, row in theirs.items()]
    return [tuple(columns), *(tuple(cell(line) for cell in columns.values()) for line in lines)]


def _pairs(header: Sequence[str], lines: Iterable[tuple]) -> Cells:
    """Each number as paper | ours, without the columns that are empty."""
    cells = [("", *(f"{word}\n{whose}" for word in header for whose in ("paper", "ours")))]
    cells += [(name, *(cell for pair in pairs for cell in pair)) for name, *pairs in lines]
    columns = zip(*cells, strict=True)
    return list(zip(*(column for column in columns if any(column[1:])), strict=True))


def _networks(rows: Sequence[NetworkRow]) -> Iterator[tuple]:
    """As in the paper, a line before pruning and one after; and the control's."""
    ours, none = known(rows), ("", "")
    for name, theirs in paper.TABLE_1.items():
        error, size, lost, rate = {}, {}, {}, ""
        if row := ours.get(name):
            error = {which: f"{found.error:.2%}" for which, found in row.accuracy.items()}
            size = {which: f"{row.parameters[which]:,}" for which in ("dense", "pruned")}
            lost = {which: drop.brief for which, drop in row.drop.items()}
            rate = f"{row.parameters['dense'] / row.parameters['pruned']:.1f}x"
            rate += f" ({row.total.weights / max(row.total.kept, 1):.1f}x)"
        yield (
            f"{theirs.network}, dense",
            (f"{theirs.dense_error:.2%}", error.get("dense", "")),
            ("", lost.get("dense", "")),
            (short(theirs.dense_parameters), size.get("dense", "")),
            none,
        )
        yield (
            f"{theirs.network}, pruned",
            (f"{theirs.error:.2%}", error.get("pruned", "")),
            none,
            (short(theirs.parameters), size.get("pruned", "")),
            (f"{theirs.compression}x", rate),
        )
        if "control" in error:
            control = ("", error["control"]), ("", lost["control"])
            yield f"{theirs.network}, control", *control, none, none


def _rivals(rows: Sequence[Rival]) -> Iterator[tuple]:
    ours = {row.method: row for row in rows if row.accuracy}
    theirs = {row.method.removesuffix(" Caffemodel"): row for row in paper.TABLE_6}
    for method in theirs | ours:
        their, our = 4 * ("",), 4 * ("",)
        if row := theirs.get(method):
            their = f"{row.top1_error:.2%}", "", short(row.parameters), f"{row.compression}x"
        if row := ours.get(method):
            drop = row.drop.brief if row.drop else ""
            error = "{} ({})".format(*error_of(row.accuracy))
            our = error, drop, f"{row.parameters:,}", f"{row.compression:.1f}x"
        yield method, *zip(their, our, strict=True)
