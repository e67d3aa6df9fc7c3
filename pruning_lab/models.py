"""The paper's networks as chains: nn.Sequential of layers named as its tables name them."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pruning_lab import files

Model = Callable[..., nn.Sequential]


def lenet_300_100(
    *, classes: int = 10, width: float = 1.0, dropout: float = 0.0, trained: str | None = None
) -> nn.Sequential:
    """784-300-100-10 with ReLU: 266,200 weights, 266,610 with biases (paper, Tables 1 and 2).

    `width` scales the hidden layers; `dropout` > 0 puts a dropout layer behind each of them;
    `trained="mnist"` loads the weights that come with the package.
    """
    hidden1, hidden2 = _scaled(width, 300, 100)
    chain = nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(784, hidden1),
            relu1=nn.ReLU(),
            **_dropout(drop1=dropout),
            fc2=nn.Linear(hidden1, hidden2),
            relu2=nn.ReLU(),
            **_dropout(drop2=dropout),
            fc3=nn.Linear(hidden2, classes),
        )
    )
    return _with_trained(chain, "lenet-300-100", trained)


def lenet_5(
    *, classes: int = 10, width: float = 1.0, dropout: float = 0.0, trained: str | None = None
) -> nn.Sequential:
    """Caffe's LeNet, 20-50-500-10: 430,500 weights, 431,080 with biases (paper, Tables 1 and 3).

    Our reading: a ReLU follows both convolutions. Caffe's own example has none there, but the paper
    reports 82 % and 72 % of the pooled outputs as not zero, and without a ReLU none would be zero.
    It stands behind the pooling, where it is the same function (the maximum of ReLUs is the ReLU of
    the maximum) on a quarter of the values.
    """
    maps1, maps2, hidden = _scaled(width, 20, 50, 500)
    chain = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, maps1, kernel_size=5),  # 28 x 28 -> 24 x 24
            pool1=nn.MaxPool2d(2),  # -> 12 x 12
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(maps1, maps2, kernel_size=5),  # -> 8 x 8
            pool2=nn.MaxPool2d(2),  # -> 4 x 4
            relu2=nn.ReLU(),
            flatten=nn.Flatten(),
            fc1=nn.Linear(maps2 * 4 * 4, hidden),
            relu3=nn.ReLU(),
            **_dropout(drop3=dropout),
            fc2=nn.Linear(hidden, classes),
        )
    )
    # Channels last makes a CPU's convolutions about 1.5 times as fast.
    return _with_trained(chain.to(memory_format=torch.channels_last), "lenet-5", trained)


BUILT_IN: dict[str, Model] = {"lenet-300-100": lenet_300_100, "lenet-5": lenet_5}


def is_chain(model: nn.Module) -> bool:
    """Whether layers simply follow one another, so that a list of them is the whole network."""
    follows = type(model).forward is nn.Sequential.forward  # a subclass may have its own
    return follows and not any(list(layer.children()) for layer in model)


def save(path: str | Path, model: nn.Module, *, about: dict | None = None) -> Path:
    """Write the state_dict as safetensors (`fc1.weight`, `fc1.bias`, ...)."""
    return files.save_tensors(path, model.state_dict(), about=about)


def load_(model: nn.Module, path: str | Path) -> dict | None:
    """Fill `model` from a file of `save`; returns what it kept as `about`.

    Raises ValueError, and leaves the model as it was, unless every name and shape agrees.
    """
    tensors, about = files.load_tensors(path)
    fill_(model, tensors, path)
    return about


def fill_(model: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """`load_` for a state_dict that has been read from `path`; it raises the same way."""
    expected = model.state_dict()
    if missing := expected.keys() - tensors.keys():
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}; is it of another network?")
    if extra := tensors.keys() - expected.keys():
        raise ValueError(f"{path} also holds {', '.join(sorted(extra))}; is it of another network?")
    for name, tensor in expected.items():
        if tensors[name].shape != tensor.shape:
            raise ValueError(
                f"{path}: {name} has shape {tuple(tensors[name].shape)}, this network "
                f"expects {tuple(tensor.shape)}"
            )
    model.load_state_dict(tensors)


def _with_trained(chain: nn.Sequential, name: str, trained: str | None) -> nn.Sequential:
    if trained is None:
        return chain
    folder = Path(__file__).parent / "weights"
    known = sorted(p.stem.removeprefix(f"{name}-") for p in folder.glob(f"{name}-*.safetensors"))
    if trained not in known:
        raise ValueError(
            f"no trained weights of {name} on {trained!r}; there are: {', '.join(known) or 'none'}"
        )
    load_(chain, folder / f"{name}-{trained}.safetensors")
    return chain


def _scaled(width: float, *sizes: int) -> list[int]:
    if not width > 0:
        raise ValueError(f"width must be above 0, got {width}; 1.0 is the paper's network")
    return [max(1, round(width * size)) for size in sizes]


def _dropout(**rates: float) -> dict[str, nn.Module]:
    return {name: nn.Dropout(rate) for name, rate in rates.items() if rate > 0}
