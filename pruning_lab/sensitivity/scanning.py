"""Layer-wise pruning sensitivity: prune one layer at a time, the others dense; measure accuracy."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice
from pathlib import Path

import torch
from torch import Tensor, nn

from pruning_lab import __version__, criteria, data, files, models, processes
from pruning_lab.criteria import Saliency
from pruning_lab.data import Images, Part
from pruning_lab.evaluation import (
    Accuracy,
    Drop,
    check_labels,
    measuring,
    right,
    wilson,
    workers,
)
from pruning_lab.evaluation.replica import Changes, Replica, described, replicas
from pruning_lab.layers import Layer, device_of, prunable
from pruning_lab.sensitivity.journal import Journal
from pruning_lab.sensitivity.levels import LayerLevels, join
from pruning_lab.sensitivity.points import Scan, ScanPoint

_HEAD = 1000  # images after which a level at chance is left


@dataclass(frozen=True)
class Progress:
    """How far a scan is, and what it knows so far."""

    images: int  # done, of `total`, which is None where the images do not say their number
    total: int | None
    seconds_left: float | None  # estimated; None before a batch has been measured
    how: str  # the way the network is evaluated, and its workers
    scan: Callable[[], Scan] = field(repr=False)  # all points on the images done; not before any


def scan(
    model: nn.Module,
    images: Images,
    densities: Sequence[float] | None = None,
    *,
    qualities: Sequence[float] | None = None,
    saliency: Saliency = criteria.magnitude,
    layers: Sequence[str] | None = None,
    cumulative: bool = False,
    stop_at_chance: bool = True,
    recalibrate: Images | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    notify: Callable[[Progress], None] = lambda progress: None,
) -> Scan:
    """Every prunable layer at every density (or quality), one at a time (paper, section 5, Fig. 6).

    With `cumulative`, a layer is pruned together with all that run before it, at the same level.
    With `stop_at_chance`, a level is left after the first thousand images where it and a denser
    one answer no better than by always naming the commonest label; its row says so.
    With `recalibrate`, training images, BatchNorm layers get their statistics from these images:
    in every cell, and in the dense network that it is compared with.

    `notify` hears of the progress before the first batch and after each. With `out` (a .csv), every
    batch is noted beside it as soon as it is done, and the rows are written there at the end;
    `resume` skips the batches of an interrupted call, to the same files. Under torch's distributed
    launcher the processes share the batches, and all return the same scan.

    The model is left as it was, to the byte. Raises ValueError for the test split: choosing by it
    would spoil it.
    """
    kind, levels = _checked_levels(densities, qualities, saliency)
    images = data.for_choosing(images, "a scan")
    if out is not None and resume and not isinstance(images, Part):
        raise ValueError("a scan resumes on the same images: give a Split, such as splits.val")
    found = prunable(model)
    wanted = {name: found[name] for name in (found if layers is None else layers)}
    if not wanted or not levels:
        raise ValueError("nothing to scan: no layer to prune, or no level to prune it to")
    device, world = device_of(model), processes.world()
    with measuring(model):
        batches = _OwnBatches(images)
        copies = replicas(model, batches.x.to(device))
        check_labels(batches.y, len(batches.x), copies[0].classes)
        weights = {n: wanted[n].weight.detach() for n in copies[0].layers if n in wanted}
        rows = ((n, w, criteria.saliency_of(saliency, n, w)) for n, w in weights.items())
        by_magnitude = saliency is criteria.magnitude
        make = partial(LayerLevels, kind=kind, levels=levels, by_magnitude=by_magnitude)
        table = list(workers.each(copies, (lambda _, row=row: make(*row) for row in rows)))
        about = {
            "pruning_lab": __version__,
            "torch": torch.__version__,
            "split": images.name if isinstance(images, Part) else None,
            "images_sha256": data.fingerprint_of(images),
            "model_sha256": models.fingerprint(model),
            "saliency": criteria.name_of(saliency),
            "asked": kind,
            "levels": levels,
            "cumulative": cumulative,
            "stop_at_chance": stop_at_chance,
            "recalibrated": recalibrate is not None,
            "layers": {row.name: row.about for row in table},
            "other_layers": _sizes(layer for name, layer in found.items() if name not in wanted),
        }
        kept = files.sha256(*(row.digest.encode() for row in table))
        if not processes.agree(kept):
            raise ValueError(
                "the processes would prune different weights; give all the same network, and call "
                "torch.manual_seed with the same number in each"
            )
        journal = None
        if out is not None:
            asked = repr(images) if isinstance(images, Part) else None  # mean, std, batch size
            renewed = data.fingerprint_of(recalibrate)
            header = {**about, "batches": asked, "kept_sha256": kept, "recalibrated_on": renewed}
            journal = Journal(out, header, 1 + len(table) * len(levels), resume)
        base = join(copies, table, cumulative, recalibrate)
        tally, total = _Tally(table, about), data.count(images)
        known = journal.done if journal else {}
        share = math.ceil(total / world / len(copies)) if total and copies[0].splits else math.inf
        began, new, sizes = time.perf_counter(), 0, deque()  # of batches under way: their parts

        def jobs(until: float) -> Iterator[Callable[[Replica], Tensor]]:
            """A job for each batch, or for each worker's share of it."""
            for index, (x, y) in batches.until(until):
                check_labels(y, len(x), copies[0].classes)
                parts = 1 if index in known else math.ceil(len(x) / min(share, len(x)))
                sizes.append((index, parts))
                if index in known:
                    yield lambda replica, counts=known[index]: counts
                    continue
                for some in zip(x.tensor_split(parts), y.tensor_split(parts), strict=True):
                    x_, y_ = (tensor.to(device) for tensor in some)
                    yield partial(_count, x=x_, y=y_, table=table, base=base)

        def tell() -> None:
            done = tally.images * world if total is None else min(tally.images * world, total)
            seconds = (time.perf_counter() - began) / new / world if new else None
            left = None if total is None or seconds is None else (total - done) * seconds
            notify(Progress(done, total, left, described(copies), tally.scan))

        tell()
        for until in (batches.head, math.inf) if stop_at_chance else (math.inf,):
            results = workers.each(copies, jobs(until))
            for counts in results:
                index, parts = sizes.popleft()
                counts = sum(islice(results, parts - 1), counts)
                tally.add(counts)
                if index not in known:
                    new += int(counts[0, 0])
                    if journal:
                        journal.note(index, counts)
                tell()
            if until < math.inf:
                tally.judge(batches, copies[0].classes)
        tally.gather()
        result = tally.scan()
    if journal:
        if processes.rank() == 0:
            result.save(out)
        journal.remove()
    return result


