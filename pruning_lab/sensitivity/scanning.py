"""How much each layer minds: prune one layer at a time, the others dense, and look at accuracy."""

import glob
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from pruning_lab import __version__, criteria, files, models, processes
from pruning_lab.criteria import Saliency
from pruning_lab.data import Part
from pruning_lab.evaluation import (
    Accuracy,
    Drop,
    Images,
    check_labels,
    device_of,
    measuring,
    right,
    wilson,
)
from pruning_lab.evaluation.suffix import Whole, suffixes
from pruning_lab.evaluation.teams import Pace, Team
from pruning_lab.layers import Layer, find, prunable
from pruning_lab.sensitivity.points import Scan, ScanPoint


@dataclass(frozen=True)
class Progress:
    """How far a scan is, and what it knows so far."""

    images: int  # done, of `total`, which is None where the images do not say their number
    total: int | None
    seconds_left: float | None  # estimated; before the first image from a small trial
    how: str  # the way the network is evaluated, and its threads
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
    out: str | Path | None = None,
    resume: bool = False,
    notify: Callable[[Progress], None] = lambda progress: None,
) -> Scan:
    """Every prunable layer at every density (or quality), one at a time (paper, section 5, Fig. 6).

    With `cumulative`, a layer is pruned together with all that run before it, at the same level.
    With `stop_at_chance`, a level is left after the first thousand images where it and a denser
    one answer no better than by always naming the commonest label; its row says so.

    `notify` hears of the progress before the first batch and after each. With `out` (a .csv), every
    batch is noted beside it as soon as it is done, and the rows are written there at the end;
    `resume` goes on behind the batches of an interrupted call, to the same files. Under torch's
    distributed launcher the processes share the batches, and all return the same scan.

    The model is left as it was, to the byte. Raises ValueError for the test split: choosing by it
    would spoil it.
    """
    if isinstance(images, Part) and images.name == "test":
        raise ValueError("a scan chooses, and the test split is not for choosing; give splits.val")
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
    levels = [float(level) for level in levels]  # numpy's are no JSON
    if out is not None and resume and not isinstance(images, Part):
        raise ValueError("a scan goes on over the same images: give a Split, such as splits.val")
    found = prunable(model)
    wanted = {name: find(model, name, found) for name in (found if layers is None else layers)}
    if not wanted or not levels:
        raise ValueError("nothing to scan: no layer to prune, or no level to prune it to")

    with measuring(model):
        batches = iter(images)
        first = next(batches, None)
        if first is None:
            raise ValueError("no images to measure an accuracy on")
        sample = first[0][:_SAMPLE].to(device_of(model))
        way = suffixes(model, sample)
        pace = way.prepare(sample)
        check_labels(way.start(first[0].to(sample.device))[0], first[1])
        table = [
            _Levels(name, wanted[name], kind, levels, saliency)
            for name in way.layers
            if name in wanted
        ]
        about = {
            "pruning_lab": __version__,
            "torch": torch.__version__,
            "split": images.name if isinstance(images, Part) else None,
            "images_sha256": images.fingerprint() if isinstance(images, Part) else None,
            "model_sha256": models.fingerprint(model),
            "saliency": criteria.name_of(saliency),
            "asked": kind,
            "levels": levels,
            "cumulative": cumulative,
            "stop_at_chance": stop_at_chance,
            "layers": {row.name: row.about for row in table},
            "other_layers": _sizes(layer for name, layer in found.items() if name not in wanted),
        }
        _check_alike(table)
        journal = _Journal(out, about, images, table, resume) if out is not None else None
        tally = _Tally(table, about)
        total = _length(images)
        estimate = _seconds_per_image(way, pace, sample, table)
        done = worked = 0
        labels: list[Tensor] = []  # of the first images, until they were judged by

        def tell() -> None:
            left = None if total is None else (total - done) * estimate
            notify(Progress(done, total, left, f"{way.how}, {pace}", tally.scan))

        tell()
        with Team(pace) as team:
            began, index, batch = time.perf_counter(), 0, first
            while batch is not None:
                x, y = batch
                if index % processes.world() == processes.rank():
                    counts = journal.done.get(index) if journal else None
                    if counts is None:
                        x, y = x.to(sample.device), y.to(sample.device)
                        counts = _count(way, team, x, y, table, cumulative)
                        worked += len(y)
                        if journal:
                            journal.note(index, counts)
                    tally.add(counts)
                if stop_at_chance and done < _HEAD:
                    labels.append(y.cpu())
                done += len(y)
                if worked:
                    estimate = (time.perf_counter() - began) / worked / processes.world()
                if tally.images:
                    tell()
                index, batch = index + 1, next(batches, None)
                if labels and done >= _HEAD and batch is not None:
                    tally.judge(torch.cat(labels))
                    labels = []
        tally.gather()
        result = tally.scan()
        if journal:
            journal.finish(result, out)
    return result


