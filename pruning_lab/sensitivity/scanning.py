"""Layer-wise pruning sensitivity: prune one layer at a time, the others dense; measure accuracy."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, count, islice
from pathlib import Path

import torch
from torch import Tensor, nn

from pruning_lab import __version__, criteria, data, models, processes
from pruning_lab.criteria import Saliency
from pruning_lab.data import Images, Part
from pruning_lab.evaluation import Accuracy, Drop, measuring, right, workers
from pruning_lab.evaluation.replica import Changes, Replica, described, replicas
from pruning_lab.layers import Layer, device_of, find, prunable
from pruning_lab.sensitivity.journal import Journal
from pruning_lab.sensitivity.levels import Cell, cells_of, join
from pruning_lab.sensitivity.points import Origin, Scan, ScanPoint, layer_about, sizes


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
    cumulative: bool = False,
    recalibrate: Images | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    notify: Callable[[Progress], None] = lambda progress: None,
) -> Scan:
    """Every prunable layer at every density (or quality), one at a time (paper, section 5, Fig. 6).

    With `cumulative`, a layer is pruned together with all that run before it, at the same level.
    With `recalibrate`, training images, BatchNorm layers get their statistics from these images:
    in every cell, and in the dense network that it is compared with.

    `notify` gets the progress before the first batch and after each. With `out` (a .csv), every
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
    chosen = {name: find(model, name, found) for name in (found if layers is None else layers)}
    if not chosen or not levels:
        raise ValueError("nothing to scan: no layer to prune, or no level to prune it to")
    with measuring(model):
        sample, batches = _own_batches(images)
        copies = replicas(model, *sample)
        chosen = {name: chosen[name] for name in copies[0].layers if name in chosen}
        others = [layer.weight for name, layer in found.items() if name not in chosen]
        about = _about(model, images, chosen, others) | {
            "saliency": criteria.name_of(saliency),
            "asked": kind,
            "levels": levels,
            "cumulative": cumulative,
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
        for name, layer in chosen.items():
            sigma = about["layers"][name]["sigma"]
            cells += cells_of(name, layer.weight.detach(), saliency, kind, levels, sigma)
        base = join(copies, cells, len(levels), cumulative, recalibrate)
        journal = Journal(out, header, 1 + len(cells), resume) if out is not None else None
        known = journal.done if journal else {}
        once = isinstance(images, Iterator)  # images that are gone are not remembered
        origin = None if once else Origin(model, images, recalibrate, saliency)
        made = partial(_scan_of, cells, about, origin)
        tally = _Tally(1 + len(cells), data.count(images), described(copies), made)
        notify(tally.progress())
        jobs = (partial(_count, known.get(n), n, x, y, cells, base) for n, (x, y) in batches)
        for number, counts in workers.each(copies, jobs):
            tally.add(counts, is_new=number not in known)
            if journal and number not in known:
                journal.note(number, counts)
            notify(tally.progress())
        result = made(processes.summed(tally.counts))
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
    own = images.batches(rank, world) if is_part else islice(images, rank, None, world)
    first = list(islice(own, 1))
    sample = first or list(islice(images, 1))  # there may be fewer batches than processes
    if not sample:
        raise ValueError("no images to measure an accuracy on")
    return sample[0], zip(count(rank, world), chain(first, own))


def _about(
    model: nn.Module, images: Images, layers: Mapping[str, Layer], others: list[Tensor]
) -> dict:
    return {
        "pruning_lab": __version__,
        "torch": torch.__version__,
        "split": images.name if isinstance(images, Part) else None,
        "images_sha256": data.fingerprint_of(images),
        "model_sha256": models.fingerprint(model),
        "layers": {name: layer_about(name, layer.weight) for name, layer in layers.items()},
        "other_layers": sizes(others),
    }


def _count(
    known: Tensor | None,
    number: int,
    x: Tensor,
    y: Tensor,
    cells: list[Cell],
    base: Changes,
    replica: Replica,
) -> tuple[int, Tensor]:
    """The number of a batch, and (1 + cells, 4) n, right, lost and won: dense, and of each cell."""
    if known is not None:
        return number, known
    device = device_of(replica.model)
    answer, kept = replica.start(x.to(device), base)
    dense, y = right(answer, y), y.to(device)
    answers = (replica.resume(cell.first, kept, cell.changes)[0] for cell in cells)
    hits = torch.stack([dense, *(answer.argmax(1) == y for answer in answers)])
    counts = [torch.full((len(hits),), len(y), device=device), hits.sum(1)]
    counts += [(dense > hits).sum(1), (hits > dense).sum(1)]
    return number, torch.stack(counts, 1).cpu()


class _Tally:
    """The sum of all counts so far, and how long the new ones took."""

    def __init__(self, rows: int, total: int | None, how: str, made: Callable[[Tensor], Scan]):
        self.counts, self.total, self.how, self.made = torch.zeros(rows, 4).long(), total, how, made
        self.began, self.new = time.perf_counter(), 0

    def add(self, counts: Tensor, *, is_new: bool) -> None:
        self.counts = self.counts + counts
        self.new += is_new * int(counts[0, 0])

    def progress(self) -> Progress:
        done, left = int(self.counts[0, 0]) * processes.world(), None
        if self.total is not None:
            done = min(done, self.total)
            seconds = time.perf_counter() - self.began
            left = (
                seconds * (self.total - done) / self.new / processes.world() if self.new else None
            )
        return Progress(done, self.total, left, self.how, partial(self.made, self.counts))


def _scan_of(cells: list[Cell], about: dict, origin: Origin | None, counts: Tensor) -> Scan:
    (n, hits, _, _), *rows = counts.tolist()
    points = [
        ScanPoint(
            layer=cell.layer,
            asked=cell.asked,
            density=cell.density,
            quality=cell.quality,
            threshold=cell.threshold,
            accuracy=Accuracy.counted(hits, n),
            drop=Drop.counted(lost, won, n),
        )
        for cell, (n, hits, lost, won) in zip(cells, rows, strict=True)
    ]
    return Scan(points, dense=Accuracy.counted(hits, n), about=about, origin=origin)