def _checked_levels(densities, qualities, saliency: Saliency) -> tuple[str, list[float]]:
    if (densities is None) == (qualities is None):
        raise ValueError("give densities or qualities, one of the two")
    kind, levels = ("density", densities) if qualities is None else ("quality", qualities)
    if not isinstance(levels, Iterable):
        raise TypeError(f"give a list of levels, such as [0.5, 0.2, 0.1], got {levels!r}")
    for level in levels:
        criteria.check_amount(kind, level)
    if kind == "quality" and saliency is not criteria.magnitude:
        raise ValueError(
            "quality is a multiple of the weights' own sigma, so it goes with magnitude; "
            "scan another saliency by densities"
        )
    return kind, [float(level) for level in levels]  # numpy's are no JSON


class _OwnBatches:
    """This process's batches with their numbers: every world-th one."""

    def __init__(self, images: Images):
        rank, world = processes.rank(), processes.world()
        is_part = isinstance(images, Part)  # and decodes no batch of another process
        own = images.batches(rank, world) if is_part else islice(images, rank, None, world)
        self._batches = zip(count(rank, world), own)
        self._next = next(self._batches, None)
        first = next(iter(images), None) if self._next is None else self._next[1]
        if first is None:
            raise ValueError("no images to measure an accuracy on")
        self.x, self.y = first  # to try the network on
        size = processes.summed(torch.tensor(0 if rank else len(self.x)))
        self.head = math.ceil(_HEAD / max(1, int(size)))  # how many batches hold so many images
        self.labels: list[Tensor] = []  # of these

    def until(self, number: float) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
        while self.more and self._next[0] < number:
            yield self._next
            if self._next[0] < self.head:
                self.labels.append(self._next[1][1].cpu())
            self._next = next(self._batches, None)

    @property
    def more(self) -> bool:
        return self._next is not None


