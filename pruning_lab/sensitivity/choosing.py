"""What to keep of each layer: read off a scan's curves, or searched for all layers together."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor, nn

from pruning_lab import criteria, data, files, models
from pruning_lab.criteria import Saliency
from pruning_lab.data import Images
from pruning_lab.evaluation import Drop, Evaluator, drop, evaluate, recalibration
from pruning_lab.layers import prunable
from pruning_lab.masks import Mask, masked, prune
from pruning_lab.rows import decode, plain
from pruning_lab.sensitivity.points import Scan, ScanPoint


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """What one layer keeps, and why."""

    layer: str
    weights: int
    density: float
    quality: float | None  # threshold / sigma, where the saliency is magnitude
    drop: float | None  # when this layer alone is pruned: read off its curve
    why: str

    def __post_init__(self):
        criteria.check_amount("density", self.density)
        if self.weights < 1:
            raise ValueError(f"weights must be 1 or more, got {self.weights}")
        if self.quality is not None:
            criteria.check_amount("quality", self.quality)
        if self.drop is not None and not -1 <= self.drop <= 1:
            raise ValueError(f"drop must lie in [-1, 1], a fraction, got {self.drop}")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Densities for all layers of a network, with reasons; print it, save it, make its mask."""

    rows: tuple[PlanRow, ...]
    asked: str  # "max_drop 0.5", "density 0.1"
    method: str  # "single", "joint"
    saliency: str  # what `criteria.name_of` calls it
    together: Drop | None = None  # all layers at once, measured
    other_weights: int = 0  # of layers that were not scanned: they stay as they are
    other_kept: int = 0
    model_sha256: str | None = None  # of the network, with its weights
    recalibrated: bool = False  # measured with BatchNorm statistics of the pruned network

    def __post_init__(self):
        layers = [row.layer for row in self.rows]
        if twice := {layer for layer in layers if layers.count(layer) > 1}:
            raise ValueError(f"layer {min(twice)!r} stands twice")
        if not layers:
            raise ValueError("a plan needs a row for at least one layer")
        if self.method not in (*METHODS, "studio"):
            raise ValueError(f"method must be {', '.join(METHODS)} or studio, got {self.method!r}")
        if not 0 <= self.other_kept <= self.other_weights:
            raise ValueError(f"other_kept {self.other_kept} of other_weights {self.other_weights}")
        if self.together and not (self.together.n > 0 and abs(self.together.value) <= 1):
            raise ValueError(f"together is {self.together} of {self.together.n} images")

    @property
    def densities(self) -> dict[str, float]:
        return {row.layer: row.density for row in self.rows}

    @property
    def density(self) -> float:
        """Of the whole network, layers that were not scanned included."""
        kept = sum(round(row.density * row.weights) for row in self.rows) + self.other_kept
        return kept / max(1, sum(row.weights for row in self.rows) + self.other_weights)

    @property
    def predicted(self) -> float | None:
        """The sum of the single drops; what they really come to is `together`."""
        drops = [row.drop for row in self.rows]
        return None if None in drops else sum(drops)

    def mask(self, model: nn.Module, *, saliency: Saliency | None = None) -> Mask:
        """The same plan gives the same mask of the same weights, after `save` and `load` too.

        A saliency whose name says all of it (magnitude, random with its seed) need not be given.
        Raises ValueError where another one is given, or none and the plan needs it, and for a
        network with other layers or weights than the plan's.
        """
        saliency = _known(self.saliency, saliency)
        self.check(model)
        return prune(model, density=self.densities, saliency=saliency)

    def save(self, path: str | Path) -> Path:
        return files.save_json(path, {"format": _FORMAT, **plain(self)})

    @classmethod
    def load(cls, path: str | Path) -> "Plan":
        """Read what `save` wrote. Raises ValueError with the file's name for anything else."""
        return decode(cls, files.load_json(path), path, _FORMAT)

    def check(self, model: nn.Module) -> None:
        """Raise KeyError or ValueError unless the plan is for this network, with these weights."""
        _check_network(model, {row.layer: row.weights for row in self.rows}, self.other_weights)
        if self.model_sha256 not in (None, models.fingerprint(model)):
            raise ValueError("the plan is for a network with other weights; choose for this one")

    def __str__(self) -> str:
        rows = [
            (
                row.layer,
                f"{row.weights:,}",
                f"{row.density:.2%}",
                "" if row.quality is None else f"{row.quality:.2f}",
                "" if row.drop is None else f"{100 * row.drop:+.2f}",
                row.why,
            )
            for row in self.rows
        ]
        headers = ("layer", "weights", "density", "quality", "drop alone", "why")
        align = ("left", *4 * ("right",), "left")
        table = tabulate(rows, headers, colalign=align, disable_numparse=True)
        lines = [f"{self.density:.2%} of the weights stay ({self.asked}, {self.method})."]
        if self.other_weights:
            lines.append(f"{self.other_weights:,} weights of layers not scanned stay as they are.")
        if self.predicted is not None:
            lines.append(f"Single drops add up to {100 * self.predicted:+.2f} points;")
        if self.together is None:
            lines.append("together they were not measured: give the network and images for that.")
        else:
            lines.append(f"measured together: {self.together} on {self.together.n:,} images.")
        if self.recalibrated:
            lines.append(
                "BatchNorm was recalibrated for that: call evaluation.recalibrate after pruning."
            )
        lines.append(
            "Drops of single layers do not add: what one layer lost, the next cannot mend."
        )
        return f"{table}\n\n" + "\n".join(lines)


