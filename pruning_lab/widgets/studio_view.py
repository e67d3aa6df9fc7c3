"""What the panels of a studio share: its numbers, a picture, a line for each layer."""

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import ipywidgets
from ipywidgets import HTML, Button, FloatSlider, HBox, Image, VBox, Widget

from pruning_lab import plots
from pruning_lab.evaluation import Accuracy, Drop
from pruning_lab.masks import Mask
from pruning_lab.studio import (
    LIMIT,
    STEP,
    Failed,
    LayerMetrics,
    Measured,
    Moved,
    Progress,
    Setting,
    Studio,
)
from pruning_lab.widgets.drawing import for_pages
from pruning_lab.widgets.tables import STYLE, alert, headline, percent


class StudioView(VBox):
    """Some layers of a studio. What a user moves is a call of `studio`; a cell may call it too.

    A subclass arranges the parts as `children`, calls `start`, and has `draw() -> bytes`, a PNG.
    """

    studio: Studio | None = None  # a refused panel, which is closed too, never got one

    def __init__(self, studio: Studio, layers: Iterable[str], css: str, width: int, words: str):
        """`width` is the picture's, in pixels; `words` say what it shows."""
        self._lock = threading.RLock()  # of what is shown: two threads write it
        self._shown: dict[str, tuple[Setting, bool]] = {}  # what each layer's row is set to
        self._quiet: int | None = None  # the thread whose own changes are not a user's
        self._css = css
        labels, rows = plots.short_names(studio.layers), studio.metrics()
        wide = max(76, 22 + 8 * max(len(labels[name]) for name in layers))
        self.rows = {r.layer: LayerRow(self, r, labels[r.layer], wide) for r in rows}
        self._layer = next(iter(layers))
        self.style_sheet, self.headline, self.problem = HTML(STYLE), HTML(), HTML()
        self.picture = picture_box(width)
        self.pictures = {words: self.picture}
        super().__init__()
        self.studio = studio
        self.add_class("studio-panel").add_class(f"{css}-panel")

    def start(self) -> None:
        """Show the studio, now and after each of its events; classes let a page find the parts."""
        for name, part in vars(self).items():
            if isinstance(part, Widget):
                part.add_class(f"{self._css}-{name.replace('_', '-')}")
        self.write()
        for event in (Moved, Measured, Progress, Failed):
            self.studio.on(event, self.follow)
        self.studio.refresh()

    # ------------------------------------------------------------------------------ for a cell

    @property
    def layer(self) -> str:
        """The layer in the picture; set it, or press its name."""
        return self._layer

    @layer.setter
    def layer(self, name: str) -> None:
        self.studio.layer(name)  # raises for an unknown one
        self._layer = name
        self.write()
        self.studio.refresh()

    @property
    def mask(self) -> Mask:
        """What stays, ready to apply or to train with."""
        return self.studio.mask

    @property
    def accuracy(self) -> Accuracy | None:
        """On all images; None until it has been measured."""
        return self.studio.attempt.accuracy

    @property
    def drop(self) -> Drop | None:
        """Accuracy lost compared with the network as it came; None until it has been measured."""
        return self.studio.attempt.drop

    def settle(self, timeout: float | None = None) -> "StudioView":
        """Wait until the latest state is measured and drawn; raises what went wrong on the way."""
        self.studio.settle(timeout)
        return self

    def close(self) -> None:
        """End the studio's thread, and take the panel off the page."""
        if self.studio is not None:
            self.studio.close()
            parts = *vars(self).values(), *self.rows.values(), *self.children, self.layout
            for widget in (part for part in parts if isinstance(part, Widget)):
                _close(widget)
        super().close()

    # ------------------------------------------------------------------------ what a user does

    def moved(self, layer: str, quality: float) -> None:
        """A slider or a box was moved: by it alone, or by all that it is linked with."""

        def move():
            self._layer = layer
            self.studio.set(dict.fromkeys(self.linked(layer), quality), merge=True)

        self.press(move)

    def linked(self, layer: str) -> list[str]:
        """The layers that move together with this one."""
        return [layer]

    def lock(self, layer: str, locked: bool) -> None:
        self.press(lambda: (self.studio.lock if locked else self.studio.unlock)(layer))

    def press(self, action: Callable[[], object]) -> None:
        """Do what the user asked for, and show it; what goes wrong appears in the panel."""
        if self._quiet == threading.get_ident():
            return
        with self._lock:  # the numbers come first: drawing, in the studio's thread, takes longer
            self.problem.value = ""
            try:
                action()
            except Exception as error:
                words = error.args[0] if isinstance(error, KeyError) else error  # it adds quotes
                self.problem.value = alert(str(words) or type(error).__name__)
                self._shown.clear()  # a slider that was refused goes back
            self.write()

    # ---------------------------------------------------------------------------- what is shown

    def follow(self, event: object) -> None:
        """Called by the studio, in its thread."""
        self.write()
        if isinstance(event, Moved):
            self.picture.value = self.draw()

    def write(self) -> None:
        """The numbers, always the latest: at once after a move, and again as they are measured."""
        with self._lock, self.silent():
            metrics, free = self.studio.metrics(), not self.studio.busy
            self.headline.value = headline(metrics, self.studio)
            for row in metrics:
                line, setting = self.rows[row.layer], (row.asked, row.locked)
                line.show(row, row.layer == self._layer, free)
                if self._shown.get(row.layer) != setting:
                    line.put(row)
                    self._shown[row.layer] = setting

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Values that are put into sliders inside were not put there by a user."""
        before, self._quiet = self._quiet, threading.get_ident()
        try:
            yield
        finally:
            self._quiet = before

    def _repr_mimebundle_(self, **options) -> dict:
        """With the pictures and the numbers as they are now, for pages that show no widgets."""
        bundle = super()._repr_mimebundle_(**options)
        if not self.picture.value:  # closed, or not drawn yet
            return bundle
        page = [part.value for part in vars(self).values() if isinstance(part, HTML)]
        for words, picture in self.pictures.items():
            page.append(f"<p>{plots.Picture(picture.value, words, 620).img}</p>")
        text = f"{self!r}\n\n{self.mask.receipt}"
        return for_pages(bundle, text, "".join(page), self.picture.value)


class LayerRow(HBox):
    """Widgets of a layer; what the user does with them is a call of the view they belong to."""

    def __init__(self, view, row: LayerMetrics, label: str, width: int):
        name = row.layer
        self.name = Button(description=label, tooltip=f"show {name}: {row.weights:,} weights")
        self.slider = FloatSlider(
            max=LIMIT, step=STEP, readout=False, tooltip=f"quality of {name}: threshold / sigma"
        )
        self.box = ipywidgets.FloatText(0, tooltip=f"quality of {name}, exactly")
        self.kept = HTML()
        self.lock = ipywidgets.ToggleButton(icon="lock", tooltip=f"leave {name} as it is")
        self.reset = Button(icon="undo", tooltip=f"set {name} to 0: prune nothing here")
        parts = {
            "name": (self.name, f"{width}px"),
            "slider": (self.slider, "138px"),
            "box": (self.box, "76px"),
            "kept": (self.kept, "58px"),
            "lock": (self.lock, "36px"),
            "reset": (self.reset, "36px"),
        }
        for word, (part, wide) in parts.items():
            part.layout.width = wide
            part.add_class(f"studio-{word}-{re.sub('[^a-zA-Z0-9_-]', '-', name)}")
        layout = {"align_items": "center", "flex": "0 0 auto"}
        super().__init__([part for part, _ in parts.values()], layout=layout)
        self.name.on_click(lambda _: view.press(lambda: setattr(view, "layer", name)))
        self.box.observe(lambda change: view.moved(name, change["new"]), "value")
        self.lock.observe(lambda change: view.lock(name, change["new"]), "value")
        self.reset.on_click(lambda _: view.moved(name, 0.0))
        on_steps(self.slider, lambda quality: view.moved(name, quality))

    def show(self, row: LayerMetrics, selected: bool, free: bool) -> None:
        """What follows from the setting."""
        self.kept.value = f'<b style="font-size: 14px">{percent(row.density)}</b>'
        self.name.button_style = "primary" if selected else ""
        for part in (self.slider, self.box, self.reset):
            part.disabled = not free or row.locked
        self.lock.disabled = not free

    def put(self, row: LayerMetrics) -> None:
        """The setting. A value off the slider's grid would come back from the browser rounded, over
        a later one: exact ones are for the box.
        """
        quality = float(f"{row.quality:.4g}") if row.kept else LIMIT
        if row.asked.kind == "quality":
            quality = row.asked.amount
        place = on_grid(min(quality, LIMIT), STEP)
        if place != on_grid(self.slider.value, STEP):  # else it would jump back during a fast drag
            self.slider.value = place
        self.box.value = quality
        self.lock.value = row.locked
        self.lock.icon = "lock" if row.locked else "unlock"


def on_steps(slider: FloatSlider, moved) -> None:
    """Call `moved` when the user moves a slider by a step.

    A browser answers a new value with its own last digit of it: the user did not do that.
    """

    def slid(change: dict) -> None:
        old, new = (on_grid(change[when], slider.step) for when in ("old", "new"))
        if new != old:
            moved(new)

    slider.observe(slid, "value")


def on_grid(value: float, step: float) -> float:
    return round(round(value / step) * step, 10)


def picture_box(width: int) -> Image:
    """A place for a picture; it shrinks with the page."""
    layout = {"width": f"min(100%, {width}px)", "height": "auto", "flex": "0 0 auto"}
    return Image(format="png", layout=layout).add_class("studio-plot")


def _close(widget: Widget) -> None:
    """A widget after all that it holds: children, layouts, styles."""
    for value in (getattr(widget, key) for key in widget.keys):
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Widget):
                _close(part)
    widget.close()
