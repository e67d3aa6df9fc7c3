"""Pictures as PNG, drawn without pyplot; of those that follow a hand, only what moves is drawn."""

import io
from collections.abc import Callable, Iterable

import numpy as np
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

WIDTH = 720  # of a picture, in the page's pixels
LINE, OTHERS = 23, 5  # pixels of a layer's line in a legend, and how much else needs room
_DPI = 150  # half as many again as the page's pixels, for sharp screens


def png(figure: Figure) -> bytes:
    """A figure as it stands."""
    figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return _encoded(canvas)


class Film:
    """A picture of which most stands still: that is drawn once, and the rest blitted onto it.

    `draw(figure)` draws what stands still, and gives the artists that move, made with
    animated=True. `frame(scene)` is a picture of them where they are now; for another scene all is
    drawn anew.
    """

    def __init__(self, width: int, height: int, draw: Callable[[Figure], Iterable[Artist]]):
        """Width and height are in the page's pixels."""
        self.size, self._draw = (width / 100, height / 100), draw
        self._scene: object = None
        self._moving: list[Artist] = []

    def frame(self, scene: object, move: Callable[[], None]) -> bytes:
        if self._scene != scene or not self._moving:
            figure = Figure(figsize=self.size, dpi=_DPI)
            self._canvas = FigureCanvasAgg(figure)
            self._moving = list(self._draw(figure))
            self._canvas.draw()
            self._still = self._canvas.copy_from_bbox(figure.bbox)
            self._scene = scene
        move()
        self._canvas.restore_region(self._still)
        for artist in self._moving:
            artist.axes.draw_artist(artist)
        return _encoded(self._canvas)


def _encoded(canvas: FigureCanvasAgg) -> bytes:
    """In 256 colours: a quarter of the bytes to send and to store, and as quick to make."""
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    picture = picture.quantize(256, method=Image.Quantize.FASTOCTREE)
    # It rounds a little down: white shall be the page's white.
    picture.putpalette([255 if value == 254 else value for value in picture.getpalette()])
    content = io.BytesIO()
    picture.save(content, format="png", compress_level=1)  # more would cost a drag its pictures
    return content.getvalue()
