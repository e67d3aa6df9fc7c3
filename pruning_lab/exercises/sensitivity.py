"""The tasks of notebook 04 (sensitivity)."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor, nn

import pruning_lab as lab
from pruning_lab.data import for_choosing
from pruning_lab.evaluation import Drop, drop, evaluate
from pruning_lab.exercises.comparison import brief
from pruning_lab.exercises.exercise import Exercise, Guess, Verdict
from pruning_lab.exercises.nearness import order, points
from pruning_lab.exercises.once import largest
from pruning_lab.masks import masked, prune
from pruning_lab.paper import LAYER_TABLES
from pruning_lab.sensitivity import choose

# --------------------------------------------------------------------------------------- 04.rank

RANK = Exercise(
    id="04.rank",
    kind="predict",
    minutes=3,
    difficulty=2,
    importance=3,
    points=2,
    guess=Guess(
        example=["fc1", "fc2", "conv1", "conv2"],
        nearness=order,
        slips={
            "The largest layers stand first in it; but they have the most weights to spare.": (
                lambda _: ["fc1", "conv2", "fc2", "conv1"]
            ),
        },
    ),
    hints=(
        "The most sensitive layer comes first: it loses accuracy at the highest density.",
        "How many weights has each layer, and how often is each of them used in one image?",
        "A layer with many weights can spare many of them.",
    ),
)

# --------------------------------------------------------------------------------------- 04.scan


class Toy(NamedTuple):
    """Linear layers between so many units; `stops`: evaluate raises an exception, once."""

    units: tuple[int, ...]
    seed: int
    stops: bool = False


def _scan_cases(random: Random) -> Iterator[tuple]:
    seeds = [random.randrange(10_000) for _ in range(4)]
    yield Toy((4, 2, 4), seeds[0]), [0.5, 0.25]
    yield Toy((4, 2, 4), seeds[1]), [0.25, 0.75]
    yield Toy((4, 4, 2, 8), seeds[2]), random.sample([0.75, 0.5, 0.25, 0.125], 2)
    yield Toy((4, 2, 4), seeds[3], stops=True), [0.5, 0.25]


def _network(toy: Toy) -> nn.Sequential:
    """Layers whose weights have all different sizes, from 1 / n to 1."""
    drawn = partial(torch.randperm, generator=torch.Generator().manual_seed(toy.seed))
    model = nn.Sequential()
    for number, (in_, out) in enumerate(zip(toy.units, toy.units[1:], strict=False), start=1):
        layer, n = nn.Linear(in_, out), in_ * out
        signed = (1 + drawn(n)) * (1 - 2 * (drawn(n) % 2)) / n
        layer.weight.detach().copy_(signed.view(out, in_))
        layer.bias.detach().fill_(0.5)
        model.add_module(f"fc{number}", layer)
    return model


def _left(dense: Sequence[Tensor], model: nn.Module) -> float:
    """In place of an accuracy: how much of the weights' sizes is left; later layers count more."""
    pairs = enumerate(zip(model.parameters(), dense, strict=True), start=1)
    left = [n * (now.detach().abs().sum() / then.abs().sum()).item() for n, (now, then) in pairs]
    return sum(left) / sum(range(1, len(dense) + 1))


def _scanned(scan: Callable, toy: Toy, densities: list[float]) -> dict | None:
    """The rows, and whether the weights are as before; None where nothing was returned."""
    model, calls = _network(toy), []
    dense = [parameter.detach().clone() for parameter in model.parameters()]

    def evaluate(model: nn.Module) -> float:
        calls.append(model)
        if toy.stops and len(calls) == 2:
            raise InterruptedError
        return _left(dense, model)

    rows = []
    with suppress(InterruptedError):
        rows = scan(model, evaluate, list(densities))
    after = "as before" if all(map(torch.equal, dense, model.parameters())) else "changed"
    seen = {"rows": [] if toy.stops else rows, "the weights afterwards": after}
    return None if rows is None else seen


def _largest(weight: Tensor, density: float) -> Tensor:
    return largest(weight.abs(), round(density * weight.numel()))


def _cut(model, name, density, *, at_once=False, compound=False, keep=_largest) -> None:
    for each in [n for n, _ in model.named_children()] if at_once else [name]:
        weight = model.get_submodule(each).weight.detach()
        alive = int(weight.count_nonzero()) / weight.numel() if compound else 1
        weight.mul_(keep(weight, density * alive))