_SAMPLE = 64  # images on which ways and threads are tried
_HEAD = 1000  # images after which a level at chance is left
_STACKED_BYTES = 2**26  # weights of several levels held at once, for each layer


class _Levels:
    """One layer at all levels: which weights stay, and the weights themselves."""

    def __init__(
        self, name: str, layer: Layer, kind: str, levels: Sequence[float], saliency: Saliency
    ):
        self.name, self.weight = name, layer.weight.detach()
        self.size, self.sigma = self.weight.numel(), criteria.sigma_of(name, self.weight)
        self.asked = [f"{kind} {level:g}" for level in levels]
        values, alive = criteria.saliency_of(saliency, name, self.weight), self.weight != 0
        self.alive = int(alive.count_nonzero())
        chosen = criteria.by_levels(kind, levels, values, alive, self.sigma)
        self.kept, self.thresholds = zip(*chosen, strict=True)
        self.qualities: list[float | None] = [None] * len(levels)
        if kind == "quality":
            self.qualities = list(levels)
        elif saliency is criteria.magnitude and self.sigma > 0:
            self.qualities = [None if cut is None else cut / self.sigma for cut in self.thresholds]
        self.densities = [int(kept.count_nonzero()) / self.size for kept in self.kept]
        self.stopped: dict[int, str] = {}  # level -> why it is not measured any further
        self._stack()

    @property
    def about(self) -> dict:
        size = {"weights": self.size, "kept": self.alive}
        return {**size, "shape": list(self.weight.shape), "sigma": self.sigma}

    def stop(self, levels: dict[int, str]) -> None:
        self.stopped |= levels
        self._stack()

    def at(self, level: int, out: Tensor | None = None) -> Tensor:
        return torch.mul(self.weight, self.kept[level], out=out)

    def weights(self) -> Iterator[tuple[list[int], Tensor]]:
        """The levels still measured with their weights (K, out, in, ...), as many as fit at once.

        A tensor is good until the next one is asked for.
        """
        if self.stacked is not None:
            yield self.left, self.stacked
            return
        room = self._room(self.together)  # new memory for each would cost more than the product
        for start in range(0, len(self.left), self.together):
            part = self.left[start : start + self.together]
            yield part, self._fill(room, part)

    def _stack(self) -> None:
        self.left = [level for level in range(len(self.kept)) if level not in self.stopped]
        self.together = max(1, _STACKED_BYTES // max(1, self.weight.nbytes))
        self.stacked = None
        if 0 < len(self.left) <= self.together:
            self.stacked = self._fill(self._room(len(self.left)), self.left)

    def _room(self, levels: int) -> Tensor:
        return self.weight.new_empty(levels, *self.weight.shape)

    def _fill(self, room: Tensor, levels: list[int]) -> Tensor:
        for weight, level in zip(room, levels, strict=False):
            self.at(level, out=weight)
        return room[: len(levels)]


class _Tally:
    """Counts of images: a row (n, right, lost, won) for the dense network and for every cell."""

    def __init__(self, table: list[_Levels], about: dict):
        self.table, self.about = table, about
        cells = sum(len(layer.kept) for layer in table)
        self.counts = torch.zeros(1 + cells, 4, dtype=torch.int64)

    @property
    def images(self) -> int:
        return int(self.counts[0, 0])

    def add(self, counts: Tensor) -> None:
        self.counts += counts

    def gather(self) -> None:
        """From here on the counts are those of all processes."""
        self.counts = processes.summed(self.counts)

    def judge(self, labels: Tensor) -> None:
        """Leave the levels that answer as a constant would, behind a denser one that does too.

        Every process judges by the images of all.
        """
        counts = processes.summed(self.counts)
        chance = int(labels.bincount().max()) / len(labels)
        for layer, rows in zip(self.table, self._by_layer(counts), strict=True):
            at_chance = [wilson(right, n)[0] <= chance for n, right, _, _ in rows.tolist()]
            given_up = [layer.densities[k] for k, lost in enumerate(at_chance) if lost]
            if given_up:
                why = (
                    f"at chance from density {max(given_up):.3g} on; "
                    f"left after {len(labels):,} images"
                )
                levels = enumerate(zip(at_chance, layer.densities, strict=True))
                layer.stop({k: why for k, (lost, d) in levels if lost and d < max(given_up)})

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
        n, right, _, _ = self.counts[0].tolist()
        return Scan(points, Accuracy.counted(right, n), self.about)

    def _by_layer(self, counts: Tensor) -> tuple[Tensor, ...]:
        return counts[1:].split([len(layer.kept) for layer in self.table])


def _count(
    way: Whole, team: Team, x: Tensor, y: Tensor, table: list[_Levels], cumulative: bool
) -> Tensor:
    """The counts of one batch, its images shared among the workers."""
    parts = x.chunk(team.pace.workers)
    starts = team.do([partial(way.start, part) for part in parts])
    dense = right(torch.cat([answer for answer, _ in starts]), y)
    if cumulative:
        rows = _count_cumulative(way, team, parts, y, dense, table)
    else:
        rows = []
        for layer in table:
            counts = torch.zeros(len(layer.kept), 4, dtype=torch.int64)
            for levels, weights in layer.weights():
                jobs = [
                    partial(way.answers, layer.name, kept[layer.name], weights)
                    for _, kept in starts
                ]
                answers = torch.cat(team.do(jobs))  # (N, K, classes)
                counts[levels] = _rows(dense, answers.argmax(2) == y[:, None])
            rows.append(counts)
    return torch.cat([_rows(dense, dense[:, None]), *rows])


def _count_cumulative(
    way: Whole, team: Team, parts: Sequence[Tensor], y: Tensor, dense: Tensor, table: list[_Levels]
) -> list[Tensor]:
    """Each layer pruned together with those before it: what enters it is what they now answer."""
    rows = [torch.zeros(len(layer.kept), 4, dtype=torch.int64) for layer in table]
    for level in range(len(table[0].kept)):
        weights = {layer.name: layer.at(level) for layer in table}
        starts = team.do([partial(way.start, part, weights) for part in parts])
        changes = {}
        for layer, counts in zip(table, rows, strict=True):
            changes[layer.name] = weights[layer.name]
            if level not in layer.stopped:
                jobs = [
                    partial(way.answer, layer.name, kept[layer.name], changes) for _, kept in starts
                ]
                hits = torch.cat(team.do(jobs)).argmax(1) == y
                counts[level] = _rows(dense, hits[:, None])[0]
    return rows


def _rows(dense: Tensor, hits: Tensor) -> Tensor:
    """(n, right, lost, won) for each column of `hits` (N, K), `dense` (N,) being before."""
    n = torch.full((hits.shape[1],), len(hits))
    lost, won = dense[:, None] & ~hits, ~dense[:, None] & hits
    return torch.stack([n, *(part.sum(0).cpu() for part in (hits, lost, won))], 1)


def _seconds_per_image(way: Whole, pace: Pace, sample: Tensor, table: list[_Levels]) -> float:
    """From one pass, and one from each layer on, for each of its levels."""

    def trial() -> float:
        began = time.perf_counter()
        _, kept = way.start(sample)
        total = time.perf_counter() - began
        for layer in table:
            began = time.perf_counter()
            way.answer(layer.name, kept[layer.name], {})
            total += len(layer.kept) * (time.perf_counter() - began)
        return total

    with Team(Pace(1, pace.threads)) as team:
        (seconds,) = team.do([trial])
    return seconds / len(sample) / pace.workers / processes.world()


class _Journal:
    """What is done of a scan, batch by batch, in a file that only grows.

    A line that an interrupt tore is no line: its batch is done again.
    """

    def __init__(
        self, out: str | Path, about: dict, images: Images, table: list[_Levels], resume: bool
    ):
        out = Path(out)
        self.path = out.with_name(f"{out.name}.part{processes.rank()}")
        self.parts = sorted(out.parent.glob(f"{glob.escape(out.name)}.part*"))
        if self.parts and not resume:
            raise FileExistsError(
                f"{self.parts[0]} is left of an interrupted scan; go on with it by --resume "
                f"(resume=True), or delete it"
            )
        batches = repr(images) if isinstance(images, Part) else None  # mean, std, batch size
        header = json.dumps({**about, "batches": batches, "kept_sha256": _kept_sha256(table)})
        cells = 1 + sum(len(layer.kept) for layer in table)
        self.done: dict[int, Tensor] = {}
        for part in self.parts:
            first, *lines = files.read_text(part).split("\n")
            if first != header:
                raise ValueError(
                    f"{part} is of another scan: other weights, images, batches, levels or "
                    f"versions; scan as it did, or delete it"
                )
            # Behind the last line break is nothing, or a torn line.
            for number, line in enumerate(lines[:-1], start=2):
                try:
                    index, counts = json.loads(line)
                    self.done[index] = torch.tensor(counts).reshape(cells, 4)
                except (ValueError, TypeError, RuntimeError):
                    raise ValueError(
                        f"{part}, line {number} is broken; delete the file, and scan anew"
                    ) from None
        processes.wait()  # all have read before anyone writes
        mine = [self._line(index, counts) for index, counts in self.done.items()]
        files.write(self.path, "".join([header + "\n", *mine]))
        self.file = self.path.open("a")

    def note(self, index: int, counts: Tensor) -> None:
        self.file.write(self._line(index, counts))
        self.file.flush()
        os.fsync(self.file.fileno())

    def finish(self, result: Scan, out: str | Path) -> None:
        self.file.close()
        if processes.rank() == 0:
            result.save(out)
        processes.wait()
        for path in {self.path, *self.parts}:
            path.unlink(missing_ok=True)

    @staticmethod
    def _line(index: int, counts: Tensor) -> str:
        return json.dumps([index, counts.tolist()]) + "\n"


def _kept_sha256(table: list[_Levels]) -> str:
    return files.sha256(
        *(kept.cpu().contiguous().numpy() for layer in table for kept in layer.kept)
    )


def _check_alike(table: list[_Levels]) -> None:
    """That all processes prune the same weights: their saliencies may differ."""
    if processes.world() > 1:
        mine = int(_kept_sha256(table)[:8], 16)
        if processes.summed(torch.tensor(mine)).item() != mine * processes.world():
            raise ValueError(
                "the processes would prune different weights; give all the same network, and call "
                "torch.manual_seed with the same number in each"
            )


def _sizes(layers: Iterable[Layer]) -> dict[str, int]:
    """Weights of some layers, and those that are not zero."""
    weights = [layer.weight for layer in layers]
    kept = sum(int(weight.count_nonzero()) for weight in weights)
    return {"weights": sum(weight.numel() for weight in weights), "kept": kept}


def _length(images: Images) -> int | None:
    if isinstance(images, Part):
        return len(images)
    if isinstance(images, list | tuple):
        return sum(len(y) for _, y in images)
    try:
        return len(images.dataset)  # of a DataLoader; its own length, as any other's, is of batches
    except (AttributeError, TypeError):
        return None
