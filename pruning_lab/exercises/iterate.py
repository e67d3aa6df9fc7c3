"""The tasks of notebook 05 (iterate)."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import accumulate
from numbers import Integral
from random import Random
from statistics import NormalDist

import torch
from torch import Tensor, nn

from pruning_lab import retraining
from pruning_lab.data import Images
from pruning_lab.data.splits import for_choosing
from pruning_lab.evaluation import Accuracy, drop, evaluate
from pruning_lab.exercises.comparison import brief
from pruning_lab.exercises.exercise import Exercise, Guess, Verdict
from pruning_lab.exercises.nearness import curve, points
from pruning_lab.exercises.once import largest
from pruning_lab.training import TrainConfig

# -------------------------------------------------------------------------------------- 05.sigma

CUTS = ("one cut", "two cuts", "three cuts")

SIGMA = Exercise(
    id="05.sigma",
    kind="predict",
    minutes=3,
    difficulty=2,
    importance=3,
    points=3,
    guess=Guess(
        example=[60, 40, 20],
        nearness=curve([f"after {cuts}" for cuts in CUTS], half=15),
        unit="% left",
        low=0,
        high=100,
        slips={
            "The same quality is not the same threshold: σ is that of the surviving weights, which "
            "are the large ones, so the threshold grows.": lambda left: [left[0]] * 3,
            "Each cut takes the same fraction of what is left in it. Nearly so; but the survivors "
            "have another shape than the layer had.": lambda left: [
                100 * (left[0] / 100) ** cuts for cuts in (1, 2, 3)
            ],
            "These seem to be the fractions that are gone; give those that are left.": (
                lambda left: [100 - each for each in left]
            ),
        },
    ),
    hints=(
        "The threshold is quality * σ. Of which weights is σ the standard deviation?",
        "In a normal distribution about two thirds of the weights are smaller than σ; a trained "
        "layer has more small ones.",
        "Without the small weights σ is larger than before, so a second cut with the same quality "
        "has a higher threshold.",
    ),
)

# ----------------------------------------------------------------------------------- 05.schedule


def _schedule(final: float, rounds: int) -> list[float]:
    return [final ** (number / rounds) for number in range(1, rounds + 1)]


def _schedule_cases(random: Random) -> Iterator[tuple]:
    yield 0.25, 2
    yield 0.125, 3
    yield 0.1, 1
    for rounds in random.sample((4, 5, 6, 7, 8), 2):
        yield random.randint(2, 39) / 100, rounds


def _equal_amounts(final: float, rounds: int) -> list[float]:
    return [1 - (1 - final) * number / rounds for number in range(1, rounds + 1)]


def _rounded(final: float, rounds: int, digits: int) -> list[float]:
    """As one first writes it: the fraction of a round is rounded, and the error grows."""
    return list(accumulate([round(final ** (1 / rounds), digits)] * rounds, lambda a, b: a * b))


SCHEDULE = Exercise(
    id="05.schedule",
    kind="write",
    minutes=6,
    difficulty=2,
    importance=4,
    points=6,
    cases=_schedule_cases,
    answer=_schedule,
    twins={
        "this removes the same number of weights in each round (linear). Then the last round takes "
        "a far larger fraction of what is left than the first; keep the same fraction of what is "
        "left in every round.": _equal_amounts,
        "each round keeps `final` of what is left, so the densities compound: after all rounds "
        "final ** rounds are left. Each round keeps the root, final ** (1 / rounds).": (
            lambda final, rounds: [final**number for number in range(1, rounds + 1)]
        ),
        "these are sparsities, what is gone; return densities.": lambda final, rounds: [
            1 - density for density in _schedule(final, rounds)
        ],
        "this is the fraction of what is left, the same for each round; return the density of the "
        "whole layer after each round.": lambda final, rounds: [final ** (1 / rounds)] * rounds,
        "the list begins one round too early, at 1.0, and does not reach the final density; the "
        "rounds are counted from 1.": lambda final, rounds: [
            final ** (number / rounds) for number in range(rounds)
        ],
        "the list begins at 1.0, before anything is pruned: one entry too many.": (
            lambda final, rounds: [1.0, *_schedule(final, rounds)]
        ),
        "the last density is missing: the list has one entry too few.": (
            lambda final, rounds: _schedule(final, rounds)[:-1]
        ),
        "the steps are those of one round more, so the last density is not `final`.": (
            lambda final, rounds: [final ** (n / (rounds + 1)) for n in range(1, rounds + 1)]
        ),
        "the fraction of a round is rounded, so the last density is not exactly `final`.": (
            partial(_rounded, digits=2),
            partial(_rounded, digits=3),
            partial(_rounded, digits=1),
        ),
        "the order is upside down: the first round keeps most.": (
            lambda final, rounds: _schedule(final, rounds)[::-1]
        ),
    },
    hints=(
        "If each round keeps the fraction f of what is left, what is left after r rounds?",
        "f ** rounds must be `final`, so f is a root of it.",
        "After round r, final ** (r / rounds) of the layer is left, with r from 1 to rounds.",
    ),
)

# ----------------------------------------------------------------------------------- 05.compound


def _compound_given(weight, kept, density):
    sizes = weight.abs() * kept
    count = round(density * int(kept.sum()))
    new = kept.new_zeros(kept.shape)
    new.view(-1)[sizes.flatten().topk(count).indices] = True
    return new


def _compound(weight: Tensor, kept: Tensor, density: float) -> Tensor:
    count = min(round(density * weight.numel()), int(kept.sum()))
    return largest(weight.abs().masked_fill(~kept, -1), count)


def _compound_cases(random: Random) -> Iterator[tuple]:
    """Pruned weights are not zero, as where a mask is applied only when the layer computes."""
    first = torch.tensor([0.9, -0.1, 0.4, -0.7, 0.05, 0.3])
    yield first, torch.tensor([True, False, True, True, False, True]), 1 / 3
    yield first, torch.tensor([False, True, True, True, False, True]), 1 / 3
    for shape, alive, density in ((5, 8), 0.6, 0.3), ((4, 3, 2, 3), 0.5, 0.2), ((6, 5), 0.4, 0.7):
        n = torch.Size(shape).numel()
        order = torch.tensor(random.sample(range(1, n + 1), n)).float()
        signs = torch.tensor([random.choice((-1.0, 1.0)) for _ in range(n)])
        kept = torch.zeros(n, dtype=torch.bool)
        kept[random.sample(range(n), round(alive * n))] = True
        yield (order * signs / n).view(shape), kept.view(shape), density


def _by_sigma(weight: Tensor, kept: Tensor, density: float) -> Tensor:
    quality = NormalDist().inv_cdf(1 - density / 2)
    return kept & (weight.abs() >= quality * (weight * kept).std(correction=0))


COMPOUND = Exercise(
    id="05.compound",
    kind="debug",
    minutes=8,
    difficulty=3,
    importance=4,
    points=8,
    cases=_compound_cases,
    answer=_compound,
    given=_compound_given,
    twins={
        "the count is a fraction of the survivors, so the densities compound: 46 % and then 21 % "
        "leave 10 %. Density is a fraction of the whole layer, weight.numel().": _compound_given,
        "`kept` is ignored: all weights are ranked, and pruned ones come back. What is pruned "
        "stays pruned.": lambda weight, kept, density: largest(
            weight.abs(), round(density * weight.numel())
        ),
        "all weights are ranked and then those pruned before are taken out, so fewer are left than "
        "asked for; rank the survivors only.": lambda weight, kept, density: (
            kept & largest(weight.abs(), round(density * weight.numel()))
        ),
        "where fewer have survived than are asked for, pruned weights come back to fill up the "
        "number; keep the survivors only.": (
            lambda weight, kept, density: largest(
                weight.abs() * kept, round(density * weight.numel())
            ),
        ),
        "the density became a quality as if the weights were normal, and σ is taken with the zeros "
        "in it: too small, so too many stay. Rank the survivors; no σ is needed.": (
            _by_sigma,
            lambda weight, kept, density: (
                kept
                & (weight.abs() >= NormalDist().inv_cdf(1 - density / 2) * (weight * kept).std())
            ),
        ),
        "the smallest survivors stay; keep the largest.": lambda weight, kept, density: largest(
            -weight.abs().masked_fill(~kept, torch.inf),
            min(round(density * weight.numel()), int(kept.sum())),
        ),
        "density is what stays, not the sparsity.": lambda weight, kept, density: _compound(
            weight, kept, 1 - density
        ),
        "the signed weights are ranked, so large negative ones go; rank |w|.": (
            lambda weight, kept, density: largest(
                weight.masked_fill(~kept, -torch.inf),
                min(round(density * weight.numel()), int(kept.sum())),
            )
        ),
    },
    hints=(
        "Of what is `density` a fraction: of the whole layer, or of what is left of it?",
        "How many weights are to stay? round(density * weight.numel()), and never more than have "
        "survived.",
        "Rank the survivors only: weight.abs() with -1 where kept is False cannot let a pruned "
        "weight back in, as long as no more are asked for than kept.sum().",
    ),
    blocked=("criteria.by_density", "criteria.by_densities", "masks.prune"),
)

# --------------------------------------------------------------------------------------- 05.dead


def _dead(into: Tensor, out: Tensor) -> Tensor:
    return (into == 0).all(1) | (out == 0).all(0)


def _dead_cases(random: Random) -> Iterator[tuple]:
    """First a square layer: in another one a mistaken axis gives an error instead of an answer."""
    yield (
        torch.tensor([[0.9, -0.1, 0.0], [0.0, 0.0, 0.0], [0.5, 0.0, -0.5]]),
        torch.tensor([[0.0, 0.3, 0.2], [0.0, 0.0, 0.4], [0.0, -0.7, -0.4]]),
    )
    for hidden, inputs, outputs in (4, 4, 4), (6, 4, 3), (9, 5, 4):
        into, out = (
            torch.tensor([random.choice((-0.5, 0.25, 0.5, 0.75)) for _ in range(a * b)]).view(a, b)
            for a, b in ((hidden, inputs), (outputs, hidden))
        )
        no_inputs, no_outputs, neither, cancels = random.sample(range(hidden), 4)
        into[[no_inputs, neither]] = 0
        out[:, [no_outputs, neither]] = 0
        into[cancels], out[:, cancels] = 0, 0
        into[cancels, :2], out[:2, cancels] = torch.tensor([[0.5, -0.5], [0.25, -0.25]])
        # An input that no neuron reads, and an output that reads none: not a dead hidden unit.
        into[:, random.randrange(2, inputs)] = 0
        out[random.randrange(2, outputs)] = 0
        yield into, out


DEAD = Exercise(
    id="05.dead",
    kind="write",
    minutes=8,
    difficulty=3,
    importance=3,
    points=8,
    cases=_dead_cases,
    answer=_dead,
    twins={
        "only neurons without inputs are found; one whose output is never read is dead too.": (
            lambda into, out: (into == 0).all(1)
        ),
        "only neurons without readers are found; one without any input is dead too.": (
            lambda into, out: (out == 0).all(0)
        ),
        "a neuron must lack inputs *and* readers here; either is enough: |, not &.": (
            lambda into, out: (into == 0).all(1) & (out == 0).all(0)
        ),
        "the axes are swapped: a hidden neuron is a row of `into` and a column of `out`.": (
            lambda into, out: (into == 0).all(0) | (out == 0).all(1)
        ),
        "rows are taken of both; a hidden neuron is a row of `into` and a column of `out`.": (
            lambda into, out: (into == 0).all(1) | (out == 0).all(1)
        ),
        "columns are taken of both; a hidden neuron is a row of `into` and a column of `out`.": (
            lambda into, out: (into == 0).all(0) | (out == 0).all(0)
        ),
        "this is upside down: True marks the dead neurons.": lambda into, out: ~_dead(into, out),
        "one zero weight is enough here; a neuron is dead when *all* its inputs, or all its "
        "readers, are gone.": lambda into, out: (into == 0).any(1) | (out == 0).any(0),
        "weights are added up, and +0.5 and -0.5 cancel out; count those that are not zero.": (
            lambda into, out: (into.sum(1) == 0) | (out.sum(0) == 0)
        ),
        "these are the places of the dead neurons; return a bool for each neuron.": (
            lambda into, out: _dead(into, out).nonzero().flatten(),
            lambda into, out: _dead(into, out).nonzero().flatten().tolist(),
            lambda into, out: _dead(into, out).nonzero(),
        ),
        "this is how many are dead; return a bool for each neuron.": (
            lambda into, out: int(_dead(into, out).sum())
        ),
    },
    notes={
        "a list is accepted; a bool tensor can be used as an index.": (
            lambda into, out: _dead(into, out).tolist()
        ),
    },
    hints=(
        "Row h of `into` holds the inputs of hidden neuron h. Where are the weights that read it?",
        "Column h of `out` has them: one for each neuron of the next layer.",
        "(into == 0).all(1) finds those without inputs, (out == 0).all(0) those without readers; "
        "either is dead: |.",
    ),
    blocked=("neurons.find",),
)

# ------------------------------------------------------------------------------------- 05.reinit

REINIT = Exercise(
    id="05.reinit",
    kind="explain",
    minutes=7,
    difficulty=2,
    importance=3,
    points=6,
    guess=Guess(
        example=-0.5,
        nearness=points(half=0.3),
        unit="points",
        low=-100,
        high=100,
    ),
    rubric=(
        "It says what the interval says: better or worse where zero lies outside of it; where zero "
        "is inside, that these images cannot tell the two apart. Either outcome is fine.",
        "It gives the number with its interval, and says how many seeds and epochs it is of.",
        "It says nothing of other networks or longer trainings, which were not tried.",
    ),
    hints=(
        "What does a new network have to learn that the kept weights know already?",
        "Both have the same mask and the same few epochs. Which of them starts nearer to a "
        "solution?",
        "For the sentence: is zero inside of the pooled interval?",
    ),
)

# --------------------------------------------------------------------------------------- 05.race

ALLOWED = 0.005  # loss of accuracy that the images must not show to be exceeded: half a point


def _race_cases(random: Random) -> Iterator[tuple]:
    """The demo is asked for 3 %; others for a little more or less."""
    steps, demo = (each.randrange(5) for each in (random, Random(":05.race")))
    yield (round(0.03 + 0.002 * (steps - demo), 3),)


def _rounds_of(rounds: object) -> tuple[list[dict], list[int]]:
    """The keywords of each pruning, and the epochs of each retraining; ValueError for others."""
    if not isinstance(rounds, Sequence) or not all(isinstance(each, Mapping) for each in rounds):
        raise ValueError(f"rounds is a list of dicts, one for each round, got {brief(rounds)}")
    if len(rounds) > 100:
        raise ValueError(f"{len(rounds):,} rounds; at most 100 are raced")
    amounts, epochs = [], []
    for number, each in enumerate(rounds, start=1):
        count = each.get("epochs")
        if not isinstance(count, Integral) or isinstance(count, bool) or count < 0:
            raise ValueError(f"round {number} needs its epochs, such as 'epochs': 1")
        amounts.append({key: value for key, value in each.items() if key != "epochs"})
        epochs.append(int(count))
    return amounts, epochs


def _raced(
    rounds: object,
    density: float,
    *,
    model: nn.Module | None = None,
    train: Images | None = None,
    val: Images | None = None,
    control: Accuracy | None = None,
    config: TrainConfig | None = None,
) -> Verdict:
    """Prune and retrain a copy of the dense network as `rounds` say; the control is its judge."""
    if model is None or train is None or val is None or control is None or config is None:
        words = "model=model, train=splits.train, val=splits.val, control=control, config=retrain"
        raise ValueError(f"give what measures it: {words}")
    for_choosing(val, "a schedule")
    amounts, epochs = _rounds_of(rounds)
    if any(None in each.values() or ... in each.values() for each in amounts):
        return Verdict("○", "not yet: an entry of a round is still empty")
    if sum(epochs) > config.epochs:
        words = f"{sum(epochs)} epochs in all; there are {config.epochs}, as for the control"
        lines = (("epochs", f"{sum(epochs)} of {config.epochs}"),)
        return Verdict("✗", f"wrong: the rounds take {words}", lines)
    raced = deepcopy(model)
    configs = [replace(config, epochs=count) for count in epochs]
    lines, mask = [], None
    for stage in retraining.iterative(raced, train, configs, amounts):
        mask = stage.mask
        if stage.kind == "retrained":
            change = drop(control, evaluate(raced, val))
            lines.append((f"round {stage.round}", f"{mask.density:.1%} left, {change}"))
    if mask is None or mask.density > density + 5e-5:
        left = "100%" if mask is None else f"{mask.density:.2%}"
        return Verdict("✗", f"wrong: {left} is left; at most {density:.1%} may be", tuple(lines))
    words = f"{mask.density:.2%} left, for a change of {change} against the control"
    if change.low > ALLOWED:
        words += f"; these images show that more than {100 * ALLOWED:g} points are lost"
        return Verdict("✗", f"wrong: {words}", tuple(lines))
    return Verdict("✓", f"right: {words}. How much lower can you go?", tuple(lines))


RACE = Exercise(
    id="05.race",
    kind="design",
    minutes=12,
    difficulty=4,
    importance=3,
    points=12,
    cases=_race_cases,
    observe=_raced,
    hints=(
        "Which round does the most harm? One that takes much late has few epochs left to recover.",
        "More epochs after the last cut help more than epochs after the first, where little was "
        "lost.",
        '`"across": "network"` ranks all layers together, so that small and sensitive layers keep '
        "more than the large one.",
    ),
)

EXERCISES = (SIGMA, SCHEDULE, COMPOUND, DEAD, REINIT, RACE)