def _scan_as(model, evaluate, densities, *, restored="row", safe=True, by_level=False, **cut):
    """The scan, right as it is; each option makes one mistake.

    The weights are `restored` after each "row", "before" each row, after a "layer", or never: "";
    `safe`: after an exception too.
    """
    dense, rows = [layer.weight.detach().clone() for layer in model], []

    def restore() -> None:
        for layer, weight in zip(model, dense, strict=True):
            layer.weight.detach().copy_(weight)

    names = [name for name, _ in model.named_children()]
    pairs = [(name, density) for name in names for density in densities]
    if by_level:
        pairs = [(name, density) for density in densities for name in names]
    for number, (name, density) in enumerate(pairs, start=1):
        if restored == "before":
            restore()
        _cut(model, name, density, **cut)
        try:
            rows.append((name, density, evaluate(model)))
        except InterruptedError:
            if safe:
                restore()
            raise
        if restored == "row" or (restored == "layer" and number % len(densities) == 0):
            restore()
    return rows


def _either(**how) -> tuple[Callable, Callable]:
    """A mistake of those who restore the weights after an exception, and of those who do not."""
    return partial(_scan_as, **how), partial(_scan_as, safe=False, **how)


SCAN = Exercise(
    id="04.scan",
    kind="write",
    minutes=12,
    difficulty=3,
    importance=4,
    points=12,
    cases=_scan_cases,
    answer=_scan_as,
    observe=_scanned,
    shown=lambda toy, densities: f"{toy.units} units, densities {densities}, stops: {toy.stops}",
    twins={
        "the weights do not come back, so each row measures the cuts of all rows before it. A copy "
        "needs .clone(): `old = layer.weight` and state_dict() are the same tensors, and change "
        "with them.": _either(restored=""),
        "the weights come back after each layer only, so a level that keeps more than the one "
        "before it lacks weights.": _either(restored="layer"),
        "the density is taken of what the level before has left; it is a fraction of all weights "
        "of the layer.": (
            *_either(restored="layer", compound=True),
            *_either(restored="", compound=True),
        ),
        "all layers are cut at once; a scan cuts one layer while the others stay dense.": (
            _either(at_once=True)
        ),
        "the rows are right, but ordered by density; go through the layers, and for each through "
        "the densities as given.": _either(by_level=True),
        "the rows are right, but the model is not as before: its last layer is still pruned.": (
            _either(restored="before")
        ),
        "density is what stays, not the sparsity.": _either(keep=lambda w, d: _largest(w, 1 - d)),
        "the signed weights are ranked, so large negative ones go first; rank their magnitudes.": (
            _either(keep=lambda weight, density: _largest(weight - weight.min(), density))
        ),
        "this is upside down: the smallest stay.": _either(keep=lambda w, d: ~_largest(w, 1 - d)),
    },
    notes={
        "but where evaluate raises an exception, or Ctrl-C stops it, a layer stays pruned. "
        "`try: ... finally:` restores it then too.": partial(_scan_as, safe=False),
    },
    hints=(
        "Two loops: over model.named_children(), and inside it over the densities. A row is (name, "
        "density, evaluate(model)).",
        "Each row starts from the dense network: dense = layer.weight.detach().clone() before it, "
        "layer.weight.copy_(dense) under torch.no_grad() after it.",
        "dense.abs().flatten().topk(round(density * dense.numel())).indices are the places that "
        "stay.",
    ),
    blocked=("sensitivity.scan",),
)

# ------------------------------------------------------------------------------------- 04.paired


def _paired_cases(random: Random) -> Iterator[tuple]:
    yield torch.tensor([1, 1, 1, 1, 0, 1, 0]).bool(), torch.tensor([1, 1, 0, 0, 1, 1, 0]).bool()
    for n, lost, won in (20, 4, 2), (200, 5, 9):
        neither, lost = 1 + random.randrange(6), lost + random.randrange(3)
        yield _hits(n - lost - won - neither, lost, won, neither, random.randrange(10_000))


def _hits(both: int, first: int, second: int, neither: int, seed: int) -> tuple[Tensor, Tensor]:
    """bool (n,) of two networks: so many images right by both, by one of them only, by neither."""
    counts = torch.tensor([both, first, second, neither])
    mixed = torch.randperm(int(counts.sum()), generator=torch.Generator().manual_seed(seed))
    pairs = torch.tensor([[True, True], [True, False], [False, True], [False, False]])
    return tuple(pairs.repeat_interleave(counts, 0)[mixed].T)


