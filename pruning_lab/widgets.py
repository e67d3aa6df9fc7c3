"""Widgets: some state, one library call, one drawing; a cell or a test sets and reads the state.

A callback only looks numbers up; accuracy and picture come from a thread of their own, so that a
slider follows the hand. Pictures are drawn without pyplot, whose global state threads must not
share, and sent as PNG, which every notebook front end shows.
"""

import base64
import copy
import html
import io
import threading
from collections.abc import Callable
from functools import partial

import ipywidgets
import torch
import traitlets
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn

from pruning_lab import criteria, masks, plots
from pruning_lab.data import Split
from pruning_lab.evaluation import Accuracy, Drop, Images, device_of, drop, measuring
from pruning_lab.models import is_chain

FIRST_LOOK = 500  # images on which accuracy is estimated before all of them are asked
WIDTH, HEIGHT = 680, 270  # of the picture, in the page's pixels
_NAME = '<td style="padding: 0 1em; opacity: 0.65; text-align: right">'


class ThresholdSlider(ipywidgets.VBox):
    """One layer's threshold under a slider; histogram, densities and accuracy follow.

    `images` is what accuracy is measured on: splits.val, a DataLoader, any re-iterable of (x, y).
    The panel looks at the network as it is now: it works on a copy, and leaves `model` alone. Set
    `panel.quality` in a cell, or move the slider; read `threshold`, `density`, `mask` at once, and
    `accuracy` and `drop` when they have been measured, for which `settle()` waits.

    Raises ValueError for the test split: choosing by it would spoil it. KeyError for a layer that
    is not there.
    """

    quality = traitlets.Float(help="threshold / sigma; rounded to a step of the slider")
    _worker = None  # what a refused panel, which is closed too, never got

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        layer: str,
        *,
        quality: float = 1.0,
        max_quality: float = 3.0,
        step: float = 0.05,
    ):
        if isinstance(images, Split) and images.name == "test":
            raise ValueError(
                "a slider chooses, and the test split is not for choosing; give splits.val"
            )
        layers = masks.prunable(model)
        if layer not in layers:
            raise KeyError(masks.unknown_layer(layer, layers))
        self.layer = layer
        self._step, self._max_quality = step, max_quality
        # The copy's parameters need no gradient, and nobody else changes them or its mode.
        self._model = copy.deepcopy(model).requires_grad_(False).eval()
        self._weight = masks.prunable(self._model)[layer].weight
        self._sorted = criteria.magnitude(self._weight).reshape(-1).sort().values
        self._others = sum(m.weight.numel() for n, m in layers.items() if n != layer)
        self.sigma = criteria.sigma(self._weight)
        self._behind, self._batches, self.dense = _cached(self._model, layer, images)
        self._measured: tuple[float, Accuracy] | None = None
        self._lending = threading.Lock()  # functional_call lends the copy another weight meanwhile
        self._writing = threading.Lock()
        self._worker = _NewestFirst(self._follow)

        self.slider = ipywidgets.FloatSlider(
            min=0,
            max=max_quality,
            step=step,
            description="quality",
            readout_format=".2f",
            layout=ipywidgets.Layout(width=f"{WIDTH}px"),
        )
        self.picture = ipywidgets.Image(
            format="png", layout=ipywidgets.Layout(width=f"{WIDTH}px", height=f"{HEIGHT}px")
        )
        self.text = ipywidgets.HTML()
        super().__init__([self.slider, self.picture, self.text])
        for part, name in (
            (self, "panel"), (self.slider, "slider"), (self.picture, "picture"), (self.text, "text")
        ):  # fmt: skip
            part.add_class(f"threshold-{name}")

        self.quality = quality
        traitlets.link((self, "quality"), (self.slider, "value"))
        self._show()
        self.observe(lambda change: self._show(), "quality")

    @traitlets.validate("quality")
    def _on_the_grid(self, proposal) -> float:
        """A value between two steps would come back rounded from the browser, over a later one."""
        criteria.check_amount("quality", proposal["value"])
        if proposal["value"] > self._max_quality:
            raise ValueError(
                f"quality must lie in [0, {self._max_quality:g}] here, got {proposal['value']:g}; "
                f"for more, make the slider with max_quality="
            )
        return round(round(proposal["value"] / self._step) * self._step, 10)

    @property
    def threshold(self) -> float:
        return self.quality * self.sigma

    @property
    def kept(self) -> int:
        """How many of the layer's weights stay: a binary search, however large the layer."""
        threshold = self._sorted.new_tensor(self.threshold)
        return len(self._sorted) - int(torch.searchsorted(self._sorted, threshold))

    @property
    def density(self) -> float:
        """Of the layer."""
        return self.kept / len(self._sorted)

    @property
    def network_density(self) -> float:
        return (self.kept + self._others) / (len(self._sorted) + self._others)

    @property
    def mask(self) -> masks.Mask:
        """What the slider stands for, ready to apply or to train with."""
        with self._lending:
            return masks.prune(self._model, quality={self.layer: self.quality})

    @property
    def accuracy(self) -> Accuracy | None:
        """On all images at the current quality; None until it has been measured."""
        measured = self._measured
        return measured[1] if measured and measured[0] == self.quality else None

    @property
    def drop(self) -> Drop | None:
        """Accuracy lost against the network as it came; None until it has been measured."""
        return drop(self.dense, accuracy) if (accuracy := self.accuracy) else None

    def settle(self, timeout: float | None = None) -> "ThresholdSlider":
        """Wait until the newest state is evaluated and drawn; raises what went wrong on the way."""
        self._worker.settle(timeout)
        return self

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()
        for part in self.children:
            part.close()
        super().close()

    def _show(self) -> None:
        """What takes no time, at once; the rest when the worker comes to it."""
        self._write(self.quality, "measuring …")
        self._worker.submit(self.quality)

    def _follow(self, quality: float, stale: Callable[[], bool]) -> None:
        """The worker's task: estimate, draw, measure; leave as soon as the state is an old one."""
        try:
            with torch.inference_mode():
                self._measure(quality, stale)
        except Exception as error:
            self._write(quality, f"not measured: {html.escape(str(error))}")
            raise

    def _measure(self, quality: float, stale: Callable[[], bool]) -> None:
        pruned = self._weight * (self._weight.abs() >= quality * self.sigma)
        hits, seen, drawn = [], 0, False
        for x, y in self._batches:
            if stale():
                return
            hits.append((self._answer(pruned, x).argmax(1) == y).cpu())
            seen += len(y)
            if seen >= FIRST_LOOK and not drawn:
                self._report(quality, Accuracy.of(torch.cat(hits)))
                self._draw(quality)
                drawn = True
        if not drawn:
            self._draw(quality)
        accuracy = Accuracy.of(torch.cat(hits))
        self._measured = (quality, accuracy)
        self._report(quality, accuracy)

    def _answer(self, pruned: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        with self._lending:
            lent = {f"{self.layer}.weight": pruned}
            return torch.func.functional_call(self._behind, lent, (x,))

    def _report(self, quality: float, accuracy: Accuracy) -> None:
        dense = Accuracy.of(self.dense.hits[: accuracy.n])
        value, details = str(accuracy).split(" ", 1)
        self._write(quality, f"<b>{value}</b> {details}", str(drop(dense, accuracy)))

    def _write(self, quality: float, accuracy: str, lost: str = "…") -> None:
        """The text, unless the slider has moved on: two threads write it."""
        with self._writing:
            if quality != self.quality:
                return
            kept, weights = self.kept, len(self._sorted)
            rows = {
                "threshold": f"<b>{self.threshold:.4f}</b> ({quality:.2f} × σ of {self.sigma:.4f})",
                f"{html.escape(self.layer)} keeps": f"<b>{kept / weights:.1%}</b> "
                f"({kept:,} of {weights:,} weights)",
                "network keeps": f"<b>{self.network_density:.1%}</b> (the other layers dense)",
                "accuracy": accuracy,
                "drop from dense": lost,
            }
            cells = "".join(
                f"<tr>{_NAME}{name}</td><td>{it}</td></tr>" for name, it in rows.items()
            )
            self.text.value = f'<table style="line-height: 1.6">{cells}</table>'

    def _draw(self, quality: float) -> None:
        figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=150)
        FigureCanvasAgg(figure)
        ax = figure.add_axes((0.13, 0.19, 0.85, 0.7))  # by hand: laying out costs a drawing
        title = f"{self.layer}: pruned where |w| < {quality:.2f} × σ"
        plots.weights(self._weight, threshold=quality * self.sigma, title=title, ax=ax)
        if quality:
            ax.legend(loc="upper right", framealpha=1, edgecolor="none")  # over the moving lines
        content = io.BytesIO()
        figure.savefig(content, format="png", pil_kwargs={"compress_level": 1})
        self.picture.value = content.getvalue()

    def __repr__(self) -> str:
        return (
            f"ThresholdSlider(layer={self.layer!r}, quality={self.quality:g}, "
            f"threshold={self.threshold:.4g}, density={self.density:.4g})"
        )

    def _repr_mimebundle_(self, **options) -> dict:
        """With the picture as it stands, for pages that show no widgets."""
        bundle = super()._repr_mimebundle_(**options)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        if data and self.picture.value:
            data["image/png"] = base64.b64encode(self.picture.value).decode()
        return bundle


