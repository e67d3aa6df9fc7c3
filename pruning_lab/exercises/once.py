"""The tasks of notebook 02 (prune once)."""

from collections.abc import Iterator, Mapping
from random import Random

import torch
from torch import Tensor, nn

from pruning_lab import criteria
from pruning_lab.data import Images
from pruning_lab.data.splits import for_choosing
from pruning_lab.evaluation import drop, evaluate
from pruning_lab.exercises.exercise import Exercise, Guess, Verdict
from pruning_lab.exercises.nearness import curve, picked
from pruning_lab.layers import prunable
from pruning_lab.masks import Mask, masked, prune

SIX = (0.9, -0.1, 0.4, -0.7, 0.05, 0.3)


def _weight(random: Random, *shape: int) -> Tensor:
    """Random weights of two decimals, none zero, with a mean that is not zero."""
    mean, count = random.choice((-0.4, 0.3, 0.5)), torch.Size(shape).numel()
    values = [round(random.gauss(mean, 1), 2) or 0.01 for _ in range(count)]
    return torch.tensor(values).view(shape)


# -------------------------------------------------------------------------------------- 02.three

THREE = Exercise(
    id="02.three",
    kind="predict",
    minutes=2,
    difficulty=1,
    importance=3,
    points=2,
    guess=Guess(
        example=[0.9, 0.4, 0.3],
        nearness=picked,
        low=-0.7,
        high=0.9,
        slips={
            "These are the three lowest numbers; but what counts is the size |w|, "
            "and -0.7 is the second largest.": lambda _: [-0.7, -0.1, 0.05],
            "These are the three largest: they stay.": lambda _: [0.9, -0.7, 0.4],
        },
    ),
    hints=(
        "A weight multiplies its input: which weights change the output least?",
        "The sign does not matter.",
        "Take the three that are nearest to zero.",
    ),
)

# --------------------------------------------------------------------------------------- 02.keep


def _keep(weight: Tensor, quality: float) -> Tensor:
    return weight.abs() >= quality * weight.std(correction=0)


def _keep_cases(random: Random) -> Iterator[tuple]:
    yield torch.tensor(SIX), 0.76
    scale = random.choice((-2.0, -1.0, -0.5, 0.5, 1.0, 2.0))
    # Exact in float32, in whatever order it is computed: here σ is 2, and 0.5 σ the weight -1.
    yield scale * torch.tensor([-1.0, 3.0]), 0.5
    # And here the standard deviation with n - 1 is 2.
    yield scale * torch.tensor([1.0, 3.0, -1.0]), 0.5
    for shape in (10,), (3, 5), (2, 3, 3, 3):
        yield _telling(random, *shape)


