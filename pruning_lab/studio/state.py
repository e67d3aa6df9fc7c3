"""What a studio says of where it stands; nothing here changes anything."""

import copy
from collections.abc import Iterable

import numpy as np
from torch import nn

from pruning_lab import models
from pruning_lab.data import Images
from pruning_lab.evaluation import Accuracy, recalibrate
from pruning_lab.masks import Mask
from pruning_lab.rows import Rows
from pruning_lab.sensitivity import Scan
from pruning_lab.studio import images
from pruning_lab.studio.history import ALL, Attempt, Comparison, History, Setting
from pruning_lab.studio.layers import Layer, Version
from pruning_lab.studio.measurer import Measurer
from pruning_lab.studio.metrics import Flip, Metrics


class State:
    """The part of a `Studio` that only reads."""

    val: Images
    history: History
    _measurer: Measurer
    _versions: list[Version]
    _recalibrate: Images | None
    _test_images: Images | None

    @property
    def attempt(self) -> Attempt:
        return self.history.attempt

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        return self.history.attempts

    @property
    def locked(self) -> frozenset[str]:
        return frozenset(self.history.locks)

    @property
    def can_redo(self) -> bool:
        return self.history.children[self.history.now - 1] > 0

    @property
    def status(self) -> str:
        """What it does now: "ready", "measuring", "retraining …", "failed: …"."""
        return self._measurer.status

    @property
    def busy(self) -> bool:
        """Whether a task runs; it has to end, or be stopped, before the next step."""
        return bool(self._measurer.busy)

    @property
    def task(self) -> str:
        """The task that runs: "retraining", "scanning" or "testing", else ""."""
        return self._measurer.busy

    @property
    def scan(self) -> Scan | None:
        """The scan of the current weights, where there is one."""
        return self._version.scan

    @property
    def has_test(self) -> bool:
        return self._test_images is not None

    @property
    def dense(self) -> Accuracy | None:
        """Of the network as it came; None until it has been measured."""
        return self._measurer.dense

    @property
    def mask(self) -> Mask:
        """What stays, ready to apply or to train with."""
        attempt = self.attempt
        return self._versions[attempt.version].mask(attempt.settings)

    def layer(self, name: str) -> Layer:
        """A layer's weights: its sigma and counts. Raises KeyError for an unknown one."""
        self.history.known(name)
        return self._version.layers[name]

    def setting(self, layer: str) -> Setting:
        self.history.known(layer)
        return self.attempt.settings.get(layer, ALL)

    def metrics(self) -> Metrics:
        """Densities, bytes and FLOPs of the current attempt; accuracy as far as it is known."""
        with self._measurer.lock:
            attempt, change = self.attempt, self._measurer.change(self.attempt)
            final = attempt.accuracy is not None
            known = attempt if final or change is None else change
            rows = self._version.rows(attempt.settings, self.locked, self._measurer.flops)
            about = {"attempt": attempt.number, "made": self.history.made, "status": self.status}
            about |= {"accuracy": known.accuracy, "drop": known.drop, "final": final}
            return Metrics(rows, change=change, **about)

    def flipped(self) -> Rows[Flip]:
        """The images that pruning lost or won, of those measured so far; lost ones first."""
        return self.metrics().flipped

    def pictures(self, indices: Iterable[int]) -> list[np.ndarray]:
        """Images of val for display, uint8 (H, W, 3) or (H, W)."""
        return images.pictures(self.val, indices)

    def network(self) -> nn.Module:
        """A copy of the network as it is pruned now, zeros in place."""
        with self._measurer.lock:
            model = self.mask.apply_(copy.deepcopy(self._version.network()))
        if self._recalibrate is not None:
            recalibrate(model, self._recalibrate)
        return model

    def fingerprint(self) -> str:
        """SHA-256 of `network()`: two attempts with the same one are the same network."""
        return models.fingerprint(self.network())

    def to_string(self) -> str:
        """The current settings in a line of text, "fc1=1.4&conv2=d0.05", for `from_string`."""
        return self.history.to_string()

    def compare(self) -> Comparison:
        """All attempts side by side; `.pareto` are those that no other beats."""
        return Comparison(self.attempts, chance=self._measurer.chance)

    @property
    def _version(self) -> Version:
        return self._versions[self.attempt.version]
