"""Layer-wise pruning sensitivity: prune one layer at a time, the others dense; measure accuracy."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, count, islice
from operator import methodcaller
from pathlib import Path

import torch
from torch import Tensor, nn

from pruning_lab import __version__, criteria, data, models, processes
from pruning_lab.criteria import Saliency
from pruning_lab.data import Images, Part
from pruning_lab.evaluation import Accuracy, Changes, Drop, Thresholded, measuring, right, workers
from pruning_lab.evaluation.replica import NOTHING, Replica, described, replicas
from pruning_lab.evaluation.thresholded import prepared
from pruning_lab.layers import device_of, prunable
from pruning_lab.sensitivity.journal import Journal
from pruning_lab.sensitivity.points import LayerAbout, Origin, Scan, ScanPoint


@dataclass(frozen=True)
class Progress:
    """How far a scan is, and what it knows so far."""

    images: int  # done, of `total`, which is None where the images do not say their number
    total: int | None
    seconds_left: float | None  # estimated; None before a batch has been measured
    how: str  # the strategy by which the network is evaluated, and its workers
    scan: Callable[[], Scan] = field(repr=False)  # all points on the images done; not before any


def scan(
    model: nn.Module,
    images: Images,
    densities: Sequence[float] | None = None,
    *,
    qualities: Sequence[float] | None = None,
    saliency: Saliency = criteria.magnitude,
    layers: Sequence[str] | None = None,
    recalibrate: Images | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    notify: Callable[[Progress], None] = lambda progress: None,
) -> Scan:
    """Every prunable layer at every density (or quality), one at a time (paper, section 5, Fig. 6).

    With `recalibrate`, training images, BatchNorm layers get their statistics from these images:
    in every cell, and in the dense network that it is compared with.

    `notify` gets the progress before the first batch and after each. With `out` (a .csv), every
    batch is noted beside it when it is done, and the rows are written at the end; `resume` skips
    the batches of an interrupted call. Under torch's distributed launcher the processes share the
    batches, and all return the same scan. The model is left as it was, to the byte. Raises
    ValueError for the test split.
    """
    kind, levels = _checked_levels(densities, qualities, saliency)
    images = data.for_choosing(images, "a scan")
    if out is not None and resume and not isinstance(images, Part):
        raise ValueError("a scan resumes on the same images: give a Split, such as splits.val")
    found = prunable(model)
    chosen = {name: found[name] for name in (found if layers is None else layers)}
    if not chosen or not levels:
        raise ValueError("nothing to scan: no layer to prune, or no level to prune it to")
    with measuring(model):
        sample, batches = _own_batches(images)
        copies = replicas(model, *sample)
        weights = {n: found[n].weight.detach() for n in copies[0].layers}
        about = _about(model, images, weights, chosen) | {
            "saliency": criteria.name_of(saliency),
            "asked": kind,
            "levels": levels,
            "recalibrated": recalibrate is not None,
        }
        asked = repr(images) if isinstance(images, Part) else None  # mean, std, batch size
        header = {**about, "batches": asked, "recalibrated_on": data.fingerprint_of(recalibrate)}
        if not processes.agree(json.dumps(header)):
            raise ValueError(
                "the processes would prune different weights; give all the same network, and call "
                "torch.manual_seed with the same number in each"
            )
        cells = []
        for name, row in about["layers"].items():
            cells += _cells(name, weights[name], saliency, kind, levels, row["sigma"])
        base = _recalibrated(copies, cells, recalibrate)
        journal = Journal(out, header, 1 + len(cells), resume) if out is not None else None
        known = journal.done if journal else {}
        once = isinstance(images, Iterator)  # then the images are gone, and not remembered
        origin = None if once else Origin(model, images, recalibrate, saliency)
        made = partial(_scan_of, cells, about, origin)
        progress = partial(
            _progress, time.perf_counter(), data.count(images), described(copies), made
        )
        counts = torch.zeros(1 + len(cells), 4, dtype=torch.int64)
        notify(progress(counts))
        jobs = (partial(_count, known, cells, base, batch) for batch in batches)
        for number, new in workers.each(copies, jobs):
            counts = counts + new
            if journal and number not in known:
                journal.note(number, new)
            notify(progress(counts))
        result = made(processes.summed(counts))
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


def _own_batches(images: Images) -> tuple[tuple[Tensor, Tensor], Iterator]:
    """A batch to try the network on, and this process's batches with their numbers."""
    rank, world = processes.rank(), processes.world()
    is_part = isinstance(images, Part)  # and decodes no batch of another process
    given = data.checked(images)
    own = images.batches(rank, world) if is_part else islice(given, rank, None, world)
    first = list(islice(own, 1))
    # There may be fewer batches than processes.
    sample = first or list(islice(data.checked(images), 1))
    if not sample:
        raise ValueError("no images to measure an accuracy on")
    return sample[0], zip(count(rank, world), chain(first, own))


