"""The weights of any nn.Module that can be pruned, by layer name; what stays outside; its mode.

Layers carry their dotted names without `.weight` (`fc1`, `block.0`); wrappers (DDP, torch.compile)
leave no trace in a name, so what was made on a wrapped model fits the plain one.
"""

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

# Module type -> names of its prunable parameters. A network's own module types can be added:
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
    """Where a prunable weight lives; `weight` is the parameter that is there now."""

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


def prunable(model: nn.Module) -> dict[str, Layer]:
    """The weights of linear, convolution and attention layers by name, each weight once.

    Biases and normalisation parameters are never pruned. A weight that two layers share appears
    under its first name. A layer that computes its weight (a parametrization, torch.nn.utils.prune)
    is left out; `not_covered` lists it. Raises ValueError for a lazy layer that has no weight yet.
    """
    layers, seen = {}, set()
    for name, module in _modules(model):
        for attribute in _adapted(module):
            weight = module._parameters.get(attribute)
            if weight is None or id(weight) in seen:
                continue
            if isinstance(weight, nn.parameter.UninitializedParameter):
                raise ValueError(
                    f"layer {name!r} ({type(module).__name__}) has no weight yet; "
                    f"run one batch of images through the model first"
                )
            seen.add(id(weight))
            layers[_layer_name(name, attribute)] = Layer(module, attribute)
    return layers


def not_covered(model: nn.Module) -> tuple[NotCovered, ...]:
    """Every parameter outside of `prunable`, with the reason; biases and norms in one last row."""
    seen = {id(layer.weight) for layer in prunable(model).values()}
    rows, small, computed = [], 0, []
    for name, module in _modules(model):
        if any(attribute not in module._parameters for attribute in _adapted(module)):
            computed.append(f"{name}." if name else "")
        for attribute, parameter in module._parameters.items():
            if parameter is None or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            path = f"{name}.{attribute}".lstrip(".")
            if parameter.dim() < 2 or "norm" in type(module).__name__.lower():
                small += parameter.numel()
                continue
            why = f"{type(module).__name__} is not a layer that is pruned"
            if any(path.startswith(prefix) for prefix in computed):
                why = "its layer computes the weight from other tensors; make it plain to prune it"
            rows.append(NotCovered(path, parameter.numel(), why))
    return *rows, NotCovered("biases, normalisation and other vectors", small, "never pruned")


def find(model: nn.Module, name: str, layers: Mapping[str, Layer]) -> Layer:
    """The layer of that name among the model's prunable `layers`; KeyError names the nearest."""
    if name in layers:
        return layers[name]
    for path, module in _modules(model, repeats=True):
        for attribute in _adapted(module):
            weight = module._parameters.get(attribute)
            if weight is not None and _layer_name(path, attribute) == name:
                first = next(n for n, layer in layers.items() if layer.weight is weight)
                raise KeyError(f"layer {name!r} shares the weight of {first!r}; name that one")
    raise KeyError(unknown_layer(name, layers))


def unknown_layer(name: str, known: Mapping[str, object]) -> str:
    """The sentence for a layer that is not there, with the nearest names first."""
    name = str(name)
    near = difflib.get_close_matches(name.removesuffix(".weight"), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    names = ", ".join(known) or "none"
    return f"no layer {name!r} to prune; {hint}this network has {names}"


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside of DDP, torch.compile and the like."""
    while _wraps(model):
        (model,) = model._modules.values()
    return model


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters are is where its work happens; ValueError for the meta device."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if device.type == "meta":
        raise ValueError(
            "this model is on the meta device, so it has no weights; type "
            "model.to_empty(device='cpu'), and load its state_dict"
        )
    return device


def check_dtype(model: nn.Module) -> None:
    """Raise ValueError where the weights are in half precision, and images in float32."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.element_size() < 4:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise ValueError(f"{name} is in {kind}, and images are float32; type model.float()")


def generators(device: torch.device) -> list[torch.device]:
    """The devices whose random states `torch.random.fork_rng` keeps besides the CPU's."""
    if device.type != "cuda":
        return []
    return [torch.device("cuda", number) for number in range(torch.cuda.device_count())]


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers from `seed` inside, on CPU and `device`; afterwards the states of before."""
    with torch.random.fork_rng(generators(device)):
        # torch.manual_seed would reach GPUs whose states the fork does not keep.
        (torch.default_generator if device.type == "cpu" else torch).manual_seed(seed)
        yield


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


def _modules(
    module: nn.Module, path: tuple[str, ...] = (), seen: set | None = None, *, repeats: bool = False
) -> Iterator[tuple[str, nn.Module]]:
    """`named_modules` with wrappers left out of the names; each module once, unless `repeats`."""
    seen = set() if seen is None else seen
    if id(module) in seen and not repeats:
        return
    seen.add(id(module))
    wraps = _wraps(module)
    if not wraps:
        yield ".".join(path), module
    for name, child in module._modules.items():
        if child is not None:
            yield from _modules(child, path if wraps else (*path, name), seen, repeats=repeats)


def _wraps(module: nn.Module) -> bool:
    names = module._modules.keys()
    return len(names) == 1 and names <= _WRAPPED and not module._parameters


def _adapted(module: nn.Module) -> tuple[str, ...]:
    """The prunable attributes of a module's type, or of the nearest type above it."""
    found = (ADAPTERS[kind] for kind in type(module).__mro__ if kind in ADAPTERS)
    return next(found, ())


def _layer_name(path: str, attribute: str) -> str:
    """`fc1` for its `weight`, `attention.in_proj` for the `in_proj_weight` of `attention`."""
    if attribute == "weight":
        return path
    return f"{path}.{attribute.removesuffix('_weight')}".lstrip(".")
