"""What to keep of each layer: read off a scan's curves, or searched for all layers together."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import permutations
from operator import itemgetter
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning_lab import criteria, data
from pruning_lab.criteria import Saliency
from pruning_lab.data import Images
from pruning_lab.evaluation import (
    Accuracy,
    Changes,
    Evaluator,
    Thresholded,
    change,
    drop,
    evaluate,
    recalibration,
    right,
)
from pruning_lab.layers import prunable
from pruning_lab.masks import Mask, masked
from pruning_lab.sensitivity.plans import Plan, PlanRow, check_network, known
from pruning_lab.sensitivity.points import Scan, ScanPoint, Sizes

Counts = dict[str, int]  # layer -> how many of its weights stay


def choose(
    scan: Scan,
    *,
    max_drop: float | None = None,
    max_drop_per_layer: float | None = None,
    density: float | None = None,
    method: str | None = None,
    model: nn.Module | None = None,
    images: Images | None = None,
    recalibrate: Images | None = None,
    saliency: Saliency | None = None,
    fixed: Mapping[str, Tensor] = MappingProxyType({}),
    evaluations: int = 1000,
    notify: Callable[[int, int], None] = lambda done, most: None,
    tried: Callable[[float, Accuracy], None] = lambda density, accuracy: None,
) -> Plan:
    """Densities for all layers of a scan: by an allowed drop (percentage points), or a density.

    - `max_drop`: what the whole network may lose, all layers pruned together. Searched for, and
      verified: `plan.together`, measured on all images, is no more than that.
    - `max_drop_per_layer`: what each layer may lose when it alone is pruned. Between two levels a
      curve goes straight over the logarithm of density, as `plots.sensitivity` draws it.
    - `density`: as many weights of the network stay, and each layer may lose the same alone. With
      `method="joint"`, layers then exchange weights as long as the network's loss falls.

    A search needs `model` and `images`, unless the scan has just been made and remembers them. It
    evaluates the network at most `evaluations` times (on 1,000 images each) and keeps the best that
    it has found by then; `notify` gets how many are begun, of how many at most, and `tried` what
    each comes to: the density of the network, and its accuracy on these images. Where `model` and
    `images` are given, all layers together are measured without a search too. `recalibrate` and
    `saliency` are the scan's; magnitude and random need not be given. Layers that were not scanned
    stay as they are. With `fixed`, layers of a mask, these are pruned so in all that is measured,
    and the plan is for the other layers. Raises ValueError where the scan cannot answer, and for
    the test split.
    """
    asked = {"max_drop": max_drop, "max_drop_per_layer": max_drop_per_layer, "density": density}
    check_choice(**asked, method=method, evaluations=evaluations)
    (request,) = (f"{name} {amount:g}" for name, amount in asked.items() if amount is not None)
    is_search = max_drop is not None or method == "joint"
    if is_search and model is None and images is None and (origin := scan.origin):
        model, images, recalibrate = origin.model, origin.images, origin.recalibrate
        saliency = saliency or origin.saliency
    if (model is None) != (images is None) or ((is_search or fixed) and model is None):
        raise ValueError("to measure all layers together, give both model= and images=splits.val")
    data.for_choosing(images, "a plan")
    _check_scan(scan, model, recalibrate)
    if model is not None or saliency is not None:
        saliency = known(scan.about["saliency"], saliency)
    curves = [_Curve(scan, layer) for layer in scan.layers if layer not in fixed]
    if not curves:
        raise ValueError("all scanned layers are fixed, so there is nothing to choose")
    others = _others(model, curves, fixed) if fixed else scan.about["other_layers"]
    if density is None:
        single = _at(curves, (max_drop_per_layer or 0) / 100)
    else:
        single = _at_density(curves, density, others)
    made = partial(_plan, scan, curves, others, request)
    measured = partial(_measured, model, images, recalibrate, saliency, fixed)
    if not is_search:
        return made(single) if model is None else measured(made(single))
    notify(0, evaluations)
    evaluator = Evaluator(model, images, recalibrate=recalibrate)
    search = _Search(evaluator, list(single), saliency, fixed, evaluations, notify)
    search.tried = lambda counts, accuracy: tried(made(counts).density, accuracy)
    if density is not None:
        return measured(made(search.exchange(single), single))
    single, found = search.within(curves, max_drop / 100)
    # The last of them keeps all, which loses nothing but what fixed layers do.
    for counts in reversed(found):
        if (plan := measured(made(counts, single))).together.value <= max_drop / 100:
            return plan
    raise ValueError(
        f"the fixed layers alone change the accuracy by {plan.together}, and {max_drop:g} may be "
        f"lost; allow more, or prune them less"
    )


def check_choice(
    *,
    max_drop: float | None = None,
    max_drop_per_layer: float | None = None,
    density: float | None = None,
    method: str | None = None,
    evaluations: int = 1000,
) -> None:
    """Raise ValueError unless `choose` can be asked this."""
    if [max_drop, max_drop_per_layer, density].count(None) != 2:
        raise ValueError("give max_drop, max_drop_per_layer or density, one of the three")
    unfit = {"single": max_drop, "joint": max_drop_per_layer}
    if method is not None and unfit.get(method, method) is not None:
        raise ValueError(
            f"method must be joint for max_drop (of the whole network), single for "
            f"max_drop_per_layer, single or joint for density, got {method!r}"
        )
    if evaluations < 1:
        raise ValueError(f"evaluations must be 1 or more, got {evaluations}")
    if density is not None:
        criteria.check_amount("density", density)
    elif not 0 <= (points := max_drop_per_layer if max_drop is None else max_drop) <= 100:
        raise ValueError(f"max_drop must be 0 to 100 percentage points, got {points:g}")


def check_same_weights(scan: Scan, model: nn.Module) -> None:
    """Raise KeyError or ValueError unless the scan is of this network, with these weights."""
    sizes = {name: row["weights"] for name, row in scan.about["layers"].items()}
    others = scan.about["other_layers"]["weights"]
    check_network(model, "scan", sizes, others, scan.about.get("model_sha256"))


def _check_scan(scan: Scan, model: nn.Module | None, recalibrate: Images | None) -> None:
    """Raise ValueError where nothing can be chosen by the scan, or not for this network."""
    if model is None:
        return
    check_same_weights(scan, model)
    if scan.about.get("recalibrated", False) != (recalibrate is not None):
        did = "was" if recalibrate is None else "was not"
        raise ValueError(
            f"the scan {did} made with BatchNorm recalibrated; scan and choose both with "
            f"recalibrate=splits.train, or both without"
        )


def _others(model: nn.Module, curves: Sequence["_Curve"], fixed: Mapping[str, Tensor]) -> Sizes:
    """All weights of the layers that nothing is chosen for, and those that stay."""
    kept = {**Mask.of(model), **fixed}
    rest = [kept[name] for name in kept.keys() - {curve.layer for curve in curves}]
    return {"weights": sum(k.numel() for k in rest), "kept": sum(int(k.sum()) for k in rest)}


def _plan(
    scan: Scan,
    curves: Sequence["_Curve"],
    others: Sizes,
    asked: str,
    counts: Counts,
    single: Counts | None = None,
) -> Plan:
    """With the reasons: `single` is what each layer's own curve says where a search started."""
    return Plan(
        rows=tuple(
            curve.row(counts[curve.layer], single and single[curve.layer]) for curve in curves
        ),
        asked=asked,
        method="single" if single is None else "joint",
        saliency=scan.about["saliency"],
        other_weights=others["weights"],
        other_kept=others["kept"],
        model_sha256=scan.about.get("model_sha256"),
    )


