"""A network's answers with other weights in some layers: only what follows them is computed again.

A network that torch.fx can trace resumes in the middle of its graph; any other runs whole.
"""

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

from pruning_lab.evaluation import workers
from pruning_lab.evaluation.accuracy import check_logits, measuring
from pruning_lab.evaluation.pooling import MaxPool
from pruning_lab.evaluation.recalibration import batch_norms, renewed_statistics
from pruning_lab.evaluation.thresholded import Thresholded, whole
from pruning_lab.layers import Images, device_of, prunable, unwrapped

# layer -> the weight (out, in, ...) that stands in for its own; "bn.running_mean" -> a buffer
Changes = Mapping[str, Tensor | Thresholded]
NOTHING: Changes = MappingProxyType({})
Kept = dict[object, object]  # values of some images from which a network resumes

_CACHE_BYTES = 2**23  # of the largest activation of the images that are computed at once


class Whole:
    """Any network: every answer is a forward pass from the images on."""

    how = "whole"

    def __init__(self, model: nn.Module):
        self.layers = list(prunable(model))  # in the order in which they run, where that is known
        self.alive = {
            layer: ["images"] for layer in self.layers
        }  # keys of the values to resume with
        self.at_once: dict[str, int] = {}  # where images may be split: how many fit the cache
        self.splits = False  # whether the answers to a part of a batch are those to the whole
        self._bind(model)

    def _bind(self, model: nn.Module) -> None:
        self.model = model
        self._has_conv = any(isinstance(module, nn.Conv2d) for module in model.modules())
        names = {id(layer.weight): name for name, layer in prunable(model).items()}
        self._places: dict[str, list[tuple[dict, str, bool]]] = {}
        for path, module in model.named_modules():
            for key, parameter in module._parameters.items():
                if name := names.get(id(parameter)):
                    place = (module._parameters, key, type(module) is nn.Linear)
                    self._places.setdefault(name, []).append(place)
            for key in module._buffers:
                self._places[f"{path}.{key}"] = [(module._buffers, key, False)]

    def twin(self) -> "Whole":
        """The same with a replica of its own, for another thread."""
        other = copy.copy(self)
        other._bind(copy.deepcopy(self.model, {id(p): p for p in self.model.parameters()}))
        return other

    def start(self, x: Tensor, changes: Changes = NOTHING) -> tuple[Tensor, Kept]:
        """The answer to images (N, ...), and the values to resume with at any layer."""
        with self._exchanged(changes):
            return self.model(self._laid_out(x)), {"images": x}

    def resume(self, layer: str, kept: Kept, changes: Changes) -> tuple[Tensor, Kept]:
        """The answer computed from `layer` on, and the values to keep that are new.

        `changes` hold for `layer` and all that follow.
        """
        return self.start(kept["images"], changes)

    def parts(self, layer: str, kept: Kept, most: int) -> list[Kept]:
        """What `layer` resumes with, in parts of as many images as are best computed at once."""
        kept = {key: kept[key] for key in self.alive[layer]}
        if layer not in self.at_once:
            return [kept]
        n = len(next(iter(kept.values())))
        count = -(-n // min(most, self.at_once[layer]))
        split = [value.tensor_split(count) for value in kept.values()]
        return [dict(zip(kept, values, strict=True)) for values in zip(*split, strict=True)]

    def statistics(self, work: Callable[[], object]) -> dict[str, Tensor]:
        """The buffers of the BatchNorm layers, by name, as what passes in `work` makes them."""
        fresh = {
            f"{path}.{key}": buffer.clone()
            for path, norm in batch_norms(self.model).items()
            for key, buffer in norm._buffers.items()
        }
        with self._exchanged(fresh), renewed_statistics(self.model):
            work()
        passed = {name.rpartition(".")[0] for name, b in fresh.items() if b.dim() == 0 and b > 0}
        return {name: b for name, b in fresh.items() if name.rpartition(".")[0] in passed}

    def _laid_out(self, x: Tensor) -> Tensor:
        """A copy, since a network may write over its input; on a CPU as convolutions like it."""
        last = self._has_conv and x.dim() == 4 and x.device.type == "cpu"
        return x.clone(memory_format=torch.channels_last if last else torch.preserve_format)

    @contextmanager
    def _exchanged(self, changes: Changes) -> Iterator[None]:
        before = []
        try:
            for name, tensor in changes.items():
                for owner, key, is_linear in self._places[name]:
                    before.append((owner, key, owner[key]))
                    owner[key] = tensor if is_linear else whole(tensor)
            yield
        finally:
            for owner, key, own in before:
                owner[key] = own


class Itself(Whole):
    """A network that cannot be copied: left as it was, whatever its forward pass writes."""

    @contextmanager
    def _exchanged(self, changes: Changes) -> Iterator[None]:
        with measuring(self.model), super()._exchanged(changes):
            yield


class Graph(Whole):
    """A network that torch.fx traces: the values alive before a layer are kept, the rest runs."""

    how = "graph"

    def __init__(self, model: nn.Module):
        self._graph = _Tracer().trace(model)
        super().__init__(model)
        self._nodes = list(self._graph.nodes)
        number = {node: place for place, node in enumerate(self._nodes)}
        last_use = {node: max(map(number.get, node.users), default=-1) for node in self._nodes}
        first = {name: self._first_use(layer.weight) for name, layer in prunable(model).items()}
        self._first = dict(sorted(first.items(), key=lambda item: item[1]))
        self.layers = list(self._first)
        for name, place in self._first.items():
            before = self._nodes[:place]
            self.alive[name] = [node for node in before if last_use[node] >= place]
        self._wanted = {node for name in self.layers for node in self.alive[name]}
        self._last_used: dict[fx.Node, list[fx.Node]] = {node: [] for node in self._nodes}
        for node, place in last_use.items():
            if node not in self._wanted and place >= 0:
                self._last_used[self._nodes[place]].append(node)

    def _bind(self, model: nn.Module) -> None:
        super()._bind(model)
        self._interpreter = fx.Interpreter(model, graph=self._graph)

    def _first_use(self, weight: nn.Parameter) -> int:
        """The place of the first node that reads the weight, or of the output if none does."""
        for place, node in enumerate(self._nodes):
            if node.op in ("call_module", "get_attr"):
                read = self._interpreter.fetch_attr(node.target)
                read = read.parameters() if node.op == "call_module" else [read]
                if any(parameter is weight for parameter in read):
                    return place
        return place

    def start(self, x: Tensor, changes: Changes = NOTHING) -> tuple[Tensor, Kept]:
        answer, values = self._run(1, {self._nodes[0]: self._laid_out(x)}, changes)
        return answer, {node: values[node] for node in values.keys() & self._wanted}

    def resume(self, layer: str, kept: Kept, changes: Changes) -> tuple[Tensor, Kept]:
        before = {node: kept[node] for node in self.alive[layer]}
        answer, values = self._run(self._first[layer], dict(before), changes)
        new = (values.keys() & self._wanted) - before.keys()
        return answer, {node: values[node] for node in new}

    def _run(self, place: int, values: Kept, changes: Changes) -> tuple[Tensor, Kept]:
        with self._exchanged(changes):
            for node in self._nodes[place:]:
                args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = getattr(self._interpreter, node.op)(node.target, args, kwargs)
                for used in self._last_used[node]:
                    del values[used]
        return values.pop(node), values

    def learn(self, x: Tensor) -> None:
        """Find how many images fit the cache after each layer at which images may be split."""
        sizes, last_used = {}, self._last_used
        self._last_used = dict.fromkeys(self._nodes, ())
        _, values = self._run(1, {self._nodes[0]: self._laid_out(x)}, NOTHING)
        self._last_used = last_used
        for node, value in values.items():
            if isinstance(value, Tensor) and value.shape[:1] == x.shape[:1]:
                sizes[node] = value.nbytes / len(x)
        for name, place in self._first.items():
            after = set(self._nodes[place:])
            if {*self.alive[name], *(self._wanted & after)} <= sizes.keys():
                largest = max((sizes[node] for node in after & sizes.keys()), default=1)
                self.at_once[name] = max(1, int(_CACHE_BYTES / largest))


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, MaxPool) or super().is_leaf_module(module, name)


