"""Numbers as HTML: tables of rows, the headline, and colours for a light and a dark theme."""

from collections.abc import Callable, Iterable, Mapping
from html import escape

from matplotlib.ticker import EngFormatter

from pruning_lab.rows import counted
from pruning_lab.studio import Metrics, Studio

size = EngFormatter(places=1)  # with a unit's prefix: 1.4 M
DARK = '[data-jp-theme-light="false"]'  # as JupyterLab says it
STYLE = f"""<style>
.studio-panel
{{ --good: #0a6b3b; --wait: #9a5b00; --bad: #a40e26 }}
{DARK} .studio-panel
{{ --good: #4cc38a; --wait: #e0a34a; --bad: #ff8595 }}
.studio-panel .widget-html-content {{ line-height: 1.5 }}
{DARK} .studio-plot {{ filter: invert(0.9) hue-rotate(180deg) }}
</style>"""


def table(columns: Mapping[str, Callable], rows: Iterable) -> str:
    """Rows as HTML: `columns` maps a header to the text of a row's cell, as in `rows.Rows`."""
    head = "".join(f'<th style="font-weight: 400; opacity: 0.7">{name}</th>' for name in columns)
    lines = [f'<tr style="text-align: left">{head}</tr>']
    for row in rows:
        cells = "".join(f"<td>{escape(cell(row))}</td>" for cell in columns.values())
        lines.append(f"<tr>{cells}</tr>")
    style = "line-height: 1.6; white-space: nowrap; border-spacing: 0.8em 0"
    return f'<table style="{style}">{"".join(lines)}</table>'


def attempts_table(studio: Studio) -> str:
    """The latest on top; an arrow at the current one, a star where no other beats it."""
    comparison, now = studio.compare(), studio.attempt.number
    best = {attempt.number for attempt in comparison.pareto}
    pairs = [(attempt, attempt.number in best) for attempt in reversed(comparison)]
    here = {"": lambda pair: ("▶ " if pair[0].number == now else "") + ("★" if pair[1] else "")}
    inside = table({**comparison.columns, **here}, pairs)
    return f'<div style="max-height: 320px; overflow: auto">{inside}</div>'


def percent(density: float) -> str:
    return f"{density:.1%}" if density >= 0.01 or density == 0 else f"{density:.2%}"


def alert(words: str) -> str:
    return f'<div role="alert" style="color: var(--bad)">▲ {escape(words)}</div>'


def headline(metrics: Metrics, studio: Studio) -> str:
    """What one looks at first, large enough for the last row of a classroom."""
    accuracy, change = ("…", ""), ("…", "")
    if metrics.accuracy is not None:
        a = metrics.accuracy
        accuracy = f"{a.value:.2%}", f"{a.low:.2%} to {a.high:.2%}, {a.n:,} images"
        change = tuple(str(metrics.drop).split(" ", 1))
    flops = "…" if metrics.flops is None else f"{size(metrics.flops_kept)}FLOP"
    cells = {
        "accuracy on val": accuracy,
        "change of accuracy": change,
        "weights kept": (percent(metrics.density), f"{metrics.kept:,}"),
        "stored": (f"~{size(metrics.bytes)}B", f"of {size(4 * metrics.weights)}B"),
        "per image": (flops, ""),
    }
    parts = ""
    for name, (value, details) in cells.items():
        faded = "" if metrics.final or "acc" not in name else "; opacity: 0.7"
        parts += (
            f'<div style="margin-right: 1.3em"><div style="opacity: 0.7">{name}</div>'
            f'<b style="font-size: 20px{faded}">{value}</b> {details}</div>'
        )
    used = ""
    if studio.tested is not None:
        used = (
            f"<div>test images: {studio.tested}, change {studio.test_drop}; looked at "
            f"{counted(studio.tests, 'time')}</div>"
        )
    return f'<div style="display: flex; flex-wrap: wrap">{parts}</div>{_status(metrics)}{used}'


def _status(metrics: Metrics) -> str:
    """Whether what is shown is up to date."""
    if metrics.status.startswith("failed"):
        return alert(metrics.status)
    done = metrics.final and metrics.status == "ready"
    colour, words = ("good", "● up to date") if done else ("wait", f"◌ {metrics.status}")
    return f'<div style="color: var(--{colour}); font-size: 15px">{escape(words)}</div>'
