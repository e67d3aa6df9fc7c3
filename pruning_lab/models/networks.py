"""LeNet-300-100, LeNet-5, AlexNet (the paper's and torchvision's) and VGG-16.

All take these keywords. `classes`: the number of outputs. `width` scales the hidden layers.
`dropout`: the rate of the dropout layers at the fully connected ones; at 0 there are none.
`trained="mnist"` (the LeNets) and `"imagenette"` (a reduced AlexNet, of the shape
`experiments.REDUCED["alexnet"]`) load the weights that come with the package, `"imagenet"` those of
torchvision, `trained=PATH` those of a file; where `classes` differs from the file's, the last layer
keeps its random weights. Photos are (3, `size`, `size`).
"""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning_lab import files
from pruning_lab.models.stored import check_fit, load_, with_trained

Model = Callable[..., nn.Sequential]
SMALLEST = 32  # px: with fewer, a pooling layer has no input left
SMALL = 128  # px: below, an AlexNet has another first layer


def lenet_300_100(
    *, classes: int = 10, width: float = 1.0, dropout: float = 0.0, trained=None
) -> nn.Sequential:
    """784-300-100-10 with ReLU: 266,200 weights, 266,610 with biases (paper, Tables 1 and 2).

    >>> lenet_300_100(trained="mnist")(torch.zeros(1, 1, 28, 28)).shape
    torch.Size([1, 10])
    """
    hidden1, hidden2 = _scaled(width, 300, 100)
    chain = _chain(
        flatten=nn.Flatten(),
        fc1=nn.Linear(784, hidden1),
        relu1=nn.ReLU(),
        drop1=nn.Dropout(dropout),
        fc2=nn.Linear(hidden1, hidden2),
        relu2=nn.ReLU(),
        drop2=nn.Dropout(dropout),
        fc3=nn.Linear(hidden2, classes),
    )
    return with_trained(chain, "lenet-300-100", trained)


def lenet_5(
    *, classes: int = 10, width: float = 1.0, dropout: float = 0.0, trained=None
) -> nn.Sequential:
    """Caffe's LeNet, 20-50-500-10: 430,500 weights, 431,080 with biases (paper, Tables 1 and 3).

    Our reading: a ReLU follows both convolutions; Caffe's own example has none there, but the paper
    reports 82 % and 72 % of the pooled outputs as not zero. It follows the pooling, where it is the
    same function (the maximum of ReLUs is the ReLU of the maximum) on a quarter of the values.
    """
    maps1, maps2, hidden = _scaled(width, 20, 50, 500)
    chain = _chain(
        conv1=nn.Conv2d(1, maps1, kernel_size=5),  # 28 x 28 -> 24 x 24
        pool1=nn.MaxPool2d(2),  # -> 12 x 12
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(maps1, maps2, kernel_size=5),  # -> 8 x 8
        pool2=nn.MaxPool2d(2),  # -> 4 x 4
        relu2=nn.ReLU(),
        flatten=nn.Flatten(),
        fc1=nn.Linear(maps2 * 4 * 4, hidden),
        relu3=nn.ReLU(),
        drop3=nn.Dropout(dropout),
        fc2=nn.Linear(hidden, classes),
    )
    return with_trained(chain, "lenet-5", trained)


def alexnet(
    *, classes: int = 1000, width: float = 1.0, size: int = 227, dropout: float = 0.5, trained=None
) -> nn.Sequential:
    """Caffe's AlexNet: 60,954,656 weights, 60,965,224 with biases (paper, Tables 1 and 4).

    Pooling rounds up as Caffe's does, so 224 px give 6 x 6 maps as 227 do. **Below 128 px conv1 is
    5 x 5 with stride 2 instead of 11 x 11 with stride 4**, which would leave a single value of
    64 px; so 4 x 4 are left. The convolutions' first weights are He's: with torch's own, the first
    epoch over a small set like Imagenette learns nothing.
    """
    maps = _scaled(width, 96, 256, 384, 384, 256, groups=2)
    chain = _alexnet(maps, width, classes, size, dropout, caffe=True)
    return with_trained(chain, "alexnet", trained)


def alexnet_torchvision(
    *, classes: int = 1000, width: float = 1.0, size: int = 224, dropout: float = 0.5, trained=None
) -> nn.Sequential:
    """torchvision's AlexNet: 61,090,496 weights, 61,100,840 with biases (Krizhevsky 2014).

    Other channels than the paper's, no groups, no normalisation, and dropout before fc1 and fc2.
    Maps are averaged to 6 x 6, or left as they are where they are smaller: copies of the same
    values would cost weights and tell nothing. Below 128 px conv1 is that of `alexnet`.
    """
    maps = _scaled(width, 64, 192, 384, 256, 256)
    chain = _alexnet(maps, width, classes, size, dropout, caffe=False)
    return with_trained(chain, "alexnet-torchvision", trained)


