"""A folder of what experiments trained and measured: what is there is not done again."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torch import nn

from pruning_lab import files, models
from pruning_lab.data import Splits
from pruning_lab.experiments.recipes import Recipe
from pruning_lab.experiments.records import Run, digest, load_config, settings_of, shelf
from pruning_lab.experiments.running import Note, run
from pruning_lab.rows import decode, plain

T = TypeVar("T")


@dataclass(frozen=True)
class Workspace:
    """Where experiments keep their runs, networks and rows. Without a folder nothing is kept.

    An experiment that is interrupted and called again resumes; two that need the same network,
    such as the same control, train it once.
    """

    folder: Path | None = None
    notify: Callable[[Note], None] = lambda note: None

    def run(
        self,
        recipe: Recipe,
        splits: Splits,
        *,
        seed: int = 0,
        control: bool = True,
        build: Callable[[dict], nn.Module] = models.build,
        load: Callable[[Path], tuple] = models.load,
    ) -> Run:
        """The run of these settings: a finished one is loaded, an unfinished one resumed.

        `build` and `load` are those of `experiments.run` and `Run.load`.
        """
        if self.folder is None:
            return run(recipe, splits, seed=seed, control=control, notify=self.notify, build=build)
        wanted = settings_of(recipe, splits, seed, control)
        folder = next(self._found(wanted), None)
        if folder is not None and (folder / "run.json").exists():
            self.notify(Note("run", f"{folder} has this run"))
            return Run.load(folder, load)
        name = recipe.network.replace(":", "-")
        folder = folder or self.folder / f"{name}-seed-{seed}-{digest(wanted)}"
        return run(
            recipe,
            splits,
            seed=seed,
            control=control,
            folder=folder,
            notify=self.notify,
            build=build,
            trained=self.folder / "trained",
        )

    def network(
        self, what: Mapping, model: nn.Module, training: Callable[[Path | None], Iterable]
    ) -> nn.Module:
        """`model` after `training(checkpoint)`, which is run to its end; a finished one is read.

        `what` says all that decides the result: recipe, seed, data. `training` gets the place of
        its checkpoint: of one file for `train`, of a folder for `retraining.iterative`.
        """
        for _ in training(self.folder and shelf(self.folder / "trained", what)):
            pass
        return model

    def measured(self, what: Mapping, kind: type[T], measure: Callable[[], T]) -> T:
        """What `measure()` returns, a `kind` that JSON can hold; of the same `what` only once."""
        path = self.folder and self.folder / "measured" / f"{digest(what)}.json"
        if path and path.exists():
            return decode(kind, files.load_json(path)["value"], path)
        value = measure()
        if path:
            files.save_json(path, {"what": plain(what), "value": plain(value)})
        return value

    def _found(self, wanted: dict) -> Iterable[Path]:
        """Folders of runs with these settings, finished ones first; one with a control serves."""
        begun = sorted(path.parent for path in self.folder.glob("*/config.json"))
        begun.sort(key=lambda folder: not (folder / "run.json").exists())
        for folder in begun:
            with suppress(ValueError):  # of another version, or broken: not the one that is wanted
                config = load_config(folder)
                config.pop("command", None)
                if config in (wanted, {**wanted, "control": True}):
                    yield folder
