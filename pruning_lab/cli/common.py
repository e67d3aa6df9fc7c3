"""Options that several commands share, and what they stand for: output, network, images."""

from __future__ import annotations

import json
import math
import os
import pkgutil
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Annotated, Literal, get_origin

from cyclopts import Group, Parameter

import pruning_lab as lab

RECIPES = ("lenet-300-100", "lenet-5", "alexnet", "vgg-16")  # networks of the paper
PHOTO_NETWORKS = ("alexnet", "alexnet-torchvision", "vgg-16")
NETWORKS = (*RECIPES[:2], *PHOTO_NETWORKS)
DATA = ("auto", "mnist", "mnist-5k", "photos", "imagenette", "imagenet", "shapes", "folder:PATH")


def number(low: float, high: float, *, above: bool = False, hint: str = "") -> Parameter:
    """Takes a number from `low` (or above it) to `high`, or a list; whole numbers if `low` is."""
    whole = isinstance(low, int)

    def one(text: str) -> float:
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or (above and value == low):
            kind, start = "a whole number" if whole else "a number", "above" if above else "from"
            span = f"{start} {low:g} to {f'{high:,}'.removesuffix('.0')}"
            raise ValueError(f"must be {kind} {span}, got {text!r}{hint}")
        return value

    def convert(kind: type, tokens) -> float | list[float]:
        values = [one(token.value) for token in tokens]
        return values if get_origin(kind) is list else values[0]

    return Parameter(converter=convert, metavar="N" if whole else "X")


@dataclass(frozen=True)
class File:
    """Marks an option that names a file: one to read, or one to write of this kind."""

    writes: str | None = None  # "network", "scan", "plan", "mask", "page"
    checkpoint: bool = False  # training leaves a checkpoint beside it


FRACTION = number(0.0, 1.0, hint="; for a percentage, divide by 100")
COUNT, AMOUNT, POINTS = number(1, 1_000_000), number(0.0, 1e6), number(0.0, 100.0)
MANY, FILE = Parameter(consume_multiple=1), Parameter(metavar="FILE")
NETWORK = Group("Network", sort_key=1)

InputFile = Annotated[str | None, File(), FILE]
_FILE = Parameter(name=("--file", "--weights"), help="The network's file.")
NetworkFile = Annotated[InputFile, _FILE]
TrainedFile = Annotated[str, File("network", checkpoint=True), FILE]
Layers = Annotated[list[str] | None, MANY, Parameter(metavar="LAYER")]
Saliency = Literal["magnitude", "random"]
SEED = number(0, 10**12)
Seed = Annotated[int, SEED, Parameter(help="Random seed.")]
Method = Literal["single", "joint"] | None
_EVALUATIONS = "Most evaluations of a search, on 1,000 images each (default: 1000)."
Evaluations = Annotated[int | None, COUNT, Parameter(help=_EVALUATIONS)]
_RECALIBRATE = "Set BatchNorm statistics after every cut from N training images (1000 are enough)."
Recalibrate = Annotated[int | None, COUNT, Parameter(help=_RECALIBRATE)]


@Parameter(name="*", group=Group("Output", sort_key=9))
@dataclass(frozen=True, kw_only=True)
class Output:
    """What is printed, and how much of it."""

    json: bool = False
    """Print JSON and nothing else."""
    verbose: bool = False
    """Also print how it is computed."""
    debug: bool = False
    """Show the traceback of an error."""
    command: Annotated[str, Parameter(parse=False)] = ""  # what the user typed

    @property
    def quiet(self) -> bool:
        return self.json or lab.processes.rank() > 0

    def say(self, line: object) -> None:
        from tqdm import tqdm

        if not self.quiet:
            tqdm.write(str(line))  # above the bar, where there is one
            sys.stdout.flush()

    def show(self, record: dict, text: str) -> None:
        """The result of a command: as JSON, or in words."""
        if self.json and lab.processes.rank() == 0:
            print(json.dumps(record, ensure_ascii=False))
        self.say(text)

    def bar(self, total: int, unit: str):
        """A progress bar on a terminal, which vanishes at the end."""
        from tqdm import tqdm

        layout = f"{{l_bar}}{{bar}}| {{n_fmt}}/{{total_fmt}} {unit}, {{remaining}} left{{postfix}}"
        off = True if self.quiet else None  # None: off where stderr is not a terminal
        return tqdm(total=total, leave=False, disable=off, bar_format=layout)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class WritingOutput(Output):
    """`Output` of a command that writes files."""

    force: bool = False
    """Replace files of an earlier call."""


# -------------------------------------------------------------------------------------- network


@Parameter(name="*", group=NETWORK)
@dataclass(frozen=True, kw_only=True)
class Network:
    """Which network a file holds."""

    model: Annotated[
        str | None,
        Parameter(
            help=f"What the file holds, if it does not say: {', '.join(NETWORKS)}, or your own "
            "function that returns the network, as package.module:function."
        ),
    ] = None

    def load(self, path: str | None) -> tuple:
        """The network, filled from its file where there is one, and what that says about it."""
        if path is None and ":" not in (self.model or ""):
            raise ValueError(
                "name a network's file (dense.safetensors), or your own network with "
                "--model package.module:function"
            )
        about = (lab.files.load_about(path) or {}) if path else {}
        if ":" not in (name := self.name(about, path)):
            return lab.models.load(path, name)
        model = build({"network": name})
        if path:
            lab.models.load_(model, path)
        return model, about | {"network": name}

    def name(self, about: Mapping, path: object) -> str:
        """The network's name, as typed or as a file says it; code is run only where it is typed."""
        for key, kind in {"network": str, "data": str, "root": str, "size": int}.items():
            if not isinstance(value := about.get(key), kind | None):
                what = "a name" if kind is str else "a number"
                raise ValueError(f"{path}: its {key} must be {what}, got {value!r}")
        if (name := self.model or about.get("network")) is None:
            known = ", ".join(NETWORKS)
            raise ValueError(f"{path} does not say which network it is; add --model NAME ({known})")
        if ":" in name and not self.model:
            raise ValueError(
                f"{path} is of code that is not run unasked; if you trust it, add --model {name}"
            )
        return name


