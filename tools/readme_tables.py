"""The tables of README.md and results/README.md, made from results/.

    python tools/readme_tables.py            print them
    python tools/readme_tables.py --write    replace what stands between the markers

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; a test compares the two.
"""

import re
import sys
from pathlib import Path
from statistics import fmean

from tabulate import tabulate

from pruning_lab import experiments, files, paper
from pruning_lab.evaluation import Drop
from pruning_lab.experiments.contrast import BATCHES, ContrastRow
from pruning_lab.experiments.results import Result
from pruning_lab.experiments.rivals import Rival
from pruning_lab.rows import counted, decode
from pruning_lab.storage import PackedRow

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", ROOT / "results" / "README.md")
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def frontier() -> str:
    """What pruning cost against the control, recipe by recipe, beside the paper's rows."""
    rows, found = [], frontier_rows()
    for network in dict.fromkeys(row.network for row in found):
        theirs = paper.TABLE_1[network]
        source = "MNIST" if network.startswith("lenet") else "ImageNet"
        reported = (f"{theirs.dense_error:.2%}", "none", f"{theirs.error:.2%}")
        change = f"{100 * (theirs.dense_error - theirs.error):+.2f}"
        rows.append((f"{theirs.network}, the paper", source, *reported, change, "", ""))
        rows[-1] += (f"{theirs.compression}x", "")
        free = {on: found.free(network, augmented=on) for on in (True, False)}
        for row in (row for row in found if row.network == network):
            compression = f"{row.compression:.1f}x"
            rows.append(
                (
                    ", ".join(
                        [f"ours, {counted(row.seeds, 'seed')}"]
                        + ["reduced"] * (network in experiments.REDUCED)
                        + ["not augmented"] * (not row.augmented)
                    ),
                    _images(row.data),
                    f"{row.dense_error:.2%}",
                    f"{row.control_error:.2%}",
                    f"{row.error:.2%}",
                    row.drop.brief,
                    row.cost.brief,
                    f"**{compression}**" if row == free[row.augmented] else compression,
                    f"{row.parameter_compression:.1f}x",
                    f"{row.alive_compression:.1f}x",
                )
            )
    headers = (
        *("network", "images", "dense error", "control", "pruned", "change from the dense"),
        *("change from the control", "weights", "all parameters", "no dead neurons"),
    )
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def frontier_rows() -> experiments.Frontier:
    """Of every recipe that was run with several seeds, the least compressed first."""
    found = map(files.load_json, sorted((ROOT / "results" / "frontier").glob("*.json")))
    rows = [decode(experiments.FrontierRow, result["row"], "a row") for result in found]
    networks = [*paper.TABLE_1]
    rows.sort(key=lambda r: (networks.index(r.network), not r.augmented, r.compression))
    return experiments.Frontier(rows)


def _images(name: str) -> str:
    return name.upper() if name == "mnist" else name.capitalize()


PUBLISHED = {  # weights before / after, error on MNIST's test images
    "lenet-300-100": {
        "Han et al. 2015": (12, 0.0159),
        "SNIP 2019, at initialisation": (50, 0.024),
        "Dynamic Network Surgery 2016": (56, 0.0199),
        "L-OBS 2017": (67, 0.020),
        "Sparse variational dropout 2017": (68, 0.0192),
    },
    "lenet-5": {
        "Han et al. 2015": (12, 0.0077),
        "ADMM 2018": (71, 0.008),
        "Dynamic Network Surgery 2016": (108, 0.0091),
        "Progressive ADMM 2018": (167, 0.010),
        "Soft weight sharing 2017": (200, 0.0097),
        "Sparse variational dropout 2017": (280, 0.0075),
    },
}


def published() -> str:
    """Errors at compressions of weights: other papers' and ours, the least compressed first."""
    rows, table = frontier_rows(), []
    for network, theirs in PUBLISHED.items():
        found = [(*row, name, "") for name, row in theirs.items()]
        for row in rows:
            if row.network == network and row.augmented:
                errors = f"{row.dense_error:.2%}, {row.control_error:.2%}"
                found.append((row.compression, row.error, f"ours, {row.seeds} seeds", errors))
        for compression, error, name, errors in sorted(found):
            table.append((network, name, f"{compression:.3g}x", f"{error:.2%}", errors))
    headers = ("network", "", "weights", "error", "dense, control")
    return tabulate(table, headers, tablefmt="github", disable_numparse=True)


