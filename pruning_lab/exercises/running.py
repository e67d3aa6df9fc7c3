"""The tasks of notebook 07 (store and run) on time."""

from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from statistics import fmean, median
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pruning_lab.exercises.exercise import Exercise

# -------------------------------------------------------------------------------------- 07.bench

MISTAKES = {
    "warm": "the first calls are timed too, and they are slow: memory is fetched, code is made. "
    "Call both functions once before.",
    "mean": "a mean follows every outlier, and other programs run now and then; take the median.",
    "turns": "all calls of one function come before all of the other, and meanwhile the machine "
    "has become slower; let them take turns.",
    "unit": "one side is in milliseconds, the other in seconds.",
    "down": "this is upside down: how many times as long f takes is f's time / g's time.",
}


class Timed(NamedTuple):
    """Two functions with so many milliseconds each, on a machine that is disturbed."""

    f: float
    g: float
    disturbed: str = ""


_DISTURBED = {
    "": "nothing else happens",
    "warm": "the first call of each takes much longer",
    "mean": "every fifth call waits for another program",
    "turns": "the machine becomes slower all the time",
}


def _bench_cases(random: Random) -> Iterator[tuple]:
    for disturbed in _DISTURBED:
        f, g = random.sample((1.0, 2.0, 3.0, 5.0, 8.0), 2)
        yield (Timed(f, g, disturbed),)


def _in_words(case: Timed) -> str:
    return f"f takes {case.f:g} ms, g {case.g:g} ms; {_DISTURBED[case.disturbed]}"


def _about(ratio: Callable, case: Timed) -> str | None:
    """What a function finds, in words: as far as any number of repeats finds the same."""
    now, calls = [1000.0], {"f": 0, "g": 0}

    def run(name: str) -> None:
        calls[name] += 1
        seconds = getattr(case, name) / 1000
        if case.disturbed == "warm" and calls[name] == 1:
            seconds += {"f": 2, "g": 200}[name]
        if case.disturbed == "mean" and calls[name] % 5 == 0:
            seconds += {"f": 0.05, "g": 20}[name]
        if case.disturbed == "turns":
            seconds *= 1 + 0.05 * sum(calls.values())
        now[0] += seconds

    found = ratio(partial(run, "f"), partial(run, "g"), lambda: now[0])
    if found is None or isinstance(found, str):
        return found
    true, found = case.f / case.g, float(found)
    known = {f"about {true:.3g}": true, "1000 times too high": 1000 * true}
    known |= {"1000 times too low": true / 1000, "upside down": 1 / true}
    near = [words for words, value in known.items() if abs(found / value - 1) < 0.1]
    return near[0] if near else "too low" if found < true else "too high"


def _ratio_as(f: Callable, g: Callable, clock: Callable, *, repeats=20, mistakes=()) -> float:
    """How many times as long f takes as g: the median of calls in turn, after one of each."""
    if "warm" not in mistakes:
        f(), g()
    times: tuple[list[float], list[float]] = [], []
    order = [0, 1] * repeats
    for which in sorted(order) if "turns" in mistakes else order:
        began = clock()
        (f, g)[which]()
        times[which].append(clock() - began)
    of_f, of_g = map(fmean if "mean" in mistakes else median, times)
    of_f *= 1000 if "unit" in mistakes else 1
    return of_g / of_f if "down" in mistakes else of_f / of_g


def _ratio_given(f, g, clock):
    def seconds(work):
        began = clock()
        for _ in range(20):
            work()
        return (clock() - began) / 20

    return seconds(f) / seconds(g)


def _mistaken(*mistakes: str) -> tuple[str, Callable]:
    return " And ".join(MISTAKES[name] for name in mistakes), partial(_ratio_as, mistakes=mistakes)


BENCH = Exercise(
    id="07.bench",
    kind="debug",
    minutes=8,
    difficulty=3,
    importance=4,
    points=8,
    cases=_bench_cases,
    answer=_ratio_as,
    given=_ratio_given,
    observe=_about,
    shown=_in_words,
    twins=dict(
        [
            # A median leaves the first call out by itself, so that "warm" comes with a mean.
            _mistaken("warm", "mean"),
            _mistaken("mean"),
            _mistaken("turns"),
            _mistaken("warm", "mean", "turns"),
            _mistaken("mean", "turns"),
            _mistaken("unit"),
            _mistaken("down"),
        ]
    ),
    hints=(
        "Three things disturb a measurement: the first call, other programs, and a machine that "
        "becomes slower as it gets warm. The given code falls for all of them.",
        "Call f and g once. Then repeat: time one call of f, then one of g.",
        "statistics.median of the times of f, divided by that of the times of g.",
    ),
)

# ----------------------------------------------------------------------------------- 07.channels


class Pair(NamedTuple):
    """Two linear layers, in -> hidden -> out, and which hidden units stay."""

    units: tuple[int, int, int]
    keep: Tensor  # bool (hidden,)
    seed: int


def _unit_cases(random: Random) -> Iterator[tuple]:
    for units in (3, 3, 3), (4, 6, 2), (8, 5, 10):
        keep = torch.zeros(units[1], dtype=torch.bool)
        keep[random.sample(range(units[1]), units[1] - 1 - (units[1] > 4))] = True
        keep[random.choice(keep.nonzero()).item()] = units[1] < 5
        yield (Pair(units, keep, random.randrange(10_000)),)


