"""What a run found, beside the paper: two tables for the terminal and one page for the browser."""

import base64
import io
from html import escape

import matplotlib.figure
from tabulate import tabulate

from pruning_lab import masks, paper, plots
from pruning_lab.counts import Counts, LayerCount
from pruning_lab.evaluation import Accuracy, Drop
from pruning_lab.experiments import Run
from pruning_lab.rows import decode
from pruning_lab.sensitivity import ScanPoint

Table = list[tuple[str, ...]]  # the first row is the header


def table_1(record: dict) -> Table:
    """The network's line of Table 1, turned on its side: paper | this run, with intervals."""
    theirs = paper.TABLE_1[record["recipe"]["network"]]
    dense, pruned = (Accuracy(**record["test"][which]) for which in ("dense", "pruned"))
    change = Drop(**record["test"]["drop"])
    total, kept = record["parameters"]["dense"], record["parameters"]["pruned"]
    points = 100 * (theirs.error - theirs.dense_error)
    return [
        ("", *_sources(record), "95 % interval"),
        ("error, dense", f"{theirs.dense_error:.2%}", *_error(dense)),
        ("error, pruned", f"{theirs.error:.2%}", *_error(pruned)),
        (
            "change in points",
            f"{points:+.2f}",
            f"{100 * change.value:+.2f}",
            f"{100 * change.low:+.2f} to {100 * change.high:+.2f}, paired",
        ),
        ("parameters, dense", _short(theirs.dense_parameters), f"{total:,}", ""),
        ("parameters, pruned", _short(theirs.parameters), f"{kept:,}", ""),
        ("compression", f"{theirs.compression}x", f"{total / kept:.1f}x", ""),
    ]


def layer_table(record: dict) -> Table:
    """The network's rows of Tables 2-5; each density as paper | this run."""
    theirs = {row.layer: row for row in paper.LAYER_TABLES[record["recipe"]["network"]]}
    header = ("layer", "weights", "FLOP", "act%", "", "weights%", "", "FLOP%", "")
    below = ("", "", "", *3 * ("paper", "ours"))
    rows = []
    for row in record["layers"]["pruned"]:
        cells = [row["layer"], f"{row['weights']:,}", f"{row['flops']:,}"]
        for column in ("activation_density", "density", "flop_density"):
            cells += [f"{getattr(theirs[row['layer']], column):.0%}", f"{row[column]:.1%}"]
        rows.append(tuple(cells))
    return [header, below, *rows]


def text(record: dict) -> str:
    """Both tables for a terminal."""
    network = record["recipe"]["network"]
    first, second = table_1(record), layer_table(record)
    return "\n".join(
        [
            f"Table 1: {paper.TABLE_1[network].network}; {_test(record)}",
            _plain(first),
            "",
            f"Table {paper.TABLE_NUMBERS[network]}: layer by layer, biases not counted",
            _plain(second),
        ]
    )


