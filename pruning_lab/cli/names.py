"""Names typed by a person become objects: here and nowhere else."""

import argparse
import difflib
import importlib
import math
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout, suppress

import torch
from torch import nn

from pruning_lab import criteria, data, evaluation, experiments, files, models, processes
from pruning_lab.cli.words import LENETS, NETWORKS, SALIENCIES
from pruning_lab.criteria import Saliency
from pruning_lab.layers import device_of


def saliency(options: argparse.Namespace) -> Saliency:
    """What was typed; random takes the seed that was typed."""
    name = options.saliency or SALIENCIES[0]
    return criteria.random(options.seed or 0) if name == "random" else criteria.magnitude


def recalibrate(options: argparse.Namespace, model: nn.Module, splits: data.Splits):
    """The training images that --recalibrate asks for; None without it."""
    if options.recalibrate is None:
        return None
    if not evaluation.batch_norms(model):
        raise ValueError("this network has no BatchNorm layer; leave --recalibrate away")
    return splits.train.head(options.recalibrate)


def known_saliency(name: str, path: str) -> Saliency:
    """The saliency that a scan or a plan was made with."""
    if (found := criteria.by_name(str(name))) is None:
        raise ValueError(
            f"{path} was made with the saliency {name!r}, which its name alone does not make; "
            f"continue in Python, with saliency=..."
        )
    return found


# ------------------------------------------------------------------------------------- networks


def network(options: argparse.Namespace, path: str | None = None) -> tuple[nn.Module, dict]:
    """The network that was named, filled from its file, and what the file says about it."""
    path, name = path or _file(options), options.model
    if name and ":" in name:
        model = _own(name)
        about = models.load_(model, path) if path else None
        return model, {**(about or {}), "network": name}
    if path is None:
        raise ValueError(
            "name a network's file (dense.safetensors), or a network of your own with "
            "--model package.module:function"
        )
    name = name or (files.load_about(path) or {}).get("network")
    if not isinstance(name, str | None):
        raise ValueError(f"{path}: its network must be a name, got {name!r}; add --model NAME")
    if name not in models.BUILT_IN:
        raise ValueError(_unknown(name, path, options))
    return models.load(path, name)


def check_fit(model: nn.Module, splits: data.Splits) -> None:
    """Raise ValueError where the network cannot take these images, or has too few answers."""
    images = splits.val.head(1)
    shape = " x ".join(map(str, images.shape))
    try:
        with evaluation.measuring(model):
            ((answer, y),) = ((model(x.to(device_of(model))), y) for x, y in images)
    except Exception as error:  # whatever a network raises
        raise ValueError(
            f"this network cannot take the images of {splits.name}, which are {shape}: "
            f"{_misfit(model, images.shape, error)}"
        ) from error
    evaluation.check_labels(y, *evaluation.check_logits(answer))
    outputs = answer.shape[1]
    if (there := classes(splits)) > outputs:
        raise ValueError(
            f"this network tells {outputs} classes apart, and {splits.name} has {there}"
        )


def check_memory(about: Mapping) -> None:
    """Raise ValueError where a network, its gradients and momentum exceed this machine's memory."""
    with torch.device("meta"):
        needed = 12 * sum(p.numel() for p in models.build(about).parameters())
    there = math.inf
    with suppress(AttributeError, ValueError, OSError):  # Windows and some others do not say
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise ValueError(
            f"training {models.describe(about)} takes {needed / 1e9:,.0f} GB of memory, and this "
            f"machine has {there / 1e9:,.0f}; choose a smaller --width or --size"
        )


def _file(options: argparse.Namespace) -> str | None:
    weights = getattr(options, "weights", None)
    if options.file and weights:
        raise ValueError(
            f"the network's file was given twice, {options.file} and --weights {weights}; "
            f"leave one out"
        )
    return options.file or weights


def _unknown(name: str | None, path: str, options: argparse.Namespace) -> str:
    """The sentence for a file that is of none of the built-in networks."""
    known = " or ".join(NETWORKS)
    if name is None:
        return f"{path} does not say which network it is; add --model NAME ({known})"
    if not hasattr(options, "weights"):
        return f"{path} is of the network {name!r}; {options.command} takes only {known}"
    if ":" in name:
        return f"{path} is of code that is not run unasked; if you trust it, add --model {name}"
    return f"no network {name!r}; there are {known}, or your own as package.module:function"


