"""The tasks of notebooks 00 (start) and 01 (a dense network)."""

from collections.abc import Iterator
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from pruning_lab.exercises.exercise import Exercise, Guess, Near
from pruning_lab.exercises.nearness import each, factor, log_odds, points


class Run(NamedTuple):
    """A training run with its accuracies."""

    name: str
    val: float
    test: float


# -------------------------------------------------------------------------------------- 00.watts

WATTS = Exercise(
    id="00.watts",
    kind="predict",
    minutes=3,
    difficulty=1,
    importance=3,
    points=3,
    guess=Guess(
        example=1.0,
        nearness=factor,
        unit="W",
        low=1e-12,
        high=1e12,
        slips={
            "640 pJ are 640e-12 joules; did you take them for 640e-9 (nJ)?": lambda w: w * 1e3,
            "640 pJ are 640e-12 joules; did you take them for 640e-15?": lambda w: w / 1e3,
            "Each of the billion connections is read at every evaluation; "
            "did you count one access per layer?": lambda w: w / 1e9,
        },
    ),
    hints=(
        "A billion weights are read 20 times a second.",
        "One read of 32 bits from DRAM takes 640 pJ, which is 640e-12 J.",
        "Watts are joules per second: reads per second times joules per read.",
    ),
)

# -------------------------------------------------------------------------------------- 01.share


def _layer_and_share(guess: dict, truth: dict) -> Near:
    share = points(scale=100)(guess["share"], truth["share"])
    if guess["layer"] != truth["layer"]:
        return Near(share.score / 2, f"another layer has most weights; your share: {share.words}")
    return Near((1 + share.score) / 2, f"the right layer; its share: {share.words}")


SHARE = Exercise(
    id="01.share",
    kind="predict",
    minutes=2,
    difficulty=1,
    importance=3,
    points=2,
    guess=Guess(example={"layer": "fc1", "share": 0.5}, nearness=_layer_and_share, low=0, high=1),
    hints=(
        "A fully connected layer has one weight for each pair of an input and an output.",
        "An image has 28 x 28 pixels.",
        "Compute inputs times outputs for each layer, and divide by the sum.",
    ),
)

# -------------------------------------------------------------------------------------- 01.flops


def _flops(out: int, in_: int, positions: int = 1) -> int:
    return 2 * out * in_ * positions


def _flops_cases(random: Random) -> Iterator[tuple]:
    yield 2, 3
    yield 2, 3, 5
    for _ in range(3):
        yield random.randint(2, 500), random.randint(2, 800), random.randint(3, 900)


FLOPS = Exercise(
    id="01.flops",
    kind="write",
    minutes=6,
    difficulty=2,
    importance=3,
    points=6,
    cases=_flops_cases,
    answer=_flops,
    twins={
        "these are multiply-adds (MACs); each is 2 FLOPs, a multiplication and an addition.": (
            lambda out, in_, positions=1: out * in_ * positions
        ),
        "the biases are added too; by convention only the weights' multiply-adds count.": (
            lambda out, in_, positions=1: 2 * out * in_ * positions + out * positions,
            lambda out, in_, positions=1: 2 * out * in_ * positions + out,
            lambda out, in_, positions=1: 2 * out * (in_ + 1) * positions,
        ),
        "the additions are counted one by one (n inputs, n - 1 additions); by convention, and in "
        "the paper, each weight counts 2 FLOPs.": (
            lambda out, in_, positions=1: out * (2 * in_ - 1) * positions
        ),
        "the positions are ignored; a convolution uses each weight once at every position.": (
            lambda out, in_, positions=1: 2 * out * in_
        ),
    },
    hints=(
        "Each output needs one multiply-add for each input.",
        "A multiply-add is two operations.",
        "A convolution does the same again at each of its output positions.",
    ),
)

# ----------------------------------------------------------------------------------- 01.accuracy


def _accuracy(batches: list[Tensor]) -> float:
    return sum(int(hits.sum()) for hits in batches) / sum(len(hits) for hits in batches)


def _accuracy_cases(random: Random) -> Iterator[tuple]:
    yield ([torch.tensor([True, True, True, True]), torch.tensor([True, False])],)
    for size in 8, 100:
        sizes = [size] * random.randint(1, 3) + [random.randint(1, size - 1)]
        quality = random.uniform(0.7, 0.9)
        yield ([torch.tensor([random.random() < quality for _ in range(n)]) for n in sizes],)


