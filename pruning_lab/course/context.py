"""What measures an answer that is a plan: the networks and images of the notebooks, loaded once."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from functools import cached_property

from pruning_lab import data, models, sensitivity
from pruning_lab.evaluation import evaluate
from pruning_lab.isolation import untouched
from pruning_lab.layers import prunable
from pruning_lab.training import TrainConfig, train

_DENSITIES = [0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01]  # of notebook 04
# For each data set, of notebook 03: epochs of the dense training, of the retraining.
_EPOCHS = {"mnist": (3, 6), "mnist-5k": (4, 9)}
# Of notebook 05: epochs of the dense training, of each round, images in a batch; and its rounds.
_RACE, _ROUNDS = {"mnist": (3, 1, 256), "mnist-5k": (12, 4, 64)}, 6

Names = Mapping[str, object]


class Context:
    """Keywords for a task's check, and the names that a notebook has made before it."""

    def __init__(self, name: str = "auto"):
        self._name = name

    def of(self, id_: str, case: tuple = ()) -> tuple[tuple[Names, Names], ...]:
        """Keywords and names; several where they depend on the data, which may have been others."""
        if id_ == "03.control":
            return tuple(self._trainings(*epochs) for epochs in _EPOCHS.values())
        return (self._race if id_ == "05.race" else self._pair(id_, case),)

    def _pair(self, id_: str, case: tuple) -> tuple[Names, Names]:
        if id_ == "02.budget":
            model = {"model": self._lenet_300_100}
            return {**model, "images": self._val}, {**model, "splits": self._splits}
        if id_ == "04.plan":
            model, curves = {"model": self._lenet_5}, self._curves
            weights = sum(layer.weight.numel() for layer in prunable(self._lenet_5).values())
            single = sensitivity.choose(curves, density=case[0] / weights)
            keywords = {**model, "images": self._val, "scan": curves}
            return keywords, {**model, "curves": curves, "single": single}
        if id_ == "09.repair":
            model = {"model": self._lenet_5}
            return {**model, "images": self._val}, {**model, "splits": self._splits}
        return ({"images": self._val} if id_ == "09.budget" else {}), {}

    @staticmethod
    def _trainings(epochs: int, more: int) -> tuple[Names, Names]:
        dense, again = TrainConfig(epochs=epochs, lr=0.15), TrainConfig(epochs=more, lr=0.1)
        return {"retraining": again, "dense": dense}, {"retraining": again, "training": dense}

    @cached_property
    def _race(self) -> tuple[Names, Names]:
        """A dense network and its control, trained here as in notebook 05."""
        splits = self._loaded
        epochs, each, batch = _RACE[splits.name]
        training = TrainConfig(epochs=epochs, lr=batch / 1000, batch_size=batch, shift=1)
        retraining = replace(training, epochs=_ROUNDS * each, lr=0.8 * training.lr)
        with untouched():
            model = models.lenet_300_100()
        list(train(model, splits.train, training))
        control = deepcopy(model)
        list(train(control, splits.train, retraining))
        keywords = {"model": model, "train": splits.train, "val": splits.val}
        keywords |= {"config": retraining, "control": evaluate(control, splits.val)}
        given = {"model": model, "splits": self._splits, "EACH": each, "ROUNDS": _ROUNDS}
        return keywords, given | {"training": training, "retraining": retraining}

    @cached_property
    def _loaded(self) -> data.Splits:
        return data.load(self._name)

    @property
    def _splits(self) -> data.Splits:
        """To be sent: with one image to train on and one to test, for these are not needed."""
        given = self._loaded
        return replace(given, train=given.train.head(1), test=given.test.head(1))

    @property
    def _val(self) -> data.Images:
        return self._loaded.val

    @cached_property
    def _lenet_300_100(self):
        return models.lenet_300_100(trained="mnist")

    @cached_property
    def _lenet_5(self):
        return models.lenet_5(trained="mnist")

    @cached_property
    def _curves(self):
        return sensitivity.scan(self._lenet_5, self._val, _DENSITIES)