class Replicas:
    """Copies of a network that share its weights, one for each thread that measures with it.

    `x` (N, ...) are images to try it on. A network that cannot be copied measures
    itself, in the calling thread.
    """

    def __init__(self, model: nn.Module, x: Tensor):
        model, x = unwrapped(model), x[:2]
        self._all: list[Whole] = [Itself(model)]
        _, self.classes = check_logits(self.first.start(x)[0])
        for kind in (Whole,) if _hooked(model) else (Graph, Whole):
            with contextlib.suppress(Exception):  # whatever it does that cannot be copied or traced
                replica = kind(_replica(model))
                if _agrees(replica, self.first, x):
                    count = torch.get_num_threads() if x.device.type == "cpu" else 1
                    self._all = [replica, *(replica.twin() for _ in range(count - 1))]
                    break
        self.layers, self.workers = self.first.layers, len(self._all)

    @property
    def first(self) -> Whole:
        return self._all[0]

    @property
    def how(self) -> str:
        return f"{self.first.how}, {self.workers} worker{'s' if self.workers > 1 else ''}"

    def each(self, jobs: Iterable[Callable[[Whole], object]]) -> Iterator:
        """The results of the jobs, in order; each job is called with a replica."""
        return workers.each(self._all, jobs)


@dataclass(frozen=True)
class Calibration:
    """BatchNorm buffers that some images give, and what to resume with on each of their batches."""

    kept: list[Kept]
    buffers: Changes

    @classmethod
    def of(cls, replica: Whole, images: Images) -> "Calibration":
        device, kept = device_of(replica.model), []

        def start():
            kept.extend(replica.start(x.to(device))[1] for x, _ in images)

        return cls(kept, replica.statistics(start))

    def resumed(self, replica: Whole, layer: str, changes: Changes) -> "Calibration":
        """With other weights from `layer` on."""
        kept = []

        def resume():
            kept.extend({**k, **replica.resume(layer, k, changes)[1]} for k in self.kept)

        buffers = replica.statistics(resume)
        return Calibration(kept, {**self.buffers, **buffers})


