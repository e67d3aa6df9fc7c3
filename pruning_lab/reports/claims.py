"""What the paper claims by each table and figure, and whether our rows say so too.

A judge yields a `Finding` for each part of a claim: whether it holds here, None where that was not
tried, and what was measured.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product, takewhile
from math import log10
from statistics import fmean

from pruning_lab import paper
from pruning_lab.experiments import Result
from pruning_lab.experiments.figures import is_bimodal, more_sensitive, peaks
from pruning_lab.experiments.tables import NetworkRow, change_of, error_of
from pruning_lab.rows import counted
from pruning_lab.sensitivity import Scan

Finding = tuple[bool | None, str]
POINTS = 5  # by more than this a percentage of Tables 2-5 is called different


@dataclass(frozen=True)
class Claim:
    """A table or figure of the paper: what it is of, and what it shows."""

    title: str
    networks: tuple[str, ...]
    text: str
    judge: Callable[[Result], Iterator[Finding]]
    differences: Callable[[Result], Iterator[str]] = lambda result: iter(())


def known(rows: Iterable[NetworkRow]) -> dict[str, NetworkRow]:
    """The rows of Table 1 that the paper has too, by the network's name in `paper`."""
    names = {theirs: name for name, theirs in paper.TABLE_1.items()}
    return {names[row.theirs]: row for row in rows if row.theirs in names}


def _networks(result: Result) -> Iterator[Finding]:
    """Compressed as much as in the paper, and no worse than the dense network and the control."""
    ours = known(result.rows)
    for name, theirs in paper.TABLE_1.items():
        if (row := ours.get(name)) is None:
            yield None, f"{theirs.network}: not tried"
            continue
        rate = row.parameters["dense"] / row.parameters["pruned"]
        lossless = all(drop.conclusion != "worse" for drop in row.drop.values())
        change = "{1} points ({2}) from the {0} network"
        each = (change.format(which, *change_of(drop)) for which, drop in row.drop.items())
        size = f"{rate:.1f}x fewer parameters, paper {theirs.compression}x"
        of = f"{row.network} on {row.data}, {counted(row.runs, 'run')}"
        found = f"{of}: {size}; accuracy {', '.join(each)}"
        yield round(rate) >= theirs.compression and lossless, found


def _errors(result: Result) -> Iterator[str]:
    for row in known(result.rows).values():
        theirs = {"dense": row.theirs.dense_error, "pruned": row.theirs.error}
        for which, error in theirs.items():
            ours = row.accuracy[which]
            place = "lies within it"
            if not 1 - ours.high <= error <= 1 - ours.low:
                place = f"is {'lower' if error < ours.error else 'higher'}"
            found = "{} ({})".format(*error_of(ours))
            yield f"{row.network}, {which}: error {found}; the paper's {error:.2%} {place}."


def _layers(network: str, result: Result) -> Iterator[Finding]:
    """The total: fewer weights and operations, to the half point to which the paper rounds."""
    ours = {row.layer: row.ours for row in result.rows}["total"]
    theirs = paper.LAYER_TABLES[network][-1]
    for density, left, before, kept, what in (
        (ours.density, theirs.density, ours.weights, ours.kept, "weights"),
        (ours.flop_density, theirs.flop_density, ours.flops, ours.flops_kept, "operations"),
    ):
        yield density <= left + 0.005, f"{before / max(kept, 1):.1f}x fewer {what}"


def _percentages(network: str, result: Result) -> Iterator[str]:
    theirs = {row.layer: row for row in paper.LAYER_TABLES[network]}
    columns = {"weights%": "density", "act%": "activation_density", "FLOP%": "flop_density"}
    for column, name in columns.items():
        pairs = [
            (row.layer, 100 * getattr(row.ours, name), 100 * getattr(theirs[row.layer], name))
            for row in result.rows
            if row.layer in theirs and getattr(row.ours, name) is not None
        ]
        far = [f"{n} ({a:.0f}, paper {b:.3g})" for n, a, b in pairs if abs(a - b) > POINTS]
        where = f"more than {POINTS} points in {', '.join(far)}"
        yield f"{column} differs by {where if far else f'at most {POINTS} points in all rows'}."


def _rivals(result: Result) -> Iterator[Finding]:
    """A lower error than each other method, by the paired interval."""
    measured = (row for row in result.rows if row.to_pruned)
    for row in measured:
        if row.method not in ("Baseline", "Control"):
            gain = "pruning {} ({})".format(*change_of(row.to_pruned))
            text = f"{row.method}: {row.parameters:,} parameters, error {row.error:.2%}, {gain}"
            yield row.to_pruned.conclusion == "better", text


def _energy(result: Result) -> Iterator[Finding]:
    picojoules = {row.operation: row.picojoules for row in result.rows}
    for operation in ("32 bit int ADD", "32 bit float MULT"):
        ratio = picojoules["32 bit DRAM memory"] / picojoules[operation]
        yield round(log10(ratio)) >= 3, f"{ratio:,.0f} times the energy of a {operation}"