METHODS = ("single", "joint")
_FORMAT = "pruning_lab plan 3"


def choose(
    scan: Scan,
    *,
    max_drop: float | None = None,
    density: float | None = None,
    method: str = "single",
    model: nn.Module | None = None,
    images: Images | None = None,
    recalibrate: Images | None = None,
    saliency: Saliency | None = None,
    evaluations: int = 1000,
    notify: Callable[[int, int], None] = lambda done, most: None,
) -> Plan:
    """Densities for all layers of a scan: at a drop that each may cost, or at a density of all.

    `max_drop` is in percentage points. With `method="single"` it is what each layer may lose when
    it alone is pruned, and `density` allows all layers the same drop, the one at which so many
    weights of the network stay. Between two levels a curve goes straight over the logarithm of
    density, as `plots.sensitivity` draws it.

    With `method="joint"`, which needs `model` and `images`, layers then exchange weights as long as
    the loss of the network with all of them pruned falls; there `max_drop` is of that network. With
    `model` and `images` the drop of all layers together is measured for either method. The search
    evaluates the network at most `evaluations` times (on 2,000 images each) and keeps the best that
    it has found by then; `notify` is told how many are done, of how many at most.

    With `recalibrate`, training images, BatchNorm layers get their statistics from these in every
    network that is measured, the dense one too; a scan that did so asks for it here.

    `saliency` is the scan's; it has to be given again where it was computed beforehand or is a
    function of your own. Layers that were not scanned stay as they are.

    Raises ValueError where the scan cannot answer, for another saliency or other weights than the
    scan's, and for the test split.
    """
    check_choice(max_drop=max_drop, density=density, method=method, evaluations=evaluations)
    if (model is None) != (images is None) or (method == "joint" and model is None):
        raise ValueError(f"method {method!r}: give both model= and images= to measure on")
    data.for_choosing(images, "a plan")
    if model is not None:
        check_same_weights(scan, model)
        if scan.about.get("recalibrated", False) != (recalibrate is not None):
            did = "was" if recalibrate is None else "was not"
            raise ValueError(
                f"the scan {did} made with BatchNorm recalibrated; scan and choose both with "
                f"recalibrate=splits.train, or both without"
            )
    if scan.about["cumulative"]:
        raise ValueError(
            "a cumulative scan does not say what one layer alone costs; "
            "scan with cumulative=False to choose"
        )
    name = scan.about["saliency"]
    if model is not None or saliency is not None:
        saliency = _known(name, saliency)
    curves = [_Curve(scan, layer) for layer in scan.layers]
    if density is not None:
        others = scan.about["other_layers"]
        target = density * (sum(curve.weights for curve in curves) + others["weights"])
        asked = f"density {density:g}"
        densities = _at_density(curves, target - others["kept"], density)
    else:
        asked = f"max_drop {max_drop:g}"
        densities = {curve.layer: curve.density(max_drop / 100) for curve in curves}
    if method == "joint":
        search = _Search(model, images, recalibrate, scan.layers, saliency, evaluations, notify)
        if density is None:
            densities = search.within(curves, max_drop / 100)
        else:
            densities = search.exchange(densities)
        reasons = [_why_joint(curve, densities[curve.layer], search.single) for curve in curves]
    else:
        reasons = [_why_single(curve, densities[curve.layer]) for curve in curves]
    rows = tuple(
        PlanRow(
            layer=curve.layer,
            weights=curve.weights,
            density=densities[curve.layer],
            quality=curve.quality(densities[curve.layer]),
            drop=curve.drop(densities[curve.layer]),
            why=why,
        )
        for curve, why in zip(curves, reasons, strict=True)
    )
    plan = Plan(
        rows=rows,
        asked=asked,
        method=method,
        saliency=name,
        other_weights=scan.about["other_layers"]["weights"],
        other_kept=scan.about["other_layers"]["kept"],
        model_sha256=scan.about.get("model_sha256"),
    )
    return plan if model is None else _measured(plan, model, images, recalibrate, saliency)