def _own(name: str) -> nn.Module:
    """What `package.module:function` gives; modules are looked for in the current folder too."""
    module, _, function = name.partition(":")
    if not (module and function):
        raise ValueError(f"--model {name}: type package.module:function, such as nets:make")
    sys.path.insert(0, os.getcwd())
    with redirect_stdout(sys.stderr):  # what it prints is none of our answer
        made = _call(name, lambda: importlib.import_module(module), f"importing {module!r}")
        if not hasattr(made, function):
            near = difflib.get_close_matches(function, dir(made))
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ValueError(f"--model {name}: no function {function!r} in {module}{hint}")
        model = _call(name, getattr(made, function), f"calling {function}(), without arguments,")
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"--model {name}: {function}() gave a {type(model).__name__}, "
            f"expected a torch.nn.Module"
        )
    return model


def _call(name: str, function: Callable, doing: str):
    try:
        return function()
    except (Exception, SystemExit) as error:  # whatever a person's own code raises
        if isinstance(error, ModuleNotFoundError) and _misses(name, error):
            raise ValueError(
                f"--model {name}: no module {error.name!r} in {os.getcwd()} or installed; "
                f"name it as Python imports it, package.module:function"
            ) from error
        raise ValueError(
            f"--model {name}: {doing} failed with {type(error).__name__}: {_first_line(error)}; "
            f"--debug shows where"
        ) from error


def _misses(name: str, error: ModuleNotFoundError) -> bool:
    """Whether it is the named module that is not there, and not one that it imports."""
    return bool(error.name) and f"{name.partition(':')[0]}.".startswith(f"{error.name}.")


def _misfit(model: nn.Module, shape: tuple[int, int, int], error: Exception) -> str:
    """Why a network cannot take images (C, H, W), in channels and pixels and not in matrices."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels != shape[0]:
            return f"its first layer {name} takes images of {module.in_channels} x height x width"
        if isinstance(module, nn.Conv2d):
            break
        if isinstance(module, nn.Linear) and module.in_features != math.prod(shape):
            taken = f"{module.in_features:,} values, channels x height x width"
            return f"its first layer {name} takes images of {taken}"
    if "shapes cannot be multiplied" in str(error):
        return "it takes images of another height and width; give another --size, where it has one"
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


# ------------------------------------------------------------------------------- data and device


def splits(
    options: argparse.Namespace, name: str | None = None, about: Mapping | None = None
) -> data.Splits:
    """The images that were named, at the size that the network `about` takes."""
    photos = (about or {}).get("network") in PHOTOS
    size = options.size
    if photos and size is None:
        size = models.settings(about)["size"]
    with processes.first_alone():  # one decodes, the others find it done
        return data.load(
            name or options.data or ("photos" if photos else "auto"),
            root=options.root,
            device=device(options.device),
            download=options.download,
            size=size,
        )


PHOTOS = tuple(name for name in models.BUILT_IN if name not in LENETS)


def shape(options: argparse.Namespace, network: str) -> dict:
    """Width, size and dropout of a network for photos: what was typed, else what suits the device.

    A LeNet has none to choose. Raises ValueError where one was typed for it.
    """
    typed = {name: getattr(options, name) for name in ("width", "size", "dropout")}
    typed = {name: value for name, value in typed.items() if value is not None}
    if network not in PHOTOS:
        for name in typed:
            raise ValueError(f"--{name} goes with alexnet and vgg-16, {network} has one shape")
        return {}
    if options.data == "imagenet":
        return typed
    if "width" in typed or not device(options.device).startswith("cpu"):
        return {"size": 128, **typed}
    return {**experiments.REDUCED[network], **typed}


def classes(splits: data.Splits) -> int:
    return 1 + max(int(part.labels.max()) for part in (splits.train, splits.val, splits.test))


def device(name: str) -> str:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        name = "mps" if name == "cpu" and torch.backends.mps.is_available() else name
    available = {"cpu": True, "cuda": torch.cuda.is_available()}
    available["mps"] = torch.backends.mps.is_available()
    if not available[name]:
        raise ValueError(f"--device {name}: this machine's torch has none; use --device auto")
    if name == "cuda":  # of several processes, each takes the next one
        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    return name


# --------------------------------------------------------------------------------------- amounts


def amounts(kind: str, texts: list[str]) -> float | dict[str, float]:
    """`0.08`, or `fc1=0.08 fc2=0.1`, as masks.prune takes it."""
    pairs = [text.rpartition("=") for text in texts]
    try:
        values = {
            layer: float(number if layer or not sign else "") for layer, sign, number in pairs
        }
    except ValueError:
        raise ValueError(
            f"--{kind} takes a number (0.08) or LAYER=NUMBER pairs (fc1=0.08 fc2=0.1), "
            f"got {' '.join(texts)}"
        ) from None
    if len(values) < len(texts):
        raise ValueError(f"--{kind} names a layer twice: {' '.join(texts)}")
    if "" in values and len(values) > 1:
        raise ValueError(f"--{kind} takes one number or LAYER=NUMBER pairs, not both")
    return values.get("", values)