ACCURACY = Exercise(
    id="01.accuracy",
    kind="write",
    minutes=6,
    difficulty=2,
    importance=4,
    points=6,
    cases=_accuracy_cases,
    answer=_accuracy,
    twins={
        "this is the mean of the batches' accuracies; a short last batch counts too much in it. "
        "Divide all hits by all images.": lambda batches: (
            sum(hits.float().mean().item() for hits in batches) / len(batches)
        ),
        "all batches are taken to be as long as the first, but the last one is shorter. Divide by "
        "the number of all images.": lambda batches: (
            sum(int(hits.sum()) for hits in batches) / (len(batches) * len(batches[0]))
        ),
        "this is how many images are right; divide by the number of all images.": lambda batches: (
            sum(int(hits.sum()) for hits in batches)
        ),
        "this is a percentage; return the fraction, between 0 and 1.": lambda batches: (
            100 * _accuracy(batches)
        ),
        "this is the error, the fraction of wrong answers.": lambda batches: 1 - _accuracy(batches),
    },
    hints=(
        "Count first, divide once.",
        "hits.sum() is the number of correct images in a batch, len(hits) that of all images.",
        "Sum both over all batches, then divide.",
    ),
)

# ----------------------------------------------------------------------------------- 01.interval

INTERVAL = Exercise(
    id="01.interval",
    kind="predict",
    minutes=3,
    difficulty=2,
    importance=4,
    points=3,
    guess=Guess(
        example=[90.0, 90.0],
        nearness=each(log_odds, ("99 of 100", "4,950 of 5,000")),
        unit="%",
        low=1,  # a fraction is refused
        high=99.999,
        slips={
            "Did you take 2 sqrt(p (1 - p) / n) from both? So near to 100 % the interval is not "
            "symmetric, and with 100 images it reaches further down.": lambda _: [97.0, 98.72],
            "Did you take the same for both? The number of images makes the difference.": (
                lambda truth: [truth[1], truth[1]]
            ),
        },
    ),
    hints=(
        "One error in 100 images: with other images it might have been none, or three.",
        "The interval becomes narrower with the square root of the number of images.",
        "It is not symmetric: an accuracy of 99 % may be too high by more than 1 point.",
    ),
)

# --------------------------------------------------------------------------------------- 01.leak


def _leak_given(runs):
    return max(runs, key=lambda run: run.test)


def _leak_cases(random: Random) -> Iterator[tuple]:
    yield ([Run("a", 0.91, 0.97), Run("b", 0.97, 0.9), Run("c", 0.95, 0.95), Run("d", 0.9, 0.9)],)
    for count in 5, 8, 8, 8, 8:
        accuracies = [(0.97, 0.9), (0.91, 0.97), (0.95, 0.95), (0.93, 0.8)]
        accuracies += [(0.9, 0.91)] * (count - 5)
        random.shuffle(accuracies)
        accuracies.append((0.9, 0.9))  # the last run is best by nothing
        shifts = [round(random.uniform(0, 0.004), 4) for _ in range(2 * count)]
        rows = zip(accuracies, shifts[::2], shifts[1::2], strict=True)
        yield ([Run(f"run {i}", v + a, t + b) for i, ((v, t), a, b) in enumerate(rows, 1)],)


LEAK = Exercise(
    id="01.leak",
    kind="debug",
    minutes=6,
    difficulty=2,
    importance=5,
    points=6,
    cases=_leak_cases,
    answer=lambda runs: max(runs, key=lambda run: run.val),
    given=_leak_given,
    twins={
        "the run is chosen by its test accuracy, so the test images no longer measure what new "
        "images would give.": _leak_given,
        "test has a say in the choice; choose by val alone.": (
            lambda runs: max(runs, key=lambda run: run.val + run.test)
        ),
        "this is the last run, whatever its accuracy.": lambda runs: runs[-1],
    },
    hints=(
        "Which images may be looked at while you choose?",
        "Test is for reporting, once, after all choices.",
        "max(runs, key=...) takes the run with the largest key.",
    ),
)

EXERCISES = (WATTS, SHARE, FLOPS, ACCURACY, INTERVAL, LEAK)
