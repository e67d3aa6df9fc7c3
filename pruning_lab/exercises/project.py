"""The tasks of notebook 09 (the studio), which are a project; and how a project is scored."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple

from torch import nn

from pruning_lab import counts, models, storage
from pruning_lab.data import Images, for_choosing
from pruning_lab.evaluation import Drop, drop, evaluate
from pruning_lab.exercises.comparison import brief
from pruning_lab.exercises.exercise import Exercise, Verdict
from pruning_lab.layers import prunable
from pruning_lab.masks import masked, prune
from pruning_lab.sensitivity import Plan

# ------------------------------------------------------------------------------------- 09.repair

_GENTLE = {"conv1": 0.8, "conv2": 0.3, "fc1": 0.08, "fc2": 0.4}
_HARSH = {"conv1": 0.2, "conv2": 0.035, "fc1": 0.005, "fc2": 0.04}


def _repair_cases(random: Random) -> Iterator[tuple]:
    """Densities of LeNet-5 of which one costs nearly all that is lost."""
    layer = random.choice(list(_GENTLE))
    plan = _GENTLE | {layer: _HARSH[layer]}
    yield ({name: round(d * random.uniform(1, 1.2), 3) for name, d in plan.items()},)


def _repaired(
    layer: object, plan: Mapping[str, float], *, model: nn.Module = None, images: Images = None
) -> Verdict:
    """Gives each layer back alone; the one to find is that by which most images come back."""
    if model is None or images is None:
        raise ValueError("give the network and the images: model=model, images=splits.val")
    for_choosing(images, "the search for a layer")
    if layer not in plan:
        raise ValueError(f"the answer is one of {', '.join(plan)}, got {brief(layer)}")
    after = {}
    for name in plan:
        with masked(model, prune(model, density={n: d for n, d in plan.items() if n != name})):
            after[name] = evaluate(model, images)
    lines = tuple((f"with all of {name}", str(accuracy)) for name, accuracy in after.items())
    if layer == max(after, key=lambda name: after[name].value):
        return Verdict("✓", f"right: {layer} alone costs most", lines)
    if plan[layer] == min(plan.values()):
        words = "this layer keeps the smallest fraction, and can spare most; give it back, and look"
        return Verdict("✗", f"wrong: {words} at the accuracy")
    words = f"the network with all of {layer} is not the best of the four"
    return Verdict("✗", f"wrong: {words}; go to the dense attempt and cut one layer at a time")


REPAIR = Exercise(
    id="09.repair",
    kind="debug",
    minutes=10,
    difficulty=3,
    importance=3,
    points=10,
    cases=_repair_cases,
    observe=_repaired,
    hints=(
        "studio.set(density=plan) is the plan as it came. What changes when one layer is whole?",
        "A low density is no mistake by itself: fc1 has 400,000 weights.",
        "Set three layers as in the plan and the fourth to 1.0, in turn, and compare.",
    ),
)

# ------------------------------------------------------------------------------------- 09.budget


class Budget(NamedTuple):
    """What may be left of LeNet-5, and how many points it may lose against the dense network."""

    what: str  # "bytes", "FLOPs" or "weights"
    most: int
    points: float

    def __str__(self) -> str:
        return f"at most {self.most:,} {self.what}, at most {self.points:g} points lost"


@dataclass(frozen=True)
class Score:
    """A pruned network beside the dense one, on the same images."""

    weights: int  # kept
    bytes: int  # in this library's exact file, without names and shapes
    flops: int  # per image, where zero weights are skipped
    drop: Drop

    def left(self, what: str) -> int:
        return {"bytes": self.bytes, "FLOPs": self.flops, "weights": self.weights}[what]


def _budget_cases(random: Random) -> Iterator[tuple]:
    what = random.choice(("bytes", "FLOPs", "weights"))
    low, high, step = {
        "bytes": (90_000, 140_000, 1_000),
        "FLOPs": (700_000, 1_100_000, 10_000),
        "weights": (24_000, 40_000, 500),
    }[what]
    yield (Budget(what, random.randrange(low, high, step), 1.0),)


def score(pruned: nn.Module, images: Images, dense: nn.Module | None = None) -> Score:
    """What is left of LeNet-5, and what it lost against the trained network of the course."""
    dense = models.lenet_5(trained="mnist") if dense is None else dense
    layers = prunable(pruned).values()
    size = sum(storage.sizes(layer.weight)["ours"] for layer in layers)
    x, _ = next(iter(images))
    counted = counts.layers(pruned, tuple(x.shape[1:]))
    lost = drop(evaluate(dense, images), evaluate(pruned, images))
    return Score(counted.total.kept, size, round(counted.total.flops_kept), lost)


def pruned_by(plan: str | Path, network: str | Path | None = None) -> nn.Module:
    """LeNet-5 as the studio's export leaves it: a plan, and beside it the network it is for."""
    path = Path(plan)
    network = path.with_suffix(".safetensors") if network is None else network
    model = models.lenet_5()
    models.load_(model, network)
    Plan.load(path).mask(model).apply_(model)
    return model


def verdict(budget: Budget, found: Score) -> Verdict:
    """Whether a network fits the budget."""
    left, lost = found.left(budget.what), 100 * found.drop.value
    sizes = dict.fromkeys((budget.what, "weights"))
    rows = [("budget", str(budget)), *((what, f"{found.left(what):,}") for what in sizes)]
    lines = (*rows, ("change", str(found.drop)))
    if left > budget.most:
        words = f"{left:,} {budget.what} are left, {left - budget.most:,} too many"
        return Verdict("✗", f"wrong: {words}", lines)
    if lost > budget.points:
        words = f"it loses {lost:.2f} points, and {budget.points:g} are allowed; retrain it"
        return Verdict("✗", f"wrong: {words}", lines)
    return Verdict("✓", f"right: {left:,} {budget.what}, {lost:.2f} points lost", lines)


def _budgeted(plan: object, budget: Budget, *, images: Images = None) -> Verdict:
    if images is None:
        raise ValueError("give the images: images=splits.val")
    for_choosing(images, "a plan")
    if not isinstance(plan, str | Path):
        raise ValueError(f'give the file that studio.export wrote: "plan.json"; got {brief(plan)}')
    return verdict(budget, score(pruned_by(plan), images))


BUDGET = Exercise(
    id="09.budget",
    kind="design",
    minutes=40,
    difficulty=4,
    importance=4,
    points=20,
    cases=_budget_cases,
    observe=_budgeted,
    hints=(
        "Which layers have the weights, and which the operations? lab.cost.table(model, ...) says.",
        "studio.suggest(density=...) is a start; then move single layers, then studio.retrain(2).",
        "In rounds: cut a little, retrain, cut again; export the last attempt.",
    ),
)

# ---------------------------------------------------------------------------------------- 09.own

OWN = Exercise(
    id="09.own",
    kind="explain",
    minutes=60,
    difficulty=4,
    importance=5,
    points=30,
    rubric=(
        "The question is one that numbers can answer: which network, which data, what is asked.",
        "The plan says what was kept of each layer, and by what it was chosen (val, never test).",
        "There is a control: the dense network, trained on for as long as the pruned one.",
        "The change against the control is given with its paired interval, on test, used once.",
        "It says what is not claimed: one network, one data set, one seed, no time on hardware.",
    ),
    hints=(
        "Any nn.Module will do: lab.Studio(model, splits), then suggest, retrain, compare.",
        "The control costs as many epochs as the retraining. Plan for both.",
        "One page: question, plan, control, interval, what you would not claim.",
    ),
)

EXERCISES = (REPAIR, BUDGET, OWN)