def _count(
    replica: Replica, x: Tensor, y: Tensor, table: list[LayerLevels], base: Changes
) -> Tensor:
    """(1 + cells, 4), n, right, lost and won: of the dense network, of each layer at each level."""
    answer, kept = replica.start(x, base)
    dense = right(answer, y)
    before = int(dense.count_nonzero())
    rows = [[len(y), before, 0, 0]]
    for layer in table:
        parts = replica.parts(layer.first, kept, len(y))
        for level, changes in enumerate(layer.changes):
            if level in layer.stopped:
                rows.append([0, 0, 0, 0])
                continue
            answers = [replica.resume(layer.first, part, changes)[0].argmax(1) for part in parts]
            hits = torch.cat(answers) == y
            after, lost = int(hits.count_nonzero()), int((dense > hits).count_nonzero())
            rows.append([len(y), after, lost, after - before + lost])
    return torch.tensor(rows)


class _Tally:
    """Counts of images: a row (n, right, lost, won) for the dense network and for every cell."""

    def __init__(self, table: list[LayerLevels], about: dict):
        self.table, self.about = table, about
        cells = sum(len(layer.asked) for layer in table)
        self.counts = torch.zeros(1 + cells, 4, dtype=torch.int64)

    @property
    def images(self) -> int:
        return int(self.counts[0, 0])

    def add(self, counts: Tensor) -> None:
        self.counts += counts

    def gather(self) -> None:
        """From here on the counts are those of all processes."""
        self.counts = processes.summed(self.counts)

    def judge(self, batches: _OwnBatches, classes: int) -> None:
        """Leave the levels that answer as a constant would, after a denser one that does too.

        Every process judges by the images of all, if any of them has more images to measure.
        """
        counts = processes.summed(self.counts)
        n, more = int(counts[0, 0]), processes.summed(torch.tensor(int(batches.more)))
        labels = torch.cat([*batches.labels, torch.zeros(0, dtype=torch.int64)])
        labels = labels[(labels >= 0) & (labels < classes)]
        commonest = processes.summed(labels.bincount(minlength=classes)).max()
        if n < _HEAD or not more:
            return
        for layer, rows in zip(self.table, self._by_layer(counts), strict=True):
            at_chance = [wilson(right, n)[0] <= commonest / n for n, right, _, _ in rows.tolist()]
            left = [
                density for density, lost in zip(layer.densities, at_chance, strict=True) if lost
            ]
            if left:
                why = f"at chance from density {max(left):.3g} on; left after {n:,} images"
                levels = enumerate(zip(at_chance, layer.densities, strict=True))
                layer.stopped = {k: why for k, (lost, d) in levels if lost and d < max(left)}

    def scan(self) -> Scan:
        points = []
        for layer, rows in zip(self.table, self._by_layer(self.counts), strict=True):
            for level, (n, hits, lost, won) in enumerate(rows.tolist()):
                points.append(
                    ScanPoint(
                        layer=layer.name,
                        asked=layer.asked[level],
                        density=layer.densities[level],
                        quality=layer.qualities[level],
                        threshold=layer.thresholds[level],
                        accuracy=Accuracy.counted(hits, n),
                        drop=Drop.counted(lost, won, n),
                        note=layer.stopped.get(level, ""),
                    )
                )
        n, hits, _, _ = self.counts[0].tolist()
        return Scan(points, Accuracy.counted(hits, n), self.about)

    def _by_layer(self, counts: Tensor) -> tuple[Tensor, ...]:
        return counts[1:].split([len(layer.asked) for layer in self.table])


def _sizes(layers: Iterable[Layer]) -> dict[str, int]:
    """Weights of some layers, and those that are not zero."""
    weights = [layer.weight for layer in layers]
    kept = sum(int(weight.count_nonzero()) for weight in weights)
    return {"weights": sum(weight.numel() for weight in weights), "kept": kept}
