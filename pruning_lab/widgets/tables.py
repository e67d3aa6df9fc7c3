"""Numbers as HTML: small tables, the headline, and the panel's colours in a light and a dark theme."""

from collections.abc import Iterable, Sequence
from html import escape

from pruning_lab.studio import ALL, LayerMetrics, Metrics, Studio

STYLE = """<style>
.studio-panel { --good: #0a6b3b; --wait: #9a5b00; --bad: #a40e26; --gain: #1f6feb; --noise: #6e7781 }
[data-jp-theme-light="false"] .studio-panel, .theme-dark .studio-panel
{ --good: #4cc38a; --wait: #e0a34a; --bad: #ff8595; --gain: #6cb0ff; --noise: #9aa4ae }
.studio-panel img { max-width: 100%; object-fit: contain }
[data-jp-theme-light="false"] .studio-plot, .theme-dark .studio-plot
{ filter: invert(0.9) hue-rotate(180deg) }
</style>"""


def table(rows: Iterable[Sequence[str]], align: str = "") -> str:
    """HTML rows: a faded name, then its cells; `align` has a letter for each of these, r or l."""
    sides = {"r": "right", "l": "left"}
    pad = "padding: 0 1em 0 0"
    lines = []
    for name, *cells in rows:
        line = f'<td style="{pad}; opacity: 0.7">{name}</td>'
        for side, cell in zip(align or "l" * len(cells), cells, strict=True):
            line += f'<td style="{pad}; text-align: {sides[side]}">{cell}</td>'
        lines.append(f"<tr>{line}</tr>")
    return f'<table style="line-height: 1.6">{"".join(lines)}</table>'


def percent(density: float) -> str:
    return f"{density:.1%}" if density >= 0.01 or density == 0 else f"{density:.2%}"


def points(drop: float) -> str:
    """The change of accuracy, in percentage points, that a drop is."""
    return f"{-100 * drop + 0.0:+.2f}"  # no -0.00


def size(count: float) -> str:
    """Three digits and a unit's prefix: 61M weights, 1.45G operations."""
    power = 0
    while count >= 999.5 and power < 4:
        count, power = count / 1000, power + 1
    return f"{count:.3g} {' kMGT'[power].strip()}"


def alert(words: str) -> str:
    return f'<div role="alert" style="color: var(--bad, #a40e26)">▲ {escape(words)}</div>'


def short_names(names: Sequence[str], most: int = 16) -> dict[str, str]:
    """Names of at most `most` letters, cut in the middle; more where two would look alike."""
    for width in range(most, max(map(len, names)) + 1):
        tail = 2 * width // 3
        labels = {n: n if len(n) <= width else f"{n[: width - tail - 1]}…{n[-tail:]}" for n in names}
        if len({*labels.values()}) == len(names):
            return labels
    return {name: name for name in names}


def headline(metrics: Metrics, studio: Studio) -> str:
    """What one looks at first, large enough for the last row of a classroom."""
    accuracy, change = "…", "…"
    if metrics.accuracy is not None:
        a = metrics.accuracy
        accuracy = f"{a.value:.2%} {_small(f'{a.low:.2%} to {a.high:.2%}, {a.n:,} images')}"
        value, _, interval = str(metrics.drop).partition(" ")
        change = f"{value} {_small(interval)}"
    flops = "…" if metrics.flops is None else f"{size(metrics.flops_kept)}FLOP"
    cells = (
        ("accuracy on val", accuracy),
        ("change of accuracy", change),
        ("weights kept", f"{percent(metrics.density)} {_small(f'{metrics.kept:,}')}"),
        ("stored", f"{size(metrics.bytes)}B {_small(f'of {size(4 * metrics.weights)}B')}"),
        ("per image", flops),
    )
    faded = "" if metrics.final else "; opacity: 0.7"
    parts = "".join(
        f'<div style="margin-right: 1.3em"><div style="opacity: 0.7">{name}</div>'
        f'<div style="font-size: 20px; font-weight: 600{faded if "acc" in name else ""}">'
        f"{value}</div></div>"
        for name, value in cells
    )
    used = ""
    if studio.tested is not None:
        used = (
            f"<div>test images: {studio.tested}, change {studio.test_drop}; looked at "
            f"{studio.tests} times</div>"
        )
    return (
        f'<div style="line-height: 1.5"><div style="display: flex; flex-wrap: wrap">{parts}</div>'
        f"{_status(metrics)}{used}</div>"
    )


def _small(words: str) -> str:
    return f'<span style="font-size: 13px; font-weight: 400">{words}</span>'


def _status(metrics: Metrics) -> str:
    """Whether what is shown is up to date."""
    if metrics.status.startswith("failed"):
        return alert(metrics.status)
    done = metrics.final and metrics.status == "ready"
    colour, sign = ("var(--good, #0a6b3b)", "●") if done else ("var(--wait, #9a5b00)", "◌")
    words = "up to date" if done else metrics.status
    return f'<div style="color: {colour}; font-size: 15px">{sign} {escape(words)}</div>'


def layers_table(metrics: Metrics, made_by: dict[str, list[str]]) -> str:
    """A row per layer: what was asked, in earlier weights too, and what that comes to."""
    rows = [("layer", "asked", "threshold", "kept", "of weights", "bytes", "operations")]
    for row in metrics.layers:
        flops = None if row.flops is None else row.flops * row.density
        cells = escape(row.layer), _asked(row, made_by.get(row.layer, [])), f"{row.threshold:.4g}"
        rows.append((*cells, *_amounts(row.kept, row.weights, row.bytes, flops)))
    total = _amounts(metrics.kept, metrics.weights, metrics.bytes, metrics.flops_kept)
    return table([*rows, ("all", "", "", *total)], "lrrrrr")


def _asked(row: LayerMetrics, before: list[str]) -> str:
    asked = [f"{words}, retrained" for words in before]
    if row.asked != ALL or not asked:
        asked.append("all" if row.asked == ALL else str(row.asked))
    return ", then ".join(asked) + (" (locked)" if row.locked else "")


def _amounts(kept: int, weights: int, stored: int, flops: float | None) -> tuple[str, ...]:
    return (
        f"<b>{percent(kept / max(weights, 1))}</b>",
        f"{kept:,} of {weights:,}",
        f"{size(stored)}B",
        "…" if flops is None else size(flops),
    )


def attempts_table(studio: Studio) -> str:
    """The latest on top; a star where no other is as accurate with as few weights."""
    comparison = studio.compare()
    best = {attempt.number for attempt in comparison.pareto}
    rows = [("", "line", "what", "name", "kept", "accuracy", "change")]
    for a in reversed(comparison):
        number = f"{'★ ' if a.number in best else ''}{a.number}"
        number += " ◀" if a.number == studio.attempt.number else ""
        accuracy = "" if a.accuracy is None else f"{a.accuracy.value:.2%}"
        change = "" if a.drop is None else str(a.drop)
        words = (escape(a.line), escape(a.what), escape(a.name))
        rows.append((number, *words, percent(a.density), accuracy, change))
    return f'<div style="max-height: 320px; overflow: auto">{table(rows, "lllrrl")}</div>'