def html(run: Run) -> str:
    """One page that needs nothing else: tables, and plots as pictures inside it."""
    record = run.record
    network = record["recipe"]["network"]
    name = paper.TABLE_1[network].network
    number = paper.TABLE_NUMBERS[network]
    total, kept = record["parameters"]["dense"], record["parameters"]["pruned"]
    weights_only = _counts(record).weights_only_flop_density
    parts = [
        f"<h1>{escape(name)}, pruned {total / kept:.0f}x</h1>",
        f"<p>{escape(_about(record))}</p>",
        "<h2>Table 1, and this run</h2>",
        _html_table(table_1(record)),
        f"<p class='small'>{escape(_test(record))}. The interval of the change is that of the "
        "paired difference: both networks answered the same images.</p>",
        f"<h2>Table {number}, layer by layer</h2>",
        _html_table(layer_table(record), heads=2),
        "<p class='small'>Weights without biases; FLOP: two per multiply-accumulate, before "
        "pooling; act%: outputs that are not zero, after ReLU and pooling; FLOP%: operations left "
        "when zero weights and zero inputs are skipped. "
        f"Counting zero weights alone, {weights_only:.1%} of the operations are left.</p>",
        _picture(_draw_layers(record), "What is left of each layer, beside the paper."),
    ]
    if record.get("stages"):
        parts += [
            "<h2>Cut and retrained</h2>",
            _picture(
                _draw_rounds(record),
                "Accuracy on the val split after each cut and each retraining, 95 % intervals; the "
                "grey band is the dense network's.",
            ),
            "<h3>The last cut</h3>",
            _html_table(_receipt(record)),
        ]
    if record.get("scan"):
        parts += [
            "<h2>Sensitivity</h2>",
            _picture(
                _draw_scan(record),
                "One layer pruned, the others dense, no retraining; val split, 95 % intervals.",
            ),
        ]
    parts += [
        "<h2>Weights, before and after</h2>",
        _picture(_draw_weights(run), "Above: dense. Below: the weights that are left."),
    ]
    first = next(iter(run.mask))
    if run.mask[first].ndim == 2 and run.mask[first].shape[1] == 28 * 28:
        parts += [
            f"<h2>What {escape(first)} looks at</h2>",
            _picture(
                _draw_bands(run, first),
                "Each band is one row of the image, as in the paper's Fig. 4; blue is kept. Below: "
                "how many connections each pixel still has.",
            ),
        ]
    body = "\n".join(parts)
    return (
        f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        f"<meta name='generator' content='pruning_lab'>"
        f"<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(name)}, pruned {total / kept:.0f}x</title><style>{_STYLE}</style></head>"
        f"<body>\n{body}\n</body></html>\n"
    )


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #24292f; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.9rem; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #d0d7de; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #eaeef2; }
th:first-child, td:first-child { text-align: left; }
tr:last-child td { border-bottom: 2px solid #d0d7de; }
img { max-width: 100%; } figure { margin: 1rem 0; }
figcaption, .small { color: #57606a; font-size: .9rem; }
"""


def _error(accuracy: Accuracy) -> tuple[str, str]:
    """An error and its interval: that of the accuracy, turned round."""
    return f"{accuracy.error:.2%}", f"{1 - accuracy.high:.2%} to {1 - accuracy.low:.2%}"


def _short(count: float) -> str:
    """A count as the paper prints it: 22K, 6.7M."""
    return f"{count / 1e6:g}M" if count >= 1e6 else f"{count / 1e3:g}K"


def _sources(record: dict) -> tuple[str, str]:
    """Whose numbers stand in a column: those of other images are never shown as if of the same."""
    theirs, ours = _images_of_the_paper(record), record["data"]["name"]
    return ("paper", "this run") if ours == theirs else (f"paper, {theirs}", f"this run, {ours}")


def _images_of_the_paper(record: dict) -> str:
    return "mnist" if record["recipe"]["network"].startswith("lenet") else "imagenet"


def _test(record: dict) -> str:
    data = record["data"]
    theirs = _images_of_the_paper(record)
    note = "" if data["name"] == theirs else f"; the paper's are of {theirs}"
    once = ", used once" if "seed" in record else ""  # by a run; a report may be made again
    return f"errors on {data['images']['test']:,} test images of {data['name']}{once}{note}"


def _about(record: dict) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    machine = record["machine"]
    where = f"{machine['processor']}, {machine['threads']} of {machine['cores']} cores"
    if machine["device"] != "cpu":
        where = f"{machine['device']}, {where}"
    seconds = record.get("seconds")
    took = "" if not seconds else f"; training and retraining took {_duration(seconds)}"
    seed = f"seed {record['seed']}, " if "seed" in record else ""
    return f"{seed}{versions}; on {where}{took}."


def _duration(seconds: dict) -> str:
    total = round(sum(seconds.values()))
    return f"{total} s" if total < 120 else f"{total // 60} min {total % 60} s"


def _counts(record: dict) -> Counts:
    """The pruned network's rows as they were counted."""
    names = LayerCount.__dataclass_fields__
    rows = record["layers"]["pruned"][:-1]  # the last one is the total
    return Counts(LayerCount(**{name: row[name] for name in names}) for row in rows)


def _receipt(record: dict) -> Table:
    """The last cut, with each threshold as the quality that it amounts to."""
    last = [stage for stage in record["stages"] if stage["kind"] == "cut"][-1]
    rows = decode(list[masks.ReceiptRow], last["receipt"], "the receipt")
    table = [("layer", "threshold", "sigma", "quality", "kept", "density", "note")]
    for row in rows:
        threshold, quality = "-", "-"
        if row.threshold is not None:
            threshold = f"{row.threshold:.4f}"
            quality = f"{row.threshold / row.sigma:.2f}" if row.sigma else "-"
        sigma = "-" if row.sigma is None else f"{row.sigma:.4f}"
        cells = (row.layer, threshold, sigma, quality)
        table.append((*cells, f"{row.kept:,}", f"{row.density:.1%}", row.note))
    return table


def _plain(table: Table) -> str:
    heads = 2 if not table[1][0] else 1
    align = ("left",) + ("right",) * (len(table[0]) - 1)
    lines = tabulate(table[heads:], table[0], colalign=align, disable_numparse=True)
    if heads == 1:
        return lines
    # tabulate knows one header line; the second one is set with the rows and lifted above the rule
    lines = tabulate(table[1:], table[0], colalign=align, disable_numparse=True).splitlines()
    lines[1], lines[2] = lines[2], lines[1]
    return "\n".join(lines)


def _html_table(table: Table, heads: int = 1) -> str:
    def line(cells: tuple[str, ...], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    lines = [line(row, "th" if place < heads else "td") for place, row in enumerate(table)]
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _picture(figure: matplotlib.figure.Figure, caption: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144)
    content = base64.b64encode(buffer.getvalue()).decode()
    return (
        f"<figure><img alt='{escape(caption, quote=True)}' src='data:image/png;base64,{content}'>"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _figure(width: float, height: float) -> matplotlib.figure.Figure:
    return matplotlib.figure.Figure(figsize=(width, height), layout="constrained")


def _draw_layers(record: dict) -> matplotlib.figure.Figure:
    figure = _figure(8, 3.2)
    reported = paper.LAYER_TABLES[record["recipe"]["network"]]
    plots.layer_table(_counts(record), reported, ax=figure.subplots())
    return figure


def _draw_rounds(record: dict) -> matplotlib.figure.Figure:
    figure = _figure(8, 3.6)
    ax = figure.subplots()
    for kind, label in (("cut", "after the cut"), ("retrained", "retrained")):
        points = [
            (stage["kept"] / stage["weights"], Accuracy(**stage["val"]))
            for stage in record["stages"]
            if stage["kind"] == kind
        ]
        dense = Accuracy(**record["dense_val"]) if kind == "cut" else None  # drawn once
        plots.trade_off(points, label=label, dense=dense, ax=ax)
    return figure


def _draw_scan(record: dict) -> matplotlib.figure.Figure:
    figure = _figure(8, 3.6)
    points = decode(list[ScanPoint], record["scan"], "the scan")
    plots.sensitivity(points, ax=figure.subplots())
    return figure


def _draw_weights(run: Run) -> matplotlib.figure.Figure:
    names = list(run.mask)
    figure = _figure(3.2 * len(names), 5)
    axes = figure.subplots(2, len(names), squeeze=False)
    dense, pruned = masks.prunable(run.dense), masks.prunable(run.model)
    for column, name in enumerate(names):
        plots.weights(dense[name].weight, title=name, ax=axes[0, column])
        plots.weights(pruned[name].weight, kept=run.mask[name], ax=axes[1, column])
    return figure


def _draw_bands(run: Run, layer: str) -> matplotlib.figure.Figure:
    figure = _figure(10, 7)
    above, below = figure.subplots(2, 1, height_ratios=(1, 1))
    plots.bands(run.mask[layer], ax=above)
    plots.kept_pixels(run.mask[layer], ax=below)
    return figure