def build(about: Mapping):
    """A new network: built in, or of a function, whose module the current folder may hold."""
    from torch import nn

    if ":" not in (name := about["network"]):
        return lab.models.build(about)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: a sklearn.py there is not run
    try:
        with redirect_stdout(sys.stderr):  # what it prints is no part of our output
            model = pkgutil.resolve_name(name)()
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise ValueError(
            f"--model {name} failed with {type(error).__name__}: {_first_line(error)}; name a "
            f"function without arguments as package.module:function (--debug shows where it failed)"
        ) from error
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"--model {name} gave a {type(model).__name__}, expected a torch.nn.Module"
        )
    return model


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


# ---------------------------------------------------------------------------- images and device


@Parameter(name="*", group=Group("Images and device", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class Images:
    """The images that a command reads, and where it computes."""

    data: Annotated[
        str | None,
        Parameter(
            help=f"{', '.join(DATA)} (default: what the network's file names, else auto: mnist "
            "where it is, else mnist-5k; for alexnet and vgg-16 photos: imagenette where it is, "
            "else shapes)."
        ),
    ] = None
    size: Annotated[int | None, number(1, 2048)] = None
    """Photos become N x N pixels (default: the network's)."""
    root: str | None = None
    """Folder of the data sets (default: $PRUNING_LAB_DATA, else data)."""
    download: bool = False
    """Fetch the data if it is not there."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    threads: Annotated[int | None, number(1, 4 * (os.cpu_count() or 1))] = None
    """Threads on a CPU (default: what suits the network)."""

    def load(self, about: Mapping, output: Output, model=None, *, training: bool = False):
        """The splits, by default those that a network's file names; the model has to fit them."""
        import torch

        network, known = about["network"], about.get("data")
        size, photos = self.size or about.get("size"), network in PHOTO_NETWORKS
        if photos and size is None:
            size = lab.models.settings(about)["size"]
        with lab.processes.first_alone():  # one decodes, the others find it done
            splits = lab.data.load(
                self.data or known or ("photos" if photos else "auto"),
                root=self.root or about.get("root"),
                device=self.where(),
                download=self.download,
                size=size,
            )
        output.say(splits)
        if known and full_name(splits.name) != full_name(known) and lab.processes.rank() == 0:
            note = f"NOTE: this network was trained on {known}, not on {splits.name}"
            print(note, file=sys.stderr)
        if model is not None:
            check_fit(model.to(splits.val.device), splits)
        # More threads are slower for the small matrices of LeNet-300-100.
        if threads := self.threads or int(training and network == "lenet-300-100"):
            torch.set_num_threads(threads)
        return splits

    def where(self) -> str:
        """The torch device; of several processes, each takes the next GPU."""
        import torch

        cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
        best = "cuda" if cuda else "mps" if mps else "cpu"
        name = best if self.device == "auto" else self.device
        gpu = int(os.environ.get("LOCAL_RANK", "0")) % max(1, torch.cuda.device_count())
        return f"cuda:{gpu}" if name == "cuda" else name


def full_name(data: str) -> str:
    """A data set's name that means the same in any folder."""
    kind, colon, path = data.partition(":")
    return f"{kind}:{os.path.abspath(os.path.expanduser(path))}" if colon else data


def classes(splits) -> int:
    return 1 + max(int(part.labels.max()) for part in (splits.train, splits.val, splits.test))


def check_fit(model, splits) -> None:
    """Raise ValueError where the network cannot take these images, or has too few outputs."""
    images = splits.val.head(1)
    try:
        with lab.evaluation.measuring(model):
            ((logits, y),) = ((model(x.to(splits.val.device)), y) for x, y in images)
    except Exception as error:  # whatever a network raises
        named = ((name, layer) for name, layer in model.named_modules() if hasattr(layer, "weight"))
        name, layer = next(named, ("none", ""))
        raise ValueError(
            f"this network cannot take the images of {splits.name}, which are "
            f"{' x '.join(map(str, images.shape))} (channels x height x width): "
            f"{_first_line(error)}; its first layer is {name} = {layer}"
        ) from error
    lab.evaluation.check_labels(y, *lab.evaluation.check_logits(logits))
    if (there := classes(splits)) > logits.shape[1]:
        raise ValueError(
            f"this network has {logits.shape[1]} outputs, and {splits.name} has {there} classes"
        )


def recalibration(number: int | None, model, splits):
    """The training images that --recalibrate asks for; None without it."""
    if number and not lab.evaluation.batch_norms(model):
        raise ValueError("this network has no BatchNorm layer; leave --recalibrate out")
    return splits.train.head(number) if number else None