def _replica(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode with the same parameters; what its forward writes is its own.

    On a CPU its convolutions have their weights with channels innermost, and its pooling is ours.
    """
    memo = {id(parameter): parameter for parameter in model.parameters()}
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.device.type == "cpu":
            weight = module.weight.detach().clone(memory_format=torch.channels_last)
            memo[id(module.weight)] = nn.Parameter(weight, requires_grad=False)
        elif type(module) is nn.MaxPool2d and not _hooked(module):
            memo[id(module)] = MaxPool.like(module)
    return copy.deepcopy(model, memo).eval()


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _agrees(replica: Whole, itself: Whole, x: Tensor) -> bool:
    """Whether a replica answers as the network itself does, and nothing writes into what it keeps.

    Where the images are found to depend on each other, they may not be split.
    """
    weights = {name: layer.weight for name, layer in prunable(itself.model).items()}
    # Averages: other weights that need no memory, and that make no network infinite.
    averages = {n: w.new_full((), 1 / w[0].numel()).expand_as(w) for n, w in weights.items()}
    with torch.inference_mode(False), torch.no_grad():  # inference_mode counts no versions
        x = x.clone()
        for changes in (averages, NOTHING):
            expected, _ = itself.start(x, changes)
            answer, kept = replica.start(x, changes)
            if not _close(answer, expected):
                return False
        versions = [tensor._version for tensor in tensors_in(list(kept.values()))]
        if isinstance(replica, Graph) and not any(map(_hooked, itself.model.modules())):
            with contextlib.suppress(Exception):  # some networks take no single image
                replica.splits = _close(replica.start(x[:1])[0], expected[:1])
        if replica.splits:
            replica.learn(x)
        for name in replica.layers:
            if name in replica.at_once:
                first = {key: kept[key][:1] for key in replica.alive[name]}
                if _close(replica.resume(name, first, NOTHING)[0], expected[:1]):
                    continue
                del replica.at_once[name]
            if not _close(replica.resume(name, kept, NOTHING)[0], expected):
                return False
        return versions == [tensor._version for tensor in tensors_in(list(kept.values()))]


def tensors_in(values: object) -> list[Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _close(one: Tensor, other: Tensor) -> bool:
    """Equal but for rounding, as sums in another order are."""
    finite = other[other.isfinite()]
    within = torch.finfo(other.dtype).eps ** 0.5
    scale = float(finite.abs().max()) if len(finite) else 1.0
    return one.shape == other.shape and torch.allclose(
        one, other, rtol=within, atol=within * scale, equal_nan=True
    )
