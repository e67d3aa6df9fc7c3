"""AlexNet (the paper's and torchvision's) and VGG-16, for photos of 3 x size x size."""

from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning_lab.models.chains import dropout as dropped
from pruning_lab.models.chains import scaled, side_behind
from pruning_lab.models.stored import with_trained

SMALLEST = 32  # px: less, and a pooling has nothing left to pool
SMALL = 128  # px: below, an AlexNet has another first layer


def alexnet(
    *,
    classes: int = 1000,
    width: float = 1.0,
    size: int = 227,
    dropout: float = 0.5,
    trained: str | Path | None = None,
) -> nn.Sequential:
    """Caffe's AlexNet: 60,954,656 weights, 60,965,224 with biases (paper, Tables 1 and 4).

    Images are (3, size, size), and fc1 takes what the convolutions make of them. Pooling rounds up
    as Caffe's does, so 224 px give 6 x 6 maps as 227 do. **Below 128 px conv1 is 5 x 5 with stride
    2 instead of 11 x 11 with stride 4**, which would leave a single value of 64 px; at 64 px a map
    of 4 x 4 is left, and an image costs about what one of 128 px does.

    The convolutions' first weights are He's (2015): with torch's own, the first epoch over a small
    set like Imagenette learns nothing.

    `width` scales channels and hidden units; `dropout` stands behind fc1 and fc2; `trained=PATH`
    loads a file. Where `classes` differs from what was trained, the last layer starts afresh.
    """
    maps1, maps2, maps3, maps4, maps5 = scaled(width, 96, 256, 384, 384, 256, groups=2)
    features = OrderedDict(
        conv1=_first(maps1, size, padding=0),  # 227 x 227 -> 55 x 55
        relu1=nn.ReLU(),
        norm1=LocalResponseNorm(),
        pool1=nn.MaxPool2d(3, stride=2, ceil_mode=True),  # -> 27 x 27
        conv2=nn.Conv2d(maps1, maps2, kernel_size=5, padding=2, groups=2),
        relu2=nn.ReLU(),
        norm2=LocalResponseNorm(),
        pool2=nn.MaxPool2d(3, stride=2, ceil_mode=True),  # -> 13 x 13
        conv3=nn.Conv2d(maps2, maps3, kernel_size=3, padding=1),
        relu3=nn.ReLU(),
        conv4=nn.Conv2d(maps3, maps4, kernel_size=3, padding=1, groups=2),
        relu4=nn.ReLU(),
        conv5=nn.Conv2d(maps4, maps5, kernel_size=3, padding=1, groups=2),
        relu5=nn.ReLU(),
        pool5=nn.MaxPool2d(3, stride=2, ceil_mode=True),  # -> 6 x 6
    )
    inputs = maps5 * side_behind(features.values(), size) ** 2
    hidden1, hidden2 = scaled(width, 4096, 4096)
    classifier = OrderedDict(
        flatten=nn.Flatten(),
        fc1=nn.Linear(inputs, hidden1),
        relu6=nn.ReLU(),
        **dropped(drop6=dropout),
        fc2=nn.Linear(hidden1, hidden2),
        relu7=nn.ReLU(),
        **dropped(drop7=dropout),
        fc3=nn.Linear(hidden2, classes),
    )
    chain = _he_(_chain(features, classifier))
    return with_trained(chain, "alexnet", trained)


def alexnet_torchvision(
    *,
    classes: int = 1000,
    width: float = 1.0,
    size: int = 224,
    dropout: float = 0.5,
    trained: str | Path | None = None,
) -> nn.Sequential:
    """torchvision's AlexNet: 61,090,496 weights, 61,100,840 with biases (Krizhevsky 2014).

    Other channels than the paper's, no groups, no normalisation, and dropout before fc1 and fc2.
    Maps are averaged to 6 x 6, or left as they are where they are smaller (of 160 px 4 x 4), and
    fc1 takes that: copies of the same values would cost weights and tell nothing. Built with the
    usual `size`, it takes any image of 63 px or more as torchvision's does. Below 128 px conv1 is
    that of `alexnet`.

    `trained="imagenet"` fetches torchvision's weights, `trained=PATH` reads them from a file, with
    torchvision's names (.pth or safetensors) or with ours. Where `classes` differs from what was
    trained, the last layer starts afresh.
    """
    maps1, maps2, maps3, maps4, maps5 = scaled(width, 64, 192, 384, 256, 256)
    features = OrderedDict(
        conv1=_first(maps1, size, padding=2),  # 224 x 224 -> 55 x 55
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(3, stride=2),  # -> 27 x 27
        conv2=nn.Conv2d(maps1, maps2, kernel_size=5, padding=2),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(3, stride=2),  # -> 13 x 13
        conv3=nn.Conv2d(maps2, maps3, kernel_size=3, padding=1),
        relu3=nn.ReLU(),
        conv4=nn.Conv2d(maps3, maps4, kernel_size=3, padding=1),
        relu4=nn.ReLU(),
        conv5=nn.Conv2d(maps4, maps5, kernel_size=3, padding=1),
        relu5=nn.ReLU(),
        pool5=nn.MaxPool2d(3, stride=2),  # -> 6 x 6
    )
    side = min(6, side_behind(features.values(), size))
    hidden1, hidden2 = scaled(width, 4096, 4096)
    classifier = OrderedDict(
        avgpool=nn.AdaptiveAvgPool2d(side),
        flatten=nn.Flatten(),
        **dropped(drop5=dropout),
        fc1=nn.Linear(maps5 * side**2, hidden1),
        relu6=nn.ReLU(),
        **dropped(drop6=dropout),
        fc2=nn.Linear(hidden1, hidden2),
        relu7=nn.ReLU(),
        fc3=nn.Linear(hidden2, classes),
    )
    return with_trained(_chain(features, classifier), "alexnet-torchvision", trained)


