"""Copies of a network that answer with other weights in some layers, computing what follows them.

A network that torch.fx can trace resumes in the middle of its graph; any other runs whole.
"""

import copy
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from types import MappingProxyType

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from pruning_lab.data import Images
from pruning_lab.evaluation.accuracy import check_labels, check_logits, measuring
from pruning_lab.evaluation.recalibration import batch_norms, recalibrate
from pruning_lab.evaluation.thresholded import Thresholded, whole
from pruning_lab.layers import device_of, prunable, unwrapped
from pruning_lab.rows import counted

# layer -> the weight (out, in, ...) that stands in for its own; "bn.running_mean" -> a buffer
Changes = Mapping[str, Tensor | Thresholded]
NOTHING: Changes = MappingProxyType({})
Kept = dict[fx.Node, object]  # values of some images from which a network resumes


class Replica:
    """A copy of a network for one thread: it has the same weights, and everything else of its own.

    `model` is that copy, or the network itself where `is_copy` is false; then whatever a forward
    pass leaves there is put back. Without a `graph` it runs whole.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph | None = None, *, is_copy: bool = True):
        self.model, self.graph, self.is_copy = model, graph, is_copy
        root = model if graph else nn.ModuleDict({"network": model})
        self._interpreter = fx.Interpreter(root, graph=graph or _ONE_CALL)
        self._interpreter.args_iter = iter(())  # arguments besides the images have their defaults
        self._nodes = list(self._interpreter.graph.nodes)
        self._has_conv = any(isinstance(module, nn.Conv2d) for module in model.modules())
        weights = {name: layer.weight for name, layer in prunable(model).items()}
        first = {name: self._first_use(weight) for name, weight in weights.items()}
        self._first = dict(sorted(first.items(), key=lambda item: item[1]))
        self.layers = list(self._first)  # in the order in which they run, where that is known
        place = {node: number for number, node in enumerate(self._nodes)}
        self._alive = {  # the nodes before a layer whose values are needed from there on
            name: [n for n in self._nodes[:start] if any(place[u] >= start for u in n.users)]
            for name, start in first.items()
        }
        self._kept = {node for nodes in self._alive.values() for node in nodes}
        modules = dict(model.named_modules())
        owned = [(m, key, p) for m in modules.values() for key, p in m._parameters.items()]
        self._places = {
            name: [(m, m._parameters, k) for m, k, p in owned if p is weight]
            for name, weight in weights.items()
        }
        for path, module in modules.items():
            self._places |= {f"{path}.{k}": [(module, module._buffers, k)] for k in module._buffers}

    def _first_use(self, weight: nn.Parameter) -> int:
        """The place of the first node that reads the weight, or of the output if none does."""
        for place, node in enumerate(self._nodes):
            if self.graph is None and place == 1:
                break
            if node.op in ("call_module", "get_attr"):
                read = self._interpreter.fetch_attr(node.target)
                if any(weight is own for own in [read, *getattr(read, "parameters", tuple)()]):
                    break
        return place

    def start(self, x: Tensor, changes: Changes = NOTHING) -> tuple[Tensor, Kept]:
        """The answer to images (N, ...), and the values to resume with at any layer."""
        # A copy, since a network may write over its input; on a CPU as convolutions like it.
        last = self._has_conv and x.dim() == 4 and x.device.type == "cpu"
        x = x.clone(memory_format=torch.channels_last if last else torch.preserve_format)
        return self._run(1, {self._nodes[0]: x}, changes)

    def resume(self, layer: str, kept: Kept, changes: Changes) -> tuple[Tensor, Kept]:
        """The answer computed from `layer` on, and the values to keep; `changes` hold there."""
        return self._run(self._first[layer], {n: kept[n] for n in self._alive[layer]}, changes)

    def _run(self, place: int, values: Kept, changes: Changes) -> tuple[Tensor, Kept]:
        """From a place in the graph on; values that nothing resumes with are freed early."""
        self._interpreter.env = values
        with self._changed(changes):
            for node in self._nodes[place:]:
                values[node] = self._interpreter.run_node(node)
                for used in self._interpreter.user_to_last_uses.get(node, ()):
                    if used not in self._kept:
                        del values[used]
        self._interpreter.env = {}
        return values.pop(node), values

    def statistics(self, images: Images, changes: Changes) -> Changes:
        """The buffers of all BatchNorm layers, by name, that images give with these changes."""
        norms = batch_norms(self.model).items()
        fresh = {f"{n}.{key}": b.clone() for n, norm in norms for key, b in norm._buffers.items()}
        with self._changed({**changes, **fresh}):
            recalibrate(self.model, ((x.clone(), y) for x, y in images))
        return fresh

    @contextmanager
    def _changed(self, changes: Changes) -> Iterator[None]:
        """Other weights and buffers inside."""
        places = [(*place, tensor) for n, tensor in changes.items() for place in self._places[n]]
        before = [(owner, key, owner[key]) for _, owner, key, _ in places]
        with nullcontext() if self.is_copy else measuring(self.model):
            try:
                for module, owner, key, tensor in places:  # only nn.Linear takes no whole tensor
                    owner[key] = tensor if type(module) is nn.Linear else whole(tensor)
                yield
            finally:
                for owner, key, own in before:
                    owner[key] = own

    def agrees(self, itself: "Replica", x: Tensor) -> bool:
        """Whether this answers to two images as the network does, wherever it resumes.

        Nothing may write into values that are kept.
        """
        weights = {name: layer.weight for name, layer in prunable(itself.model).items()}
        # Averages: other weights that need no memory, and that make no network infinite.
        averages = {n: w.new_full((), 1 / w[0].numel()).expand_as(w) for n, w in weights.items()}
        averages = {n: Thresholded(average, 0.0) for n, average in averages.items()}
        for changes in (averages, NOTHING):
            (expected, _), (answer, kept) = itself.start(x, changes), self.start(x, changes)
            if not _close(answer, expected):
                return False
        versions = [tensor._version for tensor in tensors_in(kept)]
        resumed = (self.resume(name, kept, NOTHING)[0] for name in self.layers)
        same = all(_close(answer, expected) for answer in resumed)
        return same and versions == [tensor._version for tensor in tensors_in(kept)]


class _Tracer(fx.Tracer):
    """Patches nn.Module for all threads while it traces, as torch's does, but records its own only.

    Two at once, in two threads, would take each other's patches for nn.Module's own methods.
    """

    _turn = threading.RLock()

    def trace(self, root: nn.Module) -> fx.Graph:
        with self._turn:
            self._thread = threading.get_ident()
            return super().trace(root)

    def call_module(self, m: nn.Module, forward, args: tuple, kwargs: dict):
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val, parameter_proxy_cache: dict):
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


def replicas(model: nn.Module, x: Tensor, y: Tensor) -> list[Replica]:
    """One for each thread that measures (on a CPU torch's), tried on two images of a batch (x, y).

    A network that cannot be copied has only itself, in the calling thread. Raises ValueError where
    it answers with anything but logits (N, classes), or where y are no labels.
    """
    model = unwrapped(model)
    itself, hooked = Replica(model, is_copy=False), model._forward_hooks or model._forward_pre_hooks
    with torch.inference_mode(False), torch.no_grad():  # inference_mode counts no versions
        n, x = len(x), x[:2].to(device_of(model), copy=True)
        check_labels(y, n, check_logits(itself.start(x)[0])[1])
        for traced in (False,) if hooked else (True, False):
            with suppress(Exception):  # whatever it does that cannot be copied or traced
                own = _copy(model)
                replica = Replica(own, _Tracer().trace(own) if traced else None)
                if replica.agrees(itself, x):
                    more = torch.get_num_threads() - 1 if x.device.type == "cpu" else 0
                    return [replica, *(Replica(_copy(own), replica.graph) for _ in range(more))]
    return [itself]


def described(copies: list[Replica]) -> str:
    """How these measure, and how many there are: "graph, 2 workers"."""
    how = "graph" if copies[0].graph else "whole"
    return f"{how}, {counted(len(copies), 'worker')}"


def tensors_in(values: Kept) -> list[Tensor]:
    """All tensors among values, however nested."""
    return [leaf for leaf in tree_leaves(list(values.values())) if isinstance(leaf, Tensor)]


def _copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode with the same parameters; on a CPU convolutions channels last."""
    memo = {id(parameter): parameter for parameter in model.parameters()}
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and (weight := module.weight).device.type == "cpu":
            last = weight.detach().contiguous(memory_format=torch.channels_last)  # copied if needed
            memo[id(weight)] = nn.Parameter(last, requires_grad=False)
    return copy.deepcopy(model, memo).eval()


def _one_call() -> fx.Graph:
    graph = fx.Graph()
    images = graph.call_method("clone", (graph.placeholder("x"),))  # to be written over
    graph.output(graph.call_module("network", (images,)))
    return graph


_ONE_CALL = _one_call()


def _close(one: Tensor, other: Tensor) -> bool:
    """Equal but for rounding, as sums in another order are."""
    within = torch.finfo(other.dtype).eps ** 0.5
    scale = other.nan_to_num(0, 0, 0).abs().max().item()
    return one.shape == other.shape and torch.allclose(
        one, other, rtol=within, atol=within * scale, equal_nan=True
    )