def _cached(model: nn.Module, layer: str, images: Images):
    """The network from `layer` on, what enters there batch by batch, and the dense accuracy.

    For a network that is no chain that is all of it.
    """
    ahead, behind = nn.Sequential(), model
    if is_chain(model):
        place = [name for name, _ in model.named_children()].index(layer)
        ahead, behind = model[:place], model[place:]
    device = device_of(model)
    batches, hits = [], []
    with measuring(model):
        for x, y in images:
            x, y = ahead(x.to(device)), y.to(device)
            batches.append((x, y))
            hits.append((behind(x).argmax(1) == y).cpu())
    if not hits:
        raise ValueError("no images to measure an accuracy on")
    return behind, batches, Accuracy.of(torch.cat(hits))


class _NewestFirst:
    """A thread that works on the newest state given to it and leaves older ones undone.

    It lives while there is something to do. `work(state, stale)` should return when stale() is
    true; nothing needs to be cancelled or timed, and a fast hand costs nothing.
    """

    def __init__(self, work: Callable[[object, Callable[[], bool]], None]):
        self._work = work
        self._changed = threading.Condition()
        self._newest = self._finished = 0  # states are numbered as they come
        self._state: object = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._closed = False

    def submit(self, state: object) -> None:
        with self._changed:
            self._newest += 1
            self._state = state
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="newest-first", daemon=True)
                self._thread.start()

    def settle(self, timeout: float | None = None) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._thread is None, timeout):
                raise TimeoutError(
                    f"still measuring after {timeout:g} s; wait longer, or use fewer images"
                )
            if self._error is not None:
                raise self._error

    def close(self) -> None:
        """Let the thread go; what it was working on stays undone."""
        with self._changed:
            self._closed = True
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closed or self._finished == self._newest:
                    self._thread = None
                    self._changed.notify_all()
                    return
                number, state = self._newest, self._state
            error = None
            try:
                self._work(state, partial(self._is_stale, number))
            except BaseException as raised:  # settle() raises it, in the thread that asks
                error = raised
            with self._changed:
                self._finished = number
                if number == self._newest:
                    self._error = error

    def _is_stale(self, number: int) -> bool:
        return self._closed or number != self._newest