def _centre(result: Result) -> Iterator[Finding]:
    for along in ("row", "column"):
        lines = [row.density for row in result.rows if row.along == along]
        quarter = len(lines) // 4
        middle, edge = lines[quarter:-quarter], lines[:quarter] + lines[-quarter:]
        found = f"{fmean(middle):.1%}, the others {fmean(edge):.1%}"
        yield fmean(middle) > fmean(edge), f"the {len(middle)} {along}s in the middle keep {found}"


def _penalties(result: Result) -> Iterator[Finding]:
    """Each order of two curves: at one density or more, and reversed at none; how far is free."""
    groups: dict[tuple, list[str]] = {}
    for one in result.comparisons:
        curves = one.above, one.below, ", each against its own control" * one.by_control
        groups.setdefault(curves, []).append(one.drop.conclusion)
    for (above, below, how), found in groups.items():
        better, worse = found.count("better"), found.count("worse")
        where = f"at {better} of {len(found)} densities, reversed at {worse}"
        yield better > 0 and not worse, f"{above} above {below}{how}: {where}"
    chain = [row for row in result.rows if row.curve == "L2 iterative"]
    chain.sort(key=lambda row: -row.density)
    free = [r.density for r in takewhile(lambda r: r.dense_drop.conclusion != "worse", chain)]
    rate = 1 / min(free, default=1)
    yield rate >= paper.TABLE_1["alexnet"].compression, f"L2 iterative without loss to {rate:.0f}x"


def _sensitivity(result: Result) -> Iterator[Finding]:
    scan = Scan(result.rows)
    conv = [layer for layer in scan.layers if layer.startswith("conv")]
    fc = [layer for layer in scan.layers if layer not in conv]
    first, *others = dict.fromkeys((*conv, *fc))
    for what, pairs in {
        f"{first} and another layer": [(first, other) for other in others],
        "a convolution and a fully connected layer": [*product(conv, fc)],
    }.items():
        if not pairs:
            yield None, f"{what}: none to compare"
            continue
        more = len(more_sensitive(scan, pairs)["more"])
        found = f"of {len(pairs)} pairs of {what}, the first is more sensitive in {more}"
        yield more == len(pairs), found


def _histogram(result: Result) -> Iterator[Finding]:
    rows, half = result.rows, len(result.rows) // 2
    middle, left, right = peaks([row.pruned for row in rows])
    found = f"{middle:,} weights in the middle, {left:,} and {right:,} at the peaks"
    yield is_bimodal(middle, left, right), found
    outer = [*rows[: half // 2], *rows[-(half // 2) :]]
    before, after = (sum(getattr(row, name) for row in outer) for name in ("dense", "pruned"))
    yield after > before, f"{after:,} weights in the outer half of the axis, {before:,} before"


def _of(network: str) -> Claim:
    """Tables 2-5."""
    total, name = paper.LAYER_TABLES[network][-1], paper.TABLE_1[network].network
    text = f"{1 / total.density:.0f}x fewer weights, {1 / total.flop_density:.0f}x fewer operations"
    judge, differences = partial(_layers, network), partial(_percentages, network)
    return Claim(f"{name}, layer by layer", (network,), text, judge, differences)


_RATES = sorted(row.compression for row in paper.TABLE_1.values())
CLAIMS = {
    "table-1": Claim(
        "accuracy and size",
        tuple(paper.TABLE_1),
        f"{_RATES[0]}x to {_RATES[-1]}x fewer parameters without loss of accuracy",
        _networks,
        _errors,
    ),
    **{f"table-{number}": _of(network) for network, number in paper.TABLE_NUMBERS.items()},
    "table-6": Claim(
        "other methods",
        ("alexnet",),
        "pruning has a lower error than other ways to a smaller network",
        _rivals,
    ),
    "figure-1": Claim(
        "energy of one operation",
        (),
        "a read from DRAM takes three orders of magnitude more energy than arithmetic",
        _energy,
    ),
    "figure-4": Claim(
        "the pixels that fc1 takes in",
        ("lenet-300-100",),
        "most connections that are left come from the centre of the image",
        _centre,
    ),
    "figure-5": Claim(
        "L1 and L2, with and without retraining",
        ("alexnet",),
        "without retraining L1 is better, with it L2, and iterative pruning is best",
        _penalties,
    ),
    "figure-6": Claim(
        "sensitivity of the layers",
        ("alexnet",),
        "the first layer is the most sensitive, and convolutions more than others",
        _sensitivity,
    ),
    "figure-7": Claim(
        "weights before and after",
        ("alexnet",),
        "after retraining the weights have two peaks, and reach farther",
        _histogram,
    ),
}