def check_same_weights(scan: Scan, model: nn.Module) -> None:
    """Raise KeyError or ValueError unless the scan is of this network, with these weights."""
    sizes = {name: row["weights"] for name, row in scan.about["layers"].items()}
    _check_network(model, sizes, scan.about.get("other_layers", {}).get("weights"))
    if scan.about.get("model_sha256") not in (None, models.fingerprint(model)):
        raise ValueError("the scan is of a network with other weights; scan this one first")


def _check_network(model: nn.Module, sizes: Mapping[str, int], others: int | None) -> None:
    """Raise KeyError or ValueError unless the network has these layers and as many weights."""
    layers = prunable(model)
    there = {name: layers[name].weight.numel() for name in (*sizes, *layers)}
    for name, weights in sizes.items():
        if there[name] != weights:
            raise ValueError(
                f"layer {name!r} has {there[name]:,} weights here, not {weights:,}; "
                f"name the network that was scanned"
            )
    left = sum(there.values()) - sum(sizes.values())
    if others is not None and left != others:
        missing = ", ".join(name for name in there if name not in sizes) or "none"
        raise ValueError(
            f"this network has {left:,} weights in other layers ({missing}), expected {others:,}; "
            f"name the network that was scanned"
        )


def _known(name: str, given: Saliency | None) -> Saliency:
    """The saliency of that name: built again, or the one given if it is the same."""
    if given is None:
        if (built := criteria.by_name(name)) is None:
            raise ValueError(
                f"the saliency here is {name!r}, which its name alone does not make; give it: "
                f"saliency=..."
            )
        return built
    if (other := criteria.name_of(given)) != name:
        raise ValueError(f"the scan's saliency was {name!r}, got {other!r}; give the scan's")
    return given


def check_choice(
    *,
    max_drop: float | None = None,
    density: float | None = None,
    method: str = "single",
    evaluations: int = 1000,
) -> None:
    """Raise ValueError unless `choose` can be asked this."""
    if (max_drop is None) == (density is None):
        raise ValueError("give max_drop or density, one of the two")
    if method not in METHODS:
        raise ValueError(f"method must be single or joint, got {method!r}")
    if evaluations < 1:
        raise ValueError(f"evaluations must be 1 or more, got {evaluations}")
    if density is not None:
        criteria.check_amount("density", density)
    elif not 0 <= max_drop <= 100:
        raise ValueError(f"max_drop must be 0 to 100 percentage points, got {max_drop:g}")


def _measured(
    plan: Plan, model: nn.Module, images: Images, train: Images | None, saliency: Saliency
) -> Plan:
    """With the drop of all layers together, and the qualities that come out."""
    mask = plan.mask(model, saliency=saliency)
    if train is not None:
        model = copy.deepcopy(model)
        recalibration.recalibrate(model, train)
    before = evaluate(model, images)
    with masked(model, mask):
        if train is not None:
            recalibration.recalibrate(model, train)
        after = evaluate(model, images)
    rows = plan.rows
    if saliency is criteria.magnitude:
        cuts = {row.layer: row for row in mask.receipt}
        rows = tuple(
            replace(row, quality=_ratio(cuts[row.layer].threshold, cuts[row.layer].sigma))
            for row in rows
        )
    together = drop(before, after)
    return replace(plan, rows=rows, together=together, recalibrated=train is not None)


def _ratio(threshold: float | None, sigma: float) -> float | None:
    return None if threshold is None or sigma == 0 else threshold / sigma


# ------------------------------------------------------------------------------- single layers


