"""What a page shows of a studio, as plain JSON values and bytes: one function for each part."""

import math
from collections.abc import Iterable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pruning_lab import data, plots
from pruning_lab.evaluation import Accuracy, Drop
from pruning_lab.rows import counted
from pruning_lab.studio import LayerMetrics, Studio
from pruning_lab.studio.metrics import Change, hits

IMAGES, CLASSES, FILTERS = 24, 20, 64  # shown at most
SIDE = 64  # pixels of a picture at most


def finite(number: float | None) -> float | None:
    """JSON has neither infinity nor NaN."""
    return number if number is not None and math.isfinite(number) else None


def interval(value: Accuracy | Drop | None) -> dict | None:
    if value is None:
        return None
    ends = {"value": value.value, "low": value.low, "high": value.high}
    return ends | ({"n": value.n} if isinstance(value, Accuracy) else {})


# ---------------------------------------------------------------------------------- the network


def network(studio: Studio) -> tuple[dict, bytes]:
    """The weights of the current attempt, and how many stay at each threshold; see `counts`."""
    about, rows, labels = studio.about or {}, studio.metrics(), plots.short_names(studio.layers)
    n, part = data.count(studio.val), getattr(studio.val, "name", "")
    images = f"{n:,} {part} images" if n else f"{part} images"
    layers, counts, offset = [], [], 0
    for row in rows:
        layer = studio.layer(row.layer)
        step, at_least = layer.at_least
        layers.append(
            {
                "name": row.layer,
                "label": labels[row.layer],
                "weights": row.weights,
                "alive": layer.alive,
                "sigma": finite(layer.sigma),
                "flops": row.flops,
                "is_conv": row.is_conv,
                "shape": list(layer.weight.shape),
                "step": step,
                "bins": len(at_least) - 1,
                "offset": offset,
            }
        )
        offset += len(at_least)
        counts.append(np.asarray(at_least, dtype="<u4"))
    found = {
        "name": about.get("network", "network"),
        "made": rows.made,
        "version": studio.attempt.version,
        "weights": rows.weights,
        "images": " ".join(images.split()) + (f" of {studio.source}" if studio.source else ""),
        "classes": _classes(studio),
        "has_train": studio.train is not None,
        "has_test": studio.has_test,
        "path": str(studio.path or ""),
        "layers": layers,
    }
    return found, b"".join(part.tobytes() for part in counts)


def _classes(studio: Studio) -> int | None:
    """By the labels of a split; None where only reading all images would tell."""
    labels = getattr(studio.val, "labels", None)
    return 1 + int(labels.max()) if isinstance(labels, Tensor) and labels.numel() else None


def curves(studio: Studio) -> dict:
    """Of each layer that was scanned: [density, accuracy, low, high], first the dense network."""
    if (scan := studio.scan) is None:
        return {}
    dense = scan.dense.value
    found = {layer: [[1.0, dense, dense, dense]] for layer in scan.layers}
    for layer, points in found.items():
        for p in scan.of(layer):
            points.append([p.density, p.accuracy.value, dense - p.drop.high, dense - p.drop.low])
    return found


# ---------------------------------------------------------------------------------- the attempts


def now(studio: Studio) -> dict:
    """The current attempt: what was asked of each layer, and what is known of it."""
    metrics, attempt = studio.metrics(), studio.attempt
    tested = ""
    if studio.tested is not None:
        used = counted(studio.tests, "time")
        tested = f"test images: {studio.tested}, change {studio.test_drop}; looked at {used}"
    return {
        "number": metrics.attempt,
        "status": metrics.status,
        "busy": studio.task,
        "layers": [_layer(row) for row in metrics],
        "accuracy": interval(metrics.accuracy),
        "drop": interval(metrics.drop),
        "final": metrics.final,
        "dense": interval(studio.dense),
        "can_undo": attempt.parent is not None,
        "can_redo": studio.can_redo,
        "tests": studio.tests,
        "tested": tested,
        "string": studio.to_string(),
    }


def _layer(row: LayerMetrics) -> dict:
    return {
        "kind": row.asked.kind,
        "amount": row.asked.amount,
        "threshold": finite(row.threshold),
        "quality": finite(row.quality),
        "kept": row.kept,
        "bytes": row.bytes,
        "locked": row.locked,
    }


