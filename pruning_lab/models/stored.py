"""Weights in files: our own, those that come with the package, and torchvision's by renaming."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pruning_lab import files

_TORCHVISION = {"alexnet-torchvision": "alexnet", "vgg-16": "vgg16"}  # torchvision's names
_WRAPPERS = {"module": "DataParallel", "_orig_mod": "torch.compile"}  # each holds the model so


def save(path: str | Path, model: nn.Module, *, about: dict | None = None) -> Path:
    """Write the state_dict as safetensors (`fc1.weight`, `fc1.bias`, ...)."""
    return files.save_tensors(path, model.state_dict(), about=about)


def load_(model: nn.Module, path: str | Path) -> dict | None:
    """Fill `model` from a file of `save`; returns the file's `about`.

    Unless every name and shape agrees, it raises ValueError and does not change the model.
    """
    check_fit(model, files.load_shapes(path), path)  # before gigabytes of another network are read
    tensors, about = files.load_tensors(path)
    fill_(model, tensors, path)
    return about


def fill_(model: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """`load_` for a state_dict that has been read from `path`."""
    check_fit(model, tensors, path)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            what = "has a number that is infinite or NaN; train again with a lower lr"
            raise files.wrong(f"{path}: {name}", what)
    model.load_state_dict(tensors)


def check_fit(
    model: nn.Module, tensors: Mapping[str, Tensor | tuple[int, ...]], path: str | Path
) -> None:
    """Raise ValueError unless names and shapes (of tensors, or alone) are those of the model."""
    shapes = {name: tuple(getattr(entry, "shape", entry)) for name, entry in tensors.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in {**expected, **shapes}:
        found, ours = shapes.get(name, "missing"), expected.get(name, "no such tensor")
        if found != ours:
            todo = "is it of another network, width, size or classes?"
            for wrapper, by in _WRAPPERS.items():
                if shapes and all(name.startswith(f"{wrapper}.") for name in shapes):
                    names = f"all its names begin with '{wrapper}.', which {by} adds"
                    todo = f"{names}; save the state_dict of model.{wrapper}"
            raise files.wrong(f"{path}: {name}", f"is {found}, this network expects {ours}; {todo}")


def fingerprint(model: nn.Module | Mapping[str, Tensor]) -> str:
    """SHA-256 of the parameters and buffers of a network, or of its state_dict."""
    tensors = (model if isinstance(model, Mapping) else model.state_dict()).values()
    return files.sha256(
        *(t.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy() for t in tensors)
    )


def with_trained(chain: nn.Sequential, name: str, trained: str | Path | None) -> nn.Sequential:
    """The chain, filled from the file that `trained` names by a word or by its path."""
    if trained is None:
        return chain
    path, own = _find(name, str(trained)), chain.state_dict()
    tensors = _renamed(_read(path), list(own))
    *_, weight, bias = own
    found = tensors.get(weight, own[weight])
    if found.shape[1:] == own[weight].shape[1:] and len(found) != len(own[weight]):
        tensors |= {weight: own[weight], bias: own[bias]}
    fill_(chain, tensors, path)
    return chain


def _find(name: str, trained: str) -> Path:
    folder = Path(__file__).parent.parent / "weights"
    shipped = {p.stem.removeprefix(f"{name}-"): p for p in folder.glob(f"{name}-*.safetensors")}
    words = sorted(shipped) + ["imagenet"] * (name in _TORCHVISION)
    if trained in words:
        return shipped.get(trained) or _fetched(_TORCHVISION[name])
    if Path(trained).is_file():
        return Path(trained)
    raise ValueError(
        f"no trained weights of {name} on {trained!r}; there are: {', '.join(words) or 'none'}, "
        f"or give the path of a file"
    )


def _fetched(name: str) -> Path:
    """torchvision's own file, in the folder where torch.hub keeps what it has downloaded."""
    from torchvision import models  # slow to import

    url = models.get_model_weights(name).DEFAULT.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        sha256 = path.stem.rpartition("-")[2]  # its first 8 digits: torch's name for the file
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256)
        except (OSError, RuntimeError) as error:
            todo = "check the connection, or fetch it yourself and give its path as trained="
            raise ConnectionError(f"{url} could not be fetched ({error}); {todo}") from None
    return path


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix not in (".pth", ".pt"):
        return files.load_tensors(path)[0]
    files.open_file(path).close()
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # its readers raise all kinds
        what = f"cannot be read as weights and nothing else ({type(error).__name__})"
        raise files.wrong(path, f"{what}; save model.state_dict() alone") from None
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise files.wrong(path, "holds more than a state_dict; save model.state_dict() alone")
    return {str(name): tensor for name, tensor in tensors.items()}


def _renamed(tensors: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """torchvision's names (features.0.weight, ...) replaced by ours, in order."""
    words = [re.fullmatch(r"(features|classifier)\.(\d+)\.(weight|bias)", name) for name in tensors]
    if not all(words) or len(tensors) != len(names):
        return tensors
    words.sort(key=lambda found: (found[1] == "classifier", int(found[2]), found[3] == "bias"))
    return {ours: tensors[found[0]] for ours, found in zip(names, words, strict=True)}
