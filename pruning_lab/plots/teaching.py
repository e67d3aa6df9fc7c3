"""How a class did, task by task."""

from collections.abc import Sequence
from typing import Protocol

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from pruning_lab.plots import looks


class Earned(Protocol):
    """A task of one student, such as a `course.Grade`."""

    task: str
    sign: str
    points: int
    most: int


def class_points(rows: Sequence[Earned], *, title: str = "", ax: Axes | None = None) -> Axes:
    """A bar for each task: who is right, wrong, and has not yet answered, of all students."""
    if not rows:
        raise ValueError("no rows to draw; give those of course.grade")
    tasks = list(dict.fromkeys(row.task for row in rows))
    size = 1.2 + 0.26 * len(tasks)
    ax = looks.axes(ax, title, "students", "", figsize=(7, size))
    left = [0.0] * len(tasks)
    parts = (("✓", "right", looks.KEPT), ("✗", "wrong", looks.PAPER), ("○", "not yet", looks.GONE))
    for sign, word, colour in (*parts, ("", "by hand", looks.NOISE)):
        signs = [[row.sign for row in rows if row.task == task] for task in tasks]
        widths = [each.count(sign) / len(each) for each in signs]
        if any(widths):
            ax.barh(tasks, widths, left=left, color=colour, label=word)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    ax.set_xlim(0, 1)
    ax.invert_yaxis()
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return looks.legend(ax, **looks.BESIDE)