def saliency_rows(which: str) -> experiments.Saliencies:
    """Of `benchmarks/saliencies.py`: "saliencies" or "deleted"."""
    found = files.load_json(ROOT / "results" / "saliencies.json")[which]["rows"]
    return experiments.Saliencies(decode(list[experiments.SaliencyRow], found, which))


def saliencies() -> str:
    """Changes of accuracy at equal density, before and after retraining."""
    found = {(row.saliency, row.density): row for row in saliency_rows("saliencies")}
    densities = (0.1, 0.05, 0.02)
    table = [
        (name, *(getattr(found[name, d], w).brief for w in ("cut", "cost") for d in densities))
        for name in dict.fromkeys(name for name, _ in found)
    ]
    headers = [f"{d:.0%} kept, {what}" for what in ("cut", "retrained") for d in densities]
    return tabulate(table, ("saliency", *headers), tablefmt="github", disable_numparse=True)


def deletions() -> str:
    """Training loss while weights are deleted, and OBD's accuracy from magnitude's."""
    found = {(row.saliency, row.density): row for row in saliency_rows("deleted")}
    table = [
        (
            f"{1 - density:.0%}",
            *(f"{fmean(found[n, density].losses):.3f}" for n in ("magnitude", "OBD", "random")),
            found["OBD", density].rival.brief,
        )
        for density in dict.fromkeys(density for _, density in found)
    ]
    headers = (
        "deleted",
        "loss, by magnitude",
        "by OBD",
        "at random",
        "accuracy, OBD from magnitude",
    )
    return tabulate(table, headers, tablefmt="github", disable_numparse=True)


def figure_5() -> str:
    """Whether the order of the paper's curves holds, density by density."""
    found = files.load_json(ROOT / "results" / "figure-5.json")["sentences"]
    return "\n".join(f"- {sentence}" for sentence in found)


def technique_rows() -> list[experiments.TechniqueRow]:
    """Of `benchmarks/techniques.py`."""
    found = files.load_json(ROOT / "results" / "techniques.json")["rows"]
    return decode(list[experiments.TechniqueRow], found, "techniques")


def techniques() -> str:
    """The paper's techniques, arm by arm."""
    table = [
        (
            f"{row.technique}, {row.network}, {row.density:.1%} kept" if not row.difference else "",
            row.arm,
            f"{row.error:.2%}",
            row.drop.brief,
            row.difference.brief if row.difference else "",
        )
        for row in technique_rows()
    ]
    headers = ("technique", "arm", "error", "change from the control", "from the first arm")
    return tabulate(table, headers, tablefmt="github", disable_numparse=True)


def tried() -> str:
    """What was tried at a high compression: each way against the recipe and its own control."""
    table = []
    for network, found in files.load_json(ROOT / "results" / "tried.json").items():
        for row in found["rows"]:
            cost, change = (row[n] and decode(Drop, row[n], n).brief for n in ("cost", "change"))
            first = f"{network}, {found['of_weights']:.0f}x" if not change else ""
            cells = (first, row["way"], str(row["epochs"]), str(row["seeds"]))
            errors = (f"{row['error']:.2%}", f"{row['control_error']:.2%}")
            table.append((*cells, *errors, cost, change or ""))
    headers = ("network, compression", "way", "epochs", "seeds", "val error", "control")
    headers += ("change from the control", "from the recipe")
    return tabulate(table, headers, tablefmt="github", disable_numparse=True)


def contrast() -> str:
    """Weights pruned beside neurons removed, at the same compressions."""
    rows = decode(
        list[ContrastRow], files.load_json(ROOT / "results" / "contrast.json")["rows"], "it"
    )
    table = [
        (
            f"{row.compression:.1f}x" if row.difference is None else "",
            row.method,
            f"{row.size / 1000:,.1f} kB",
            f"{row.error:.2%}",
            row.drop.brief,
            row.difference.brief if row.difference else "",
            *(f"{factor:.1f}x" for factor in row.speedup),
        )
        for row in rows
    ]
    headers = ("all parameters", "removed", "stored", "error", "change from the control")
    headers += ("from weights", *(f"as fast, batch {n}" for n in BATCHES))
    return tabulate(table, headers, tablefmt="github", disable_numparse=True)


