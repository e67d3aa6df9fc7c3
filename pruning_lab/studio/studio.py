"""The threshold studio: a network whose thresholds are moved and whose accuracy follows."""

import copy
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn

from pruning_lab import data, models, sensitivity
from pruning_lab import files as common_files
from pruning_lab.data import Images
from pruning_lab.evaluation import Accuracy, Drop, recalibrate
from pruning_lab.layers import device_of, prunable
from pruning_lab.masks import Mask
from pruning_lab.sensitivity import Scan
from pruning_lab.studio import files, images, tasks
from pruning_lab.studio.files import Exported
from pruning_lab.studio.history import ALL, Amount, Attempt, Comparison, History, Setting
from pruning_lab.studio.layers import Layer
from pruning_lab.studio.measurer import Event, Measurer
from pruning_lab.studio.metrics import Change, Flips, Metrics
from pruning_lab.studio.versions import Version
from pruning_lab.training import Epoch, TrainConfig


class Studio:
    """A network whose thresholds are moved and whose accuracy follows.

    >>> studio = Studio(models.lenet_300_100(trained="mnist"), data.load("digits"))
    >>> accuracy = studio.set({"fc1": 1.4}).settle().metrics().accuracy
    >>> studio.undo().attempt.what
    'as it came'

    `splits` are data.load's; a single split or any re-iterable of (x, y) serves for measuring, but
    then nothing can be retrained. Accuracy is of val, on as many of its images (whole batches, from
    the first on) as `budget` bytes of activations hold (268 MB, on a GPU 4.3 GB). The studio works
    on a copy of the model, made here; weights that are zero already count as gone.

    `set` returns at once, and a thread measures the latest attempt; `settle` waits for it, and
    raises what went wrong there. Every `set` is an attempt, which stays, and can be undone.

    Raises ValueError for the test split alone (choosing by it would spoil it), for a model with
    nothing to prune, and for a scan of another network or of other weights.
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
        """`scan` is one of this network, to draw and to suggest by; `about` goes into its files.

        With `recalibrate`, training images, BatchNorm layers get their statistics from these in
        every network that is measured or handed out, the dense one that it is compared with too.
        """
        self.val = data.for_choosing(getattr(splits, "val", splits), "the studio")
        self.train: Images | None = getattr(splits, "train", None)
        self._test_images: Images | None = getattr(splits, "test", None)
        if not prunable(model):
            raise ValueError("this model has no layer to prune, so there is nothing to set")
        if scan is not None:
            sensitivity.check_same_weights(scan, model)
        self.model, self.about, self._recalibrate = copy.deepcopy(model), about, recalibrate
        first = Version(self.model, self.model.state_dict(keep_vars=True))
        first.scan = scan
        self._versions = [first]
        self.tests = 0  # how often the test split was used
        self._tested: tuple[Accuracy, Drop] | None = None  # the last time
        self.history = History(tuple(first.layers))
        budget = budget or (2**28 if device_of(model).type == "cpu" else 2**32)
        options = {"budget": budget, "recalibrate": recalibrate}
        self._measurer = Measurer(first, self.val, self._record, **options)
        self._move(lambda history: history)

    # ------------------------------------------------------------------------------- what it is

    @property
    def layers(self) -> list[str]:
        return list(self.history.layers)

    @property
    def attempt(self) -> Attempt:
        """The current one."""
        return self.history.attempt

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        return self.history.attempts

    @property
    def locked(self) -> frozenset[str]:
        return frozenset(self.history.locks)

    @property
    def can_redo(self) -> bool:
        return self.history.can_redo

    @property
    def status(self) -> str:
        """What it does now: "ready", "measuring", "retraining …", "failed: …"."""
        return self._measurer.status

    @property
    def busy(self) -> bool:
        """Whether a task runs that has to end, or be stopped, before the next step."""
        return bool(self._measurer.busy)

    @property
    def scan(self) -> Scan | None:
        """The scan of the current weights, where there is one."""
        return self._version.scan

    @property
    def has_test(self) -> bool:
        return self._test_images is not None

    @property
    def tested(self) -> Accuracy | None:
        """The latest accuracy on the test split; `test_drop` is from the network as it came."""
        return self._tested and self._tested[0]

    @property
    def test_drop(self) -> Drop | None:
        return self._tested and self._tested[1]

    @property
    def dense(self) -> Accuracy | None:
        """Of the network as it came; None until it has been measured."""
        return self._measurer.dense and self._measurer.dense.accuracy

    @property
    def n(self) -> int | None:
        """How many images of val are measured on; None until that is known."""
        return self.dense and self.dense.n

    def layer(self, name: str) -> Layer:
        """A layer's weights: its sigma and histogram. Raises KeyError for an unknown one."""
        self.history.check_layer(name)
        return self._version.layers[name]

    def setting(self, layer: str) -> Setting:
        self.history.check_layer(layer)
        return self.attempt.settings.get(layer, ALL)

    def metrics(self) -> Metrics:
        """Densities, bytes and FLOPs of the current attempt; accuracy as far as it is known."""
        with self._measurer.lock:
            attempt, change = self.attempt, self._measurer.change(self.attempt)
            accuracy, lost, final = attempt.accuracy, attempt.drop, attempt.accuracy is not None
            if not final and change is not None:
                accuracy, lost = change.after.accuracy, change.drop
            rows = self._version.rows(attempt.settings, self.history.locks, self._measurer.flops)
            made, status = self.history.made, self._measurer.status
            return Metrics(attempt.number, made, rows, accuracy, lost, final, status, change)

    def flipped(self) -> Flips:
        """The images that pruning lost or won, of those measured so far; lost ones first."""
        change = self._measurer.change(self.attempt)
        return Flips() if change is None else change.flips()

    def pictures(self, indices: Iterable[int]) -> list[np.ndarray]:
        """Images of val for display, uint8 (H, W, 3) or (H, W)."""
        return images.pictures(self.val, indices)

    @property
    def mask(self) -> Mask:
        """What stays, ready to apply or to train with."""
        with self._measurer.lock:
            return self._version.mask(self.attempt.settings)

    def network(self) -> nn.Module:
        """A copy of the network as it is pruned now, zeros in place."""
        with self._measurer.lock:
            model = copy.deepcopy(self._version.network())
            self.mask.apply_(model)
        if self._recalibrate is not None:
            recalibrate(model, self._recalibrate)
        for own, given in zip(model.parameters(), self.model.parameters(), strict=True):
            own.requires_grad_(given.requires_grad)
        return model

    def fingerprint(self) -> str:
        """SHA-256 of weights and mask: two states with the same one are the same network."""
        with self._measurer.lock:
            weights = models.fingerprint(self._version.network())
            return common_files.sha256(f"{weights} {self.mask.fingerprint()}".encode())

    def compare(self) -> Comparison:
        """All attempts side by side; `.pareto` are those that no other beats."""
        return Comparison(self.attempts, chance=self._measurer.chance)

    # ------------------------------------------------------------------------------------ steps

    def set(
        self, quality: Amount | None = None, *, density: Amount | None = None, merge: bool = False
    ) -> "Studio":
        """Ask layers for a quality or a density: `set({"fc1": 1.2})`, `set(density=0.08)`.

        A number goes to every layer that is not locked, a dict to those it names, and other layers
        stay as they are. With `merge` the step replaces the one before it, if that moved the same
        layers and was never measured: a drag is one attempt.

        Raises KeyError for an unknown layer, ValueError for an impossible amount or a locked layer,
        RuntimeError while the studio is busy.
        """
        return self._move(lambda history: history.set(quality, density=density, merge=merge))

    def undo(self) -> "Studio":
        """Back to where this attempt came from; `redo` goes forth again. Attempts stay."""
        return self._move(History.undo)

    def redo(self) -> "Studio":
        return self._move(History.redo)

    def go(self, number: int) -> "Studio":
        """Make any attempt the current one."""
        return self._move(lambda history: history.go(number))

    def branch(self, name: str = "") -> "Studio":
        """Begin another line of attempts here; the one so far stays, and `go` leads back to it."""
        return self._move(lambda history: history.branch(name))

    def rename(self, name: str, attempt: int | None = None) -> "Studio":
        """Name an attempt, the current one unless its number is given."""
        return self._move(lambda history: history.rename(name, attempt), anytime=True)

    def lock(self, *layers: str) -> "Studio":
        """Leave these layers alone: `set` with a number and `suggest` pass them by."""
        return self._move(lambda history: history.lock(*layers), anytime=True)

    def unlock(self, *layers: str) -> "Studio":
        return self._move(lambda history: history.unlock(*layers), anytime=True)

    # ------------------------------------------------------------------------------- long tasks

    def retrain(
        self,
        epochs: int = 1,
        *,
        config: TrainConfig | None = None,
        wait: bool = True,
        on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    ) -> "Studio":
        """Train what is kept, pruned weights staying zero: an attempt with weights of its own.

        `stop` ends it with the last whole epoch; before the first is whole, nothing has happened.
        """
        if self.train is None:
            raise ValueError("there are no images to retrain on; open the studio with data.load's")
        config = config or TrainConfig(epochs=epochs, lr=0.02)
        return self._start("retraining", partial(self._retrain, config, on_epoch), wait)

    def suggest(
        self, max_drop: float | None = None, *, density: float | None = None, wait: bool = True
    ) -> "Studio":
        """Set all layers that are not locked to what sensitivity.choose says of a scan of them.

        `max_drop` is what the whole network may lose, in percentage points (0.5 where nothing is
        asked for); `density` that of the whole network. The scan is made once for each version.
        """
        if max_drop is None and density is None:
            max_drop = 0.5
        choice = {"max_drop": max_drop, "density": density}
        sensitivity.check_choice(**choice)
        return self._start("scanning", partial(self._suggest, choice), wait)

    def test(self, *, wait: bool = True) -> Accuracy | None:
        """Accuracy on the test split: for the end, not for choosing. `tests` counts its uses."""
        if self._test_images is None:
            raise ValueError("there are no test images; open the studio with data.load's splits")
        self._start("testing", self._test, wait)
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
        """End the thread; what it was working on stays undone."""
        self._measurer.close()

    def refresh(self) -> None:
        """Have listeners told again where the studio stands."""
        self._move(lambda history: history, anytime=True)

    def on(self, kind: type[Event], listener: Callable[[Event], None]) -> Callable[[], None]:
        """Have `listener` called with every event of this type, in the studio's thread.

        Events are Moved, Measured, Progress and Failed; returns a function that ends it.
        """
        entry = kind, listener
        self._measurer.listeners.append(entry)
        return partial(self._measurer.listeners.remove, entry)

    # ------------------------------------------------------------------------------------ files

    def save(self, path: str | Path) -> Path:
        """Write everything into one safetensors file, from which `load` resumes."""
        with self._measurer.lock:
            about: files.About = {
                "about": None if self.about is None else dict(self.about),
                "images": data.fingerprint_of(self.val),
                "recalibrated": self._recalibrate is not None,
                "tests": self.tests,
                "history": self.history,
            }
            return files.save(path, about, [version.weights for version in self._versions])

    @classmethod
    def load(cls, path: str | Path, model: nn.Module, splits, **options) -> "Studio":
        """Resume where `save` left off; of `model` only the architecture counts.

        Raises ValueError where the file is of another network or of other images.
        """
        about, model, weights = files.load(path, model)
        studio = cls(model, splits, about=about["about"], **options)
        wrong = None
        if about["images"] not in (None, data.fingerprint_of(studio.val)):
            wrong = "on other images; open it with the same data"
        elif about["recalibrated"] != (studio._recalibrate is not None):
            how = "with" if about["recalibrated"] else "without"
            wrong = f"{how} recalibrate=; open it alike"
        if wrong:
            studio.close()
            raise ValueError(f"{path} was measured {wrong}")
        device = device_of(model)
        with studio._measurer.lock:
            for tensors in weights[1:]:
                on_device = {name: t.to(device) for name, t in tensors.items()}
                studio._versions.append(Version(studio.model, on_device))
            studio.tests, now = about["tests"], about["history"].now
            return studio._move(lambda _: about["history"].go(now))

    def export(self, path: str | Path, *, overwrite: bool = False) -> Exported:
        """Write the plan (JSON) and beside it the network it is for, before pruning.

        `pruning-lab prune NETWORK --plan PLAN` makes the same mask of them. Raises FileExistsError
        where a file would be overwritten.
        """
        with self._measurer.lock:
            network, rows = self._version.network(), self.metrics().layers
            return files.export(path, network, self.attempt, rows, self.mask, self.about, overwrite)

    def __repr__(self) -> str:
        metrics = self.metrics()
        return (
            f"Studio(attempt {metrics.attempt} of {len(self.attempts)}, "
            f"{metrics.density:.1%} of {metrics.weights:,} weights, {metrics.accuracy})"
        )

    # ----------------------------------------------------------------------------------- inside

    @property
    def _version(self) -> Version:
        return self._versions[self.attempt.version]

    def _move(self, step: Callable[[History], History], *, anytime: bool = False) -> "Studio":
        """Make a transition, and have where it leads measured."""
        with self._measurer.lock if anytime else self._measurer.free():
            history = step(self.history)
            settings, version = history.attempt.settings, self._versions[history.attempt.version]
            rows = version.rows(settings, (), {})
            self.history = history.update(density=rows.density, bytes=rows.bytes)
            self._measurer.request(version, self.attempt)
        return self

    def _record(self, attempt: Attempt, change: Change) -> None:
        with self._measurer.lock:
            self.history = self.history.measured(attempt.key, change.after.accuracy, change.drop)

    def _start(self, busy: str, task: Callable[[], None], wait: bool) -> "Studio":
        self._measurer.start(busy, task)
        return self.settle() if wait else self

    def _retrain(self, config: TrainConfig, on_epoch: Callable[[Epoch], None]) -> None:
        mask, measurer = self.mask, self._measurer
        weights, epochs = tasks.retrain(
            self.network(), mask, self.train, config, on_epoch, measurer.say, measurer.check
        )
        if weights is None:
            return
        stopped = epochs < config.epochs
        count = f"{epochs} of {config.epochs}" if stopped else str(epochs)
        plural = "" if count == "1" else "s"
        what = f"retrained {count} epoch{plural} from {_percent(mask.density)} kept"
        with measurer.lock:
            self._versions.append(Version(self.model, weights))
            what += ", stopped" if stopped else ""
            self._move(lambda history: history.retrained(what), anytime=True)

    def _suggest(self, choice: dict) -> None:
        measurer = self._measurer
        plan = tasks.suggest(
            self._version, self.val, self._recalibrate, choice, measurer.say, measurer.check
        )
        asked = {
            name: Setting("density", density)
            for name, density in plan.densities.items()
            if name not in self.locked
        }
        what = f"suggested for {plan.asked}"
        self._move(lambda history: history.step(asked, what), anytime=True)

    def _test(self) -> None:
        self.tests += 1
        dense = self._versions[0].network()
        self._tested = tasks.test(
            self.network(), dense, self._test_images, self._recalibrate, self._measurer.check
        )


def _percent(density: float) -> str:
    return f"{100 * density:.0f} %" if density >= 0.0995 else f"{100 * density:.2g} %"
