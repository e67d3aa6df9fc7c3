"""What the panels of a studio share: its numbers, a layer's picture, a line for each layer."""

import base64
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import ipywidgets
from ipywidgets import HTML, Layout, VBox

from pruning_lab.studio import Failed, Measured, Moved, Progress, Setting, Studio
from pruning_lab.widgets.drawing import Film
from pruning_lab.widgets.figures import WeightsFilm
from pruning_lab.widgets.rows import LayerRow
from pruning_lab.widgets.tables import STYLE, alert, headline, short_names


class StudioView(VBox):
    """Some layers of a studio: whatever a user moves is a call of `studio`, and shown from there.

    A cell may call `panel.studio` as well. `settle()` waits until all is measured and drawn, and
    raises what went wrong.
    """

    def __init__(self, studio: Studio, layers: Iterable[str], film: WeightsFilm, css: str):
        self.studio, self._film = studio, film
        self._lock = threading.RLock()  # of what is shown: two threads write it
        self._shown: dict[str, Setting] = {}  # what each layer's slider and box are set to
        self._quiet: int | None = None  # the thread whose own changes are not a user's
        metrics = studio.metrics()
        labels = short_names(studio.layers)
        width = max(84, 24 + 8 * max(map(len, labels.values())))
        self.rows = {
            row.layer: LayerRow(
                row,
                labels[row.layer],
                width,
                partial(self.moved, row.layer),
                partial(self.select, row.layer),
                partial(self.lock, row.layer),
            )
            for row in metrics.layers
            if row.layer in layers
        }
        self._layer = next(iter(self.rows))
        self.headline, self.problem, self._style = HTML(), HTML(), HTML(STYLE)
        self.picture = picture_of(film)
        super().__init__()
        self.add_class("studio-panel")
        self.name_parts(css, headline=self.headline, problem=self.problem, picture=self.picture)
        self.add_class(f"{css}-panel")

    def start(self) -> None:
        """Show the studio, now and from now on."""
        self.write()
        for event in (Moved, Measured, Progress, Failed):
            self.studio.on(event, self.follow)
        self.studio.refresh()

    def name_parts(self, css: str, **parts: ipywidgets.Widget) -> None:
        for name, part in parts.items():
            part.add_class(f"{css}-{name.replace('_', '-')}")

    # ---------------------------------------------------------------------------- for a cell

    @property
    def layer(self) -> str:
        """The layer in the picture; set it, or press its name."""
        return self._layer

    @layer.setter
    def layer(self, name: str) -> None:
        self.studio.layer(name)  # raises for an unknown one
        with self._lock:
            self._layer = name
        self.write()
        self.studio.refresh()

    def settle(self, timeout: float | None = None) -> "StudioView":
        """Wait until the latest state is measured and drawn; raises what went wrong on the way."""
        self.studio.settle(timeout)
        return self

    def close(self) -> None:
        """End the studio's thread, and take the panel off the page."""
        self.studio.close()
        for widget in _with_parts(self):
            if widget is not self:
                widget.close()
        super().close()

    # ------------------------------------------------------------------------ what a user does

    def moved(self, layer: str, quality: float) -> None:
        """A slider or a box was moved: by it alone, or by all that it is linked with."""
        if self._quiet == threading.get_ident():
            return
        with self._lock:
            self._layer = layer
        self.press(lambda: self.studio.set(dict.fromkeys(self.linked(layer), quality), merge=True))

    def linked(self, layer: str) -> list[str]:
        """The layers that move together with this one."""
        return [layer]

    def select(self, layer: str) -> None:
        self.press(lambda: setattr(self, "layer", layer))

    def lock(self, layer: str, locked: bool) -> None:
        if self._quiet != threading.get_ident():
            self.press(lambda: (self.studio.lock if locked else self.studio.unlock)(layer))

    def press(self, action: Callable[[], object], _button: ipywidgets.Button | None = None) -> None:
        """Do it and show it; what goes wrong appears in the panel."""
        with self._lock:  # the numbers come first: drawing, in the studio's thread, takes longer
            try:
                action()
            except Exception as error:
                words = error.args[0] if isinstance(error, KeyError) else error  # it adds quotes
                self.problem.value = alert(str(words) or type(error).__name__)
                self._shown.clear()  # a slider that was refused goes back
            else:
                self.problem.value = ""
            self.write()

    # ---------------------------------------------------------------------------- what is shown

    def follow(self, event: object) -> None:
        """Called by the studio, in its thread."""
        self.write()
        if isinstance(event, Moved):
            self.picture.value = self._film.picture(self._layer)

    def write(self) -> None:
        """The numbers, always the latest: at once after a move, and again as they are measured."""
        with self._lock, self._silent():
            metrics, busy = self.studio.metrics(), self.studio.busy
            self.headline.value = headline(metrics, self.studio)
            for row in metrics.layers:
                if line := self.rows.get(row.layer):
                    line.show(row, row.layer == self._layer, not busy)
                    if self._shown.get(row.layer) != (row.asked, row.locked):
                        line.put(row)
                        self._shown[row.layer] = (row.asked, row.locked)

    @contextmanager
    def _silent(self) -> Iterator[None]:
        """Values that are put into sliders inside were not put there by a user."""
        before, self._quiet = self._quiet, threading.get_ident()
        try:
            yield
        finally:
            self._quiet = before

    def _repr_mimebundle_(self, **options) -> dict:
        """With the picture as it is now, for pages that show no widgets."""
        bundle = super()._repr_mimebundle_(**options)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        if data and self.picture.value:
            data["image/png"] = base64.b64encode(self.picture.value).decode()
        return bundle


def picture_of(film: Film) -> ipywidgets.Image:
    """A place for a film's frames; it shrinks with the page."""
    layout = Layout(width="100%", max_width=f"{film.pixels[0]}px", height="auto")
    picture = ipywidgets.Image(format="png", layout=layout)
    picture.add_class("studio-plot")
    return picture


def _with_parts(widget: ipywidgets.Widget) -> Iterator[ipywidgets.Widget]:
    """A widget after all that it holds: children, layouts, styles."""
    for value in (getattr(widget, key) for key in widget.keys):
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, ipywidgets.Widget):
                yield from _with_parts(part)
    yield widget