def table_6_rows() -> list[Rival]:
    """Of `pruning-lab table 6`, the paper's own left out."""
    rows = Result.load(ROOT / "results" / "paper" / "table-6.json", "table-6").rows
    return [row for row in rows if row.accuracy]


def table_6() -> str:
    """Other methods for as many parameters, against the control."""
    table = [
        (
            row.method + (f", {row.note}" if row.note else ""),
            f"{row.error:.2%}",
            row.drop.brief if row.drop else "",
            f"{row.parameters:,}",
            f"{row.compression:.1f}x",
        )
        for row in table_6_rows()
    ]
    headers = ("method", "error", "change from the control", "parameters", "compression")
    return tabulate(table, headers, tablefmt="github", disable_numparse=True)


def naive_cut() -> str:
    """What a small dense network of as many parameters loses, beside the pruned one."""
    rows = {row.method: row for row in table_6_rows()}
    cut, pruned = (rows[name] for name in ("Naive cut", "Network pruning"))
    return (
        f"A dense AlexNet of as many parameters ({cut.parameters:,}), trained for as long, changes "
        f"by {cut.drop.brief} points from the control, the pruned one ({pruned.parameters:,}) by "
        f"{pruned.drop.brief}."
    )


def epochs() -> str:
    """Seconds of one epoch, ours and the DataLoader's."""
    speed = files.load_json(ROOT / "results" / "training-speed.json")
    rows = [
        (
            row["network"],
            row["threads"],
            row["loop"],
            f"{row['seconds, median']:.1f}",
            f"{row['times ours, median']:.1f}",
        )
        for row in speed["epochs"]
    ]
    headers = ("network", "threads", "loop", "seconds", "times ours")
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def steps() -> str:
    """A training step with a mask, as a multiple of a dense one."""
    speed = files.load_json(ROOT / "results" / "training-speed.json")
    columns = ("held", "short", "utils_prune", "gradient_hook")
    rows = [
        (
            row["network"],
            row["threads"],
            row["optimizer"],
            *(f"{row[name]:.2f}" for name in columns),
        )
        for row in speed["steps"]
        if row["batch"] == 256
    ]
    loops = ("`mask.hold`", "by `masked_fill_`", "`nn.utils.prune`", "gradient hook")
    headers = ("network", "threads", "optimizer", *loops)
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def scan() -> str:
    """A scan of all layers, and how many times as long other loops take for the same answers."""
    speed = files.load_json(SCAN_SPEED)
    full, busy = ({row["network"]: row for row in speed[name]} for name in ("rows", "short, busy"))

    def times(row: dict, name: str, digits: int = 1) -> str:
        return f"{row[name]:.{digits}f}"

    rows = [
        (
            row["network"],
            f"{row['images']:,}",
            row["layers x levels"],
            f"{row['ours, s']:.1f}",
            times(row, "ours / bound"),
            times(row, "short / ours", 2),
            times(busy[row["network"]], "short / ours", 2),
            times(full[row["network"]], "plain / ours"),
            times(full[row["network"]], "usual / ours"),
        )
        for row in speed["short"]
    ]
    headers = (
        *("network", "images", "layers x levels", "seconds", "times the bound"),
        *("short loop, times ours", "busy", "plain tensors", "usual loop"),
    )
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def choosing() -> str:
    """Change of accuracy at the same number of weights, chosen layer by layer or jointly."""
    rows = files.load_json(ROOT / "results" / "choosing.json")["rows"]
    pairs = [
        [row for row in rows if (row["network"], round(row["density"], 3)) == key]
        for key in dict.fromkeys((row["network"], round(row["density"], 3)) for row in rows)
    ]

    def points(row: dict) -> str:
        change, low, high = (-100 * row[f"test {name}"] for name in ("drop", "high", "low"))
        return f"{change:+z.2f} ({low:+z.2f} to {high:+z.2f})"

    table = [
        (
            single["network"],
            f"{single['density']:.0%}",
            f"{-100 * single['sum of single drops']:+z.2f}",
            points(single),
            points(joint),
        )
        for single, joint in pairs
    ]
    headers = (
        *("network", "weights kept", "sum of single changes"),
        *("change, single (points)", "change, joint (points)"),
    )
    return tabulate(table, headers, tablefmt="github", disable_numparse=True)


