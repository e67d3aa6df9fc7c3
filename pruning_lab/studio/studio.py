"""The threshold studio: a network whose thresholds are moved and whose accuracy follows."""

import copy
import secrets
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path

from torch import nn

from pruning_lab import data, sensitivity
from pruning_lab.data import Images
from pruning_lab.evaluation import Accuracy
from pruning_lab.layers import check_model
from pruning_lab.masks import Amount
from pruning_lab.sensitivity import Scan
from pruning_lab.studio import files, images, tasks
from pruning_lab.studio.history import History, Setting
from pruning_lab.studio.layers import Version
from pruning_lab.studio.measurer import Changed, Event, Measurer
from pruning_lab.studio.metrics import Change, Metrics
from pruning_lab.studio.saving import Saver
from pruning_lab.studio.state import State
from pruning_lab.training import Epoch, TrainConfig


class Studio(State):
    """A network whose thresholds are moved and whose accuracy follows.

    >>> from pruning_lab import models
    >>> studio = Studio(models.lenet_300_100(trained="mnist"), data.load("mnist-5k"))
    >>> accuracy = studio.set({"fc1": 1.4}).settle().metrics().accuracy
    >>> studio.undo().attempt.what
    'as it came'

    It works on its own copy of the model; zero weights count as gone. `set` makes an attempt, which
    stays, and a thread measures the latest one on val; `settle` waits for it, and raises its error.
    """

    def __init__(
        self,
        model: nn.Module,
        splits,
        *,
        scan: Scan | None = None,
        about: Mapping | None = None,
        budget: int | None = None,
        recalibrate: Images | None = None,
    ):
        """`splits` are data.load's; to measure, one split or any re-iterable of (x, y) serves too.

        `scan=` is one of these weights, to draw and to suggest by; `about` goes into the files;
        `budget` is bytes of activations, for as many images of val (268 MB, on a GPU 4.3 GB). With
        `recalibrate`, training images, BatchNorm layers get their statistics from these in every
        network. Raises ValueError for the test split, and for a scan of other weights.
        """
        check_model(model)
        self.val = data.for_choosing(getattr(splits, "val", splits), "the studio")
        self.source = splits.name if hasattr(splits, "val") else ""  # the name of the data set
        self.train: Images | None = getattr(splits, "train", None)
        self._test_images: Images | None = getattr(splits, "test", None)
        if scan is not None:
            sensitivity.check_same_weights(scan, model)
        self.about, self._recalibrate = about, images.own(recalibrate)
        first = Version(copy.deepcopy(model))
        first.scan, self._versions = scan, [first]
        self.tests, self.tested, self.test_drop = 0, None, None  # uses of test; what came of it
        self.layers, self.history = list(first.layers), History(tuple(first.layers))
        self._measurer = Measurer(first, self.val, self._record, budget, recalibrate)
        self._id, self._saving = secrets.token_hex(16), threading.RLock()
        self.path: Path | None = None  # where `autosave` writes
        self._written: dict[Path, tuple | None] = {}  # by this studio, as files.stamp says
        self._saver, self._stop_saving = None, lambda: None
        self.refresh()

    def set(
        self, quality: Amount | None = None, *, density: Amount | None = None, merge: bool = False
    ) -> "Studio":
        """Ask layers for a quality or a density: `set({"fc1": 1.2})`, `set(density=0.08)`.

        A number goes to every layer that is not locked, a dict to those it names. With `merge` the
        step replaces the one before it, if that set the same layers and has no name.
        """
        return self._move(partial(History.set, quality=quality, density=density, merge=merge))

    def from_string(self, text: str) -> "Studio":
        """Set exactly what `History.to_string` said, here or in a studio of the same layers."""
        return self._move(History.from_string, text)

    def undo(self) -> "Studio":
        """Back to the attempt that this one was made from; nothing is lost, `redo` returns."""
        return self._move(History.undo)

    def redo(self) -> "Studio":
        return self._move(History.redo)

    def go(self, number: int) -> "Studio":
        """Make any attempt the current one."""
        return self._move(History.go, number)

    def branch(self, name: str = "") -> "Studio":
        """Begin another line of attempts here; the one so far stays, and `go` leads back to it."""
        return self._move(History.branch, name)

    def rename(self, name: str, attempt: int | None = None) -> "Studio":
        """Name an attempt, the current one unless its number is given."""
        return self._move(History.rename, name, attempt, anytime=True)

    def lock(self, *layers: str) -> "Studio":
        """Leave these layers alone: `set` with a number and `suggest` pass them by."""
        return self._move(History.lock, *layers, anytime=True)

    def unlock(self, *layers: str) -> "Studio":
        return self._move(History.unlock, *layers, anytime=True)

    def refresh(self) -> "Studio":
        """Have listeners told again where the studio stands."""
        return self._move(lambda history: history, anytime=True)

    def on(self, kind: type[Event], listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call `listener` with each Moved, Measured, Changed, Progress or Failed.

        Returns a function that ends that.
        """
        return self._measurer.on(kind, listener)

    def retrain(
        self,
        epochs: int = 1,
        *,
        config: TrainConfig | None = None,
        wait: bool = True,
        on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    ) -> "Studio":
        """Train what is kept: an attempt with weights of its own.

        `stop` keeps what was learnt until then. Progress says how the loss falls.
        """
        if self.train is None:
            raise ValueError("there are no images to retrain on; open the studio with data.load's")
        config = config or TrainConfig(epochs=epochs, lr=0.02)

        def task() -> None:
            given = self.train, config, on_epoch, self._measurer
            weights, what = tasks.retrain(self.network(), self.mask, *given)
            if weights is not None:
                self._learnt(Version(self._versions[0].network(), weights), what)

        self._measurer.start("retraining", task, wait)
        return self

    def suggest(
        self, max_drop: float | None = None, *, density: float | None = None, wait: bool = True
    ) -> "Studio":
        """Set all layers that are not locked as a search with sensitivity.choose says.

        `max_drop` is what the whole network may lose, in percentage points (0.5); `density` is
        what it keeps. Progress says what each network that is tried comes to, on 1,000 images.
        """
        max_drop = 0.5 if max_drop is None and density is None else max_drop
        choice = {"max_drop": max_drop, "density": density, "method": "joint"}
        sensitivity.check_choice(**choice)
        goal = f"{max_drop:g} points lost" if density is None else f"{100 * density:.3g} % kept"

        def task() -> None:
            locked = {n: kept for n, kept in self.mask.items() if n in self.locked}
            given = self._version, locked, self.val, self._recalibrate, choice
            plan = tasks.suggest(*given, self._measurer)
            free = [(n, d) for n, d in plan.densities.items() if n not in self.locked]
            asked = {name: Setting("density", density) for name, density in free}
            self._move(History.step, asked, f"suggested for {goal}", anytime=True)

        self._measurer.start("scanning", task, wait)
        return self

    def test(self, *, wait: bool = True) -> Accuracy | None:
        """Accuracy on the test split: for the end, not for choosing. `tests` counts its uses."""
        if self._test_images is None:
            raise ValueError("there are no test images; open the studio with data.load's splits")

        def task() -> None:
            self.tests += 1
            self._measurer.tell(Changed())
            networks = self.network(), self._versions[0].network()
            given = self._test_images, self._recalibrate, self._measurer
            self.tested, self.test_drop = tasks.test(*networks, *given)

        self._measurer.start("testing", task, wait)
        return self.tested if wait else None

    def stop(self) -> "Studio":
        """End what is running; `settle` waits until it has ended."""
        self._measurer.stop()
        return self

    def settle(self, timeout: float | None = None) -> "Studio":
        """Wait until the latest attempt is measured; raises what went wrong on the way."""
        self._measurer.settle(timeout)
        return self

    def close(self) -> None:
        """End the thread; what it was working on stays undone, and attempts are saved."""
        self._measurer.close()
        if self._saver is not None:
            self._saver.close()

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the attempts (JSON), and the weights beside it, from which `load` resumes.

        `overwrite` says that these may be the files of another studio.
        """
        return self._save(files.check_free(path, self._id, overwrite))

    def autosave(self, path: str | Path, *, overwrite: bool = False) -> "Studio":
        """`save` now, and in the background after every change and every measurement.

        A process that is killed loses what was done in its last half second. Where a save fails,
        Failed says so, and the next one tries again; where another studio writes the same file,
        Failed says so, and this one goes on in another: `path`.
        """
        self.save(path, overwrite=overwrite)
        self._stop_saving()
        self.path = Path(path)
        self._saver = Saver(self._save_again, self._measurer.fail)
        self._stop_saving = self.on(Changed, self._saver.changed)
        self._saver.changed()  # what came between
        return self

    @classmethod
    def load(cls, path: str | Path, model: nn.Module, splits, **options) -> "Studio":
        """Resume where `save` left off, on the same images; `model` gives the architecture."""
        about, model, weights = files.load(path, model, splits, **options)
        studio = cls(model, splits, about=about["about"], **options)
        with studio._measurer.lock:
            studio._versions += [Version(model, tensors) for tensors in weights[1:]]
            studio.tests, studio._id = about["tests"], about["id"]
            return studio._move(lambda _: about["history"], anytime=True)

    def export(self, path: str | Path, *, overwrite: bool = False) -> files.Exported:
        """Write a plan (JSON) and its network beside it; `overwrite` says that they may exist."""
        with self._measurer.lock:
            given = self._version, self.attempt, self.about, self._recalibrate is not None
            return files.export(path, *given, overwrite)

    def __repr__(self) -> str:
        found, many = self.metrics(), len(self.attempts)
        network = f"{found.density:.1%} of {found.weights:,} weights"
        return f"Studio(attempt {found.attempt} of {many}, {network}, {found.accuracy})"

    def _move(self, step: Callable[..., History], *args, anytime: bool = False) -> "Studio":
        """Make a transition of the history, and have where it leads measured."""
        with self._measurer.lock if anytime else self._measurer.free():
            before, history = self.history, step(self.history, *args)
            version = self._versions[history.attempt.version]
            rows = Metrics(version.rows(history.attempt.settings))
            self.history = history.update(density=rows.density, bytes=rows.bytes)
            self._measurer.request(version, self.attempt)
        if self.history != before:
            self._measurer.tell(Changed())
        return self

    def _record(self, key: tuple, change: Change) -> None:
        with self._measurer.lock:
            self.history = self.history.measured(key, change.accuracy, change.drop)
        self._measurer.tell(Changed())

    def _learnt(self, version: Version, what: str) -> None:
        """An attempt with weights of its own."""
        if self.path is not None:
            with suppress(OSError), self._saving:  # which the saver will tell
                files.save_weights(self._own_path(), len(self._versions), version, self._id)

        def step(history: History) -> History:
            self._versions.append(version)
            return history.retrained(what)

        self._move(step, anytime=True)

    def _save(self, path: Path) -> Path:
        with self._saving:  # so that the latest state is the last one that is written
            with self._measurer.lock:
                history, versions = self.history, tuple(self._versions)
            about = files.About(
                id=self._id,
                about=None if self.about is None else dict(self.about),
                images=self._images,
                recalibrated=self._recalibrate is not None,
                tests=self.tests,
                weights=[version.fingerprint for version in versions],
                history=history,
            )
            files.save(path, about, versions)
            self._written[path.resolve()] = files.stamp(path)
            return path

    def _save_again(self) -> None:
        with self._saving:
            self._save(self._own_path())

    def _own_path(self) -> Path:
        """Where `autosave` writes; another file where another studio has written this one."""
        taken = self.path
        if files.stamp(taken) not in (None, self._written.get(taken.resolve())):
            self.path = files.free_path(taken)
            told = f"another studio is saved as {taken}; from now on this one is in {self.path}"
            self._measurer.fail(told)
        return self.path

    @cached_property
    def _images(self) -> str | None:
        return data.fingerprint_of(self.val)
