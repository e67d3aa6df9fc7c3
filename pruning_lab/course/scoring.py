"""The score of a project on the test images, which are used once; and a hall of fame."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from pruning_lab import files, models
from pruning_lab.data import Images
from pruning_lab.exercises import EXERCISES, Verdict, project
from pruning_lab.exercises.record import who
from pruning_lab.rows import Rows, decode, plain, printable

_FORM = "pruning_lab fame 1"
MOST_LOST = 0.5  # points, for a place in the hall of fame


@dataclass(frozen=True)
class Entry:
    """A project that was scored on test."""

    student: str
    network: str  # SHA-256 of the pruned network
    weights: int
    bytes: int
    flops: int
    lost: float  # points, against the dense network of the course
    sign: str  # of the student's own budget
    tests: int = 1  # how often test was used for this student


class Fame(Rows[Entry]):
    """The projects that lost at most half a point, the fewest weights first."""

    columns: ClassVar = {
        "student": lambda row: row.student or "(demo)",
        "weights kept": lambda row: f"{row.weights:,}",
        "bytes": lambda row: f"{row.bytes:,}",
        "FLOPs": lambda row: f"{row.flops:,}",
        "points lost": lambda row: f"{row.lost:.2f}",
        "own budget": lambda row: row.sign,
        "tests": lambda row: row.tests,
    }


def load(path: Path) -> tuple[Entry, ...]:
    """All that were scored, those too that lost too much."""
    if not path.exists():
        return ()
    content = decode(dict[str, list[Entry]], files.load_json(path), path, _FORM)
    return tuple(content.get("entries", ()))


def fame(entries: tuple[Entry, ...]) -> Fame:
    good = [entry for entry in entries if entry.lost <= MOST_LOST]
    return Fame(sorted(good, key=lambda entry: (entry.weights, entry.lost)))


def score(
    plan: Path,
    images: Images,
    path: Path,
    *,
    student: str = "",
    term: str = "",
    network: Path | None = None,
    again: bool = False,
) -> tuple[Verdict, Entry, Fame]:
    """Measure a plan on `images`, once; `path` is the hall of fame, which remembers that.

    The same network is not measured again. Raises ValueError for another one of the same student,
    unless `again`: then it is measured, and counted.
    """
    pruned, seed, entries = project.pruned_by(plan, network), who(student, term), load(path)
    (budget,) = EXERCISES["09.budget"].cases_of(seed)[0]
    digest = models.fingerprint(pruned)
    name = who(student)  # another term is another budget, and the same person
    own = {e.student for e in entries if e.student == name or e.student.startswith(f"{name} in ")}
    before = next((entry for entry in entries if entry.student in own), None)
    if before and before.network != digest and not again:
        raise ValueError(
            f"the test images were used for {printable(seed) or 'the demo'} already; choose on "
            f"val, or add --again, which is counted"
        )
    found = project.score(pruned, images)
    lost = round(100 * found.drop.value, 4)
    verdict, used = project.verdict(budget, found), before.tests if before else 0
    entry = Entry(seed, digest, found.weights, found.bytes, found.flops, lost, verdict.sign)
    is_new = before is None or before.network != digest
    entry = replace(entry, tests=used + is_new)
    entries = (*(each for each in entries if each.student not in own), entry)
    files.save_json(path, {"format": _FORM, "entries": plain(entries)})
    return verdict, entry, fame(entries)
