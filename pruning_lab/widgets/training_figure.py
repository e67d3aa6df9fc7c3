"""Accuracy after each epoch, drawn while networks train."""

from IPython import display
from matplotlib.figure import Figure

from pruning_lab import plots
from pruning_lab.evaluation import Accuracy, Drop, drop


class GrowingTraining:
    """Draws how accuracy changes from the dense network's, epoch by epoch, of one network or more.

        growing = GrowingTraining(dense)
        growing.add("pruned", after_cut)
        for epoch in train(model, splits.train, config, mask=mask, val=splits.val):
            growing.add("pruned", epoch.val)

    One picture, replaced after each epoch; a network of another name begins the next picture, with
    those before it. It is no widget, and needs no kernel to be seen.
    """

    def __init__(self, dense: Accuracy, *, title: str = ""):
        self.dense, self.title = dense, title
        self.changes: dict[str, list[Drop]] = {}
        self._handle: display.DisplayHandle | None = None

    def add(self, name: str, accuracy: Accuracy) -> None:
        """The accuracy of that network after one more epoch, on the images of the dense one."""
        if name not in self.changes:
            self._handle = None
        self.changes.setdefault(name, []).append(drop(self.dense, accuracy))
        figure = Figure(figsize=(7.6, 3.4), layout="constrained")
        plots.epochs(self.changes, title=self.title, ax=figure.subplots())
        picture = plots.Picture(plots.png(figure), plots.words(self.changes), 760)
        if self._handle:
            self._handle.update(picture)
        else:
            self._handle = display.display(picture, display_id=True)