def _alexnet(
    maps: list[int], width: float, classes: int, size: int, dropout: float, *, caffe: bool
) -> nn.Sequential:
    _check(size)
    groups = 2 if caffe else 1
    kernel, stride, padding = (5, 2, 2) if size < SMALL else (11, 4, 0 if caffe else 2)
    side = (size + 2 * padding - kernel) // stride + 1
    for _ in range(3):  # poolings of 3 x 3 with stride 2
        side = side // 2 if caffe else (side - 1) // 2
    side = side if caffe else min(6, side)
    (hidden,) = _scaled(width, 4096)
    return _chain(
        he=caffe,
        conv1=nn.Conv2d(3, maps[0], kernel, stride, padding),  # 227 x 227 -> 55 x 55
        relu1=nn.ReLU(),
        norm1=LocalResponseNorm() if caffe else None,
        pool1=nn.MaxPool2d(3, stride=2, ceil_mode=caffe),  # -> 27 x 27
        conv2=nn.Conv2d(maps[0], maps[1], kernel_size=5, padding=2, groups=groups),
        relu2=nn.ReLU(),
        norm2=LocalResponseNorm() if caffe else None,
        pool2=nn.MaxPool2d(3, stride=2, ceil_mode=caffe),  # -> 13 x 13
        conv3=nn.Conv2d(maps[1], maps[2], kernel_size=3, padding=1),
        relu3=nn.ReLU(),
        conv4=nn.Conv2d(maps[2], maps[3], kernel_size=3, padding=1, groups=groups),
        relu4=nn.ReLU(),
        conv5=nn.Conv2d(maps[3], maps[4], kernel_size=3, padding=1, groups=groups),
        relu5=nn.ReLU(),
        pool5=nn.MaxPool2d(3, stride=2, ceil_mode=caffe),  # -> 6 x 6
        avgpool=None if caffe else nn.AdaptiveAvgPool2d(side),
        flatten=nn.Flatten(),
        drop5=None if caffe else nn.Dropout(dropout),
        fc1=nn.Linear(maps[4] * side**2, hidden),
        relu6=nn.ReLU(),
        drop6=nn.Dropout(dropout),
        fc2=nn.Linear(hidden, hidden),
        relu7=nn.ReLU(),
        drop7=nn.Dropout(dropout) if caffe else None,
        fc3=nn.Linear(hidden, classes),
    )