def _measured(
    model: nn.Module,
    images: Images,
    train: Images | None,
    saliency: Saliency,
    fixed: Mapping[str, Tensor],
    plan: Plan,
) -> Plan:
    """With the drop of all layers together, and the qualities that come out."""
    mask, rows = plan.mask(model, saliency=saliency), plan.rows
    if train is not None:
        model = copy.deepcopy(model)
        recalibration.recalibrate(model, train)
    before = evaluate(model, images)
    with masked(model, Mask({**mask, **fixed})):
        if train is not None:
            recalibration.recalibrate(model, train)
        after = evaluate(model, images)
    if saliency is criteria.magnitude:
        cuts = {cut.layer: cut for cut in mask.receipt}
        ratios = {n: c.threshold / c.sigma for n, c in cuts.items() if c.threshold and c.sigma}
        rows = tuple(replace(row, quality=ratios.get(row.layer)) for row in rows)
    together = drop(before, after)
    return replace(plan, rows=rows, together=together, recalibrated=train is not None)


# ------------------------------------------------------------------------------- single layers


class _Curve:
    """The drop of one layer from all of its weights down, never falling, as drops go.

    Straight between levels over the logarithm of density, as `plots.sensitivity` draws it.
    """

    def __init__(self, scan: Scan, layer: str):
        about = scan.about["layers"][layer]
        self.layer, self.weights, self.points = layer, about["weights"], scan.of(layer)
        counts = [round(point.density * self.weights) for point in self.points]
        self.counts = [about["kept"], *counts]  # fewer than all in a network pruned before
        self.places = self._place(self.counts)
        self.drops = np.maximum.accumulate([0.0, *(point.drop.value for point in self.points)])
        self.qualities = [0.0, *(point.quality for point in self.points)]

    def count(self, allowed: float) -> int:
        """The fewest weights at which the drop stays within what is allowed."""
        return round(float(np.exp(np.interp(allowed, self.drops, self.places))))

    def row(self, count: int, single: int | None) -> PlanRow:
        place, places = self._place(count), self.places[::-1]
        quality = None
        if None not in self.qualities:
            quality = float(np.interp(place, places, self.qualities[::-1]))
        return PlanRow(
            layer=self.layer,
            weights=self.weights,
            density=count / self.weights,
            quality=quality,
            drop=float(np.interp(place, places, self.drops[::-1])),
            why=self._why(count, single),
        )

    def _why(self, count: int, single: int | None) -> str:
        if single not in (None, count):
            moved = "gives to" if count < single else "takes from"
            return f"{moved} other layers: {single / self.weights:.2%} by its own curve"
        if count in self.counts[1:]:
            point = self.points[self.counts.index(count, 1) - 1]
            last = "the sparsest" if point is self.points[-1] else "a"
            return f"{last} level of the scan: {_level(point)}"
        if count >= self.counts[0]:
            return "all of it stays"
        names = ["all of it", *map(_level, self.points), "nothing"]
        place = sum(level > count for level in self.counts)
        return f"between {names[place - 1]} and {names[place]}"

    def _place(self, count):
        """Where so many weights are on a logarithmic axis; none at all is half a weight."""
        return np.log(np.maximum(count, 0.5))