class _Curve:
    """The drop of one layer from all of it down, never falling, as drops go.

    Straight between levels over the logarithm of density, as `plots.sensitivity` draws it.
    """

    def __init__(self, scan: Scan, layer: str):
        about = scan.about["layers"][layer]
        self.layer, self.weights = layer, about["weights"]
        self.points: list[ScanPoint] = scan.of(layer)
        start = about["kept"] / max(1, self.weights)  # less than 1 in a network pruned before
        self.densities = np.array([start, *(point.density for point in self.points)])
        self.places = self._place(self.densities)
        drops = [0.0, *(point.drop.value for point in self.points)]
        self.drops = np.maximum.accumulate(drops)
        self.qualities = [0.0, *(point.quality for point in self.points)]

    def density(self, allowed: float) -> float:
        """The lowest at which the drop stays within what is allowed."""
        inside = int(np.searchsorted(self.drops, allowed, side="right")) - 1
        if inside + 1 == len(self.drops):
            return float(self.densities[-1])
        low, high = self.drops[inside : inside + 2]
        share = (allowed - low) / (high - low)
        if share == 0:
            return float(self.densities[inside])
        before, behind = self.places[inside : inside + 2]
        return float(np.exp(before + share * (behind - before)))

    def drop(self, density: float) -> float:
        return float(np.interp(self._place(density), self.places[::-1], self.drops[::-1]))

    def quality(self, density: float) -> float | None:
        if None in self.qualities:
            return None
        return float(np.interp(self._place(density), self.places[::-1], self.qualities[::-1]))

    def _place(self, density):
        """Where a density stands on a logarithmic axis, on which none at all is half a weight."""
        return np.log(np.maximum(density, 0.5 / self.weights))


def _kept(curves: Sequence[_Curve], densities: Mapping[str, float]) -> float:
    return sum(curve.weights * densities[curve.layer] for curve in curves)


def _at_density(curves: Sequence[_Curve], target: float, density: float) -> dict[str, float]:
    """The same drop allowed to every layer, so that `target` weights of these layers stay."""

    def at(allowed: float) -> dict[str, float]:
        return {curve.layer: curve.density(allowed) for curve in curves}

    free, most = at(0.0), at(1.0)
    if _kept(curves, most) > target + 1e-6 * sum(curve.weights for curve in curves):
        raise ValueError(
            f"the scan's sparsest levels keep {_kept(curves, most):,.0f} weights, and density "
            f"{density:g} leaves {max(target, 0):,.0f} for the scanned layers; scan lower densities"
            f" or more layers"
        )
    whole = {curve.layer: float(curve.densities[0]) for curve in curves}
    if _kept(curves, free) <= target:  # more may stay than costs nothing to lose
        total, least = _kept(curves, whole), _kept(curves, free)
        share = min(1.0, (target - least) / (total - least)) if total > least else 0.0
        return {layer: d + share * (whole[layer] - d) for layer, d in free.items()}
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _kept(curves, at(middle)) > target else (low, middle)
    # At a jump of a curve the last step leaves too few: take the rest back evenly.
    before, behind = at(low), at(high)
    more, less = _kept(curves, before), _kept(curves, behind)
    share = (target - less) / (more - less) if more > less else 0.0
    return {layer: behind[layer] + share * (before[layer] - behind[layer]) for layer in behind}


def _why_single(curve: _Curve, density: float) -> str:
    for point in curve.points:
        if round(density * curve.weights) == round(point.density * curve.weights):
            last = "the sparsest" if point is curve.points[-1] else "a"
            return f"{last} level of the scan: {_level(point)}"
    if density >= curve.densities[0]:
        return f"nothing goes: {_level(curve.points[0])}"
    sparser = int(np.argmax(curve.densities < density))
    denser = "all of it" if sparser == 1 else _level(curve.points[sparser - 2])
    return f"between {denser} and {_level(curve.points[sparser - 1])}"


def _level(point: ScanPoint) -> str:
    noise = ", within noise" if point.drop.low <= 0 <= point.drop.high else ""
    return f"{point.density:.3g} ({100 * point.drop.value:+.2f} points{noise})"


def _why_joint(curve: _Curve, density: float, single: Mapping[str, float]) -> str:
    before = single[curve.layer]
    if round(before * curve.weights) == round(density * curve.weights):
        return f"as its own curve says: {_why_single(curve, density)}"
    moved = "gave to" if density < before else "took from"
    return f"{moved} other layers: {before:.2%} by its own curve, {density:.2%} for all together"


# --------------------------------------------------------------------------------- all together


