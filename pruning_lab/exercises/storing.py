"""The tasks of notebook 07 (store and run) on what is stored."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from random import Random
from statistics import fmean

from pruning_lab.exercises.exercise import Exercise, Guess, Near
from pruning_lab.exercises.nearness import factor

# --------------------------------------------------------------------------------------- 07.even

DENSITIES = (0.8, 0.5, 0.2, 0.1, 0.05, 0.02)  # at which time is guessed and measured


def break_even(times: Sequence[float]) -> float | None:
    """The density below which sparse is faster, of its times at DENSITIES in % of the dense one.

    Between two densities on logarithmic scales; None where it never is.

    >>> break_even([400, 300, 200, 50, 30, 20])
    0.14142135623730953
    """
    points = list(zip(DENSITIES, times, strict=True))
    if points[-1][1] >= 100:
        return None
    found = DENSITIES[0]
    for (above, slow), (below, fast) in pairwise(points):
        if slow >= 100 > fast:
            found = below * (above / below) ** (math.log(100 / fast) / math.log(slow / fast))
    return found


def _nearness(guess: Sequence[float], truth: Sequence[float]) -> Near:
    score = fmean(factor(max(g, 1), t).score for g, t in zip(guess, truth, strict=True))
    found = (break_even(times) for times in (guess, truth))
    theirs, ours = ("never" if at is None else f"below {at:.0%}" for at in found)
    return Near(score, f"you have sparse faster {theirs}, here it is {ours}")


EVEN = Exercise(
    id="07.even",
    kind="predict",
    minutes=3,
    difficulty=2,
    importance=4,
    points=3,
    guess=Guess(
        example=[90, 80, 70, 60, 50, 40],
        nearness=_nearness,
        unit="% of the dense time",
        low=0,
        high=10_000,
        slips={
            "A curve through 50 % at density 0.5 takes time to be proportional to the weights. A "
            "sparse product reads an index for each weight, and its weights lie anywhere.": (
                lambda _: [100 * density for density in DENSITIES]
            ),
        },
    ),
    hints=(
        "What has a sparse layer to read besides the weights that are left?",
        "Dense kernels multiply 8 or 16 neighbours with one instruction.",
        "At density 0.5 half of the multiplications are left, but each is much slower.",
    ),
)

# -------------------------------------------------------------------------------------- 07.bytes


def _size(kept: int, weights: int, value_bits: int, index_bits: int, fillers: int = 0) -> int:
    return -(-(kept + fillers) * (value_bits + index_bits) // 8)


def _size_cases(random: Random) -> Iterator[tuple]:
    yield 3, 6, 32, 5
    yield 3, 40, 32, 5, 1
    for value_bits, index_bits in (32, 8), (16, 5), (5, 3), (32, 5):
        kept, odd = random.randint(40, 4_000), value_bits + index_bits
        fillers = random.randint(3, 30)
        fillers += (kept + fillers) * odd % 8 == 0  # the last byte is not full
        yield kept, kept * random.randint(3, 30) + 1, value_bits, index_bits, fillers


BYTES = Exercise(
    id="07.bytes",
    kind="write",
    minutes=5,
    difficulty=2,
    importance=3,
    points=5,
    cases=_size_cases,
    answer=_size,
    twins={
        "these are bits; a byte has 8.": (
            lambda kept, weights, value, index, fillers=0: (kept + fillers) * (value + index)
        ),
        "the indices are not counted; a file has to say where each value belongs.": (
            lambda kept, weights, value, index, fillers=0: _size(kept, weights, value, 0, fillers),
            lambda kept, weights, value, index, fillers=0: _size(kept, weights, value, 0),
        ),
        "the values are not counted, only where they are.": (
            lambda kept, weights, value, index, fillers=0: _size(kept, weights, 0, index, fillers),
            lambda kept, weights, value, index, fillers=0: _size(kept, weights, 0, index),
        ),
        "all weights are counted; only those that are kept are stored.": (
            lambda kept, weights, value, index, fillers=0: _size(weights, weights, value, index),
            lambda kept, weights, value, index, fillers=0: _size(
                weights, weights, value, index, fillers
            ),
            lambda kept, weights, value, index, fillers=0: _size(weights, weights, value, 0),
        ),
        "each of all weights has an index here, as in a dense table; only those that are stored "
        "have one.": lambda kept, weights, value, index, fillers=0: (
            -(-((kept + fillers) * value + weights * index) // 8)
        ),
        "the fillers are forgotten; each is stored as a value, with its index.": (
            lambda kept, weights, value, index, fillers=0: _size(kept, weights, value, index)
        ),
        "a filler has a value too: a zero, which takes as many bits as any other.": (
            lambda kept, weights, value, index, fillers=0: (
                -(-(kept * (value + index) + fillers * index) // 8)
            )
        ),
        "a filler has an index too, which says how many zeros it steps over.": (
            lambda kept, weights, value, index, fillers=0: (
                -(-(kept * (value + index) + fillers * value) // 8)
            )
        ),
        "the last byte is cut off; a file has whole bytes, so round up.": (
            lambda kept, weights, value, index, fillers=0: (kept + fillers) * (value + index) // 8,
            lambda kept, weights, value, index, fillers=0: (kept + fillers) * (value + index) / 8,
        ),
        "this takes whole bytes for each entry; they are packed, bit by bit.": (
            lambda kept, weights, value, index, fillers=0: (
                (kept + fillers) * -(-(value + index) // 8)
            ),
            lambda kept, weights, value, index, fillers=0: (
                (kept + fillers) * (-(-value // 8) + -(-index // 8))
            ),
        ),
    },
    hints=(
        "How many entries are stored? Those that are kept, and the fillers.",
        "An entry is a value and an index.",
        "Entries times bits, divided by 8, rounded up: math.ceil(bits / 8).",
    ),
)

# ------------------------------------------------------------------------------------- 07.encode

Entries = list[tuple[int, float]]


def _row_cases(random: Random) -> Iterator[tuple]:
    yield [0.9, 0.0, 0.4, -0.7, 0.0, 0.3], 5
    yield [0.9, 0.0, 0.0, 0.0, -0.7], 2  # three zeros fit into 2 bits
    yield [0.9, 0.0, 0.0, 0.0, 0.0, -0.7], 2  # four do not
    yield [0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.1, 0.0, 0.0], 2  # zeros first and last
    for bits in (2, 3):
        gaps = [2**bits - 1, 2**bits, 2**bits + 1, 2 ** (bits + 1), 3 * 2**bits + 1]
        gaps += [random.randrange(3 * 2**bits) for _ in range(3)]
        random.shuffle(gaps)
        row: list[float] = []
        for gap in gaps:
            row += [0.0] * gap + [random.choice((-1, 1)) * random.randint(1, 99) / 100]
        yield row + [0.0] * random.randint(1, 2**bits - 1), bits


def decode(entries: Sequence[tuple[int, float]], length: int) -> list[float]:
    """The row of so many weights: each entry is the zeros before a value, and the value.

    >>> decode([(0, 0.9), (1, 0.4)], 4)
    [0.9, 0.0, 0.4, 0.0]
    """
    row: list[float] = []
    for gap, value in entries:
        if not 0 <= gap < 10_000:
            raise ValueError(f"{gap} zeros before a value")
        row += [0.0] * int(gap) + [float(value)]
    return row + [0.0] * (length - len(row))


def _decoded(encode: Callable, row: list[float], bits: int) -> dict | None:
    """What comes back, whether it can be stored, and how many entries it takes."""
    if (entries := encode(list(row), bits)) is None:
        return None
    entries = [(int(gap), float(value)) for gap, value in entries]
    too_long = [gap for gap, _ in entries if not 0 <= gap < 2**bits]
    return {
        "a gap that does not fit": too_long[0] if too_long else "none",
        "decoded": decode(entries, len(row)),
        "entries": len(entries),
    }


def _encode_as(
    row: list[float],
    bits: int,
    *,
    most: int = 0,
    filler: int = -1,
    gap: Callable[[int, int], int] = lambda place, last: place - last - 1,
    left: Callable[[int, int], int] = lambda left, reach: left - reach,
    again: bool = True,
    trailing: bool = False,
) -> Entries:
    """The encoding, right as it is; each option makes one mistake.

    A gap of `most` more than fits still gets no filler, whose own gap is that much beyond the bits;
    `gap` of a value's place and the last one; what is `left` of it after a filler; `again`: there
    may be more than one; `trailing` zeros get entries too.
    """
    reach, last, entries = 2**bits, -1, []
    ends = [place for place, value in enumerate(row) if value != 0]
    for place in ends + [len(row)] * trailing:
        zeros = gap(place, last)
        fillers = 0
        while zeros >= reach + most and (again or not fillers) and fillers < 100:
            entries.append((reach + filler, 0.0))
            zeros, fillers = left(zeros, reach), fillers + 1
        if place < len(row):
            entries.append((zeros, row[place]))
        elif zeros:
            entries.append((zeros - 1, 0.0))
        last = place
    return entries


ENCODE = Exercise(
    id="07.encode",
    kind="write",
    minutes=12,
    difficulty=4,
    importance=3,
    points=12,
    cases=_row_cases,
    answer=_encode_as,
    observe=_decoded,
    twins={
        "these are absolute positions; an entry says how many zeros lie between it and the entry "
        "before it.": (
            lambda row, bits: [(place, value) for place, value in enumerate(row) if value != 0],
            partial(_encode_as, gap=lambda place, last: place),
        ),
        "the gap is one too large: it is the number of zeros in between, so two neighbours have a "
        "gap of 0.": (
            partial(_encode_as, gap=lambda place, last: place - last),
            partial(_encode_as, gap=lambda place, last: place - max(last, 0)),
            partial(_encode_as, gap=lambda place, last: place - last - (last >= 0)),
        ),
        "a gap may be longer than its bits can say; insert a filler then, the entry (2**bits - 1, "
        "0.0).": partial(_encode_as, most=10**6),
        "a gap of exactly 2**bits zeros gets no filler, but the largest number of so many bits is "
        "2**bits - 1.": partial(_encode_as, most=1),
        "a gap of 2**bits - 1 zeros still fits, and needs no filler.": (
            partial(_encode_as, most=-1),
            partial(_encode_as, most=-1, left=lambda left, reach: max(left - reach, 0)),
        ),
        "a filler is a zero of the row itself: it steps over 2**bits - 1 zeros and is one, so the "
        "gap is 2**bits shorter after it.": (
            partial(_encode_as, left=lambda left, reach: left - reach + 1),
            partial(_encode_as, most=-1, left=lambda left, reach: left - reach + 1),
        ),
        "a filler steps over 2**bits - 1 zeros, the largest number that its bits can say.": (
            partial(_encode_as, filler=0),
            partial(_encode_as, filler=0, left=lambda left, reach: left - reach - 1),
        ),
        "after a filler the gap is counted again from its beginning; count on from the filler.": (
            partial(_encode_as, left=lambda left, reach: left, again=False)
        ),
        "a gap may need more than one filler; use a loop.": (
            partial(_encode_as, again=False),
            partial(_encode_as, left=lambda left, reach: left % reach),
        ),
        "zeros are stored as values; nothing is saved. An entry is a weight that is kept, or a "
        "filler.": lambda row, bits: [(0, value) for value in row],
        "value and gap are swapped; an entry is (gap, value).": lambda row, bits: [
            (value, gap) for gap, value in _encode_as(row, bits)
        ],
    },
    notes={
        "but zeros after the last value need no entry, for the length of a row is known": (
            partial(_encode_as, trailing=True)
        ),
    },
    hints=(
        "Go through the row and count zeros; a weight that is not zero ends a gap.",
        "Before you store a gap: while it is 2**bits or more, store the filler (2**bits - 1, 0.0) "
        "and take 2**bits from the gap.",
        "zeros = 0; for each value: where it is 0, zeros += 1; else fillers, then (zeros, value), "
        "then zeros = 0.",
    ),
)

EXERCISES = (EVEN, BYTES, ENCODE)