def _level(point: ScanPoint) -> str:
    noise = ", within noise" if point.drop.low <= 0 <= point.drop.high else ""
    return f"{point.density:.3g} ({change(point.drop.value)} points{noise})"


def _at(curves: Sequence[_Curve], allowed: float) -> Counts:
    return {curve.layer: curve.count(allowed) for curve in curves}


def _at_density(curves: Sequence[_Curve], density: float, others: Sizes) -> Counts:
    """As `_keeping`, at a density of the whole network that the scan can answer for."""
    total = sum(curve.weights for curve in curves) + others["weights"]
    target = density * total - others["kept"]
    if (least := sum(_at(curves, 1.0).values())) > target + len(curves):  # each is rounded
        raise ValueError(
            f"the scan's sparsest levels keep {least:,} weights, and density {density:g} leaves "
            f"{max(target, 0):,.0f} for the scanned layers; scan lower densities or more layers"
        )
    return _keeping(curves, target)


def _keeping(curves: Sequence[_Curve], target: float) -> Counts:
    """The same drop allowed to every layer, so that `target` weights stay."""
    low, high = -1.0, 1.0  # below 0 all stay
    for _ in range(60):
        middle = (low + high) / 2
        is_more = sum(_at(curves, middle).values()) > target
        low, high = (middle, high) if is_more else (low, middle)
    # At a jump of a curve the last step leaves too few: take the remainder back evenly.
    more, less = _at(curves, low), _at(curves, high)
    missing, jump = target - sum(less.values()), sum(more.values()) - sum(less.values())
    fraction = min(1.0, missing / jump) if jump else 0.0
    return {name: count + round(fraction * (more[name] - count)) for name, count in less.items()}


# --------------------------------------------------------------------------------- all together


