"""Pictures that grow in a notebook while something runs: no widgets, seen without a kernel."""

import time
from collections.abc import Callable

from IPython import display, get_ipython
from matplotlib.figure import Figure

from pruning_lab import plots, sensitivity
from pruning_lab.evaluation import Accuracy, Drop, drop
from pruning_lab.widgets.drawing import height_for


class _Growing:
    """One picture, replaced at most every `seconds`; a notebook's file keeps the last."""

    def __init__(self, title: str, seconds: float):
        self.title, self.seconds = title, seconds
        self._begin()

    def _begin(self) -> None:
        """The next picture has a place of its own."""
        self._handle: display.DisplayHandle | None = None
        self._drawn = 0.0

    @property
    def _is_due(self) -> bool:
        return not self._handle or time.monotonic() - self._drawn >= self.seconds

    def _show(self, plot: Callable, shown: object, height: int, **options) -> None:
        figure = Figure(figsize=(7.6, height / 100), layout="constrained")
        plot(shown, ax=figure.subplots(), **options)
        picture = plots.Picture(plots.png(figure), plots.words(shown), 760)
        if self._handle:
            self._handle.update(picture)
        else:
            self._handle = display.display(picture, display_id=True)
        self._drawn = time.monotonic()


class GrowingScan(_Growing):
    """Draws a scan while it runs: sensitivity.scan(..., notify=GrowingScan()).

    One picture, replaced at most every `seconds`; the last one is of the whole scan. `guess` as for
    `plots.sensitivity`.
    """

    def __init__(self, *, title: str = "", guess: object = None, seconds: float = 0.5):
        super().__init__(title, seconds)
        self.guess = guess

    def __call__(self, progress: sensitivity.Progress) -> None:
        if progress.images == 0:  # a scan begins
            self._begin()
            return
        # Where the number of images is unknown, each picture may be the last.
        more = progress.total is not None and progress.images < progress.total
        if more and not self._is_due:
            return
        scan, title = progress.scan(), self.title
        if more:
            title = f"{progress.images:,} of {progress.total:,} images"
            if progress.seconds_left is not None:
                title += f", {progress.seconds_left:.0f} s left"
        height = height_for(len(scan.layers), 360)
        self._show(plots.sensitivity, scan, height, guess=self.guess, title=title)


class GrowingTraining(_Growing):
    """Draws how accuracy changes from the dense network's, epoch by epoch, of one network or more.

        growing = GrowingTraining(dense)
        growing.add("pruned", after_cut)
        for epoch in train(model, splits.train, config, mask=mask, val=splits.val):
            growing.add("pruned", epoch.val)

    One picture, replaced at most every `seconds` and when its cell ends; a network of another name
    begins the next picture, with those before it.
    """

    def __init__(self, dense: Accuracy, *, title: str = "", seconds: float = 0.5):
        super().__init__(title, seconds)
        self.dense = dense
        self.changes: dict[str, list[Drop]] = {}
        self._is_behind = False
        if shell := get_ipython():
            shell.events.register("post_run_cell", lambda result: self._catch_up())
        else:
            self.seconds = 0  # no cell ends here

    def add(self, name: str, accuracy: Accuracy) -> None:
        """The accuracy of that network after one more epoch, on the images of the dense one."""
        change = drop(self.dense, accuracy)
        if name not in self.changes:
            self._catch_up()
            self._begin()
        self.changes.setdefault(name, []).append(change)
        self._is_behind = True
        if self._is_due:
            self._catch_up()

    def _catch_up(self) -> None:
        """Draw what has come since the last picture."""
        if self._is_behind:
            self._show(plots.epochs, self.changes, 340, title=self.title)
            self._is_behind = False
