"""Accuracy after each epoch, drawn while networks train."""

import time

from IPython import display, get_ipython
from matplotlib.figure import Figure

from pruning_lab import plots
from pruning_lab.evaluation import Accuracy, Drop, drop


class GrowingTraining:
    """Draws how accuracy changes from the dense network's, epoch by epoch, of one network or more.

        growing = GrowingTraining(dense)
        growing.add("pruned", after_cut)
        for epoch in train(model, splits.train, config, mask=mask, val=splits.val):
            growing.add("pruned", epoch.val)

    One picture, replaced at most every `seconds` and when its cell ends; a network of another name
    begins the next picture, with those before it. It is no widget, and needs no kernel to be seen.
    """

    def __init__(self, dense: Accuracy, *, title: str = "", seconds: float = 0.5):
        self.dense, self.title, self.seconds = dense, title, seconds
        self.changes: dict[str, list[Drop]] = {}
        self._handle: display.DisplayHandle | None = None
        self._drawn, self._is_behind = 0.0, False
        if shell := get_ipython():
            shell.events.register("post_run_cell", lambda result: self._catch_up())
        else:
            self.seconds = 0  # no cell ends here

    def add(self, name: str, accuracy: Accuracy) -> None:
        """The accuracy of that network after one more epoch, on the images of the dense one."""
        change = drop(self.dense, accuracy)
        if name not in self.changes:
            self._catch_up()
            self._handle = None
        self.changes.setdefault(name, []).append(change)
        self._is_behind = True
        if not self._handle or time.monotonic() - self._drawn >= self.seconds:
            self._catch_up()

    def _catch_up(self) -> None:
        """Draw what has come since the last picture."""
        if not self._is_behind:
            return
        figure = Figure(figsize=(7.6, 3.4), layout="constrained")
        plots.epochs(self.changes, title=self.title, ax=figure.subplots())
        picture = plots.Picture(plots.png(figure), plots.words(self.changes), 760)
        if self._handle:
            self._handle.update(picture)
        else:
            self._handle = display.display(picture, display_id=True)
        self._drawn, self._is_behind = time.monotonic(), False
