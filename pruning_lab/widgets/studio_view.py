"""What the sliders over a studio share: its numbers, and a picture that its thread draws."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from ipywidgets import HTML, FloatSlider, Image, VBox, Widget

from pruning_lab import plots
from pruning_lab.evaluation import Accuracy, Drop
from pruning_lab.masks import Mask
from pruning_lab.studio import Failed, Measured, Moved, Progress, Studio
from pruning_lab.widgets.board import sentence
from pruning_lab.widgets.drawing import WIDTH, for_pages
from pruning_lab.widgets.tables import STYLE, alert, headline


class OfStudio:
    """What a cell may ask of any view of a studio."""

    studio: Studio | None = None  # a refused panel, which is closed too, never got one

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

    def settle(self, timeout: float | None = None) -> Self:
        """Wait until the latest state is measured and shown; raises what went wrong on the way."""
        self.studio.settle(timeout)
        return self


class StudioView(OfStudio, VBox):
    """A view of a studio. What a user moves is a call of `studio`; a cell may call it too.

    A subclass arranges the parts as `children`, calls `start`, and has `draw() -> bytes`, a PNG.
    """

    def __init__(self, studio: Studio, css: str, words: str):
        """`words` say what the picture shows."""
        self._lock = threading.RLock()  # of what is shown: two threads write it
        self._quiet: int | None = None  # the thread whose own changes are not a user's
        self._css, self._words = css, words
        self.style_sheet, self.headline, self.problem = HTML(STYLE), HTML(), HTML()
        self.picture = picture_box(WIDTH)
        super().__init__()
        self.studio = studio
        self.add_class("studio-panel").add_class(f"{css}-panel")

    def start(self) -> None:
        """Show the studio, now and after each of its events; classes let a page find the parts."""
        for name, part in vars(self).items():
            if isinstance(part, Widget):
                part.add_class(f"{self._css}-{name.strip('_').replace('_', '-')}")
        self.write()
        for event in (Moved, Measured, Progress, Failed):
            self.studio.on(event, self.follow)
        self.studio.refresh()

    def close(self) -> None:
        """End the studio's thread, and take the panel off the page."""
        if self.studio is not None:
            self.studio.close()
            parts = *vars(self).values(), *self.children, self.layout
            for widget in (part for part in parts if isinstance(part, Widget)):
                _close(widget)
        super().close()

    # ---------------------------------------------------------------------------- what is shown

    def press(self, action: Callable[[], object]) -> None:
        """Do what the user asked for, and show it; what goes wrong appears in the panel."""
        if self._quiet == threading.get_ident():
            return
        with self._lock:  # the numbers come first: drawing, in the studio's thread, takes longer
            self.problem.value = ""
            try:
                action()
            except Exception as error:
                self.problem.value = alert(sentence(error))
            self.write()

    def follow(self, event: object) -> None:
        """Called by the studio, in its thread."""
        self.write()
        if isinstance(event, Moved):
            self.picture.value = self.draw()

    def write(self) -> None:
        """The numbers, always the latest: at once after a move, and again as they are measured."""
        with self._lock:
            self.headline.value = headline(self.studio.metrics(), self.studio)

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Values that are put into sliders inside were not put there by a user."""
        before, self._quiet = self._quiet, threading.get_ident()
        try:
            yield
        finally:
            self._quiet = before

    def _repr_mimebundle_(self, **options) -> dict:
        """With the picture and the numbers as they are now, for pages that show no widgets."""
        bundle = super()._repr_mimebundle_(**options)
        if not self.picture.value:  # closed, or not drawn yet
            return bundle
        shown = (part for name, part in vars(self).items() if not name.startswith("_"))
        page = [part.value for part in shown if isinstance(part, HTML)]
        page.append(f"<p>{plots.Picture(self.picture.value, self._words, 620).img}</p>")
        text = f"{self!r}\n\n{self.mask.receipt}"
        return for_pages(bundle, text, "".join(page), self.picture.value)


def on_steps(slider: FloatSlider, moved: Callable[[float], None]) -> None:
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
