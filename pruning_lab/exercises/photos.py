"""The tasks of notebook 08 (AlexNet)."""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from random import Random

import torch
from torch import Tensor

from pruning_lab.exercises.comparison import brief
from pruning_lab.exercises.exercise import Exercise, Guess, Near, Verdict
from pruning_lab.exercises.nearness import order
from pruning_lab.paper import ALEXNET

LAYERS = [row.layer for row in ALEXNET if row.layer != "total"]

# --------------------------------------------------------------------------------------- 08.rank

RANK = Exercise(
    id="08.rank",
    kind="predict",
    minutes=3,
    difficulty=2,
    importance=3,
    points=3,
    guess=Guess(
        example=LAYERS,
        nearness=order,
        slips={
            "The fully connected layers stand first in it; they have the most weights, and so the "
            "most to spare.": lambda truth: [
                *(layer for layer in truth if layer.startswith("fc")),
                *(layer for layer in truth if not layer.startswith("fc")),
            ],
            "The last layers stand first in it; but what an early layer gets wrong, all later ones "
            "receive.": lambda _: LAYERS[::-1],
        },
    ),
    hints=(
        "Which layers have few weights, and use each of them at every position?",
        "In LeNet-5 (notebook 4) the first convolution was the most sensitive layer.",
        "Convolutions before fully connected layers, and those with many weights last.",
    ),
)

# ------------------------------------------------------------------------------------ 08.dropout


def _rate(original: float, density: float) -> float:
    return original * math.sqrt(density)


def _rate_cases(random: Random) -> Iterator[tuple]:
    yield 0.5, 0.25
    for _ in range(4):
        yield round(random.uniform(0.1, 0.7), 2), round(random.uniform(0.05, 0.9), 2)


DROPOUT = Exercise(
    id="08.dropout",
    kind="write",
    minutes=4,
    difficulty=2,
    importance=2,
    points=4,
    cases=_rate_cases,
    answer=_rate,
    twins={
        "the root is missing. Dropout is about units, and connections go with the square of the "
        "units: half of the units on both sides leave a quarter of the connections.": (
            lambda original, density: original * density
        ),
        "the fraction that is gone takes the place of the fraction kept.": (
            lambda original, density: original * math.sqrt(1 - density),
            lambda original, density: original * (1 - math.sqrt(density)),
            lambda original, density: original * (1 - density),
        ),
        "it is divided by the root, so that dropout grows; a pruned layer has fewer weights to "
        "overfit with, and needs less.": (
            lambda original, density: original / math.sqrt(density),
            lambda original, density: original / density,
        ),
        "this is the fraction of units that stay; a dropout rate is the fraction left out.": (
            lambda original, density: 1 - original * math.sqrt(density),
            lambda original, density: (1 - original) * math.sqrt(density),
            lambda original, density: 1 - (1 - original) * math.sqrt(density),
        ),
        "this is the square; the paper's equation 2 has a root.": (
            lambda original, density: original * density**2
        ),
        "this is the factor alone; multiply the original rate by it.": (
            lambda original, density: math.sqrt(density)
        ),
    },
    hints=(
        "Connections of a layer: units before it times units after it.",
        "If both sides keep a fraction u of their units, the connections keep u * u.",
        "So u is the root of the density: original * math.sqrt(density).",
    ),
    blocked=("retraining.dropout_rate",),
)

# ---------------------------------------------------------------------------------- 08.threshold


def _same_layer(guess: str, truth: str) -> Near:
    if guess == truth:
        return Near(1.0, "that layer it is")
    known = "" if guess in LAYERS else f"; the layers are {', '.join(LAYERS)}"
    return Near(0.0, f"another layer{known}")


THRESHOLD = Exercise(
    id="08.threshold",
    kind="predict",
    minutes=5,
    difficulty=3,
    importance=3,
    points=4,
    guess=Guess(
        example="conv1",
        nearness=_same_layer,
        slips={
            "conv1 is the most sensitive layer, so its quality is small. But a threshold is "
            "quality times sigma, and its weights are spread widely.": lambda _: "conv1",
        },
    ),
    rubric=(
        "It says that a threshold is quality times sigma, and that sigma differs between layers.",
        "It says which of the two is comparable between layers: the quality (or the density), not "
        "the threshold.",
        "It does not call the paper wrong: the paper's weights had other sigmas than ours.",
    ),
    hints=(
        "A threshold is quality * sigma.",
        "Which layer has the widest spread of weights: one with few inputs, or one with many?",
        "First weights are drawn with a sigma of about sqrt(2 / inputs); conv1 has the fewest.",
    ),
)

# ------------------------------------------------------------------------------------- 08.freeze

States = tuple[dict[str, Tensor], dict[str, Tensor]]


def _freeze_given(before, after):
    moved = []
    for name in before:
        if "weight" in name and not torch.allclose(before[name], after[name]):
            moved.append(name)
    return moved


def _freeze_cases(random: Random) -> Iterator[tuple]:
    for changes in (
        {"fc1.weight": 0.5, "fc1.bias": 0.5},
        {"conv1.weight": 1e-7},  # weight decay
        {"norm1.running_mean": 0.3, "norm1.running_var": 0.3},  # a norm that was left in train mode
        {"conv1.bias": 0.2},
        {},
        {"norm1.weight": 0.1, "fc1.weight": 0.2, "conv2.bias": 1e-7},
    ):
        yield _states(changes, random.randrange(10_000))