def _telling(random: Random, *shape: int) -> tuple[Tensor, float]:
    """A weight and a quality for which σ, the root of the mean square and the mean |w| differ."""
    while True:
        weight = _weight(random, *shape)
        sizes, sigma = weight.abs().unique(), float(weight.std(correction=0))
        place = random.randint(len(sizes) // 3, len(sizes) - 2)
        # Halfway between two sizes, so that rounding decides nothing.
        quality = float(sizes[place - 1] + sizes[place]) / 2 / sigma
        scales = sigma, float(weight.square().mean().sqrt()), float(weight.abs().mean())
        if len({int((sizes >= quality * scale).sum()) for scale in scales}) == 3:
            return weight, quality


KEEP = Exercise(
    id="02.keep",
    kind="write",
    minutes=8,
    difficulty=2,
    importance=5,
    points=10,
    cases=_keep_cases,
    answer=_keep,
    twins={
        "signed weights are compared, so large negative ones go; compare |w|.": (
            lambda w, q: w >= q * w.std(correction=0),
            lambda w, q: w >= q * w.std(),
            lambda w, q: w > q * w.std(correction=0),
            lambda w, q: w > q * w.std(),
        ),
        "σ is that of the sizes |w|; take the standard deviation of the weights themselves.": (
            lambda w, q: w.abs() >= q * w.abs().std(correction=0),
            lambda w, q: w.abs() >= q * w.abs().std(),
            lambda w, q: w.abs() > q * w.abs().std(correction=0),
            lambda w, q: w.abs() > q * w.abs().std(),
        ),
        "the threshold is a multiple of the mean |w|; the paper takes the standard deviation.": (
            lambda w, q: w.abs() >= q * w.abs().mean(),
            lambda w, q: w.abs() > q * w.abs().mean(),
        ),
        "the root of the mean square is not σ: subtract the mean of the weights first.": (
            lambda w, q: w.abs() >= q * w.square().mean().sqrt(),
            lambda w, q: w.abs() > q * w.square().mean().sqrt(),
        ),
        "quality is used as the threshold itself; the threshold is quality * σ.": (
            lambda w, q: w.abs() >= q,
            lambda w, q: w.abs() > q,
        ),
        "this is upside down: True marks the weights that stay, the large ones.": (
            lambda w, q: w.abs() < q * w.std(correction=0),
            lambda w, q: w.abs() < q * w.std(),
            lambda w, q: w.abs() <= q * w.std(correction=0),
            lambda w, q: w.abs() <= q * w.std(),
        ),
        "the pruned weights are returned; return the mask, True where a weight stays.": (
            lambda w, q: w * (w.abs() >= q * w.std(correction=0)),
            lambda w, q: w * (w.abs() >= q * w.std()),
            lambda w, q: w * (w.abs() > q * w.std(correction=0)),
            lambda w, q: w * (w.abs() > q * w.std()),
        ),
        "a weight exactly at the threshold goes; it stays: >=, not >.": (
            lambda w, q: w.abs() > q * w.std(correction=0),
            lambda w, q: w.abs() > q * w.std(),
        ),
        "the distance from the mean is compared; a weight is small when it is near zero.": (
            lambda w, q: (w - w.mean()).abs() >= q * w.std(correction=0),
            lambda w, q: (w - w.mean()).abs() >= q * w.std(),
            lambda w, q: (w - w.mean()).abs() > q * w.std(correction=0),
            lambda w, q: (w - w.mean()).abs() > q * w.std(),
        ),
    },
    notes={
        "your σ divides by n - 1 (torch's default). The library divides by n, which makes no "
        "difference to a large layer.": lambda w, q: w.abs() >= q * w.std(),
    },
    hints=(
        "The threshold is quality * σ, and σ is the standard deviation of the weights.",
        "weight.std(correction=0) divides by n, as the library does.",
        "Compare weight.abs() with the threshold; the comparison gives the bool tensor.",
    ),
    blocked=("criteria.by_quality", "masks.prune"),
)

# -------------------------------------------------------------------------------------- 02.exact


def largest(saliency: Tensor, count: int) -> Tensor:
    """bool, shaped like the saliency: its `count` largest; ties go by position."""
    order = saliency.flatten().argsort(descending=True, stable=True)
    kept = torch.zeros(saliency.numel(), dtype=torch.bool)
    kept[order[:count]] = True
    return kept.view(saliency.shape)


def _count(weight: Tensor, density: float) -> int:
    return round(density * weight.numel())


def _above(weight: Tensor, density: float, *, further: int, strict: bool) -> Tensor:
    """What lies at or above the size at this place of the ranking; all or none at its ends."""
    ranked = weight.abs().flatten().sort(descending=True).values
    place = _count(weight, density) - 1 + further
    if not 0 <= place < len(ranked):
        return torch.full(weight.shape, place >= 0)
    return weight.abs() > ranked[place] if strict else weight.abs() >= ranked[place]


def _sizes_kept(function, weight: Tensor, density: float) -> object:
    """The sizes that stay, in order: which of equal sizes stay is up to the student."""
    kept = function(weight.clone(), density)
    if kept is None or kept is ...:
        return kept
    form, sizes = type(kept).__name__, []
    if isinstance(kept, Tensor):
        form = f"{kept.dtype} {tuple(kept.shape)}".removeprefix("torch.")
        if kept.dtype == torch.bool and kept.shape == weight.shape:
            sizes = sorted(weight.abs()[kept].tolist())
    return {"mask": form, "|w| that stay": sizes}


def _cut(weight: Tensor, density: float, *, places: int, strict: bool) -> Tensor:
    """As one first writes it: at density 0 Python's index -1 is the smallest weight."""
    cut = weight.abs().flatten().sort(descending=True).values[_count(weight, density) - 1 + places]
    return weight.abs() > cut if strict else weight.abs() >= cut


def _kth(weight: Tensor, density: float) -> Tensor:
    """Raises at density 0."""
    sizes = weight.abs().flatten()
    return weight.abs() >= sizes.kthvalue(len(sizes) - _count(weight, density) + 1).values


def _exact_cases(random: Random) -> Iterator[tuple]:
    for density in 0.5, 0.3, 0.2:  # 3 of six, 1.8 and 1.2
        yield torch.tensor(SIX), density
    yield torch.tensor([0.5, -0.2, 0.2, 0.2, -0.2, 0.1]), 0.5  # ties: two of four 0.2 stay
    for density in 0.0, 1.0:
        yield torch.tensor(SIX), density
    for shape in (3, 5), (2, 3, 3, 3):
        count = torch.Size(shape).numel()
        weight = _weight(random, *shape)
        yield weight, random.randint(2, count - 2) / count + 0.3 / count


EXACT = Exercise(
    id="02.exact",
    kind="write",
    minutes=10,
    difficulty=3,
    importance=4,
    points=10,
    cases=_exact_cases,
    answer=lambda w, d: largest(w.abs(), _count(w, d)),
    observe=_sizes_kept,
    twins={
        "density is the fraction that stays, not the sparsity that goes.": (
            lambda w, d: largest(w.abs(), w.numel() - _count(w, d)),
            lambda w, d: largest(w.abs(), _count(w, 1 - d)),
        ),
        "all weights that tie at the threshold stay, so more than round(density * n) do. Rank "
        "places, not sizes: argsort or topk.": (
            lambda w, d: _above(w, d, further=0, strict=False),
            lambda w, d: _cut(w, d, places=0, strict=False),
            _kth,
            lambda w, d: w.abs() >= w.abs().flatten().topk(_count(w, d)).values.min(),
            lambda w, d: w.abs() >= w.abs().flatten().topk(_count(w, d)).values[-1],
        ),
        "all weights that tie at the threshold go, so fewer than round(density * n) stay. Rank "
        "places, not sizes: argsort or topk.": (
            lambda w, d: _above(w, d, further=1, strict=True),
            lambda w, d: _cut(w, d, places=1, strict=True),
        ),
        "torch.quantile interpolates between two weights, so not exactly round(density * n) stay; "
        "rank the weights.": (
            lambda w, d: w.abs() >= w.abs().quantile(1 - d),
            lambda w, d: w.abs() > w.abs().quantile(1 - d),
        ),
        "the mask is flat; give it the shape of the weight: kept.view_as(weight).": (
            lambda w, d: largest(w.abs(), _count(w, d)).flatten()
        ),
        "the smallest weights stay; keep the largest.": (
            lambda w, d: largest(-w.abs(), _count(w, d))
        ),
        "the weight at the threshold goes too: one weight too few, even without ties.": (
            lambda w, d: _above(w, d, further=0, strict=True),
            lambda w, d: largest(w.abs(), _count(w, d) - 1 if _count(w, d) else 0),
        ),
        "one weight too many stays; the places of a ranking are counted from 0.": (
            lambda w, d: largest(w.abs(), _count(w, d) + 1),
            lambda w, d: _above(w, d, further=1, strict=False),
        ),
        "signed weights are ranked, so large negative ones go; rank |w|.": (
            lambda w, d: largest(w, _count(w, d))
        ),
        "int() rounds down; keep round(density * n) weights.": (
            lambda w, d: largest(w.abs(), int(d * w.numel()))
        ),
    },
    hints=(
        "How many weights stay? round(density * weight.numel()).",
        "Rank |w|; torch.topk or argsort(descending=True) gives places, and so no ties.",
        "Begin with a bool tensor of False, and set the first places of the ranking to True.",
    ),
    blocked=("criteria.by_density", "criteria.by_densities", "criteria.across_layers"),
)

# -------------------------------------------------------------------------------------- 02.which


def _which_given(model):
    names = [name for name, _ in model.named_parameters() if "weight" in name]
    return [name.removesuffix(".weight") for name in names]


def _which_cases(_random: Random) -> Iterator[tuple]:
    yield (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)),)
    yield (nn.Sequential(nn.Conv2d(1, 2, 3), nn.LayerNorm([2, 2, 2]), nn.Flatten()),)
    yield (nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2)),)
    twice = nn.Linear(3, 3)
    yield (nn.ModuleDict({"first": nn.Linear(4, 3), "again": twice, "and_again": twice}),)
    yield (nn.ModuleDict({"block": nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))}),)