def _changes(before: Tensor, after: Tensor) -> tuple[int, int]:
    return int((before & ~after).sum()), int((~before & after).sum())


def _less(before: Tensor, after: Tensor) -> int:
    return int(before.sum()) - int(after.sum())


PAIRED = Exercise(
    id="04.paired",
    kind="write",
    minutes=6,
    difficulty=2,
    importance=4,
    points=6,
    cases=_paired_cases,
    answer=_changes,
    twins={
        "this is the difference of the two sums, in which lost and won images cancel out; compare "
        "image by image: before & ~after.": (
            lambda b, a: (max(_less(b, a), 0), max(_less(a, b), 0)),
            lambda b, a: (_less(b, a), _less(a, b)),
            lambda b, a: (abs(_less(b, a)),) * 2,
            lambda b, a: (_less(b, a), 0),
        ),
        "lost and won are swapped; a lost image was right before.": lambda b, a: _changes(a, b),
        "images that both networks get wrong are counted, and nothing has changed there.": (
            lambda b, a: (int((~a).sum()), int((~b).sum())),
            lambda b, a: (int((~a).sum()), _changes(b, a)[1]),
            lambda b, a: (_changes(b, a)[0], int((~b).sum())),
        ),
        "images that both networks get right are counted, and nothing has changed there.": (
            lambda b, a: (int(b.sum()), int(a.sum())),
            lambda b, a: (_changes(b, a)[0], int(a.sum())),
        ),
        "these are fractions; return how many images there are.": (
            lambda b, a: tuple(count / len(b) for count in _changes(b, a))
        ),
        "this is how many changed in all; return how many in each direction.": (
            lambda b, a: (int((b != a).sum()),) * 2
        ),
    },
    hints=(
        "A lost image was right before and is not right after.",
        "Of bool tensors & is and, | is or, ~ is not; .sum() counts what is True.",
        "int((before & ~after).sum()) is the first of the two.",
    ),
)

# ------------------------------------------------------------------------------------ 04.overlap


class Hits(NamedTuple):
    """How many images both networks answer correctly, only one of them, and neither."""

    both: int
    only_first: int
    only_second: int
    neither: int
    seed: int


def _overlap_cases(random: Random) -> Iterator[tuple]:
    for both, *changed, neither in (
        (82, 8, 0, 10),  # the intervals overlap, and yet the first network is better
        (900, 1, 14, 85),  # the second is, by a little over one point
        (16, 12, 6, 6),  # fifteen points, but so few images cannot show it
        (8, 20, 1, 11),  # the intervals do not overlap
        (830, 120, 20, 30),
        (337, 33, 12, 18),  # they overlap, and that of an unpaired difference is above zero
        (80, 7, 7, 6),
    ):
        more = random.randrange(3)
        yield (Hits(both + more, *changed, neither - more, random.randrange(10_000)),)


def _overlap_given(first, second):
    one, two = lab.evaluation.Accuracy.of(first), lab.evaluation.Accuracy.of(second)
    if one.low > two.high:
        return "first"
    if two.low > one.high:
        return "second"
    return "cannot tell"


def _by_sign(low: float, high: float) -> str:
    """From the interval of how much more the first network has right."""
    return "first" if low > 0 else "second" if high < 0 else "cannot tell"


def _better(first: Tensor, second: Tensor) -> str:
    loss = Drop.counted(*_changes(first, second), len(first))
    return _by_sign(loss.low, loss.high)


def _unpaired(first: Tensor, second: Tensor, *, overlap: bool) -> str:
    """By normal intervals: of each of the two (do they overlap?), or of their difference."""
    p, q, n = first.float().mean().item(), second.float().mean().item(), len(first)
    errors = math.sqrt(p * (1 - p) / n), math.sqrt(q * (1 - q) / n)
    half = 1.96 * (sum(errors) if overlap else math.hypot(*errors))
    return _by_sign(p - q - half, p - q + half)


