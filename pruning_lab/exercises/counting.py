"""The tasks of notebook 06 (counting)."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from math import prod
from random import Random
from typing import NamedTuple

from pruning_lab import paper
from pruning_lab.cost import read_energy
from pruning_lab.exercises.comparison import brief
from pruning_lab.exercises.exercise import Exercise, Guess, Verdict
from pruning_lab.exercises.nearness import each, points
from pruning_lab.paper import LayerRow

# -------------------------------------------------------------------------------------- 06.where

WHERE = Exercise(
    id="06.where",
    kind="predict",
    minutes=2,
    difficulty=1,
    importance=4,
    points=2,
    guess=Guess(
        example=[50, 50],
        nearness=each(points(), ("weights", "operations")),
        unit="%",
        low=0,
        high=100,
        slips={
            "Weights and operations are not the same thing: a convolution uses each of its weights "
            "at every position of its output.": lambda truth: [truth[0]] * 2,
            "It is the other way round: the fully connected layers have the weights, the "
            "convolutions do the work.": lambda truth: truth[::-1],
        },
    ),
    hints=(
        "A fully connected layer uses each of its weights once per image.",
        "A convolution uses each of its weights at every position of its output; conv1 of AlexNet "
        "has 55 x 55 of them.",
        "fc1 alone has 9,216 x 4,096 weights, more than ten times as many as all convolutions.",
    ),
)

# --------------------------------------------------------------------------------------- 06.conv


def _flops(out, in_, k, h_out, w_out, groups=1):
    return 2 * out * (in_ // groups) * k * k * h_out * w_out


def _conv_cases(random: Random) -> Iterator[tuple]:
    yield 1, 1, 2, 1, 2
    yield 20, 1, 5, 24, 24
    yield 256, 96, 5, 27, 27, 2
    for groups in 1, random.choice((2, 3, 4)):
        out, in_ = (groups * random.randint(3, 40) for _ in range(2))
        high = 2 * random.randint(3, 20)
        yield out, in_, random.choice((3, 5, 7)), high, high + 2 * random.randint(1, 9), groups


CONV = Exercise(
    id="06.conv",
    kind="write",
    minutes=6,
    difficulty=2,
    importance=4,
    points=6,
    cases=_conv_cases,
    answer=_flops,
    twins={
        "these are multiply-adds (MACs); each is 2 FLOPs.": (
            lambda *sizes: _flops(*sizes) // 2,
            lambda *sizes: _flops(*sizes) / 2,
        ),
        "the groups are ignored; with them, each output channel reads in_ / groups channels "
        "only.": lambda *sizes: _flops(*sizes[:5]),
        "the groups divide twice. out / groups channels of each group read in_ / groups channels, "
        "and there are `groups` of these blocks: one division is left.": (
            lambda out, in_, k, h, w, groups=1: _flops(out // groups, in_, k, h, w, groups),
            lambda out, in_, k, h, w, groups=1: _flops(out, in_, k, h, w, groups) / groups,
        ),
        "the groups multiply; they take connections away, so divide.": (
            lambda out, in_, k, h, w, groups=1: _flops(out, in_, k, h, w) * groups
        ),
        "this is the size after a pooling of 2 x 2; the convolution computes all h_out x w_out "
        "positions before the pooling.": (
            lambda out, in_, k, h, w, groups=1: _flops(out, in_, k, h // 2, w // 2, groups),
            lambda out, in_, k, h, w, groups=1: _flops(out, in_, k, h, w, groups) / 4,
        ),
        "this counts a position for each pixel of the input; the kernel is placed h_out x w_out "
        "times.": (
            lambda out, in_, k, h, w, groups=1: _flops(out, in_, k, h + k - 1, w + k - 1, groups)
        ),
        "a kernel has k x k weights for each channel that it reads, not k.": (
            lambda out, in_, k, h, w, groups=1: _flops(out, in_, k, h, w, groups) // k
        ),
        "the positions are missing: this is one position alone; there are h_out x w_out.": (
            lambda out, in_, k, h, w, groups=1: _flops(out, in_, k, 1, 1, groups)
        ),
        "only one side of the output is counted; there are h_out x w_out positions.": (
            lambda out, in_, k, h, w, groups=1: _flops(out, in_, k, h, 1, groups),
            lambda out, in_, k, h, w, groups=1: _flops(out, in_, k, 1, w, groups),
        ),
        "the output is taken to be square, with the height for its width.": (
            lambda out, in_, k, h, w, groups=1: _flops(out, in_, k, h, h, groups)
        ),
        "the biases are added too; by convention only the weights' multiply-adds count.": (
            lambda out, in_, k, h, w, groups=1: _flops(out, in_, k, h, w, groups) + out * h * w,
            lambda out, in_, k, h, w, groups=1: _flops(out, in_, k, h, w, groups) + out,
            lambda out, in_, k, h, w, groups=1: _flops(out, in_, k, h, w, groups) + 2 * out * h * w,
        ),
        "the input channels are missing: each output reads a k x k window in every one of them.": (
            lambda out, in_, k, h, w, groups=1: _flops(out, 1, k, h, w),
        ),
    },
    hints=(
        "How many weights has the convolution? out x (in_ / groups) x k x k.",
        "Each of them is used once at every position of the output: h_out x w_out.",
        "Each use is a multiply-add, 2 FLOPs.",
    ),
)

# --------------------------------------------------------------------------------------- 06.left


def _left(flops, densities, activations) -> float:
    incoming = [1.0, *activations[:-1]]
    parts = zip(flops, densities, incoming, strict=True)
    return sum(prod(part) for part in parts) / sum(flops)


def _left_as(flops, densities, activations, *, incoming=None, weights=None, of=1.0) -> float:
    """With other activations, or averaged with other weights."""
    incoming = [1.0, *activations[:-1]] if incoming is None else incoming(activations)
    fractions = [d * a for d, a in zip(densities, incoming, strict=True)]
    weights = flops if weights is None else weights(flops, densities)
    return of * sum(w * f for w, f in zip(weights, fractions, strict=True)) / sum(weights)


def _left_cases(random: Random) -> Iterator[tuple]:
    yield [10, 40, 50], [0.8, 0.5, 0.1], [0.5, 0.4, 1.0]
    for table in paper.LENET_300_100, paper.ALEXNET:
        columns = ("flops", "density", "activation_density")
        yield tuple([getattr(row, column) for row in table[:-1]] for column in columns)
    count = random.randint(4, 6)
    yield (
        [random.randint(10, 900) for _ in range(count)],
        [random.randint(4, 90) / 100 for _ in range(count)],
        [random.randint(20, 95) / 100 for _ in range(count)],
    )


def _so_far(activations: Sequence[float]) -> list[float]:
    return [prod(activations[:place]) for place in range(len(activations))]


LEFT = Exercise(
    id="06.left",
    kind="write",
    minutes=8,
    difficulty=3,
    importance=4,
    points=8,
    cases=_left_cases,
    answer=_left,
    twins={
        "each layer is multiplied with the activations that leave it; a multiplication is skipped "
        "where its *input* is zero, so take those of the layer before, and 1 for the first.": (
            partial(_left_as, incoming=lambda leaving: leaving)
        ),
        "only zero weights are skipped here; where the incoming activation is zero, the "
        "multiplication can be skipped too.": (
            partial(_left_as, incoming=lambda leaving: [1.0] * len(leaving))
        ),
        "this is the plain mean over the layers; a layer with more operations counts more, so "
        "weight the mean with the FLOPs.": (
            partial(_left_as, weights=lambda flops, densities: [1.0] * len(flops)),
        ),
        "the sum is divided by the FLOPs of the weights that are left; the fraction is of the "
        "dense network, so divide by sum(flops).": lambda flops, densities, activations: (
            _left(flops, densities, activations)
            * sum(flops)
            / sum(f * d for f, d in zip(flops, densities, strict=True))
        ),
        "the activations of all layers before are multiplied; a layer sees only those of the layer "
        "just before it.": partial(_left_as, incoming=_so_far),
        "the activations are shifted the wrong way: the first layer reads the image (1), the "
        "second what leaves the first.": (
            partial(_left_as, incoming=lambda leaving: [*leaving[1:], 1.0])
        ),
        "the first layer is left out of the work that remains; its input is the image, whose "
        "activation density counts as 1.": (
            partial(_left_as, incoming=lambda leaving: [0.0, *leaving[:-1]])
        ),
        "these are operations; return the fraction of them that is left.": (
            lambda flops, *others: sum(flops) * _left(flops, *others)
        ),
        "this is a percentage; return the fraction, between 0 and 1.": partial(_left_as, of=100.0),
        "this is what is saved; return what is left.": lambda *case: 1 - _left(*case),
        "this is a number for each layer; add the operations that are left, and divide once by "
        "all.": (
            lambda flops, densities, activations: [
                density * active
                for density, active in zip(densities, [1.0, *activations[:-1]], strict=True)
            ],
            lambda flops, densities, activations: [
                prod(part) for part in zip(flops, densities, [1.0, *activations[:-1]], strict=True)
            ],
        ),
    },
    hints=(
        "A multiplication is left where its weight *and* its input are not zero.",
        "What enters layer l left layer l - 1; what enters the first is the image, all of which "
        "counts.",
        "incoming = [1, *activations[:-1]]. Sum flops x density x incoming over the layers, and "
        "divide by sum(flops).",
    ),
)

# --------------------------------------------------------------------------------------- 06.typo

COLUMNS = ("activation_density", "density", "flop_density")


class Typo(NamedTuple):
    """A table of the paper with one digit changed."""

    table: int  # its number
    rows: tuple[LayerRow, ...]


def fits(before: float, row: LayerRow) -> bool:
    """Whether FLOP% is weights% x the incoming act%, as far as rounded percentages can tell."""
    off, half = 0.005 * (before < 1), 0.005  # the image, all of which counts, is not rounded
    low, high = (before - off) * (row.density - half), (before + off) * (row.density + half)
    return low - half <= row.flop_density + 1e-9 and row.flop_density - 1e-9 <= high + half


def _broken(rows: Sequence[LayerRow]) -> list[str]:
    """The layers whose row does not fit the rule."""
    incoming = [1.0, *(row.activation_density for row in rows)]
    pairs = zip(incoming, rows, strict=False)
    return [row.layer for before, row in pairs if not fits(before, row)]


def _misprints(rows: tuple[LayerRow, ...]) -> Iterator[tuple[tuple[str, str], tuple]]:
    """Each way to change one digit of a percentage of two digits: where, and the table then."""
    for place, row in enumerate(rows):
        for column in COLUMNS:
            percent = round(100 * getattr(row, column))
            for unit in (10, 1) if percent < 100 else ():
                digit = percent // unit % 10
                for other in range(10):
                    changed = percent + unit * (other - digit)
                    if changed != percent and changed > 0:
                        new = replace(row, **{column: changed / 100})
                        yield (row.layer, column), (*rows[:place], new, *rows[place + 1 :])


def _explained_by(rows: tuple[LayerRow, ...]) -> list[tuple[str, str]]:
    """The places where another digit makes all rows fit."""
    return list(dict.fromkeys(where for where, table in _misprints(rows) if not _broken(table)))


def _typo_cases(random: Random) -> Iterator[tuple]:
    """A misprint that breaks the rule, and that only its own place can explain."""
    number = random.choice((3, 4))
    printed = {3: paper.LENET_5, 4: paper.ALEXNET}[number][:-1]
    found = [pair for pair in _misprints(printed) if _broken(pair[1])]
    while True:
        place = random.choice(sorted({where for where, _ in found}))
        where, rows = random.choice([pair for pair in found if pair[0] == place])
        if _explained_by(rows) == [where]:
            yield (Typo(number, rows),)
            return


def _found(where: object, typo: Typo) -> Verdict:
    layers = [row.layer for row in typo.rows]
    if not isinstance(where, list | tuple) or len(where) != 2:
        raise ValueError(f'where is a layer and a column, such as ("{layers[0]}", "density")')
    layer, column = where
    if layer not in layers or column not in COLUMNS:
        names = f"the layers are {', '.join(layers)}, the columns are {', '.join(COLUMNS)}"
        raise ValueError(f"got {brief(where)}; {names}")
    if [(layer, column)] == _explained_by(typo.rows):
        return Verdict("✓", f"right: {column} of {layer} in Table {typo.table}")
    after = dict([*pairwise(layers), (layers[-1], None)])[layer]
    number = dict(zip(layers, typo.rows, strict=True))[layer]
    value = f"{100 * getattr(number, column):.0f} %"
    uses = layer if column != "activation_density" else after
    if uses in _broken(typo.rows):
        words = (
            f"the row of {uses} breaks the rule, and {value} is part of it. But no other digit "
            f"there makes all rows fit; try the other numbers of that product"
        )
    elif column == "activation_density" and uses is None:
        words = f"{layer} is the last layer: no row uses the activations that leave it"
    else:
        words = f"the row of {uses}, which uses this number ({value}), fits the rule"
    return Verdict("✗", f"wrong: {words}")


TYPO = Exercise(
    id="06.typo",
    kind="debug",
    minutes=6,
    difficulty=2,
    importance=3,
    points=6,
    cases=_typo_cases,
    observe=_found,
    hints=(
        "For every row compute density x the activation density of the row before (1 for the "
        "first), and put it beside flop_density.",
        "Rounding moves a product by about one point. Where is the difference larger?",
        "That row has three numbers in its product. One of them is also in another row's product, "
        "and fits there. For which one does a single other digit repair the row?",
    ),
)

# --------------------------------------------------------------------------------------- 06.sram

FC1 = 9216 * 4096  # weights of AlexNet's first fully connected layer


def _on_chip(weights: int, sram: int, index_bits: int = 5) -> tuple[float, float, float]:
    kept = 8 * sram // (32 + index_bits)
    after = read_energy(kept * (32 + index_bits) / 8, "SRAM")
    return weights / kept, read_energy(4 * weights), after


def _on_chip_as(
    weights,
    sram,
    index_bits=5,
    *,
    kept=lambda sram, bits: 8 * sram / bits,
    word=lambda bits: bits,
    change=lambda *three: three,
):
    """With another number of kept weights, or of bits read for each."""
    bits = 32 + index_bits
    kept = kept(sram, bits)
    after = read_energy(kept * word(bits) / 8, "SRAM")
    return change(weights / kept, read_energy(4 * weights), after)


def _sram_cases(random: Random) -> Iterator[tuple]:
    yield FC1, 8_000_000, 5
    yield FC1, 1_000_000 * random.randint(3, 7), 5
    yield 100_000 * random.randint(50, 400), 1_000_000 * random.randint(2, 9), random.choice((4, 8))


SRAM = Exercise(
    id="06.sram",
    kind="design",
    minutes=6,
    difficulty=2,
    importance=3,
    points=6,
    cases=_sram_cases,
    answer=_on_chip,
    twins={
        "the indices are forgotten: beside the 32 bits of its value, each kept weight needs "
        "index_bits to say where it stands.": (
            partial(_on_chip_as, kept=lambda sram, _bits: sram / 4, word=lambda _bits: 32),
            partial(_on_chip_as, kept=lambda sram, _bits: sram / 4),
        ),
        "bits are taken for bytes: the memory is given in bytes, and 32 + index_bits are bits.": (
            partial(_on_chip_as, kept=lambda sram, bits: sram / bits),
            partial(_on_chip_as, kept=lambda sram, bits: sram / bits, word=lambda bits: 8 * bits),
        ),
        "this is the density, kept / weights; the compression is weights / kept.": (
            partial(_on_chip_as, change=lambda ratio, before, after: (1 / ratio, before, after))
        ),
        "the energy afterwards is still that of DRAM; the layer is read from SRAM now.": (
            partial(
                _on_chip_as, change=lambda ratio, before, after: (ratio, before, after * 640 / 5)
            )
        ),
        "the energy before is that of SRAM; the dense layer does not fit there.": (
            partial(_on_chip_as, change=lambda ratio, before, after: (ratio, before / 128, after))
        ),
        "only the values are read in your energy afterwards; the indices are read too.": (
            partial(_on_chip_as, word=lambda _bits: 32)
        ),
        "the energies are those of every byte; Figure 1 has the energy of a word of 32 bits.": (
            partial(_on_chip_as, change=lambda ratio, *joules: (ratio, *(4 * j for j in joules)))
        ),
        "the energies are in picojoules; return joules (1 pJ = 1e-12 J).": (
            partial(_on_chip_as, change=lambda ratio, *joules: (ratio, *(j * 1e12 for j in joules)))
        ),
        "the energies are in microjoules; return joules.": (
            partial(_on_chip_as, change=lambda ratio, *joules: (ratio, *(j * 1e6 for j in joules)))
        ),
        "before and after are swapped.": (
            partial(_on_chip_as, change=lambda ratio, before, after: (ratio, after, before))
        ),
    },
    hints=(
        "How many bits does a kept weight need? 32 for its value, and index_bits for its place.",
        "The memory has 8 * sram bits, so 8 * sram // (32 + index_bits) weights fit. The "
        "compression is weights / kept.",
        "lab.cost.read_energy(size, memory) gives joules for `size` bytes: 4 bytes per weight from "
        '"DRAM" before, and what is stored from "SRAM" after.',
    ),
)

EXERCISES = (WHERE, CONV, LEFT, TYPO, SRAM)
