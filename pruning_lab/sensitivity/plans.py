"""A plan: what to keep of each layer, and why; printed, saved, and made into a mask."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from msgspec import Meta
from torch import nn

from pruning_lab import criteria, files, models
from pruning_lab.criteria import Saliency
from pruning_lab.evaluation import Drop, change
from pruning_lab.layers import prunable
from pruning_lab.masks import Mask, prune
from pruning_lab.rows import Rows, decode, plain

_FORMAT = "pruning_lab plan 4"
_ASKED = {
    "max_drop": "points that the whole network may lose",
    "max_drop_per_layer": "points that each layer alone may lose",
    "density": "of all weights",
}


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """What one layer keeps, and why."""

    layer: str
    weights: Annotated[int, Meta(ge=1)]
    density: Annotated[float, Meta(ge=0, le=1)]
    quality: Annotated[float, Meta(ge=0)] | None  # threshold / sigma, where saliency is magnitude
    drop: Annotated[float, Meta(ge=-1, le=1)] | None  # of this layer alone: read off its curve
    why: str


class PlanRows(Rows[PlanRow]):
    columns: ClassVar = {
        "layer": lambda row: row.layer,
        "weights": lambda row: f"{row.weights:,}",
        "density": lambda row: f"{row.density:.2%}",
        "quality": lambda row: "" if row.quality is None else f"{row.quality:.2f}",
        "change alone": lambda row: "" if row.drop is None else change(row.drop),
        "why": lambda row: row.why,
    }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Densities for all layers of a network, with reasons; print it, save it, make its mask."""

    rows: Annotated[tuple[PlanRow, ...], Meta(min_length=1)]
    asked: str  # "max_drop 0.5", "density 0.1"
    method: Literal["single", "joint", "studio"]
    saliency: str  # what `criteria.name_of` calls it
    together: Drop | None = None  # all layers at once, measured
    other_weights: int = 0  # of layers that nothing was chosen for
    other_kept: int = 0
    model_sha256: str | None = None  # of the network, with its weights
    recalibrated: bool = False  # measured with BatchNorm statistics of the pruned network

    def __post_init__(self):
        object.__setattr__(self, "rows", PlanRows(self.rows))
        layers = [row.layer for row in self.rows]
        if twice := {layer for layer in layers if layers.count(layer) > 1}:
            raise ValueError(f"layer {min(twice)!r} stands twice")
        if not 0 <= self.other_kept <= self.other_weights:
            raise ValueError(f"other_kept {self.other_kept} of other_weights {self.other_weights}")

    @property
    def densities(self) -> dict[str, float]:
        return {row.layer: row.density for row in self.rows}

    @property
    def density(self) -> float:
        """Of the whole network, other layers included."""
        kept = sum(round(row.density * row.weights) for row in self.rows) + self.other_kept
        return kept / max(1, sum(row.weights for row in self.rows) + self.other_weights)

    @property
    def predicted(self) -> float | None:
        """The sum of the single drops; what they really come to is `together`."""
        drops = [row.drop for row in self.rows]
        return None if None in drops else sum(drops)

    def mask(self, model: nn.Module, *, saliency: Saliency | None = None) -> Mask:
        """The same plan gives the same mask of the same weights, after `save` and `load` too.

        `saliency` is the plan's, and need not be given where its name says all (magnitude, random).
        Raises ValueError for another one, and for a network with other layers or weights.
        """
        saliency = known(self.saliency, saliency)
        self.check(model)
        return prune(model, density=self.densities, saliency=saliency)

    def check(self, model: nn.Module) -> None:
        """Raise KeyError or ValueError unless the plan is for this network, with these weights."""
        sizes = {row.layer: row.weights for row in self.rows}
        check_network(model, "plan", sizes, self.other_weights, self.model_sha256)

    def save(self, path: str | Path) -> Path:
        return files.save_json(path, {"format": _FORMAT, **plain(self)})

    @classmethod
    def load(cls, path: str | Path) -> "Plan":
        """Read what `save` wrote. Raises ValueError with the file's name for anything else."""
        return decode(cls, files.load_json(path), path, _FORMAT)

    def __str__(self) -> str:
        kind = self.asked.split()[0]
        asked = f"{self.asked} {_ASKED[kind]}" if kind in _ASKED else self.asked
        measured = "not measured together, for which give model= and images="
        if self.together is not None:
            measured = f"measured together: {self.together} on {self.together.n:,} images"
        sentence = f"Asked for {asked}; {measured}; {self.density:.2%} of the weights stay."
        lines = [f"{self.rows}\n", sentence]
        if self.predicted is not None:
            lines.append(
                f"The changes of single layers sum to {change(self.predicted)} points; they do not "
                f"add: what one layer lost, the next cannot fix."
            )
        if self.other_weights:
            lines.append(f"{self.other_weights:,} weights of other layers stay as they are.")
        if self.recalibrated:
            lines.append("BatchNorm was recalibrated: call evaluation.recalibrate after pruning.")
        return "\n".join(lines)


def known(name: str, given: Saliency | None) -> Saliency:
    """The saliency of that name: built again, or the one given if it is the same."""
    saliency = criteria.by_name(name) if given is None else given
    if saliency is None:
        raise ValueError(
            f"the saliency here is {name!r}, which its name alone does not make; give it: "
            f"saliency=..."
        )
    if (other := criteria.name_of(saliency)) != name:
        raise ValueError(f"the scan's saliency was {name!r}, got {other!r}; give the scan's")
    return saliency


def check_network(
    model: nn.Module, what: str, sizes: Mapping[str, int], others: int, sha256: str | None
) -> None:
    """Raise KeyError or ValueError unless the network has these layers, and these weights."""
    layers, wrong = prunable(model), ""
    there = {name: layer.weight.numel() for name, layer in layers.items()}
    for name, weights in sizes.items():
        layers[name]
        if there[name] != weights:
            wrong = f"layer {name!r} has {there[name]:,} weights here, not {weights:,}"
    if not wrong and (left := sum(there.values()) - sum(sizes.values())) != others:
        wrong = f"this network has {left:,} weights in other layers, expected {others:,}"
    if wrong:
        raise ValueError(f"{wrong}; name the network that was scanned")
    if sha256 not in (None, models.fingerprint(model)):
        advice = "scan this one first" if what == "scan" else "choose for this one"
        raise ValueError(f"the {what} is for a network with other weights; {advice}")
