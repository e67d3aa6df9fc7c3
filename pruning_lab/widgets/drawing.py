"""Sizes of pictures; films, which redraw only what moves."""

import base64
import threading

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pruning_lab import plots

WIDTH = 720  # of a picture, in the page's pixels


def height_for(layers: int, least: int) -> int:
    """Pixels of a picture whose legend has a line for each layer."""
    return max(least, 24 * (layers + 5))


def for_pages(bundle: dict | tuple, text: str, html: str, picture: bytes) -> dict | tuple:
    """A widget's MIME bundle with what pages that show no widgets show instead."""
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    if data:
        data |= {"text/plain": text, "text/html": html}
        if picture:
            data["image/png"] = base64.b64encode(picture).decode()
    return bundle


class Film:
    """A figure of which most stands still: that is drawn once, the other artists blitted onto it.

    A subclass has `_draw(figure)`, which returns the artists that move (made with animated=True),
    and `_move()`, which moves them; it calls `_frame` while it holds `_lock`.
    """

    words: str  # what it shows, for those who do not see it
    pixels: tuple[int, int]  # of the page
    _scene: object = None

    def __init__(self):
        self._lock = threading.Lock()

    def _frame(self, scene: object) -> bytes:
        """A picture; for a scene unlike the last one everything is drawn again."""
        if self._scene != scene:
            figure = Figure(figsize=[side / 100 for side in self.pixels], dpi=plots.DPI)
            self._canvas = FigureCanvasAgg(figure)
            self._moving = self._draw(figure)
            plots.without_formulas(figure)
            self._canvas.draw()
            self._still = self._canvas.copy_from_bbox(figure.bbox)
            self._scene = scene
        self._move()
        self._canvas.restore_region(self._still)
        for artist in self._moving:
            artist.axes.draw_artist(artist)
        return plots.encoded(self._canvas)