def vgg_16(
    *,
    classes: int = 1000,
    width: float = 1.0,
    size: int = 224,
    dropout: float = 0.5,
    trained: str | Path | None = None,
) -> nn.Sequential:
    """VGG-16: 138,344,128 weights, 138,357,544 with biases (paper, Tables 1 and 5).

    The convolutions' first weights are He's (2015), as torchvision's are: with torch's own, 13
    layers let hardly anything through. Maps are averaged to 7 x 7, or left as they are where
    they are smaller. `dropout` stands behind fc6 and fc7. `width`, `size`, `classes` and `trained`
    are those of `alexnet_torchvision`.
    """
    _check(size)
    features: OrderedDict[str, nn.Module] = OrderedDict()
    channels = 3
    blocks = zip(scaled(width, 64, 128, 256, 512, 512), (2, 2, 3, 3, 3), strict=True)
    for block, (maps, layers) in enumerate(blocks, start=1):
        for place in range(1, layers + 1):
            features[f"conv{block}_{place}"] = nn.Conv2d(channels, maps, kernel_size=3, padding=1)
            features[f"relu{block}_{place}"] = nn.ReLU()
            channels = maps
        features[f"pool{block}"] = nn.MaxPool2d(2)  # 224 x 224 -> 112, 56, 28, 14, 7 x 7
    side = min(7, side_behind(features.values(), size))
    hidden6, hidden7 = scaled(width, 4096, 4096)
    classifier = OrderedDict(
        avgpool=nn.AdaptiveAvgPool2d(side),
        flatten=nn.Flatten(),
        fc6=nn.Linear(channels * side**2, hidden6),
        relu6=nn.ReLU(),
        **dropped(drop6=dropout),
        fc7=nn.Linear(hidden6, hidden7),
        relu7=nn.ReLU(),
        **dropped(drop7=dropout),
        fc8=nn.Linear(hidden7, classes),
    )
    chain = _he_(_chain(features, classifier))
    return with_trained(chain, "vgg-16", trained)


class LocalResponseNorm(nn.LocalResponseNorm):
    """x / (1 + alpha / 5 * sum of x^2 over 5 neighbouring channels)^0.75, as in Caffe's AlexNet.

    The same function as torch's layer, which takes 2 to 7 times as long on a CPU: the sum is a
    1 x 1 convolution with a band of ones, and d^-0.75 is made of square roots.
    """

    def __init__(self):
        super().__init__(5, alpha=1e-4, beta=0.75, k=1.0)

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W)
        channels = x.shape[1]
        ones = x.new_ones(channels, channels)
        band = ones.tril(self.size // 2).triu(-(self.size // 2))[:, :, None, None]
        # Made small before it is squared, since half precision ends at 65,504. k = 1 is the bias.
        small = x * (self.alpha / self.size) ** 0.5
        root = F.conv2d(small.square(), band, ones[0]).rsqrt()
        return x * (root * root.sqrt())


def _first(maps: int, size: int, padding: int) -> nn.Conv2d:
    _check(size)
    if size < SMALL:
        return nn.Conv2d(3, maps, kernel_size=5, stride=2, padding=2)
    return nn.Conv2d(3, maps, kernel_size=11, stride=4, padding=padding)


def _check(size: int) -> None:
    if size < SMALLEST:
        raise ValueError(f"size must be at least {SMALLEST} px, got {size}; scale the images up")


def _he_(chain: nn.Sequential) -> nn.Sequential:
    """Normal weights that keep the size of what passes a convolution and a ReLU (He et al. 2015).

    The fully connected layers stay as torch starts them: with He's too, AlexNet diverges early.
    """
    for layer in chain:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return chain


def _chain(features: OrderedDict, classifier: OrderedDict) -> nn.Sequential:
    # Channels last makes a CPU's convolutions faster, and a GPU's with bf16.
    return nn.Sequential(features | classifier).to(memory_format=torch.channels_last)