def _about(
    model: nn.Module, images: Images, weights: Mapping[str, Tensor], chosen: Iterable[str]
) -> dict:
    rows = {
        name: LayerAbout(
            weights=weight.numel(),
            kept=int(weight.count_nonzero()),
            shape=list(weight.shape),
            sigma=criteria.sigma(weight, layer=name),
        )
        for name, weight in weights.items()
    }
    others = [row for name, row in rows.items() if name not in chosen]
    return {
        "pruning_lab": __version__,
        "torch": torch.__version__,
        "split": images.name if isinstance(images, Part) else None,
        "images_sha256": data.fingerprint_of(images),
        "model_sha256": models.fingerprint(model),
        "layers": {name: row for name, row in rows.items() if name in chosen},
        "other_layers": {key: sum(row[key] for row in others) for key in ("weights", "kept")},
    }


# --------------------------------------------------------------------------------------- cells


@dataclass
class _Cell:
    """One layer at one level."""

    point: dict  # what its ScanPoint says besides what is measured
    first: str  # the first layer that changes
    changes: Changes  # what stands in for its weight


def _cells(
    layer: str, weight: Tensor, saliency: Saliency, kind: str, levels: list[float], sigma: float
) -> Iterator[_Cell]:
    """A layer at all levels, with one byte for each weight instead of a tensor for each level.

    Levels are nested: a weight stays at one if it stays at as many as keep no fewer weights.
    """
    values, rows = criteria.saliency_of(saliency, layer, weight), []
    ranks = torch.zeros_like(weight, dtype=torch.int16 if len(levels) > 255 else torch.uint8)
    for kept, cut in criteria.by_levels(kind, levels, values, weight != 0, sigma):
        rows.append((int(kept.count_nonzero()), cut))
        ranks += kept
    for level, (left, cut) in zip(levels, rows, strict=True):
        quality = level if kind == "quality" else None
        if quality is None and saliency is criteria.magnitude and cut is not None and sigma > 0:
            quality = cut / sigma
        point = {"layer": layer, "asked": f"{kind} {level:g}", "quality": quality, "threshold": cut}
        point["density"] = left / max(1, weight.numel())
        rank = sum(other >= left for other, _ in rows)
        stand_in = Thresholded(weight, rank, ranks)
        if saliency is criteria.magnitude and cut and int((values >= cut).count_nonzero()) == left:
            stand_in = Thresholded(weight, cut)  # cut in half the time; no tie was broken
        yield _Cell(point, layer, {layer: prepared(stand_in)})


def _recalibrated(copies: list[Replica], cells: list[_Cell], train: Images | None) -> Changes:
    """Make cells change BatchNorm buffers too; the dense network's buffers."""
    if train is None:
        return NOTHING
    images = [(x.to(device_of(copies[0].model)), y) for x, y in data.checked(train)]
    changes = [NOTHING, *(cell.changes for cell in cells)]
    jobs = (methodcaller("statistics", images, change) for change in changes)
    base, *renewed = workers.each(copies, jobs)
    for cell, buffers in zip(cells, renewed, strict=True):
        cell.changes = {**cell.changes, **buffers}
    return base


def _count(
    known: Mapping[int, Tensor], cells: list[_Cell], base: Changes, batch: tuple, replica: Replica
) -> tuple[int, Tensor]:
    """The number of a batch, and (1 + cells, 4) n, right, lost and won: dense, and of each cell."""
    number, (x, y) = batch
    if number in known:
        return number, known[number]
    answer, kept = replica.start(x.to(device_of(replica.model)), base)
    dense, y = right(answer, y), y.to(answer.device)
    answers = (replica.resume(cell.first, kept, cell.changes)[0] for cell in cells)
    hits = torch.stack([dense, *(answer.argmax(1) == y for answer in answers)])
    columns = torch.ones_like(hits), hits, dense > hits, hits > dense
    return number, torch.stack([column.sum(1) for column in columns], 1).cpu()


def _scan_of(cells: list[_Cell], about: dict, origin: Origin | None, counts: Tensor) -> Scan:
    (n, hits, *_), *rows = counts.tolist()
    points = [
        ScanPoint(**cell.point, accuracy=Accuracy.counted(k, n), drop=Drop.counted(lost, won, n))
        for cell, (_, k, lost, won) in zip(cells, rows, strict=True)
    ]
    return Scan(points, dense=Accuracy.counted(hits, n), about=about, origin=origin)


def _progress(
    began: float, total: int | None, how: str, made: Callable[[Tensor], Scan], counts: Tensor
) -> Progress:
    done, left = int(counts[0, 0]) * processes.world(), None
    if done and total is not None:
        done = min(done, total)
        left = (time.perf_counter() - began) / done * (total - done)
    return Progress(done, total, left, how, partial(made, counts))
