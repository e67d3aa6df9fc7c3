"""Copies of a network that answer with other weights in some layers, computing what follows them.

A network that torch.fx can trace resumes in the middle of its graph; any other runs whole.
"""

import contextlib
import copy
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from types import MappingProxyType

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

from pruning_lab.evaluation.accuracy import check_logits, measuring
from pruning_lab.evaluation.recalibration import batch_norms, renewed_statistics
from pruning_lab.evaluation.thresholded import Thresholded, whole
from pruning_lab.layers import prunable, unwrapped

# layer -> the weight (out, in, ...) that stands in for its own; "bn.running_mean" -> a buffer
Changes = Mapping[str, Tensor | Thresholded]
NOTHING: Changes = MappingProxyType({})
Kept = dict[fx.Node, object]  # values of some images from which a network resumes

_CACHE_BYTES = 2**23  # of the largest activation of the images that are computed at once


class Replica:
    """A copy of a network for one thread: it has the same weights, and everything else of its own.

    `model` is that copy, or the network itself where `is_copy` is false; then whatever a forward
    pass leaves there is put back. Without a `graph` it runs whole.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph | None, *, is_copy: bool = True):
        self.how = "whole" if graph is None else "graph"
        self.is_copy, self._graph = is_copy, _one_call() if graph is None else graph
        self._nodes = list(self._graph.nodes)
        self._bind(model)
        place = {node: number for number, node in enumerate(self._nodes)}
        last_use = {node: max(map(place.get, node.users), default=-1) for node in self._nodes}
        first = {name: self._first_use(layer.weight) for name, layer in prunable(model).items()}
        self._first = dict(sorted(first.items(), key=lambda item: item[1]))
        self.layers = list(self._first)  # in the order in which they run, where that is known
        self.alive = {  # the nodes before a layer whose values are needed from there on
            name: [n for n in self._nodes[:start] if last_use[n] >= start]
            for name, start in first.items()
        }
        self._kept = {node for alive in self.alive.values() for node in alive}
        self._done: list[list[fx.Node]] = [[] for _ in self._nodes]  # after each node: no more used
        for node in set(self._nodes) - self._kept:
            self._done[last_use[node]].append(node)
        self.at_once: dict[str, int] = {}  # where images may be split: how many fit the cache
        self.splits = False  # whether the answers to a part of a batch are those to the whole
        self.classes = 0  # that it tells apart, once it has been tried

    def _bind(self, model: nn.Module) -> None:
        self.model = model
        root = nn.ModuleDict({"network": model}) if self.how == "whole" else model
        self._interpreter = fx.Interpreter(root, graph=self._graph)
        self._interpreter.args_iter = iter(())  # arguments beside the images have their defaults
        self._calls = [self._call(node) for node in self._nodes]
        self._has_conv = any(isinstance(module, nn.Conv2d) for module in model.modules())
        names = {id(layer.weight): name for name, layer in prunable(model).items()}
        self._places: dict[str, list[tuple[dict, str, bool]]] = {}
        for path, module in model.named_modules():
            for key, parameter in module._parameters.items():
                if (name := names.get(id(parameter))) is not None:
                    place = (module._parameters, key, type(module) is nn.Linear)
                    self._places.setdefault(name, []).append(place)
            for key in module._buffers:
                self._places[f"{path}.{key}"] = [(module._buffers, key, False)]

    def _first_use(self, weight: nn.Parameter) -> int:
        """The place of the first node that reads the weight, or of the output if none does."""
        if self.how == "whole":
            return 1
        for place, node in enumerate(self._nodes):
            if node.op in ("call_module", "get_attr"):
                read = self._interpreter.fetch_attr(node.target)
                read = read.parameters() if node.op == "call_module" else [read]
                if any(parameter is weight for parameter in read):
                    return place
        return place

    def twin(self) -> "Replica":
        """The same for another thread."""
        other = copy.copy(self)
        other._bind(copy.deepcopy(self.model, {id(p): p for p in self.model.parameters()}))
        return other

    def start(self, x: Tensor, changes: Changes = NOTHING) -> tuple[Tensor, Kept]:
        """The answer to images (N, ...), and the values to resume with at any layer."""
        # A copy, since a network may write over its input; on a CPU as convolutions like it.
        last = self._has_conv and x.dim() == 4 and x.device.type == "cpu"
        x = x.clone(memory_format=torch.channels_last if last else torch.preserve_format)
        return self._run(1, {self._nodes[0]: x}, changes)

    def resume(self, layer: str, kept: Kept, changes: Changes) -> tuple[Tensor, Kept]:
        """The answer computed from `layer` on, and the values to keep; `changes` hold there."""
        alive = {node: kept[node] for node in self.alive[layer]}
        return self._run(self._first[layer], alive, changes)

    def _run(self, place: int, values: Kept, changes: Changes) -> tuple[Tensor, Kept]:
        with nullcontext() if self.is_copy else measuring(self.model):
            before = []
            try:
                self._exchange(changes, before)
                for number in range(place, len(self._nodes)):
                    answer = values[self._nodes[number]] = self._calls[number](values)
                    for used in self._done[number]:
                        values.pop(used, None)
            finally:
                self._restore(before)
        return answer, values

    def _call(self, node: fx.Node) -> Callable[[Kept], object]:
        """A function that computes a node from the values before it."""
        if node.op == "call_module" and not node.kwargs:
            module, args = self._interpreter.fetch_attr(node.target), node.args
            if all(isinstance(arg, fx.Node) for arg in args):  # the usual case, without delay
                return lambda values: module(*[values[arg] for arg in args])
        run = getattr(self._interpreter, node.op)
        arguments = node.args, node.kwargs
        return lambda values: run(node.target, *map_arg(arguments, values.__getitem__))

    def parts(self, layer: str, kept: Kept, most: int) -> list[Kept]:
        """What `layer` resumes with, in parts of as many images as are best computed at once."""
        kept = {node: kept[node] for node in self.alive[layer]}
        if layer not in self.at_once:
            return [kept]
        count = -(-len(next(iter(kept.values()))) // min(most, self.at_once[layer]))
        split = [value.tensor_split(count) for value in kept.values()]
        return [dict(zip(kept, values, strict=True)) for values in zip(*split, strict=True)]

    def statistics(self, images: Iterable[Tensor], changes: Changes) -> Changes:
        """The buffers of all BatchNorm layers, by name, that images give with these changes."""
        fresh = {
            f"{path}.{key}": buffer.clone()
            for path, norm in batch_norms(self.model).items()
            for key, buffer in norm._buffers.items()
        }
        before = []
        try:
            self._exchange({**changes, **fresh}, before)
            with renewed_statistics(self.model):
                for x in images:
                    self.start(x)
        finally:
            self._restore(before)
        return fresh

    def _exchange(self, changes: Changes, before: list[tuple[dict, str, Tensor]]) -> None:
        """Put other tensors in their places, and into `before` what `_restore` puts back."""
        for name, tensor in changes.items():
            for owner, key, is_linear in self._places[name]:
                before.append((owner, key, owner[key]))
                owner[key] = tensor if is_linear else whole(tensor)

    def _restore(self, before: list[tuple[dict, str, Tensor]]) -> None:
        for owner, key, own in before:
            owner[key] = own

    def learn(self, itself: "Replica", x: Tensor) -> bool:
        """Whether this answers to two images as the network does, and where images may be split.

        Nothing may write into values that are kept; images that are found to depend on each other
        stay together.
        """
        weights = {name: layer.weight for name, layer in prunable(itself.model).items()}
        # Averages: other weights that need no memory, and that make no network infinite.
        averages = {n: w.new_full((), 1 / w[0].numel()).expand_as(w) for n, w in weights.items()}
        kept_only, self._done = self._done, [[]] * len(self._nodes)
        for changes in (averages, NOTHING):
            (expected, _), (answer, values) = itself.start(x, changes), self.start(x, changes)
            if not _close(answer, expected):
                return False
        self._done = kept_only
        kept = {node: values[node] for node in self._kept}
        versions = [tensor._version for tensor in tensors_in(kept)]
        if self.how == "graph" and not any(map(_hooked, itself.model.modules())):
            with contextlib.suppress(Exception):  # some networks take no single image
                self.splits = _close(self.start(x[:1])[0], expected[:1])
        single = {n: v.nbytes for n, v in values.items() if getattr(v, "shape", ())[:1] == (2,)}
        for name in self.layers:
            after = set(self._nodes[self._first[name] :])
            if self.splits and {*self.alive[name], *(self._kept & after)} <= single.keys():
                first = {node: kept[node][:1] for node in self.alive[name]}
                if _close(self.resume(name, first, NOTHING)[0], expected[:1]):
                    largest = max(single[node] for node in after & single.keys())
                    self.at_once[name] = max(1, 2 * _CACHE_BYTES // largest)
                    continue
            if not _close(self.resume(name, kept, NOTHING)[0], expected):
                return False
        return versions == [tensor._version for tensor in tensors_in(kept)]


def replicas(model: nn.Module, x: Tensor) -> list[Replica]:
    """One for each thread that measures, tried on two of the images `x` (N, ...).

    On a CPU that are torch's threads. A network that cannot be copied has only itself, in the
    calling thread. Raises ValueError where it answers with anything but logits (N, classes).
    """
    model, x = unwrapped(model), x[:2]
    itself = Replica(model, None, is_copy=False)
    with torch.inference_mode(False), torch.no_grad():  # inference_mode counts no versions
        x = x.clone()
        _, itself.classes = check_logits(itself.start(x)[0])
        for kind in ("whole",) if _hooked(model) else ("graph", "whole"):
            with contextlib.suppress(Exception):  # whatever it does that cannot be copied or traced
                own = _copy(model)
                replica = Replica(own, fx.Tracer().trace(own) if kind == "graph" else None)
                replica.classes = itself.classes
                if replica.learn(itself, x):
                    count = torch.get_num_threads() if x.device.type == "cpu" else 1
                    return [replica, *(replica.twin() for _ in range(count - 1))]
    return [itself]


def described(copies: list[Replica]) -> str:
    """The way these measure, and how many there are: "graph, 2 workers"."""
    return f"{copies[0].how}, {len(copies)} worker{'s' if len(copies) > 1 else ''}"


def tensors_in(values: Kept) -> list[Tensor]:
    """All tensors among values, however nested."""
    return [leaf for leaf in tree_leaves(list(values.values())) if isinstance(leaf, Tensor)]


def _copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode with the same parameters.

    On a CPU its convolutions have their weights with channels innermost, which they do best.
    """
    memo = {id(parameter): parameter for parameter in model.parameters()}
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.device.type == "cpu":
            weight = module.weight.detach().clone(memory_format=torch.channels_last)
            memo[id(module.weight)] = nn.Parameter(weight, requires_grad=False)
    return copy.deepcopy(model, memo).eval()


def _one_call() -> fx.Graph:
    graph = fx.Graph()
    images = graph.call_method("clone", (graph.placeholder("x"),))  # to be written over
    graph.output(graph.call_module("network", (images,)))
    return graph


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _close(one: Tensor, other: Tensor) -> bool:
    """Equal but for rounding, as sums in another order are."""
    finite = other[other.isfinite()]
    within = torch.finfo(other.dtype).eps ** 0.5
    scale = float(finite.abs().max()) if len(finite) else 1.0
    return one.shape == other.shape and torch.allclose(
        one, other, rtol=within, atol=within * scale, equal_nan=True
    )
