"""What measures an answer that is a plan: the networks and images of the notebooks, loaded once."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

from pruning_lab import data, models, sensitivity
from pruning_lab.layers import prunable
from pruning_lab.training import TrainConfig

_DENSITIES = [0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01]  # of notebook 04


class Context:
    """Keywords for a task's check, and the names that a notebook has made before it."""

    def __init__(self, name: str = "auto"):
        self._name = name

    def keywords(self, id_: str) -> Mapping[str, object]:
        if id_ == "02.budget":
            return {"model": self._lenet_300_100, "images": self._val}
        if id_ == "04.plan":
            return {"model": self._lenet_5, "images": self._val, "scan": self._curves}
        if id_ == "09.repair":
            return {"model": self._lenet_5, "images": self._val}
        if id_ == "09.budget":
            return {"images": self._val}
        return self._trainings if id_ == "03.control" else {}

    def given(self, id_: str, case: tuple) -> Mapping[str, object]:
        if id_ == "02.budget":
            return {"model": self._lenet_300_100, "splits": self._splits}
        if id_ == "09.repair":
            return {"model": self._lenet_5, "splits": self._splits}
        if id_ == "04.plan":
            weights = sum(layer.weight.numel() for layer in prunable(self._lenet_5).values())
            single = sensitivity.choose(self._curves, density=case[0] / weights)
            return {"model": self._lenet_5, "curves": self._curves, "single": single}
        if id_ == "03.control":
            made = self._trainings
            return {"retraining": made["retraining"], "training": made["dense"]}
        return {}

    @property
    def _trainings(self) -> dict[str, TrainConfig]:
        """Those of notebook 03 at its size `quick`."""
        return {
            "retraining": TrainConfig(epochs=6, lr=0.1),
            "dense": TrainConfig(epochs=3, lr=0.15),
        }

    @cached_property
    def _splits(self) -> data.Splits:
        """With one image to train on and one to test, for these are not needed."""
        splits = data.load(self._name)
        return replace(splits, train=splits.train.head(1), test=splits.test.head(1))

    @property
    def _val(self) -> data.Images:
        return self._splits.val

    @cached_property
    def _lenet_300_100(self):
        return models.lenet_300_100(trained="mnist")

    @cached_property
    def _lenet_5(self):
        return models.lenet_5(trained="mnist")

    @cached_property
    def _curves(self):
        return sensitivity.scan(self._lenet_5, self._val, _DENSITIES)