def photos() -> str:
    """The paper's ImageNet rows, and ours of other photos, each under its own name."""
    rows = []
    found = files.load_json(ROOT / "results" / "photos.json")["rows"]
    ran = {row["recipe"]["network"] for row in found}
    for network in (name for name in ("alexnet", "vgg-16") if name in ran):
        theirs = paper.TABLE_1[network]
        rows.append(
            (
                f"{theirs.network}, the paper",
                "ImageNet",
                f"{theirs.dense_error:.2%}",
                f"{theirs.error:.2%}",
                f"{theirs.parameters / 1e6:.1f}M of {theirs.dense_parameters / 1e6:.0f}M",
                "",
                f"{theirs.compression}x",
                "",
            )
        )
        for row in (one for one in found if one["recipe"]["network"] == network):
            change = row["change"]
            points = [-100 * change[name] for name in ("high", "low")]
            device = row["machine"]["device"]
            minutes = sum(row["seconds"].values()) / 60
            rows.append(
                (
                    f"{row['network'].removesuffix(', 10 classes')}",
                    row["data"].capitalize(),
                    f"{row['dense_error']:.2%}",
                    "**{:.2%}** ({:+z.2f} to {:+z.2f})".format(row["error"], *points),
                    f"{_million(row['parameters'])} of {_million(row['dense_parameters'])}",
                    f"{1 / row['densities']['total']:.1f}x",
                    f"**{row['compression']:.1f}x**",
                    f"{minutes:.1f} on {'2 cores' if device == 'cpu' else device.split(' ')[1]}",
                )
            )
    headers = (
        *("network", "photos", "dense error", "pruned error (change from the dense, points)"),
        *("parameters left", "weights", "all parameters", "minutes"),
    )
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def _million(count: float) -> str:
    return f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count / 1e3:.0f}K"


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def gpu() -> str:
    """What a GPU does, as benchmarks/gpu.py found it."""
    speed = files.load_json(ROOT / "results" / "gpu.json")
    rows = [
        (row["what"], f"{_digits(row['value'])} {row['unit']}", row["how"]) for row in speed["rows"]
    ]
    return tabulate(
        rows, ("", speed["machine"]["device"], ""), tablefmt="github", disable_numparse=True
    )


def _spread(spread: dict) -> str:
    return "{value:.2f} ({low:.2f} to {high:.2f})".format(**spread)


def studio() -> str:
    """What the studio's user waits for; of several layers the least and the largest."""
    found: dict[tuple, list[dict]] = {}
    for row in files.load_json(ROOT / "results" / "studio.json")["rows"]:
        found.setdefault((row["network"], row["on"], row["what"]), []).append(row)
    rows = []
    for (network, on, what), layers in found.items():
        medians = [row["median"] for row in layers]
        low, high = _digits(min(medians)), _digits(max(medians))
        if "frames" in what:
            worst = min(row["least"] for row in layers)
        else:
            worst = max(row["p95"] for row in layers)
        between = low if low == high else f"{low} to {high}"
        times = sum(row["times"] for row in layers)
        about = (layers[0]["unit"], between, _digits(worst), times, layers[0]["bar"])
        rows.append((network, on, what, *about))
    headers = ("network", "on", "what", "unit", "median", "p95; frames: least", "times", "wanted")
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def sparse_products() -> str:
    """Products with sparse weights, as multiples of the dense one."""
    rows = files.load_json(ROOT / "results" / "sparse.json")["products"]
    sides = ("ours", "scipy", "int64", "F.linear")
    table = [
        (
            f"{row['layer']}, {row['density']:.0%} kept",
            row["threads"],
            row["batch"],
            _digits(row["dense, ms"]["value"]),
            *(_spread(row[f"dense / {side}"]) for side in sides),
            f"{row['fastest dense / fastest ours']:.1f}",
        )
        for row in rows
    ]
    headers = ("layer", "threads", "batch", "dense, ms", "ours", "scipy", "64-bit CSR")
    headers += ("`F.linear`, CSR", "ours, of the fastest turns")
    return tabulate(table, headers, tablefmt="github", disable_numparse=True)