class _Search:
    """Layers exchange weights while the loss with all of them pruned falls.

    A move takes a fraction of what one layer keeps (or another lacks) and gives as many weights to
    the other; the fraction shrinks when no move helps.
    """

    FRACTIONS = (0.3, 0.15, 0.08, 0.04)
    STEPS = (0.6, 0.8, 0.9)  # of what a layer keeps, on the way to sparser networks
    # For the loss, which moves before the accuracy does; with 2,000 no better densities are found,
    # with 500 sometimes worse. Drops are of all images.
    IMAGES = 1000

    def __init__(
        self,
        evaluator: Evaluator,
        layers: Sequence[str],
        saliency: Saliency,
        fixed: Mapping[str, Tensor],
        most: int,
        notify: Callable[[int, int], None],
    ):
        self.done, self.most, self.notify = 0, most, notify
        self.tried: Callable[[Counts, Accuracy], None] = lambda counts, accuracy: None
        self.evaluator, self.dense = evaluator, evaluator.accuracy()
        found = prunable(evaluator.model)
        evaluator.commit({name: found[name].weight.detach() * kept for name, kept in fixed.items()})
        self.weights = {name: found[name].weight.detach() for name in layers}
        self.alive = {name: int(weight.count_nonzero()) for name, weight in self.weights.items()}
        self.ranks = {n: self._ranked(n, w, saliency) for n, w in self.weights.items()}

    @staticmethod
    def _ranked(name: str, weight: Tensor, saliency: Saliency) -> Tensor:
        """Of each weight, shaped like them, from 1 up; a weight that is gone ranks last."""
        values = criteria.saliency_of(saliency, name, weight).masked_fill(weight == 0, -math.inf)
        order = values.flatten().sort(descending=True, stable=True).indices
        ranks = torch.empty(len(order), dtype=torch.int32, device=weight.device)
        ranks[order] = torch.arange(len(order), 0, -1, dtype=torch.int32, device=weight.device)
        return ranks.view(weight.shape)

    def within(self, curves: Sequence[_Curve], max_drop: float) -> tuple[Counts, list[Counts]]:
        """Where it started, and ever sparser networks whose drop stays within; first the whole."""
        low, high = sum(_at(curves, max_drop).values()), sum(self.alive.values())
        found, target = [self.alive], low  # where each layer alone keeps within; together few do
        if drop(self.dense, self.evaluator.accuracy()).value > max_drop:  # by fixed layers
            return self.alive, found
        for _ in range(8):
            counts = _keeping(curves, target)
            if self._drop(counts) <= max_drop:
                found.append(counts)
                high = target
            else:
                low = target
            if low >= high:
                break
            target = math.sqrt(max(1, low) * high)
        start = found[-1]
        for fraction in self.FRACTIONS:
            most = self.done + (self.most - self.done) // 3  # many layers have too many pairs
            trial = self.exchange(found[-1], [fraction], most)
            if self._drop(trial) <= max_drop:  # a lower loss is not always a higher accuracy
                found.append(trial)
            for step in self.STEPS:
                while fewer := self._sparser(found[-1], step, max_drop):
                    found.append(fewer)
        return start, found

    def _sparser(self, counts: Counts, step: float, max_drop: float) -> Counts | None:
        """Less of the layer whose loss rises least for each weight; None where none is within."""
        self.evaluator.commit(self._changes(counts))
        loss, rated = self.evaluator.loss(first=self.IMAGES), []
        for name, count in counts.items():
            fewer = max(1, round(step * count))
            if fewer < count and self.done < self.most:
                trial = {**counts, name: fewer}
                more = self._loss(trial, self._changes({name: fewer})) - loss
                rated.append((max(more, 1e-9) / (count - fewer), trial))
        for _, trial in sorted(rated, key=itemgetter(0))[:2]:
            if self._drop(trial) <= max_drop:
                return trial
        return None

    def exchange(
        self, counts: Counts, fractions: Sequence[float] = FRACTIONS, most: int | None = None
    ) -> Counts:
        """As many weights, in better places; at most until `most` evaluations are done."""
        most = self.most if most is None else most
        self.evaluator.commit(self._changes(counts))
        loss = self.evaluator.loss(first=self.IMAGES)
        for fraction in fractions:
            improved = True
            while improved:
                improved = False
                for giver, taker in permutations(counts, 2):
                    if self.done >= most:
                        return counts
                    moved = int(fraction * min(counts[giver], self.alive[taker] - counts[taker]))
                    if moved == 0:
                        continue
                    new = {giver: counts[giver] - moved, taker: counts[taker] + moved}
                    changes, trial = self._changes(new), {**counts, **new}
                    if (less := self._loss(trial, changes)) < loss - 1e-6:
                        self.evaluator.commit(changes)
                        loss, counts, improved = less, trial, True
        return counts

    def _drop(self, counts: Counts) -> float:
        """Infinite where the budget is spent: what is not measured is not accepted."""
        if self.done >= self.most:
            return math.inf
        self._count()
        accuracy = self.evaluator.accuracy(self._changes(counts))
        self.tried(counts, Accuracy.of(accuracy.hits[: self.IMAGES]))
        return drop(self.dense, accuracy).value

    def _loss(self, counts: Counts, changes: Changes) -> float:
        """Of the base with these changes, which keeps so many weights."""
        self._count()
        logits = self.evaluator.logits(changes, first=self.IMAGES)
        labels = self.evaluator.labels[: len(logits)]
        self.tried(counts, Accuracy.of(right(logits, labels).cpu()))
        return F.cross_entropy(logits, labels).item()

    def _count(self) -> None:
        self.done += 1
        self.notify(self.done, self.most)

    def _changes(self, counts: Counts) -> Changes:
        """Layers with so many of their most salient weights; of ties the earlier stay."""
        return {
            name: Thresholded(self.weights[name], ranks.numel() - counts[name] + 1, ranks)
            for name, ranks in self.ranks.items()
            if name in counts
        }
