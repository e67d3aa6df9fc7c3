"""PNG pictures, without pyplot: threads must not share its state. Films redraw only what moves."""

import base64
import io
import threading

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

WIDTH = 720  # of a picture, in the page's pixels
_DPI = 150  # half as many again as the page's pixels, for sharp screens


def png(figure: Figure) -> bytes:
    """A figure as it is now."""
    figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(figure)
    _without_formulas(figure)
    canvas.draw()
    return _encoded(canvas)


def height_for(layers: int, least: int) -> int:
    """Pixels of a picture whose legend has a line for each layer."""
    return max(least, 23 * (layers + 5))


def data_uri(pixels: np.ndarray) -> str:
    """Pixels (H, W) or (H, W, 3), uint8, as the address of a picture in a page."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="png")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


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
            figure = Figure(figsize=[side / 100 for side in self.pixels], dpi=_DPI)
            self._canvas = FigureCanvasAgg(figure)
            self._moving = self._draw(figure)
            _without_formulas(figure)
            self._canvas.draw()
            self._still = self._canvas.copy_from_bbox(figure.bbox)
            self._scene = scene
        self._move()
        self._canvas.restore_region(self._still)
        for artist in self._moving:
            artist.axes.draw_artist(artist)
        return _encoded(self._canvas)


def _without_formulas(figure: Figure) -> None:
    """Layers and attempts may be called `$x^{$`: names are text."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)


def _encoded(canvas: FigureCanvasAgg) -> bytes:
    """In 256 colours: a quarter of the bytes to send and to store, and as quick to make."""
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    picture = picture.quantize(256, method=Image.Quantize.FASTOCTREE)
    # It rounds a little down: white shall be the page's white.
    picture.putpalette([255 if value == 254 else value for value in picture.getpalette()])
    content = io.BytesIO()
    picture.save(content, format="png", compress_level=1)  # more would cost a drag its pictures
    return content.getvalue()