def sparse_networks() -> str:
    """Whole networks, as `to_sparse` makes them."""
    rows = files.load_json(ROOT / "results" / "sparse.json")["networks"]
    table = [
        (
            row["network"],
            row["threads"],
            row["batch"],
            ", ".join(row["sparse"]) or "none",
            _digits(row["dense, ms"]["value"]),
            _spread(row["dense / ours"]),
            f"{row['fastest dense / fastest ours']:.2f}",
        )
        for row in rows
    ]
    headers = ("network", "threads", "batch", "sparse layers", "dense, ms", "times as fast")
    headers += ("of the fastest turns",)
    return tabulate(table, headers, tablefmt="github", disable_numparse=True)


def storage() -> str:
    """fc6 of AlexNet: bytes and seconds of every way to store it."""
    rows = [
        (row["side"], f"{row['MB']:.2f}", f"{row['encode, s']:.2f}", f"{row['decode, s']:.2f}")
        for row in files.load_json(ROOT / "results" / "storage.json")["fc6"]
    ]
    headers = ("fc6, exact", "MB", "encode, s", "decode, s")
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def packed() -> str:
    """Layer by layer, bits per kept weight beside the bound, and bytes beside the paper's."""
    found = files.load_json(ROOT / "results" / "storage.json")["layers"]
    rows = [
        (
            f"{network}, {row.layer}",
            f"{row.kept / row.weights:.0%}",
            f"{row.index_bits:.2f}",
            f"{row.bound:.2f}",
            f"{row.value_bits:.2f}",
            f"{row.bytes:,}",
            f"{row.paper_bytes:,}",
            f"{row.paper_overhead:.1%}",
        )
        for network, rows in found.items()
        for row in decode(list[PackedRow], rows, network)
    ]
    headers = (
        *("layer", "kept", "index bits", "bound", "value bits", "bytes"),
        *("the paper's scheme", "its overhead"),
    )
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def values() -> str:
    """What rounding the values saves, and what it costs."""
    found = files.load_json(ROOT / "results" / "storage.json")["formats"]
    rows = [
        (
            row["network"],
            row["values"],
            f"{row['bytes']:,}",
            f"{row['times smaller']:.1f}x",
            f"{row['value bits']:.2f}",
            decode(Drop, row["change"], "change").brief,
        )
        for row in found
    ]
    headers = (
        *("network", "values", "bytes", "smaller", "value bits"),
        "change from float32 (points)",
    )
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


SCAN_SPEED = ROOT / "results" / "scan-speed.json"
TABLES = {
    "frontier": frontier,
    "epochs": epochs,
    "steps": steps,
    "choosing": choosing,
}
TABLES |= {"photos": photos, "gpu": gpu, "table_6": table_6, "naive_cut": naive_cut}
TABLES |= {"published": published}
_FILES = {saliencies: "saliencies", deletions: "saliencies", techniques: "techniques"}
_FILES |= {tried: "tried", contrast: "contrast", studio: "studio"}
_FILES |= dict.fromkeys((sparse_products, sparse_networks), "sparse")
_FILES |= dict.fromkeys((storage, packed, values), "storage")
for table, name in {**_FILES, figure_5: "figure-5"}.items():  # which benchmarks/ write
    if (ROOT / "results" / f"{name}.json").exists():
        TABLES[table.__name__] = table
if SCAN_SPEED.exists():  # benchmarks/scan.py --save writes it
    TABLES["scan"] = scan


def filled(text: str) -> str:
    """The text with every marked table made again."""
    return MARKED.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}\n{match[3]}", text)


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        for page in PAGES:
            page.write_text(filled(page.read_text()))
    else:
        print(*(f"{name}\n{table()}\n" for name, table in TABLES.items()), sep="\n")
