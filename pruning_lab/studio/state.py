"""The studio's state: settings of layers, attempts that stay, and a thread that measures."""

import contextlib
import copy
import ctypes
import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TypedDict

import torch
from torch import Tensor, nn

from pruning_lab import criteria, data, files, models, retraining, sensitivity
from pruning_lab.data import Images
from pruning_lab.evaluation import (
    Accuracy,
    Drop,
    drop,
    evaluate,
    recalibrate,
)
from pruning_lab.layers import device_of, generators, not_covered, prunable, unknown_layer
from pruning_lab.masks import Amount, Mask, Receipt, ReceiptRow
from pruning_lab.rows import decode, plain
from pruning_lab.sensitivity import Plan, PlanRow, Scan
from pruning_lab.studio.attempts import ALL, Attempt, Comparison, Setting, check_tree, summary
from pruning_lab.studio.bases import Base, Origin, flops_of, sharing
from pruning_lab.studio.images import Stoppable, Stopped
from pruning_lab.studio.layers import Choice, Layer, LayerMetrics, Metrics
from pruning_lab.studio.worker import NewestFirst
from pruning_lab.training import Epoch, TrainConfig, train

LOOK_SECONDS = 0.4  # between two looks at an accuracy that is still being measured
REST_SECONDS = 0.06  # without a step, after which a hand that was too fast counts as resting
LARGE = 2**26  # bytes of weights, from which on memory is worth more than getting it anew
SCAN_IMAGES = 2000  # for `suggest`
SCAN_DENSITIES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)

Listener = Callable[[str], None]  # "moved", "looked", "progress", "done", "failed"


@dataclass(frozen=True)
class Exported:
    """What `export` wrote, and what to type to get the same mask."""

    plan: Path
    network: Path
    command: str

    def __str__(self) -> str:
        return self.command


