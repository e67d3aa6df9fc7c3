"""A scan's curves, drawn while the scan runs."""

import time

from IPython import display
from matplotlib.figure import Figure

from pruning_lab import plots, sensitivity
from pruning_lab.widgets.drawing import height_for


class GrowingScan:
    """Draws a scan in the notebook while it runs: sensitivity.scan(..., notify=GrowingScan()).

    One picture, replaced at most every `seconds`. The last one is of the whole scan, and is what a
    notebook's file keeps; it is no widget, and needs no kernel to be seen. `guess` as for
    `plots.sensitivity`.
    """

    def __init__(self, *, title: str = "", guess: object = None, seconds: float = 0.5):
        self.title, self.guess, self.seconds = title, guess, seconds
        self._handle: display.DisplayHandle | None = None
        self._drawn = 0.0

    def __call__(self, progress: sensitivity.Progress) -> None:
        if progress.images == 0:  # a scan begins
            self._handle = None
            return
        # Where the number of images is unknown, each picture may be the last.
        more = progress.total is not None and progress.images < progress.total
        if more and self._handle and time.monotonic() - self._drawn < self.seconds:
            return
        scan, title = progress.scan(), self.title
        if more:
            title = f"{progress.images:,} of {progress.total:,} images"
            if progress.seconds_left is not None:
                title += f", {progress.seconds_left:.0f} s left"
        height = height_for(len(scan.layers), 360) / 100
        figure = Figure(figsize=(7.6, height), layout="constrained")
        plots.sensitivity(scan, guess=self.guess, title=title, ax=figure.subplots())
        picture = plots.Picture(plots.png(figure), plots.words(scan), 760)
        if self._handle:
            self._handle.update(picture)
        else:
            self._handle = display.display(picture, display_id=True)
        self._drawn = time.monotonic()