OVERLAP = Exercise(
    id="04.overlap",
    kind="debug",
    minutes=8,
    difficulty=3,
    importance=4,
    points=8,
    cases=_overlap_cases,
    answer=_better,
    given=_overlap_given,
    observe=lambda better, hits: better(*_hits(*hits)),
    shown=lambda hits: f"both right {hits[0]} times, only one {hits[1]} and {hits[2]} times",
    twins={
        "judged by overlap: the intervals of two networks may overlap and one is better all the "
        "same. Both saw the same images, so take the paired interval of the difference.": (
            _overlap_given,
            partial(_unpaired, overlap=True),
        ),
        "this is the interval of the difference of two unrelated samples. Both networks saw the "
        "same images; count only those that changed (paired).": partial(_unpaired, overlap=False),
        "more right answers are no proof: by chance one network is always a little ahead. Does "
        "the paired interval exclude zero?": (
            lambda one, two: _by_sign(*[_less(one, two)] * 2),
            lambda one, two: "first" if _less(one, two) > 0 else "second",
        ),
        "first and second are swapped: images that only the first gets right speak for it.": (
            lambda first, second: _better(second, first)
        ),
    },
    hints=(
        "The given code looks at each network alone. What is known besides, since both saw the "
        "same images?",
        "Count the images that only the first gets right (lost) and only the second (won), as in "
        "04.paired.",
        "lab.evaluation.Drop.counted(lost, won, len(first)) has .low and .high: both above zero, "
        "the first is better; both below, the second.",
    ),
)

# ----------------------------------------------------------------------------------- 04.together

TOGETHER = Exercise(
    id="04.together",
    kind="predict",
    minutes=3,
    difficulty=2,
    importance=3,
    points=2,
    guess=Guess(
        example=1.5,
        nearness=points(half=1.0),
        unit="points lost",
        low=0,
        high=100,
        slips={
            "That is the sum of the four, and single losses do not add: each layer now gets inputs "
            "that are wrong already.": lambda _: 2.0,
            "That is the loss of one layer alone; here all four are cut.": lambda _: 0.5,
        },
    ),
    hints=(
        "Four layers alone lose half a point each. Would you add them?",
        "In the scan each cut layer got clean inputs, and dense layers came after it.",
        "Two layers may harm the same images, or the second what the first has weakened.",
    ),
)

# --------------------------------------------------------------------------------------- 04.plan


def _plan_cases(random: Random) -> Iterator[tuple]:
    """As many weights as the paper kept for the demo; some hundreds more or fewer for others."""
    steps, demo = (each.randrange(120) for each in (random, Random(":04.plan")))
    *layers, _total = LAYER_TABLES["lenet-5"]
    yield (sum(round(row.density * row.weights) for row in layers) + 10 * (steps - demo),)


def _measured(plan: object, budget: int, *, model=None, images=None, scan=None) -> Verdict:
    """How a plan does beside what the single curves say for as many weights."""
    if model is None or images is None or scan is None:
        raise ValueError("give what measures it: model=model, images=splits.val, scan=scan")
    for_choosing(images, "a plan")
    densities = getattr(plan, "densities", plan)
    if not isinstance(densities, Mapping):
        raise ValueError(f"a plan is a dict of layer -> density, got {brief(plan)}")
    mask = prune(model, density=dict(densities))
    if off := mask.kept - budget:
        words = f"{abs(off):,} too {'many' if off > 0 else 'few'}; {budget:,} are asked for"
        return Verdict("✗", f"wrong: the plan keeps {mask.kept:,} weights, {words}")
    single = choose(scan, density=budget / mask.weights).mask(model)
    dense, accuracies = evaluate(model, images), []
    for each in mask, single:
        with masked(model, each):
            accuracies.append(evaluate(model, images))
    drops = *(drop(dense, each) for each in accuracies), (gain := drop(*reversed(accuracies)))
    names = "your plan", "the single choice", "yours compared with it"
    lines = tuple(zip(names, map(str, drops), strict=True))
    if gain.value >= 0:
        words = "as much as" if gain.value == 0 else "more than"
        return Verdict("✗", f"wrong: it loses {words} the single choice", lines)
    chance = "" if gain.high < 0 else ", which on so few images may be chance"
    return Verdict("✓", f"right: it loses {-100 * gain.value:.2f} points less{chance}", lines)


PLAN = Exercise(
    id="04.plan",
    kind="design",
    minutes=10,
    difficulty=4,
    importance=3,
    points=10,
    cases=_plan_cases,
    observe=_measured,
    hints=(
        "Start from the densities of lab.choose(scan, density=budget / weights), and move weights "
        "from one layer to another.",
        "conv1 has 500 weights and is the most sensitive. What do 100 more for it cost fc1?",
        "A layer keeps round(density * n) weights: choose counts for three layers, give fc1 what "
        "is left, and divide each by n.",
    ),
)

EXERCISES = (RANK, SCAN, PAIRED, OVERLAP, TOGETHER, PLAN)