def _layers(case: Pair) -> tuple[nn.Linear, nn.Linear]:
    drawn = torch.Generator().manual_seed(case.seed)
    layers = nn.Linear(*case.units[:2]), nn.Linear(*case.units[1:])
    for parameter in (p for layer in layers for p in layer.parameters()):
        parameter.detach().copy_(torch.randn(parameter.shape, generator=drawn))
    return layers


def _dropped(drop_units: Callable, case: Pair) -> dict | None:
    """The layers that come back, what they answer, and what became of the given ones."""
    given, x = _layers(case), torch.ones(2, case.units[0])
    before = [p.detach().clone() for layer in given for p in layer.parameters()]
    if (made := drop_units(*given, case.keep.clone())) is None:
        return None
    first, second = made
    seen = {"type": [type(layer).__name__ for layer in made]}
    for name, layer in ("first", first), ("second", second):
        for kind in ("weight", "bias"):
            value = getattr(layer, kind)
            seen[f"{name}.{kind}"] = "None" if value is None else value.detach()
    try:
        seen["answers"] = second(first(x).relu()).detach()
    except RuntimeError:
        seen["answers"] = "the layers do not fit together"
    after = [p.detach() for layer in given for p in layer.parameters()]
    same = [a.shape == b.shape and torch.equal(a, b) for a, b in zip(before, after, strict=False)]
    seen["the given layers"] = "as before" if all(same) else "changed"
    return seen


def _layer(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    made.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone())
    return made


def _drop_as(
    first: nn.Linear,
    second: nn.Linear,
    keep: Tensor,
    *,
    rows=lambda w, keep: w[keep],
    bias=lambda b, keep: b[keep],
    columns=lambda w, keep: w[:, keep],
    last=lambda b, keep: b,
) -> tuple[nn.Linear, nn.Linear]:
    """The smaller pair; each function may do something else to one of the four tensors."""
    return (
        _layer(rows(first.weight, keep), bias(first.bias, keep)),
        _layer(columns(second.weight, keep), last(second.bias, keep)),
    )


def _in_place(first: nn.Linear, second: nn.Linear, keep: Tensor) -> tuple[nn.Linear, nn.Linear]:
    for layer, small in zip((first, second), _drop_as(first, second, keep), strict=True):
        layer.weight, layer.bias = small.weight, small.bias
    return first, second


def _whole(tensor: Tensor, keep: Tensor) -> Tensor:
    return tensor


def _zeroed(dim: int) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda tensor, keep: tensor * (keep[:, None] if dim == 0 and tensor.dim() > 1 else keep)


CHANNELS = Exercise(
    id="07.channels",
    kind="write",
    minutes=8,
    difficulty=3,
    importance=4,
    points=8,
    cases=_unit_cases,
    answer=_drop_as,
    observe=_dropped,
    shown=lambda case: f"{' -> '.join(map(str, case.units))} units, keep {case.keep.tolist()}",
    twins={
        "the second layer still reads all units; each unit that goes takes a column of its weight "
        "with it.": partial(_drop_as, columns=_whole),
        "the first layer's bias is not cut; each unit has one.": partial(_drop_as, bias=_whole),
        "the first layer is as before; a unit is a row of its weight, and has a bias.": (
            partial(_drop_as, rows=_whole, bias=_whole)
        ),
        "the wrong axis: a weight is (out, in), so the units are the rows of the first and the "
        "columns of the second.": (
            partial(_drop_as, columns=lambda w, keep: w[keep]),
            partial(_drop_as, rows=lambda w, keep: w[:, keep]),
            partial(_drop_as, rows=lambda w, keep: w[:, keep], columns=lambda w, keep: w[keep]),
        ),
        "the second layer's bias is cut too; it belongs to the outputs, which all stay.": (
            partial(_drop_as, last=lambda b, keep: b[keep])
        ),
        "the first layer has no bias any more; cut it, and keep those of the units that stay.": (
            partial(_drop_as, bias=lambda b, keep: None)
        ),
        "the second layer has no bias any more; all its outputs stay, with their biases.": (
            partial(_drop_as, last=lambda b, keep: None)
        ),
        "neither layer has a bias any more.": (
            partial(_drop_as, bias=lambda b, keep: None, last=lambda b, keep: None)
        ),
        "the units are set to zero, not removed; a dense layer multiplies by zero as by any other "
        "number, and is as slow and as large as before.": (
            partial(_drop_as, rows=_zeroed(0), bias=_zeroed(0), columns=_zeroed(1)),
            partial(_drop_as, rows=_zeroed(0), bias=_zeroed(0), columns=_whole),
            partial(_drop_as, rows=_zeroed(0), bias=_whole, columns=_zeroed(1)),
            partial(_drop_as, rows=_zeroed(0), bias=_whole, columns=_whole),
            partial(_drop_as, rows=_whole, bias=_whole, columns=_zeroed(1)),
        ),
        "this is upside down: the units that should go are kept.": (
            lambda first, second, keep: _drop_as(first, second, ~keep)
        ),
    },
    notes={
        "but it changes the layers that it was given, so there is no way back; make new ones": (
            _in_place
        ),
    },
    hints=(
        "A unit of the first layer is a row of its weight (out, in), a number of its bias, and a "
        "column of the second layer's weight.",
        "weight[keep] takes rows, weight[:, keep] columns.",
        "small = nn.Linear(first.in_features, int(keep.sum())); small.weight.data = "
        "first.weight.data[keep]; likewise its bias; then the second layer.",
    ),
)

EXERCISES = (BENCH, CHANNELS)
