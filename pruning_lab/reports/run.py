"""What a run found, beside the paper: a sentence, two tables, and a page for the browser."""

import base64
from collections.abc import Iterable, Mapping, Sequence

from jinja2 import Environment, PackageLoader
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from pruning_lab import neurons, paper, plots
from pruning_lab.counts import Counts, LayerCount
from pruning_lab.evaluation import Accuracy, Drop
from pruning_lab.experiments import Run, tables
from pruning_lab.experiments.tables import Cells, aligned, change_of, described, error_of, images_of
from pruning_lab.masks import Receipt, ReceiptRow, prunable
from pruning_lab.rows import decode
from pruning_lab.sensitivity import ScanPoint


def sentence(record: dict) -> str:
    """The result: weights kept, compression, the change of accuracy and that from the control."""
    total, data, test = _counts(record).total, record["data"], record["test"]
    points, interval = change_of(Drop(**test["drop"]))
    return (
        f"{_name(record)} keeps {total.kept:,} of its {total.weights:,} weights "
        f"({total.density:.1%}; {_compression(record):.1f}x fewer parameters, biases counted), and "
        f"its accuracy on {data['images']['test']:,} test images of {data['name']} changes by "
        f"{points} points ({interval}, paired 95 % interval) from the dense network's "
        f"{test['dense']['value']:.2%}. {_against_control(test)}"
    )


def _against_control(test: dict) -> str:
    """What pruning itself cost: the control had the same training."""
    if test["control"] is None:
        return "There was no control, so what pruning itself cost is not known."
    found = Drop(**test["control_drop"])
    points, interval = change_of(found)
    verdict = {"worse": "so pruning cost accuracy", "better": "so pruning gained accuracy"}
    return (
        f"Against the control, the dense network trained on for exactly as long "
        f"({test['control']['value']:.2%}), it changes by {points} points ({interval}), "
        f"{verdict.get(found.conclusion, 'which may be chance')}."
    )


def table_1(record: dict) -> Cells:
    """The network's line of Table 1, on its side: paper | this run, with intervals."""
    return tables.network_row([record]).cells


def layer_table(record: dict) -> Cells:
    """The network's rows of Tables 2-5, each number as paper | this run."""
    return tables.layer_table([record]).cells


def beside(theirs: Mapping[str, object], ours: Mapping[str, object]):
    """A DataFrame with the paper's numbers beside ours: a row per name, such as {"error": 0.0164}.

    An accuracy is shown as its error with its interval, a drop as a change with its own; a float
    below 1 as a percentage. A row per layer of Counts: `layers_beside`.
    """
    import pandas  # part of the course's installation, not of the library's

    rows = {name: [_shown(side.get(name)) for side in (theirs, ours)] for name in theirs | ours}
    return pandas.DataFrame.from_dict(rows, orient="index", columns=["paper", "ours"])


def layers_beside(
    theirs: Iterable[paper.LayerRow],
    ours: Counts,
    columns: Sequence[str] = ("weights", "flops", "activation_density", "density", "flop_density"),
):
    """A DataFrame with a row per layer and, for each column, the paper's number beside ours."""
    import pandas

    found = {row.layer: row for row in (*ours, ours.total)}
    table = {
        (column, whose): {row.layer: _shown(getattr(row, column)) for row in rows}
        for column in columns
        for whose, rows in (("paper", theirs), ("ours", found.values()))
    }
    return pandas.DataFrame(table)


def _shown(value: object) -> str:
    if isinstance(value, Accuracy):
        return "{} ({})".format(*error_of(value))
    if isinstance(value, int | float):
        return f"{value:.2%}" if isinstance(value, float) and value <= 1 else f"{value:,.0f}"
    return "" if value is None else str(value)


def text(record: dict) -> str:
    """The sentence and both tables for a terminal."""
    first, second = _titles(record)
    return (
        f"{sentence(record)}\n\n{first}{_name(record)}; {_test(record)}\n"
        f"{aligned(table_1(record))}\n\n{second}layer by layer, biases not counted\n"
        f"{aligned(layer_table(record))}"
    )


def html(run: Run, command: str | None = None) -> str:
    """One page that needs nothing else: the result, tables, and plots inside it.

    `command`, which is shown too, is what made it; by default that of the record, if it has one.
    """
    record, counts = run.record, _counts(run.record)
    paper_rows = _paper_layers(record)
    wide = plots.layer_table(counts, paper_rows, ax=_axes(max(6.5, 0.9 * len(counts))))
    first, kept = next(iter(run.mask.items()))
    of_pixels = kept.ndim == 2 and kept.shape[1] == 28 * 28
    draw = (plots.bands, plots.kept_pixels) if of_pixels else ()
    pages = Environment(loader=PackageLoader("pruning_lab", "pages"), autoescape=True)
    return pages.get_template("report.html").render(
        title=f"{_name(record)}, pruned {_compression(record):.0f}x",
        sentence=sentence(record),
        command=command or record.get("command"),
        about=_about(record),
        table_1=table_1(record),
        test=_test(record),
        titles=_titles(record),
        beside=", beside the paper" if paper_rows else "",
        layer_table=layer_table(record),
        weights_only=f"{counts.weights_only_flop_density:.1%}",
        layers=_pictures(wide),
        **_stages(record.get("stages")),
        neurons=_neurons(run.model),
        scan=_pictures(_scan(record["scan"])) if record.get("scan") else [],
        weights=_pictures(*_histograms(run)),
        first=first,
        pixels=_pictures(*(plot(kept, ax=_axes()) for plot in draw)),
    )