def _states(changes: Mapping[str, float], seed: int) -> States:
    """The state of a small network before and after, with these changes."""
    drawn = torch.Generator().manual_seed(seed)
    shapes = {"conv1.weight": (2, 1, 3, 3), "conv1.bias": (2,)}
    shapes |= dict.fromkeys(("norm1.weight", "norm1.bias"), (2,))
    shapes |= dict.fromkeys(("norm1.running_mean", "norm1.running_var"), (2,))
    shapes |= {"conv2.weight": (2, 2, 3, 3), "conv2.bias": (2,)}
    shapes |= {"fc1.weight": (3, 8), "fc1.bias": (3,)}
    before = {name: 0.5 + torch.rand(shape, generator=drawn) for name, shape in shapes.items()}
    after = {name: tensor.clone() for name, tensor in before.items()}
    for name, step in changes.items():
        after[name] *= 1 + step
    return before, after


def _moved(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    *,
    same: Callable[[Tensor, Tensor], bool] = torch.equal,
    looked: Callable[[str], bool] = lambda name: True,
    layer: Callable[[str], str] = lambda name: name.rpartition(".")[0],
    once: bool = True,
    invert: bool = False,
) -> list[str]:
    """The layers that have moved, in order; each option makes one mistake."""
    names = [n for n in before if looked(n) and same(before[n], after[n]) is invert]
    found = [layer(name) for name in names]
    return list(dict.fromkeys(found)) if once else found


def _is_weight(name: str) -> bool:
    return name.endswith("weight")


def _is_parameter(name: str) -> bool:
    return "running" not in name


_MISSED = {
    "close": "allclose takes small steps for none; weight decay moves a weight by a millionth, and "
    "a frozen weight does not move at all. torch.equal is exact.",
    "weights": "only weights are compared; biases move too, and so do the running mean and "
    "variance of a batch normalisation layer, though no optimizer knows them.",
    "buffers": "the running mean and variance of a batch normalisation layer are left out; they "
    "move in train mode, frozen or not.",
    "names": "these are the names of tensors; a layer's name is the part before the last dot.",
    "twice": "a layer of which several tensors have moved is listed several times.",
}
_HOW: dict[str, dict] = {
    "close": {"same": torch.allclose},
    "weights": {"looked": _is_weight},
    "buffers": {"looked": _is_parameter},
    "names": {"layer": str},
    "twice": {"once": False},
}


def _missed(*mistakes: str) -> tuple[str, Callable]:
    how = {key: value for name in mistakes for key, value in _HOW[name].items()}
    return " And ".join(_MISSED[name] for name in mistakes), partial(_moved, **how)


FREEZE = Exercise(
    id="08.freeze",
    kind="debug",
    minutes=8,
    difficulty=3,
    importance=3,
    points=8,
    cases=_freeze_cases,
    answer=_moved,
    given=_freeze_given,
    shown=lambda before, after: f"changed: {_changed_in(before, after)}",
    twins=dict(
        [
            _missed("close"),
            _missed("weights"),
            _missed("buffers"),
            _missed("names"),
            _missed("twice"),
            _missed("close", "weights"),
            _missed("close", "buffers"),
            _missed("close", "names"),
            _missed("weights", "names"),
            _missed("buffers", "names"),
            _missed("close", "weights", "names"),
            _missed("close", "buffers", "names"),
            (
                "this is upside down: the layers that have not moved.",
                (
                    partial(_moved, invert=True),
                    lambda before, after: [
                        layer
                        for layer in dict.fromkeys(name.rpartition(".")[0] for name in before)
                        if layer not in _moved(before, after)
                    ],
                ),
            ),
        ]
    ),
    hints=(
        "What of a layer is in its state besides the weight? Print the keys.",
        "A frozen tensor is the same to the last bit: torch.equal, not allclose.",
        'name.rpartition(".")[0] is the layer; dict.fromkeys(names) has each once, in order.',
    ),
)


def _changed_in(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> str:
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    return ", ".join(changed) or "nothing"


# ------------------------------------------------------------------------------------- 08.claims

CLAIMS = {  # headline -> whether the table supports it, and why
    "A": (
        False,
        "training time is a confound: it was trained on after the dense one had stopped. Only the "
        "control, trained for as long, tells what pruning did",
    ),
    "B": (
        False,
        "ten classes need less of a network than a thousand, and nothing here was measured on "
        "ImageNet",
    ),
    "C": (
        False,
        "there is one network, from one seed; the interval is that of other images, not of other "
        "trainings",
    ),
    "D": (
        True,
        "nothing was chosen by the test images, they were looked at once, and the sentence claims "
        "no more than the interval",
    ),
}


def _all_claims(claims: object) -> Verdict:
    """A sentence for each wrong entry."""
    if not isinstance(claims, Mapping) or claims.keys() != CLAIMS.keys():
        raise ValueError(f"claims is a dict with the keys {', '.join(CLAIMS)}")
    if odd := [name for name, entry in claims.items() if entry not in (True, False)]:
        raise ValueError(f"an entry is True or False, got {brief(claims[odd[0]])} ({odd[0]})")
    wrong = [f"{n}: {why}" for n, (is_so, why) in CLAIMS.items() if bool(claims[n]) != is_so]
    if wrong:
        return Verdict("✗", f"wrong: {'; '.join(wrong)}.")
    lines = tuple((name, why) for name, (_, why) in CLAIMS.items())
    return Verdict("✓", "right. Why:", lines)


HEADLINES = Exercise(
    id="08.claims",
    kind="explain",
    minutes=6,
    difficulty=3,
    importance=5,
    points=6,
    observe=_all_claims,
    hints=(
        "For each headline: what would have to be measured, and was it?",
        "Two networks are compared in A. In what do they differ?",
        "What varies in a paired interval: images, seeds, or data sets?",
    ),
)

EXERCISES = (RANK, DROPOUT, THRESHOLD, FREEZE, HEADLINES)