class Studio:
    """A network whose thresholds are moved and whose accuracy follows.

    `splits` are data.load's; a single split or any re-iterable of (x, y) serves for measuring, but
    then nothing can be retrained. Accuracy is of val, on as many of its images (whole batches, from
    the first on) as `budget` bytes of activations hold (268 MB, on a GPU 4.3 GB). The model itself
    is never changed, and must not be changed while the studio is open; weights that are zero
    already count as gone.

    `set` returns at once, and a thread measures what is newest; `settle` waits for it, and raises
    what went wrong there. Every `set` is an attempt, which stays, and can be undone.

    Raises ValueError for the test split alone (choosing by it would spoil it), for a model with
    nothing to prune, and for a scan of another network.
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
        self.model, self.about, self._recalibrate = model, about, recalibrate
        self._budget = budget or (2**28 if device_of(model).type == "cpu" else 2**32)
        self._origin = Origin(model)
        self.tests = 0  # how often the test split was used
        self.tested: Accuracy | None = None  # what it said last
        self.test_drop: Drop | None = None
        self.dense: Accuracy | None = None  # of the network as it came
        self.seconds = 0.0  # that the last measurement took
        self._lock = threading.RLock()
        self._listeners: list[Listener] = []
        self._worker = NewestFirst(self._work)
        self._busy = ""  # what is done that nothing may disturb
        self._status, self._halt = "ready", False
        self._locked: set[str] = set()
        self._bases: list[dict[str, Tensor]] = [dict(model.state_dict(keep_vars=True))]
        self._scans: dict[int, Scan] = {} if scan is None else {0: scan}
        self._flops: dict[str, int] = {}
        self._labels: Tensor | None = None  # of the images, in their order
        self._base: Base | None = None
        self._attempts: list[Attempt] = [Attempt(1, None, 0, "as it came")]
        self._now = 1
        self._latest_child: dict[int, int] = {}
        self._dragged: frozenset[str] | None = (
            None  # the layers of a step that the next may replace
        )
        self._hurried = False  # the last measurement was cut short by a newer step
        self._look: tuple[int, Accuracy, Drop] | None = None  # at an attempt, not the last one
        self._enter(self._attempts[0])
        self._attempts[0] = self._sized(self._attempts[0])
        self._refresh()

    # ------------------------------------------------------------------------------- what it is

    @property
    def layers(self) -> list[str]:
        return list(self._base.layers)

    @property
    def attempt(self) -> Attempt:
        """Where the studio stands."""
        return self._attempts[self._now - 1]

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        return tuple(self._attempts)

    @property
    def status(self) -> str:
        return self._status

    @property
    def busy(self) -> bool:
        """Whether something runs that has to end, or be stopped, before the next step."""
        return bool(self._busy)

    @property
    def scan(self) -> Scan | None:
        """The scan of the weights that the studio has now, where there is one."""
        return self._scans.get(self.attempt.base)

    @property
    def locked(self) -> frozenset[str]:
        return frozenset(self._locked)

    @property
    def can_redo(self) -> bool:
        return self._now in self._latest_child

    @property
    def has_test(self) -> bool:
        return self._test_images is not None

    @property
    def n(self) -> int | None:
        """How many images of val are measured on; None until that is known."""
        return None if self.dense is None else self.dense.n

    def layer(self, name: str) -> Layer:
        """A layer's weights: its sigma and histogram. Raises KeyError for an unknown one."""
        if name not in self._base.layers:
            raise KeyError(unknown_layer(name, self._base.layers))
        return self._base.layers[name]

    def setting(self, layer: str) -> Setting:
        self.layer(layer)
        return self.attempt.settings.get(layer, ALL)

    def metrics(self) -> Metrics:
        """Densities, bytes and FLOPs of where the studio stands; accuracy as far as it is known."""
        with self._lock:
            attempt, base = self.attempt, self._base
            rows = []
            for name, layer in base.layers.items():
                choice = base.choices[name]
                rows.append(
                    LayerMetrics(
                        name,
                        attempt.settings.get(name, ALL),
                        choice.threshold,
                        choice.threshold / layer.sigma if layer.sigma else 0.0,
                        layer.sigma,
                        layer.size,
                        choice.kept,
                        self._flops.get(name),
                        name in self._locked,
                        layer.is_conv,
                    )
                )
            accuracy, lost, final = attempt.accuracy, attempt.drop, attempt.accuracy is not None
            if not final and self._look is not None and self._look[0] == attempt.number:
                _, accuracy, lost = self._look
            return Metrics(attempt.number, tuple(rows), accuracy, lost, final, self._status)

    @property
    def mask(self) -> Mask:
        """What stays, ready to apply or to train with."""
        with self._lock:
            base, settings = self._base, self.attempt.settings
            kept, rows = {}, []
            for name, layer in base.layers.items():
                choice = base.choices[name]
                kept[name] = layer.kept(choice)
                asked = str(settings[name]) if name in settings else "-"
                cut = choice.threshold if name in settings and choice.kept else None
                density = choice.kept / max(layer.size, 1)
                row = (name, asked, cut, layer.sigma, layer.size, choice.kept, density)
                rows.append(ReceiptRow(*row))
            return Mask(kept, Receipt(rows, not_covered=not_covered(self.model)))

    def network(self) -> nn.Module:
        """A copy of the network as the studio stands, zeros in place."""
        with self._lock:
            model = copy.deepcopy(self._unpruned())
            self.mask.apply_(model)
        if self._recalibrate is not None:
            recalibrate(model, self._recalibrate)
        for ours, theirs in zip(model.parameters(), self.model.parameters(), strict=True):
            ours.requires_grad_(theirs.requires_grad)
        return model

    def fingerprint(self) -> str:
        """SHA-256 of weights and mask: two states with the same one are the same network."""
        with self._lock:
            weights = models.fingerprint(self._unpruned())
            return files.sha256(f"{weights} {self.mask.fingerprint()}".encode())

    # ------------------------------------------------------------------------------- moving on

    def set(
        self,
        quality: Amount | None = None,
        *,
        density: Amount | None = None,
        merge: bool = False,
        **layers: float,
    ) -> "Studio":
        """Ask layers for a quality or a density: `set(fc1=1.2)`, `set(density={"fc1": 0.08})`.

        A number alone goes to every layer that is not locked, a dict to those it names, and other
        layers stay as they are. With `merge` the step replaces the one before it, if that moved the
        same layers and was never measured: a drag is one attempt, and not thirty.

        Raises KeyError for an unknown layer, ValueError for an impossible amount or a locked layer,
        RuntimeError while the studio is busy or when the model was changed since it was opened.
        """
        with self._lock:
            self._check_free()
            self._origin.check()
            kinds = (("quality", quality), ("density", density), ("quality", layers))
            given = [self._settings(kind, amount) for kind, amount in kinds]
            asked = {name: setting for some in given for name, setting in some.items()}
            if len(asked) < sum(map(len, given)):
                raise ValueError("a layer was asked for twice; give it one quality or one density")
            if not asked:
                return self
            what = summary(asked, self._base.layers)
            self._step(
                what, {**self.attempt.settings, **asked}, merge=set(asked) if merge else None
            )
            self._refresh()
        return self

    def undo(self) -> "Studio":
        """Back to where this attempt came from; `redo` goes forth again. Attempts stay."""
        with self._lock:
            self._check_free()
            return self.go(self._step_to(self.attempt.parent, "undo"))

    def redo(self) -> "Studio":
        with self._lock:
            self._check_free()
            return self.go(self._step_to(self._latest_child.get(self._now), "redo"))

    def go(self, number: int) -> "Studio":
        """Stand where any attempt stood."""
        with self._lock:
            self._check_free()
            self._origin.check()
            if not 1 <= number <= len(self._attempts):
                raise ValueError(f"attempts go from 1 to {len(self._attempts)}, got {number}")
            attempt = self._attempts[number - 1]
            if attempt.parent is not None:
                self._latest_child[attempt.parent] = number
            self._now = number
            self._enter(attempt)
            self._refresh()
        return self

    def name(self, name: str) -> "Studio":
        """Call this attempt something, to find it again."""
        with self._lock:
            self._replace(replace(self.attempt, name=str(name)))
            self._refresh()
        return self

    def branch(self, name: str = "") -> "Studio":
        """Begin another line of attempts here; the one so far stays, and `go` leads back to it."""
        with self._lock:
            self._check_free()
            lines = {attempt.line for attempt in self._attempts}
            line = name or next(f"line {n}" for n in range(2, 10**6) if f"line {n}" not in lines)
            if line in lines:
                raise ValueError(f"there is a line {line!r} already; it has {', '.join(lines)}")
            before = self.attempt
            self._step(f"from attempt {before.number}", before.settings, line=line)
            self._replace(replace(self.attempt, accuracy=before.accuracy, drop=before.drop))
            self._refresh()
        return self

    def lock(self, *layers: str) -> "Studio":
        """Leave these layers alone: `set` for all and `suggest` pass them by."""
        return self._lock_or_not(layers, self._locked.update)

    def unlock(self, *layers: str) -> "Studio":
        return self._lock_or_not(layers, self._locked.difference_update)

    def compare(self) -> Comparison:
        """All attempts side by side; `.pareto` are those that no other beats."""
        return Comparison(self._attempts)

    # ------------------------------------------------------------------------------- long tasks

    def retrain(
        self,
        epochs: int = 1,
        *,
        config: TrainConfig | None = None,
        wait: bool = True,
        on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    ) -> "Studio":
        """Train what is left, pruned weights staying zero: an attempt with weights of its own.

        `stop` ends it with the last whole epoch; before the first is whole, nothing has happened.
        """
        if self.train is None:
            raise ValueError("there are no images to retrain on; open the studio with data.load's")
        config = config or TrainConfig(epochs=epochs, lr=0.02)
        # Dropout draws from the generator that the thread here draws from too.
        device = device_of(self.model)
        forked = torch.random.fork_rng(generators(device))
        with forked if wait else nullcontext():
            return self._begin("retraining", partial(self._retrain, config, on_epoch), wait)

    def suggest(
        self, max_drop: float | None = None, *, density: float | None = None, wait: bool = True
    ) -> "Studio":
        """Set all layers that are not locked to what a scan of them says: sensitivity.choose's.

        `max_drop` is what each layer alone may lose, in percentage points (0.1 where nothing is
        asked for, since together they lose more); `density` that of the whole network. The scan is
        made once for each weights.
        """
        if max_drop is None and density is None:
            max_drop = 0.1
        choice = {"max_drop": max_drop, "density": density}
        sensitivity.check_choice(**choice)
        return self._begin("scanning", partial(self._suggest, choice), wait)

    def test(self, *, wait: bool = True) -> Accuracy | None:
        """Accuracy on the test split: for the end, not for choosing. `tests` counts its uses."""
        if self._test_images is None:
            raise ValueError("there are no test images; open the studio with data.load's splits")
        self._begin("testing", self._use_test, wait)
        return self.tested if wait else None

    def stop(self) -> "Studio":
        """End what is running; `settle` waits until it has ended."""
        self._halt = True
        return self

    def settle(self, timeout: float | None = None) -> "Studio":
        """Wait until the newest state is measured; raises what went wrong on the way."""
        try:
            self._worker.settle(timeout)
        except KeyboardInterrupt:
            if self._busy:
                self.stop()
                self._worker.settle()
            raise
        self._origin.check()
        return self

    def close(self) -> None:
        """End the thread; what it was working on stays undone."""
        self._halt = True
        self._worker.close()

    def refresh(self) -> None:
        """Have listeners told again where the studio stands."""
        with self._lock:
            self._refresh()

    def listen(self, listener: Listener) -> None:
        """Have `listener` called, in the measuring thread, whenever there is something to show."""
        self._listeners.append(listener)

    # ------------------------------------------------------------------------------------ files

    def save(self, path: str | Path) -> Path:
        """Write everything into one safetensors file: `load` goes on from it."""
        with self._lock:
            tensors = {
                f"{number}.{name}": tensor
                for number, base in enumerate(self._bases)
                for name, tensor in base.items()
            }
            about = {
                "format": _FORMAT,
                "about": None if self.about is None else dict(self.about),
                "images": data.fingerprint_of(self.val),
                "recalibrated": self._recalibrate is not None,
                "now": self._now,
                "tests": self.tests,
                "locked": sorted(self._locked),
                "attempts": plain(self._attempts),
            }
            return files.save_tensors(path, tensors, about=about)

    @classmethod
    def load(cls, path: str | Path, model: nn.Module, splits, **options) -> "Studio":
        """Go on where `save` left off. `model` gives the architecture; its weights stay its own.

        Raises ValueError where the file is of another network or of other images.
        """
        about = decode(_About, files.load_about(path), path, _FORMAT)
        attempts, locked = about["attempts"], set(about["locked"])
        try:
            check_tree(attempts, about["now"])
        except ValueError as error:
            raise ValueError(f"{path} is broken: {error}") from None
        bases: dict[str, dict[str, Tensor]] = {str(attempt.base): {} for attempt in attempts}
        for name, tensor in files.load_tensors(path)[0].items():
            number, _, rest = name.partition(".")
            if number not in bases:
                raise ValueError(f"{path} is broken: no attempt has the weights {name!r}")
            bases[number][rest] = tensor
        bases = [bases[str(number)] for number in range(len(bases))]
        model = copy.deepcopy(model)
        for base in reversed(bases):  # the first one last: it is what the model came as
            models.fill_(model, base, path)
        layers = prunable(model)
        for name in locked.union(*(attempt.settings for attempt in attempts)):
            if name not in layers:
                raise ValueError(f"{path} is broken: {unknown_layer(name, layers)}")
        studio = cls(model, splits, about=about["about"], **options)
        if about["images"] not in (None, data.fingerprint_of(studio.val)):
            studio.close()
            raise ValueError(f"{path} was measured on other images; open it with the same data")
        if about["recalibrated"] != (studio._recalibrate is not None):
            studio.close()
            how = "with" if about["recalibrated"] else "without"
            raise ValueError(f"{path} was measured {how} recalibrate=; open it alike")
        device = device_of(model)
        with studio._lock:
            studio._bases[1:] = [{n: t.to(device) for n, t in base.items()} for base in bases[1:]]
            studio._attempts, studio._locked, studio.tests = attempts, locked, about["tests"]
            for attempt in attempts[1:]:
                studio._latest_child[attempt.parent] = attempt.number
        return studio.go(about["now"])

    def export(self, path: str | Path) -> Exported:
        """Write the plan (JSON) and beside it the network it is for, before pruning.

        `pruning-lab prune NETWORK --plan PLAN` makes the same mask of them.
        """
        path = Path(path)
        if path.suffix != ".json":
            raise ValueError(f"a plan is JSON; name it {path.with_suffix('.json')}")
        with self._lock:
            attempt, mask = self.attempt, self.mask
            rows = tuple(
                PlanRow(
                    layer=row.layer,
                    weights=row.weights,
                    density=row.density,
                    quality=row.quality if math.isfinite(row.quality) else None,
                    drop=None,
                    why=f"set to {row.asked}" if row.layer in attempt.settings else "left as it is",
                )
                for row in self.metrics().layers
            )
            model = self._unpruned()
            plan = Plan(
                rows=rows,
                asked=f"attempt {attempt.number}{f' ({attempt.name})' if attempt.name else ''}",
                method="studio",
                saliency=criteria.name_of(criteria.magnitude),
                together=attempt.drop,
                model_sha256=models.fingerprint(model),
            )
            if plan.mask(model).fingerprint() != mask.fingerprint():
                raise RuntimeError("ties among the weights cannot be told by densities; move one")
            network = path.with_suffix(".safetensors")
            if network.exists() and _is_studio(network):
                raise ValueError(f"{network} is a saved studio; give the plan another name than it")
            models.save(network, model, about=self.about)
            plan.save(path)
        words = "" if self.about else " --model NETWORK"
        command = f"pruning-lab prune {quote(str(network))}{words} --plan {quote(str(path))}"
        return Exported(path, network, command)

    def __repr__(self) -> str:
        metrics = self.metrics()
        return (
            f"Studio(attempt {metrics.attempt} of {len(self._attempts)}, "
            f"{metrics.density:.1%} of {metrics.weights:,} weights, {metrics.accuracy})"
        )

    # ------------------------------------------------------------------------- steps, inside

    def _settings(self, kind: str, amount: Amount | None) -> dict[str, Setting]:
        if amount is None:
            return {}
        named = isinstance(amount, Mapping)
        if not named:
            amount = {name: amount for name in self._base.layers if name not in self._locked}
        for name in amount:
            self.layer(name)
            if name in self._locked:
                raise ValueError(f"layer {name!r} is locked; unlock it first")
        return {name: Setting(kind, value) for name, value in amount.items()}

    def _step(
        self,
        what: str,
        settings: Mapping[str, Setting],
        *,
        base: int | None = None,
        line: str | None = None,
        merge: frozenset[str] | None = None,
    ) -> None:
        before = self.attempt
        settings = {layer: setting for layer, setting in settings.items() if setting != ALL}
        attempt = Attempt(
            len(self._attempts) + 1,
            before.number,
            before.base if base is None else base,
            what,
            line=before.line if line is None else line,
            settings=settings,
        )
        if merge is not None and self._merges(before, merge):
            attempt = replace(attempt, number=before.number, parent=before.parent)
        self._attempts[attempt.number - 1 :] = [attempt]
        self._latest_child[attempt.parent] = self._now = attempt.number
        self._dragged = merge
        self._enter(attempt)
        self._replace(self._sized(attempt))

    def _merges(self, before: Attempt, layers: frozenset[str]) -> bool:
        """Whether the attempt before was a step of the same drag."""
        fresh = before.accuracy is None and not before.name and before.number == len(self._attempts)
        return fresh and self._dragged == layers

    def _step_to(self, number: int | None, what: str) -> int:
        if number is None:
            raise ValueError(f"there is nothing to {what}")
        return number

    def _enter(self, attempt: Attempt) -> None:
        """Make the weights and choices those of an attempt."""
        self._look = None
        if self._base is None or self._base.number != attempt.base:
            self._base = self._based(attempt.base)
        self._base.choose(attempt.settings)

    def _based(self, number: int) -> "Base":
        return Base(number, self._origin.look(), self.model, self._bases[number])

    def _unpruned(self) -> nn.Module:
        """The weights that are pruned here, in a model that no thread is measuring with."""
        return sharing(self.model, self._bases[self.attempt.base]).eval()

    def _sized(self, attempt: Attempt) -> Attempt:
        metrics = self.metrics()
        return replace(attempt, density=metrics.density, bytes=metrics.bytes)

    def _replace(self, attempt: Attempt) -> None:
        self._attempts[attempt.number - 1] = attempt

    def _lock_or_not(self, layers: tuple[str, ...], change: Callable) -> "Studio":
        for name in layers:
            self.layer(name)
        with self._lock:
            change(layers)
            self._refresh()
        return self

    def _check_free(self) -> None:
        if self._worker.closed:
            raise RuntimeError("this studio is closed; make a new one, or load the one you saved")
        if self._busy:
            raise RuntimeError(f"the studio is {self._busy}; stop() it, or wait with settle()")

    # ------------------------------------------------------------------------ the thread's work

    def _begin(self, busy: str, task: Callable[[], None], wait: bool) -> "Studio":
        with self._lock:
            self._check_free()
            self._origin.check()
            self._busy, self._halt = busy, False
            self._status = f"{busy} …"
            self._worker.submit(partial(self._long, task))
        return self.settle() if wait else self

    def _refresh(self) -> None:
        """Have it measured and shown; a long task does that at its end, and must not be passed."""
        if not self._busy:
            self._status = "measuring"
            self._worker.submit(self._measure)

    def _work(self, task: Callable, stale: Callable[[], bool]) -> None:
        try:
            task(stale)
        except Stopped:  # it was closed
            pass
        except BaseException as error:
            self._say(f"failed: {error}", "failed")
            raise

    def _long(self, task: Callable, stale: Callable[[], bool]) -> None:
        try:
            self._say(f"{self._busy} …")
            task()
        except Stopped:
            pass
        finally:
            self._busy = ""
        self._measure(stale)

    def _measure(self, stale: Callable[[], bool]) -> None:
        """Show where the studio stands, look at its accuracy, and look ever more closely."""
        with self._lock:
            attempt, base, choices = self.attempt, self._base, dict(self._base.choices)
        self._tell("moved")
        if not base.prepared:
            base.prepare(lambda what: self._say(f"preparing {what} …"), stale)
        if stale():
            return
        if base.session is None or self.dense is None:
            self._open(base)
            self._tell("moved")  # FLOPs are known now
        if attempt.accuracy is None:
            self._say("measuring", None)
            self._look_closer(attempt, base, choices, stale)
        if not stale():
            self._say("ready", "done")
            if sum(layer.weight.nbytes for layer in base.layers.values()) >= LARGE:
                _give_back_memory()

    def _look_closer(
        self,
        attempt: Attempt,
        base: "Base",
        choices: Mapping[str, Choice],
        stale: Callable[[], bool],
    ) -> None:
        # In a drag that leaves no time for all images, measuring would be for nothing, and would
        # take the time that its pictures need.
        if self._hurried and stale(REST_SECONDS):
            return
        self._hurried = True
        began = time.perf_counter()
        looked, hits = 0.0, []
        for some in base.advance(choices):
            if stale():
                return
            hits.append(some)
            if time.perf_counter() - looked > LOOK_SECONDS:
                looked = time.perf_counter()
                self._report(attempt, torch.cat(hits))
        self._hurried = False
        if self._origin.look() != base.seen:
            self._start_over()
            return
        self._report(attempt, torch.cat(hits), final=True)
        self.seconds = time.perf_counter() - began

    def _start_over(self) -> None:
        """Somebody changed the model for a moment: what was computed in it may be wrong."""
        self._origin.check()
        with self._lock:
            self.dense, self._base = None, self._based(self.attempt.base)
            self._enter(self.attempt)
            self._refresh()

    def _report(self, attempt: Attempt, hits: Tensor, *, final: bool = False) -> None:
        accuracy = Accuracy.of(hits)
        lost = drop(Accuracy.of(self.dense.hits[: accuracy.n]), accuracy)
        with self._lock:
            current = self._attempts[attempt.number - 1]
            if current.settings != attempt.settings:
                return  # a drag has gone on, under the same number
            if final:
                self._replace(replace(current, accuracy=replace(accuracy, hits=None), drop=lost))
            else:
                self._look = (attempt.number, accuracy, lost)
        if not final:
            self._tell("looked")

    def _open(self, base: "Base") -> None:
        """The session that answers for these weights, and what the network as it came answered."""
        self._say("preparing the images …")
        images = Stoppable(self.val, self._check_open)
        if self.dense is None:
            first = base if base.number == 0 else self._based(0)
            first.open(images, self._budget, self._recalibrate)
            self._flops, self._labels = flops_of(first.model, first.session), first.session.labels
            self.dense = first.session.accuracy()
        if base.session is None:
            base.open(images, self._budget, self._recalibrate)
        if not torch.equal(base.session.labels, self._labels):
            raise ValueError("the images come in another order each time; give some that do not")

    def _retrain(self, config: TrainConfig, on_epoch: Callable[[Epoch], None]) -> None:
        model, mask = self.network(), self.mask
        weights, done = None, 0
        try:
            with retraining.dropout_adjusted(model, mask):
                images = Stoppable(self.train, self._check_halt)
                for epoch in train(model, images, config, mask=mask):
                    weights = {n: t.detach().clone() for n, t in model.state_dict().items()}
                    done = epoch.epoch
                    self._say(
                        f"retraining … epoch {done} of {config.epochs}, loss {epoch.loss:.3f}",
                        "progress",
                    )
                    on_epoch(epoch)
        except Stopped:
            pass
        if weights is None:
            return
        with self._lock:
            self._bases.append(weights)
            plural = "" if done == 1 else "s"
            stopped = f" of {config.epochs}, stopped" if done < config.epochs else ""
            what = f"retrained {done} epoch{plural}{stopped}"
            self._step(what, {}, base=len(self._bases) - 1)

    def _suggest(self, choice: dict) -> None:
        base = self._base
        if base.number not in self._scans:
            self._scans[base.number] = sensitivity.scan(
                base.model,
                self._scan_images(),
                SCAN_DENSITIES,
                recalibrate=self._recalibrate,
                notify=self._scan_progress,
            )
        plan = sensitivity.choose(self._scans[base.number], **choice)
        kept = {row.layer: row.density for row in plan.rows if row.layer not in self._locked}
        asked = {layer: Setting("density", density) for layer, density in kept.items()}
        with self._lock:
            self._step(f"suggested for {plan.asked}", {**self.attempt.settings, **asked})

    def _scan_images(self) -> Images:
        if isinstance(self.val, data.Part):
            return self.val.head(SCAN_IMAGES)
        return Stoppable(self.val, self._check_halt)

    def _scan_progress(self, progress: sensitivity.Progress) -> None:
        self._check_halt()
        share = f"{progress.images / progress.total:.0%}" if progress.total else ""
        self._say(f"scanning … {share}", "progress")

    def _use_test(self) -> None:
        self.tests += 1
        images = Stoppable(self._test_images, self._check_halt)
        after = evaluate(self.network(), images)
        dense = copy.deepcopy(sharing(self.model, self._bases[0]))
        if self._recalibrate is not None:
            recalibrate(dense, self._recalibrate)
        before = evaluate(dense, images)
        self.tested, self.test_drop = after, drop(before, after)

    def _check_halt(self) -> None:
        if self._halt:
            raise Stopped

    def _check_open(self) -> None:
        if self._worker.closed:
            raise Stopped

    def _say(self, status: str, event: str | None = "progress") -> None:
        self._status = status
        if event is not None:
            self._tell(event)

    def _tell(self, event: str) -> None:
        for listener in self._listeners:
            listener(event)


_FORMAT = "pruning_lab studio 2"


class _About(TypedDict):
    """What a studio's file holds besides weights."""

    about: dict | None
    images: str | None
    recalibrated: bool
    now: int
    tests: int
    locked: list[str]
    attempts: list[Attempt]


def _is_studio(path: Path) -> bool:
    with contextlib.suppress(ValueError):  # no safetensors file
        about = files.load_about(path)
        return isinstance(about, dict) and about.get("format") == _FORMAT
    return False


def _give_back_memory() -> None:
    """What the C library keeps of temporaries, per thread, is as much as a large network takes."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