def _stages(stages: list[dict] | None) -> dict:
    """The curves before and after retraining, and the receipt of the last pruning."""
    if not stages:
        return {}
    ax = _axes()
    for kind, label in (("cut", "pruned"), ("retrained", "retrained")):
        rows = [stage for stage in stages if stage["kind"] == kind]
        points = [(row["kept"] / row["weights"], Drop(**row["val_drop"])) for row in rows]
        plots.trade_off(points, label=label, ax=ax)
    receipt = decode(list[ReceiptRow], stages[-1]["receipt"], "the receipt")
    cells = [[cell(row) for cell in Receipt.columns.values()] for row in receipt]
    return {"stages": _pictures(ax), "receipt": [list(Receipt.columns), *cells]}


def _neurons(model: nn.Module) -> Cells:
    """What is dead after pruning, layer by layer; nothing of a network that is no chain."""
    try:
        found = neurons.find(model)
    except (TypeError, ValueError):
        return []
    header = ("layer", "neurons", "dead\nby output", "dead\nby input", "can be\nremoved")
    header += ("weights\nwith them", "biases\nwith them", "note")
    lines = [
        (r.layer, r.neurons, r.by_output, r.by_input, r.removed, r.weights, r.biases, r.note)
        for r in (*found, found.total)
    ]
    return [header, *(tuple(f"{c:,}" if isinstance(c, int) else c for c in line) for line in lines)]


def _scan(rows: list[dict]) -> Axes:
    ax = plots.sensitivity(decode(list[ScanPoint], rows, "the scan"), ax=_axes(height=4.6))
    handles, labels = ax.get_legend_handles_labels()
    ax.get_legend().remove()  # beneath, where a narrow page has room for it
    beneath = {"loc": "outside lower center", "ncols": 3, "handlelength": 3.5, "frameon": False}
    ax.figure.legend(handles, labels, **beneath)
    return ax


def _histograms(run: Run) -> Iterable[Axes]:
    dense, pruned = prunable(run.dense), prunable(run.model)
    for name, kept in run.mask.items():
        layers = {f"{name}, dense": dense[name].weight, "pruned": pruned[name].weight[kept]}
        with plots.style():
            yield plots.weights_beside(layers, down=True, figure=Figure(figsize=(5.2, 4.2)))[0]


def _axes(width: float = 5.2, height: float = 3.6) -> Axes:
    """Axes of that many inches: by default such that a phone shows them at a readable size."""
    with plots.style():
        return Figure(figsize=(width, height)).subplots()


def _pictures(*axes: Axes) -> list[tuple[str, float]]:
    """The figure of each as SVG in base64, and its width in inches."""
    return [
        (base64.b64encode(plots.svg(ax.figure)).decode(), ax.figure.get_figwidth()) for ax in axes
    ]


def _name(record: dict) -> str:
    return described(record["recipe"]["network"])


def _paper_layers(record: dict) -> tuple[paper.LayerRow, ...]:
    return paper.LAYER_TABLES.get(record["recipe"]["network"], ())


def _titles(record: dict) -> tuple[str, str]:
    """How the paper numbers the two tables; nothing for a network that it does not have."""
    number = paper.TABLE_NUMBERS.get(record["recipe"]["network"])
    return ("Table 1: ", f"Table {number}: ") if number else ("", "")


def _compression(record: dict) -> float:
    return record["parameters"]["dense"] / record["parameters"]["pruned"]


def _counts(record: dict) -> Counts:
    """The pruned network's rows as they were counted; the last one of the record is the total."""
    return Counts(LayerCount(**row) for row in record["layers"]["pruned"][:-1])


def _test(record: dict) -> str:
    data, theirs = record["data"], images_of(record["recipe"]["network"])
    note = f"; the paper's are of {theirs}" if _paper_layers(record) else ""
    note = "" if data["name"] == theirs else note
    once = ", used once" if "seed" in record else ""  # by a run; a report may be made again
    return f"errors on {data['images']['test']:,} test images of {data['name']}{once}{note}"


def _about(record: dict) -> list[str]:
    """Where the numbers come from: versions, machine, and the time it took."""
    parts = [f"{name} {value}" for name, value in (record["versions"] | record["machine"]).items()]
    if seconds := record.get("seconds"):
        parts.append(f"{sum(seconds.values()):,.0f} s of training, scan and retraining")
    return parts
