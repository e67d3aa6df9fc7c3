"""Weights in files: our own, those that ship with the package, and torchvision's by renaming."""

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pruning_lab import files
from pruning_lab.masks import prunable

# torchvision's names of the layers, in the order of ours.
TORCHVISION = {
    "alexnet-torchvision": (
        *(f"features.{place}" for place in (0, 3, 6, 8, 10)),
        *(f"classifier.{place}" for place in (1, 4, 6)),
    ),
    "vgg-16": (
        *(f"features.{place}" for place in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)),
        *(f"classifier.{place}" for place in (0, 3, 6)),
    ),
}


def save(path: str | Path, model: nn.Module, *, about: dict | None = None) -> Path:
    """Write the state_dict as safetensors (`fc1.weight`, `fc1.bias`, ...)."""
    return files.save_tensors(path, model.state_dict(), about=about)


def load_(model: nn.Module, path: str | Path) -> dict | None:
    """Fill `model` from a file of `save`; returns what it kept as `about`.

    Raises ValueError, and leaves the model as it was, unless every name and shape agrees.
    """
    check_fit(model, files.load_shapes(path), path)  # before gigabytes of another network are read
    tensors, about = files.load_tensors(path)
    fill_(model, tensors, path)
    return about


def fill_(model: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """`load_` for a state_dict that has been read from `path`; it raises the same way."""
    check_fit(model, tensors, path)
    check_finite(tensors, path)
    model.load_state_dict(tensors)


def check_fit(
    model: nn.Module, tensors: Mapping[str, Tensor | tuple[int, ...]], path: str | Path
) -> None:
    """Raise ValueError unless names and shapes (of tensors, or alone) are those of the model."""
    shapes = {name: tuple(getattr(entry, "shape", entry)) for name, entry in tensors.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if missing := expected.keys() - shapes.keys():
        raise ValueError(f"{path} lacks {_some(missing)}; is it of another network?")
    if extra := shapes.keys() - expected.keys():
        raise ValueError(f"{path} also holds {_some(extra)}; is it of another network?")
    for name, shape in expected.items():
        if shapes[name] != shape:
            raise ValueError(
                f"{path}: {name} has shape {shapes[name]}, this network expects {shape}; is it of "
                f"another width, size or classes?"
            )


def _some(names: Collection[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(sorted(names)[:8]) + more


def check_finite(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise ValueError where a tensor read from `path` has a number that is none."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(
                f"{path}: {name} has a number that is infinite or NaN; train again with a lower lr"
            )


# -------------------------------------------------------------------------------- trained weights


def with_trained(chain: nn.Sequential, name: str, trained: str | Path | None) -> nn.Sequential:
    """The chain, filled from a file: one that has a word of its own, or any other by its path."""
    if trained is None:
        return chain
    path = _find(name, str(trained))
    tensors = _with_our_names(_read(path), name, chain)
    _keep_last(chain, tensors)
    fill_(chain, tensors, path)
    return chain


def _find(name: str, trained: str) -> Path:
    folder = Path(__file__).parent.parent / "weights"
    shipped = sorted(p.stem.removeprefix(f"{name}-") for p in folder.glob(f"{name}-*.safetensors"))
    if trained in shipped:
        return folder / f"{name}-{trained}.safetensors"
    if trained == "imagenet" and name in TORCHVISION:
        return _fetched(name)
    if Path(trained).is_file():
        return Path(trained)
    words = [*shipped, *(["imagenet"] if name in TORCHVISION else [])]
    raise ValueError(
        f"no trained weights of {name} on {trained!r}; there are: {', '.join(words) or 'none'}, "
        f"or give the path of a file"
    )


def _fetched(name: str) -> Path:
    """torchvision's own file, from where torch.hub keeps what it has downloaded before."""
    from torchvision import models  # slow to import

    url = models.get_model_weights(name.removesuffix("-torchvision").replace("-", "")).DEFAULT.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        sha256 = path.stem.rpartition("-")[2]  # its first 8 digits: torch's name for the file
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256)
        except (OSError, RuntimeError) as error:
            raise ConnectionError(
                f"{url} could not be fetched ({error}); check the connection, or fetch it by hand "
                f"and give its path as trained="
            ) from None
    return path


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix not in (".pth", ".pt"):
        return files.load_tensors(path)[0]
    files.open_file(path).close()
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # its readers raise what they like
        raise ValueError(
            f"{path} cannot be read as weights and nothing else ({type(error).__name__}); it must "
            f"be what torch.save(model.state_dict(), ...) writes"
        ) from None
    whole = isinstance(tensors, dict) and all(isinstance(t, Tensor) for t in tensors.values())
    if not whole:
        raise ValueError(f"{path} holds more than a state_dict; save model.state_dict() alone")
    return tensors


def _with_our_names(
    tensors: Mapping[str, Tensor], name: str, chain: nn.Sequential
) -> dict[str, Tensor]:
    ours = dict(zip(TORCHVISION.get(name, ()), prunable(chain), strict=False))
    parts = {key: str(key).rpartition(".") for key in tensors}
    return {
        f"{ours.get(layer, layer)}{dot}{kind}": tensors[key]
        for key, (layer, dot, kind) in parts.items()
    }


def _keep_last(chain: nn.Sequential, tensors: dict[str, Tensor]) -> None:
    """Where only the classes differ, take the chain's own last layer for the file's."""
    name, layer = list(prunable(chain).items())[-1]
    theirs = tensors.get(f"{name}.weight", layer.weight)
    if theirs.shape[1:] == layer.weight.shape[1:] and len(theirs) != len(layer.weight):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = layer.weight, layer.module.bias


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of all that a network learned."""
    tensors = model.state_dict().values()
    return files.sha256(
        *(t.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy() for t in tensors)
    )
