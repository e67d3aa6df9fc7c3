"""The threshold studio in a notebook: the page's view, by anywidget, over a `studio.Studio`."""

import anywidget
import traitlets
from matplotlib.figure import Figure

from pruning_lab import plots
from pruning_lab.studio import Studio
from pruning_lab.widgets.board import Board
from pruning_lab.widgets.drawing import for_pages
from pruning_lab.widgets.histogram import Histogram
from pruning_lab.widgets.script import script, style
from pruning_lab.widgets.studio_view import OfStudio
from pruning_lab.widgets.tables import STYLE, attempts_table, headline, table

_PIXELS = 620, 290  # of a picture
_HELP = "For the page; `widgets.state` and `widgets.board` say what it holds."


def _dict() -> traitlets.Dict:
    return traitlets.Dict(help=_HELP).tag(sync=True)


def _bytes() -> traitlets.Bytes:
    return traitlets.Bytes(help=_HELP).tag(sync=True)


class StudioPanel(OfStudio, anywidget.AnyWidget):
    """All of a studio in one view: weights and thresholds, accuracy, losses, attempts that stay.

    Whatever a user does in it is a call of `panel.studio`, and a cell may do the same: the panel
    shows what came of it. Pages that run no code show pictures and tables instead.
    """

    network, curves, now, losses, first = _dict(), _dict(), _dict(), _dict(), _dict()
    progress, message, handled = _dict(), _dict(), _dict()
    counts, pictures, first_values = _bytes(), _bytes(), _bytes()
    attempts = traitlets.List(help=_HELP).tag(sync=True)
    requests = _dict().tag(echo_update=False)  # of the page, which knows them

    def __init__(self, studio: Studio):
        self._board = Board(studio)
        self._esm, self._css = script(), style()
        super().__init__(**self._board.values)
        self.studio, self._layer = studio, studio.layers[0]
        self._histogram = Histogram(studio, _PIXELS)
        self._board.show(self._take)

    def _take(self, values: dict) -> None:
        with self.hold_sync():  # in one message: counts are of no use without their network
            for name, value in values.items():
                self.set_trait(name, value)

    def set_state(self, sync_data: dict) -> None:
        """What a browser sends, in the thread that takes its messages."""
        with self._board.lock:  # while traits are held back, no other thread may write them
            super().set_state(sync_data)
        if "requests" in sync_data:
            self._board.carry_out(self.requests)

    # ------------------------------------------------------------------------------ for a cell

    @property
    def layer(self) -> str:
        """The layer in the picture of pages that run no code."""
        return self._layer

    @layer.setter
    def layer(self, name: str) -> None:
        self.studio.layer(name)  # raises for an unknown one
        self._layer = name

    def close(self) -> None:
        """End the studio's thread, and take the panel off the page."""
        if self.studio is not None:
            self.studio.close()
            self._board.close()
            self.layout.close()
        super().close()

    def __repr__(self) -> str:
        return f"StudioPanel({self.studio!r})"

    def _repr_mimebundle_(self, **options) -> tuple[dict, dict] | dict:
        """With pictures and tables as they are now, for pages that run no code."""
        bundle = super()._repr_mimebundle_(**options)
        if self.comm is None:  # closed
            return bundle
        metrics, picture = self.studio.metrics(), self._histogram.picture(self._layer)
        pictures = [plots.Picture(picture, self._histogram.words, _PIXELS[0]), *self._attempts()]
        page = [
            *(STYLE, '<div class="studio-panel">', headline(metrics, self.studio)),
            *(f"<p>{picture.img}</p>" for picture in pictures),
            *(table(metrics.columns, metrics), attempts_table(self.studio), "</div>"),
        ]
        text = f"{self!r}\n\n{self.mask.receipt}"
        return for_pages(bundle, text, "".join(page), picture)

    def _attempts(self) -> list[plots.Picture]:
        """Those that no other beats, as soon as there is one."""
        points = [(a.density, a.drop) for a in self.studio.compare().pareto if a.drop]
        if not points:
            return []
        figure = Figure(figsize=[side / 100 for side in _PIXELS], layout="constrained")
        plots.trade_off(points, title="attempts that no other beats", ax=figure.subplots())
        return [plots.Picture(plots.png(figure), plots.words(points), _PIXELS[0])]
