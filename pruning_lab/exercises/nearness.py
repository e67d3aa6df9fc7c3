"""How near a guess was: a score from 1 (exact) over a half (still near) to 0, and words."""

import math
from collections.abc import Callable, Sequence
from itertools import combinations

from pruning_lab.exercises.exercise import Near


def points(scale: float = 1.0, half: float = 10.0) -> Callable[[float, float], Near]:
    """By percentage points, of numbers that `scale` makes percentages; half the score at `half`.

    >>> points()(40, 99.9).words
    '59.9 percentage points too low'
    """

    def nearness(guess: float, truth: float) -> Near:
        off = scale * (guess - truth)
        words = f"{abs(off):.1f} percentage points too {'high' if off > 0 else 'low'}"
        return Near(0.5 ** (abs(off) / half), "exact" if abs(off) < 0.05 else words)

    return nearness


def factor(guess: float, truth: float) -> Near:
    """By the ratio of two positive numbers; half the score at a factor of two.

    >>> factor(100, 12.8).words
    '7.81 times too high'
    """
    ratio = max(guess / truth, truth / guess)
    words = f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.3g}"
    words += f" times too {'high' if guess > truth else 'low'}"
    return Near(1 / ratio, "less than 5 % off" if ratio < 1.05 else words)


def log_odds(guess: float, truth: float) -> Near:
    """By the odds of an error, of two accuracies in percent; half the score at twice the odds."""
    errors = [max(1 - accuracy / 100, 1e-6) for accuracy in (guess, truth)]
    odds = [error / max(1 - error, 1e-6) for error in errors]
    near = Near(min(odds) / max(odds), "")
    one_in = [f"one image in {1 / error:,.0f}" for error in errors]
    if near.score > 0.95 or one_in[0] == one_in[1]:
        return near._replace(words="the same number of errors, nearly")
    return near._replace(words=f"you allow for {one_in[0]} to be wrong; it may be {one_in[1]}")


def each(nearness: Callable[[float, float], Near], names: Sequence[str]):
    """Several guesses, scored one by one: the mean of their scores."""

    def of_all(guess: Sequence[float], truth: Sequence[float]) -> Near:
        nears = [nearness(*pair) for pair in zip(guess, truth, strict=True)]
        words = [f"{name}: {near.words}" for name, near in zip(names, nears, strict=True)]
        return Near(sum(near.score for near in nears) / len(nears), "; ".join(words))

    return of_all


def curve(names: Sequence[str], half: float = 10.0):
    """A drawn curve, in percent: by the area between it and the measured one."""

    def nearness(guess: Sequence[float], truth: Sequence[float]) -> Near:
        off = [drawn - true for drawn, true in zip(guess, truth, strict=True)]
        mean = sum(map(abs, off)) / len(off)
        worst = max(range(len(off)), key=lambda place: abs(off[place]))
        words = f"{mean:.1f} percentage points between the curves on average"
        side = f"{abs(off[worst]):.1f} too {'high' if off[worst] > 0 else 'low'}"
        return Near(0.5 ** (mean / half), f"{words}, most at {names[worst]}: {side}")

    return nearness


def picked(guess: Sequence, truth: Sequence) -> Near:
    """How many of those that were to be picked are."""
    found = sum(any(math.isclose(g, t, rel_tol=1e-6) for g in guess) for t in truth)
    return Near(found / len(truth), f"{found} of {len(truth)} are right")


def order(guess: Sequence[str], truth: Sequence[str]) -> Near:
    """A ranking: how many pairs stand in the right order (Kendall's tau, from 0 to 1)."""
    place = {name: index for index, name in enumerate(truth)}
    pairs = list(combinations([place.get(name, len(truth)) for name in guess], 2))
    right = sum(first < second for first, second in pairs)
    return Near(right / len(pairs), f"{right} of {len(pairs)} pairs are in the right order")