class _Search:
    """Layers exchange weights while the loss with all of them pruned falls.

    A move takes a share of what one layer keeps (or another lacks) and gives as many weights to the
    other; the share halves when no move helps.
    """

    SHARES = (0.3, 0.15, 0.08, 0.04)
    IMAGES = 2000  # for the loss, which moves before the accuracy does; drops are of all images

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        train: Images | None,
        layers: Sequence[str],
        saliency: Saliency,
        evaluations: int,
        notify: Callable[[int, int], None],
    ):
        self.done, self.most, self.notify = 0, evaluations, notify
        notify(0, evaluations)
        self.session = Evaluator(model, images, recalibrate=train)
        found = prunable(model)
        self.weights = {name: found[name].weight.detach() for name in layers}
        self.saliencies = {  # a zero weight is gone: it ranks last, and is given to no layer
            name: criteria.saliency_of(saliency, name, w).masked_fill(w == 0, -math.inf)
            for name, w in self.weights.items()
        }
        self.ranked = {name: s.flatten().sort().values for name, s in self.saliencies.items()}
        self.sizes = {name: weight.numel() for name, weight in self.weights.items()}
        self.alive = {name: int(weight.count_nonzero()) for name, weight in self.weights.items()}
        self.dense = self.session.accuracy()
        self.single: dict[str, float] = {}

    def exchange(self, densities: Mapping[str, float]) -> dict[str, float]:
        self.single = dict(densities)
        return self._as_densities(self._exchange(self._counts(densities), self.SHARES))

    def within(self, curves: Sequence[_Curve], max_drop: float) -> dict[str, float]:
        """The sparsest that the search finds whose drop, all layers together, stays within."""
        low, high = 0.0, max_drop  # what each layer alone may lose; together they lose more
        for _ in range(6):
            middle = (low + high) / 2
            counts = self._counts({curve.layer: curve.density(middle) for curve in curves})
            low, high = (middle, high) if self._drop(counts) <= max_drop else (low, middle)
        self.single = {curve.layer: curve.density(low) for curve in curves}
        start = self._counts(self.single)
        best = self._exchange(start, self.SHARES)
        if self._drop(best) > max_drop:  # a lower loss is not always a higher accuracy
            best = start
        for step in (0.8, 0.9, 0.95):  # ever smaller steps down, each as often as it holds
            while self.done < self.most:
                fewer = {name: max(1, round(step * count)) for name, count in best.items()}
                trial = self._exchange(fewer, self.SHARES[-2:])
                if fewer == best or self._drop(trial) > max_drop:
                    break
                best = trial
        return self._as_densities(best)

    def _exchange(self, counts: dict[str, int], shares: Sequence[float]) -> dict[str, int]:
        self.session.commit({name: self._weight(name, count) for name, count in counts.items()})
        loss = self.session.loss(first=self.IMAGES)
        for share in shares:
            improved = True
            while improved:
                improved = False
                for giver, taker in permutations(counts, 2):
                    if self.done >= self.most:
                        return counts
                    moved = int(share * min(counts[giver], self.alive[taker] - counts[taker]))
                    if moved == 0:
                        continue
                    trial = {giver: counts[giver] - moved, taker: counts[taker] + moved}
                    changes = {name: self._weight(name, count) for name, count in trial.items()}
                    less = self._counted(self.session.loss(changes, first=self.IMAGES))
                    if less < loss - 1e-6:
                        self.session.commit(changes)
                        loss, counts, improved = less, {**counts, **trial}, True
        return counts

    def _drop(self, counts: Mapping[str, int]) -> float:
        changes = {name: self._weight(name, count) for name, count in counts.items()}
        return self._counted(drop(self.dense, self.session.accuracy(changes)).value)

    def _counted(self, measured: float) -> float:
        self.done += 1
        self.notify(self.done, self.most)
        return measured

    def _weight(self, name: str, count: int) -> Tensor:
        """The layer with its `count` most salient weights (and ties of the last of them)."""
        if count == 0:
            return torch.zeros_like(self.weights[name])
        cut = self.ranked[name][self.sizes[name] - count]
        return self.weights[name] * (self.saliencies[name] >= cut)

    def _counts(self, densities: Mapping[str, float]) -> dict[str, int]:
        return {name: round(density * self.sizes[name]) for name, density in densities.items()}

    def _as_densities(self, counts: Mapping[str, int]) -> dict[str, float]:
        return {name: count / self.sizes[name] for name, count in counts.items()}