def _names(function, model: nn.Module) -> object:
    """In any order, with or without `.weight`."""
    names = function(model)
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return names
    return sorted(name.removesuffix(".weight") for name in names)


def _linear_or_conv(model: nn.Module, **options) -> list[str]:
    modules = model.named_modules(**options)
    return [name for name, module in modules if isinstance(module, nn.Linear | nn.Conv2d)]


WHICH = Exercise(
    id="02.which",
    kind="debug",
    minutes=8,
    difficulty=2,
    importance=3,
    points=8,
    cases=_which_cases,
    answer=_linear_or_conv,
    given=_which_given,
    observe=_names,
    twins={
        "normalisation layers are in the list; their weights are scales, and are never pruned.": (
            _which_given,
            lambda model: [
                *_linear_or_conv(model),
                *(n for n, m in model.named_modules() if "Norm" in type(m).__name__),
            ],
        ),
        "biases are in the list; only the weights of layers are pruned.": (
            lambda model: [name for name, _ in model.named_parameters()],
            lambda model: [f"{n}{end}" for n in _linear_or_conv(model) for end in ("", ".bias")],
        ),
        "convolutions are missing; their weights are pruned too.": (
            lambda model: [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
        ),
        "layers inside a block are missing; named_children() does not look into blocks, "
        "named_modules() does.": (
            lambda model: [
                n for n, m in model.named_children() if isinstance(m, nn.Linear | nn.Conv2d)
            ]
        ),
        "a layer that is registered twice is in the list twice; its weight exists only once.": (
            lambda model: _linear_or_conv(model, remove_duplicate=False)
        ),
        "an embedding is in the list; its weight is a table that is looked up, no connections.": (
            lambda model: [
                name.removesuffix(".weight")
                for name, parameter in model.named_parameters()
                if name.endswith("weight") and parameter.dim() in (2, 4)
            ]
        ),
    },
    hints=(
        "Print name and shape of model.named_parameters() for a network with BatchNorm.",
        "What a layer is, its type tells, not its name: isinstance(module, nn.Linear).",
        "model.named_modules() gives each module once, with its name.",
    ),
    blocked=("layers.prunable",),
)

# -------------------------------------------------------------------------------------- 02.curve

KEPT = ("50 %", "20 %", "10 %", "5 %", "2 %")

CURVE = Exercise(
    id="02.curve",
    kind="predict",
    minutes=4,
    difficulty=2,
    importance=4,
    points=4,
    guess=Guess(
        example=[90.0, 80.0, 70.0, 60.0, 50.0],
        nearness=curve([f"{kept} kept" for kept in KEPT]),
        unit="%",
        low=0,
        high=100,
    ),
    hints=(
        "Half of the weights are small ones.",
        "A network that guesses is right for one digit in ten.",
        "One layer at a time was easier than all layers together.",
    ),
)

# ------------------------------------------------------------------------------------- 02.budget


def _budget_case(random: Random) -> Iterator[tuple]:
    yield (random.randint(12, 18) / 100,)


def uniform_quality(model: nn.Module, density: float) -> float:
    """The smallest quality that, given to every layer, keeps at most this density."""
    layers = prunable(model).values()
    ratios = [layer.weight.detach().abs() / criteria.sigma(layer.weight) for layer in layers]
    ranked = torch.cat([ratio.flatten() for ratio in ratios]).sort(descending=True).values
    return float(ranked[int(density * len(ranked))]) * (1 + 1e-6)


def _measured(plan, budget: float, *, model: nn.Module = None, images: Images = None) -> Verdict:
    """How a plan does beside one quality for all layers that keeps as much."""
    if model is None or images is None:
        raise ValueError("give the network and the images: model=model, images=splits.val")
    for_choosing(images, "a plan")
    if not isinstance(plan, Mapping):
        raise ValueError("a plan is a dict from layer to quality, such as {'fc1': 1.5}")
    mask = prune(model, quality=plan)
    kept = f"{mask.kept / mask.weights:.2%}"
    if mask.kept > budget * mask.weights:
        words, most = f"the plan keeps {kept}; at most {budget:.0%} may stay", budget * mask.weights
        if max(plan.values(), default=2) <= 1 and prune(model, density=plan).kept <= most:
            words += ". Are these densities? A plan has qualities: a higher one keeps less"
        return Verdict("✗", f"wrong: {words}")
    same = uniform_quality(model, budget)
    dense = evaluate(model, images)
    ours, theirs = (_drop(model, cut, images, dense) for cut in (mask, prune(model, quality=same)))
    lines = (("your plan", str(ours)), (f"quality {same:.3f} everywhere", str(theirs)))
    if ours.value >= theirs.value:
        more = "more than" if ours.value > theirs.value else "as much as"
        words = f"the plan keeps {kept}, but it loses {more} the same quality everywhere"
        return Verdict("✗", f"wrong: {words}", lines)
    won = round(100 * (theirs.value - ours.value), 2) + 0.0
    words = (
        f"the plan keeps {kept}, and is {won:.2f} points better than the same quality everywhere"
    )
    return Verdict("✓", f"right: {words}", lines)


def _drop(model: nn.Module, mask: Mask, images: Images, dense):
    with masked(model, mask):
        return drop(dense, evaluate(model, images))


BUDGET = Exercise(
    id="02.budget",
    kind="design",
    minutes=10,
    difficulty=3,
    importance=4,
    points=12,
    cases=_budget_case,
    observe=_measured,
    hints=(
        "Begin with one quality for all layers, and read the receipt of lab.prune.",
        "Which layer has most of the weights? Which one is the most sensitive?",
        "Take a lower quality for the sensitive layers, and pay with a higher one for fc1.",
    ),
)

EXERCISES = (THREE, KEEP, EXACT, WHICH, CURVE, BUDGET)
