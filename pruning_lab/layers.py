"""The prunable weights of any nn.Module by layer name, what no mask covers, device and mode.

A layer is named by its dotted path without `.weight` (`fc1`, `block.0`). Wrappers (DDP,
torch.compile) are left out of names, so what was made on a wrapped model fits the plain one.
"""

import difflib
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruning_lab.rows import printable

# Module type -> names of its prunable parameters. Types of your own can be added:
# ADAPTERS[MyLayer] = ("kernel",)
ADAPTERS: dict[type[nn.Module], tuple[str, ...]] = {
    **dict.fromkeys((nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d), ("weight",)),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), ("weight",)),
    nn.MultiheadAttention: ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"),
}

# A module whose only child has one of these names, and that has no parameters, is a wrapper.
_WRAPPED = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


@dataclass(frozen=True, eq=False)
class Layer:
    """Where a prunable weight is stored; `weight` is the parameter that is there now."""

    module: nn.Module
    attribute: str = "weight"

    @property
    def weight(self) -> nn.Parameter:
        return self.module._parameters[self.attribute]


@dataclass(frozen=True)
class NotCovered:
    """A parameter that no mask covers, or all biases and normalisation parameters together."""

    name: str
    parameters: int
    why: str


class Layers(dict[str, Layer]):
    """Layers by name; the error for an unknown name names the nearest."""

    def __missing__(self, name: str) -> Layer:
        raise KeyError(unknown_layer(name, self))


def prunable(model: nn.Module) -> Layers:
    """The weights of linear, convolution and attention layers by name, each weight once.

    A weight that two layers share appears under its first name. A layer that computes its weight
    (a parametrization) is left out. ValueError for a lazy layer without one, for a layer that
    torch.nn.utils.prune has pruned, and for one that stores its weight sparse.

    >>> list(prunable(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))))
    ['0', '2']
    """
    layers, seen = Layers(), set()
    for path, module in _modules(model):
        for attribute in _adapted(module):
            weight = module._parameters.get(attribute)
            suffix = "" if attribute == "weight" else f".{attribute.removesuffix('_weight')}"
            name = f"{path}{suffix}".lstrip(".")
            if isinstance(weight, nn.parameter.UninitializedParameter):
                kind = type(module).__name__
                todo = "run one batch of images through the model first"
                raise ValueError(f"layer {name!r} ({kind}) has no weight yet; {todo}")
            if weight is None and (why := _why_not_prunable(module, attribute)):
                raise ValueError(f"layer {name!r} {why}")
            if weight is not None and id(weight) not in seen:
                seen.add(id(weight))
                layers[name] = Layer(module, attribute)
    return layers


def _why_not_prunable(module: nn.Module, attribute: str) -> str | None:
    """For layers that would be left out, though zeros in them are what the user is here for."""
    if f"{attribute}_orig" in module._parameters and f"{attribute}_mask" in module._buffers:
        return "is pruned by torch.nn.utils.prune; call masks.Mask.from_torch(model) first"
    return getattr(module, "unprunable", None)


def not_covered(model: nn.Module) -> tuple[NotCovered, ...]:
    """Every parameter outside of `prunable`, with the reason; biases and norms in one last row."""
    seen = {id(layer.weight) for layer in prunable(model).values()}
    rows, small, computed = [], 0, []
    for path, module in _modules(model):
        if any(attribute not in module._parameters for attribute in _adapted(module)):
            computed.append(f"{path}." if path else "")
        for attribute, parameter in module._parameters.items():
            if parameter is None or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if parameter.dim() < 2 or "norm" in type(module).__name__.lower():
                small += parameter.numel()
                continue
            name = f"{path}.{attribute}".lstrip(".")
            why = f"{type(module).__name__} is not a layer that is pruned"
            if name.startswith(tuple(computed)):
                why = "its layer computes the weight from other tensors; make it plain to prune it"
            rows.append(NotCovered(name, parameter.numel(), why))
    return *rows, NotCovered("biases, normalisation and other vectors", small, "never pruned")


def unknown_layer(name: str, known: Collection[str]) -> str:
    """The error's text for an unknown layer name, with the nearest names first."""
    near = difflib.get_close_matches(str(name).removesuffix(".weight"), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    names = ", ".join(known) or "none"
    return printable(f"no layer {str(name)!r} to prune; {hint}this network has {names}")


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside of DDP, torch.compile and the like."""
    while _wraps(model):
        (model,) = model._modules.values()
    return model


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's parameters, on which it runs; ValueError for the meta device."""
    check_model(model)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if device.type == "meta":
        todo = "type model.to_empty(device='cpu'), and load its state_dict"
        raise ValueError(f"this model is on the meta device, so it has no weights; {todo}")
    return device


def check_model(model: nn.Module) -> None:
    """Raise TypeError for what is no network, such as the name of its file."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"expected a network (nn.Module), got {type(model).__name__} {model!r:.60}; for a file "
            f"of pruning_lab, type model, about = models.load(path)"
        )


def check_dtype(model: nn.Module) -> None:
    """Raise ValueError where the weights are in half precision: images are float32."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.element_size() < 4:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise ValueError(f"{name} is in {kind}, and images are float32; type model.float()")


def check_logits(logits: Tensor) -> tuple[int, int]:
    """(N, classes), the shape; ValueError for any other output of a network."""
    if isinstance(logits, Tensor) and logits.dim() == 2:
        return tuple(logits.shape)
    shape = f" of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else ""
    got = type(logits).__name__ + shape
    raise ValueError(
        f"a network must answer with a tensor of shape (N, classes), got a {got}; "
        f"wrap it in a module whose forward returns the logits alone"
    )


def generators(device: torch.device) -> list[torch.device]:
    """The devices whose random states `torch.random.fork_rng` keeps besides the CPU's."""
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    return [torch.device("cuda", number) for number in range(count)]


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers from `seed` inside, on CPU and `device`; afterwards the states of before."""
    with torch.random.fork_rng(generators(device)):
        # torch.manual_seed would reach GPUs whose states the fork does not keep.
        (torch.default_generator if device.type == "cpu" else torch).manual_seed(seed)
        yield


def in_main_thread() -> bool:
    """Whether this thread may set torch's default generators, which all threads share."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Training or evaluation mode inside; afterwards every module in the one it was in."""
    before = [(module, module.training) for module in model.modules()]
    try:
        model.train(training)
        yield
    finally:
        for module, was_training in before:
            module.training = was_training


def _modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """`named_modules` with wrappers left out of the names."""
    check_model(model)
    wrappers = {path for path, module in model.named_modules() if _wraps(module)}
    for path, module in model.named_modules():
        if path not in wrappers:
            parts = path.split(".")
            own = (p for i, p in enumerate(parts) if ".".join(parts[:i]) not in wrappers)
            yield ".".join(own), module


def _wraps(module: nn.Module) -> bool:
    names = module._modules.keys()
    return len(names) == 1 and names <= _WRAPPED and not module._parameters


def _adapted(module: nn.Module) -> tuple[str, ...]:
    """The prunable attributes of a module's type, or of the nearest type above it."""
    return next((ADAPTERS[kind] for kind in type(module).__mro__ if kind in ADAPTERS), ())