def attempts(studio: Studio) -> list[dict]:
    comparison = studio.compare()
    best = {attempt.number for attempt in comparison.pareto}
    same = ("number", "parent", "line", "name", "what", "version", "density", "bytes")
    return [
        {name: getattr(attempt, name) for name in same}
        | {"accuracy": interval(attempt.accuracy), "drop": interval(attempt.drop)}
        | {"best": attempt.number in best}
        for attempt in comparison
    ]


# --------------------------------------------------------------------------------------- losses


def losses(change: Change | None, final: bool) -> dict:
    """Images and classes that pruning lost and won; the pictures' size comes with `pictures`."""
    if change is None:
        empty = {"n": 0, "lost": 0, "won": 0, "side": [0, 0, 1], "shown": [], "classes": []}
        return empty | {"final": False}
    before, after = hits(change.before), hits(change.after)
    lost = (before & ~after).nonzero().flatten().tolist()
    shown = []
    for index in lost[:IMAGES]:
        label, named, _ = change.before[index].tolist()
        answers = {"before": int(named), "after": int(change.after[index, 1])}
        shown.append({"index": index, "label": int(label), **answers})
    classes = sorted(change.per_class, key=lambda row: -abs(row.drop.value))[:CLASSES]
    classes.sort(key=lambda row: row.label)
    return {
        "n": len(before),
        "lost": len(lost),
        "won": int((after & ~before).sum()),
        "side": [0, 0, 1],
        "shown": shown,
        "classes": [{"label": r.label, "n": r.n, "drop": interval(r.drop)} for r in classes],
        "final": final,
    }


class Pictures:
    """Small pictures of a studio's images, each made once."""

    def __init__(self, studio: Studio):
        self._studio = studio
        self._made: dict[int, np.ndarray] = {}  # by the image's place

    def of(self, indices: Iterable[int]) -> tuple[list[int], bytes]:
        """[height, width, channels], the same for all, and the pixels, uint8."""
        indices = [*indices]
        missing = [index for index in indices if index not in self._made]
        if len(self._made) > 20 * IMAGES:
            self._made = {index: self._made[index] for index in indices if index in self._made}
        for index, pixels in zip(missing, self._studio.pictures(missing), strict=True):
            self._made[index] = small(pixels)
        found = [self._made[index] for index in indices]
        if not found:
            return [0, 0, 1], b""
        height, width, *channels = found[0].shape
        pixels = b"".join(fitted(pixels, found[0]).tobytes() for pixels in found)
        return [height, width, *(channels or [1])], pixels


def small(pixels: np.ndarray) -> np.ndarray:
    """At most 64 pixels high and wide."""
    if max(pixels.shape[:2]) <= SIDE:
        return np.ascontiguousarray(pixels)
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE))
    return np.asarray(image)


def fitted(pixels: np.ndarray, model: np.ndarray) -> np.ndarray:
    """With the size and the channels of another picture."""
    if pixels.shape == model.shape:
        return pixels
    height, width, *channels = model.shape
    image = Image.fromarray(pixels).convert("RGB" if channels else "L")
    return np.asarray(image.resize((width, height)))


# ------------------------------------------------------------------------------ the first layer


def first(studio: Studio) -> tuple[dict, bytes]:
    """What the first layer still sees: connections per pixel, or its filters; pruned is 0."""
    name = studio.layers[0]
    layer, shape = studio.layer(name), getattr(studio.val, "shape", (0,))
    weight = layer.weight
    kept = layer.kept(layer.choose(studio.setting(name)))
    if weight.ndim == 2 and shape[0] == 1 and weight.shape[1] == math.prod(shape):
        counts = kept.sum(0).reshape(shape[1:]).cpu()
        most = int(counts.max())
        values = (255 * counts / max(most, 1)).round().byte().numpy()
        about = {"kind": "pixels", "shape": list(shape[1:]), "seen": int((counts > 0).sum())}
        return about | {"most": most, "of": len(kept)}, values.tobytes()
    if weight.ndim == 4:
        filters = (weight[:FILTERS] * kept[:FILTERS]).float().cpu().movedim(1, -1)
        if filters.shape[-1] not in (1, 3):
            filters = filters.mean(-1, keepdim=True)
        filters = torch.nan_to_num(filters).contiguous().numpy().astype("<f4")
        return {"kind": "filters", "shape": list(filters.shape)}, filters.tobytes()
    return {"kind": ""}, b""