def vgg_16(
    *, classes: int = 1000, width: float = 1.0, size: int = 224, dropout: float = 0.5, trained=None
) -> nn.Sequential:
    """VGG-16: 138,344,128 weights, 138,357,544 with biases (paper, Tables 1 and 5).

    The convolutions' first weights are He's, as torchvision's are: with torch's own, 13 layers let
    hardly anything through. Maps are averaged to 7 x 7, or left as they are where they are smaller.
    """
    _check(size)
    features: dict[str, nn.Module] = {}
    channels = 3
    blocks = zip(_scaled(width, 64, 128, 256, 512, 512), (2, 2, 3, 3, 3), strict=True)
    for block, (maps, layers) in enumerate(blocks, start=1):
        for place in range(1, layers + 1):
            features[f"conv{block}_{place}"] = nn.Conv2d(channels, maps, kernel_size=3, padding=1)
            features[f"relu{block}_{place}"] = nn.ReLU()
            channels = maps
        features[f"pool{block}"] = nn.MaxPool2d(2)  # 224 x 224 -> 112, 56, 28, 14, 7 x 7
    side = min(7, size // 32)
    (hidden,) = _scaled(width, 4096)
    chain = _chain(
        he=True,
        **features,
        avgpool=nn.AdaptiveAvgPool2d(side),
        flatten=nn.Flatten(),
        fc6=nn.Linear(channels * side**2, hidden),
        relu6=nn.ReLU(),
        drop6=nn.Dropout(dropout),
        fc7=nn.Linear(hidden, hidden),
        relu7=nn.ReLU(),
        drop7=nn.Dropout(dropout),
        fc8=nn.Linear(hidden, classes),
    )
    return with_trained(chain, "vgg-16", trained)


class LocalResponseNorm(nn.LocalResponseNorm):
    """x / (1 + alpha / 5 * sum of x^2 over 5 neighbouring channels)^0.75, as in Caffe's AlexNet.

    2 to 7 times as fast as torch's on a CPU: the sum is a 1 x 1 convolution with a band of ones.
    """

    def __init__(self):
        super().__init__(5, alpha=1e-4, beta=0.75, k=1.0)

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W)
        channels = x.shape[1]
        ones = x.new_ones(channels, channels)
        band = ones.tril(self.size // 2).triu(-(self.size // 2))[:, :, None, None]
        small = x * (self.alpha / self.size) ** 0.5  # before squaring: half ends at 65,504
        root = F.conv2d(small.square(), band, ones[0]).rsqrt()  # the bias is k = 1
        return x * (root * root.sqrt())


def _chain(*, he: bool = False, **layers: nn.Module | None) -> nn.Sequential:
    """A chain of the layers, without those that are None and dropout at rate 0.

    `he`: the convolutions' weights are normal and keep the scale through ReLUs (He et al. 2015);
    with such fully connected layers too, AlexNet diverges early.
    """
    present = OrderedDict(
        (name, layer)
        for name, layer in layers.items()
        if layer is not None and not (isinstance(layer, nn.Dropout) and layer.p == 0)
    )
    # Channels last makes a CPU's convolutions about 1.5 times as fast, and a GPU's with bf16.
    chain = nn.Sequential(present).to(memory_format=torch.channels_last)
    for layer in chain:
        if he and isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return chain


def _scaled(width: float, *sizes: int, groups: int = 1) -> list[int]:
    """Channels or units at `width`, at least one of each; all are multiples of `groups`."""
    if not width > 0:
        raise ValueError(f"width must be above 0, got {width}; 1.0 is the paper's network")
    return [groups * max(1, round(width * size / groups)) for size in sizes]


def _check(size: int) -> None:
    if size < SMALLEST:
        raise ValueError(f"size must be at least {SMALLEST} px, got {size}; scale the images up")


BUILT_IN: dict[str, Model] = {
    "lenet-300-100": lenet_300_100,
    "lenet-5": lenet_5,
    "alexnet": alexnet,
    "alexnet-torchvision": alexnet_torchvision,
    "vgg-16": vgg_16,
}
_BOUNDS = {  # what a file may ask for without being broken
    "classes": (int, 1, 1_000_000),
    "width": (float, 0, 100),
    "size": (int, SMALLEST, 10_000),
    "dropout": (float, 0, 1),
}


def settings(about: Mapping) -> dict:
    """What `about` says of a built-in network; ValueError for an impossible value.

    >>> settings({"network": "lenet-5", "width": 0.5, "seed": 3})
    {'network': 'lenet-5', 'classes': 10, 'width': 0.5, 'dropout': 0.0}
    """
    name = about.get("network")
    if not isinstance(name, str) or name not in BUILT_IN:
        raise ValueError(f"no built-in network {name!r}; there are {', '.join(BUILT_IN)}")
    parameters = inspect.signature(BUILT_IN[name]).parameters.values()
    chosen = {p.name: about.get(p.name, p.default) for p in parameters if p.name != "trained"}
    for key, value in chosen.items():
        kind, least, most = _BOUNDS[key]
        if type(value) not in (int, kind) or not least <= value <= most:
            bounds = f"{'a whole number' if kind is int else 'a number'} {least} ... {most:,}"
            raise ValueError(f"{key} of {name} must be {bounds}, got {value!r}")
    return {"network": name, **chosen}


def build(about: Mapping) -> nn.Sequential:
    """The network that `settings(about)` describes, with new random weights."""
    chosen = settings(about)
    return BUILT_IN[chosen.pop("network")](**chosen)


def load(path: str | Path, network: str | None = None) -> tuple[nn.Sequential, dict]:
    """The built-in network in a file of `save`, and what the file says of it.

    `network` is for files that do not name theirs.
    """
    about = files.load_about(path) or {}
    if network is not None:
        about["network"] = network
    try:
        with torch.device("meta"):
            model = build(about)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    check_fit(model, files.load_shapes(path), path)  # before memory is taken
    load_(model.to_empty(device="cpu"), path)
    return model, about


def describe(about: Mapping) -> str:
    """`alexnet, width 0.25, 64 px (conv1 5 x 5), 10 classes`: what is not said is the paper's."""
    chosen = settings(about)
    words = [chosen["network"]]
    if chosen["width"] != 1:
        words.append(f"width {chosen['width']:g}")
    if size := chosen.get("size"):
        small = size < SMALL and chosen["network"].startswith("alexnet")
        words.append(f"{size} px (conv1 5 x 5)" if small else f"{size} px")
    return ", ".join([*words, f"{chosen['classes']:,} classes"])
