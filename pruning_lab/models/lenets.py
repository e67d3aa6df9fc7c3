"""The LeNets, for images of 1 x 28 x 28."""

from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn

from pruning_lab.models.chains import dropout as dropped
from pruning_lab.models.chains import scaled
from pruning_lab.models.stored import with_trained


def lenet_300_100(
    *,
    classes: int = 10,
    width: float = 1.0,
    dropout: float = 0.0,
    trained: str | Path | None = None,
) -> nn.Sequential:
    """784-300-100-10 with ReLU: 266,200 weights, 266,610 with biases (paper, Tables 1 and 2).

    `width` scales the hidden layers; `dropout` > 0 puts a dropout layer behind each of them;
    `trained="mnist"` loads the weights that come with the package, `trained=PATH` those of a file.
    Where `classes` differs from what was trained, the last layer starts afresh.
    """
    hidden1, hidden2 = scaled(width, 300, 100)
    chain = nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(784, hidden1),
            relu1=nn.ReLU(),
            **dropped(drop1=dropout),
            fc2=nn.Linear(hidden1, hidden2),
            relu2=nn.ReLU(),
            **dropped(drop2=dropout),
            fc3=nn.Linear(hidden2, classes),
        )
    )
    return with_trained(chain, "lenet-300-100", trained)


def lenet_5(
    *,
    classes: int = 10,
    width: float = 1.0,
    dropout: float = 0.0,
    trained: str | Path | None = None,
) -> nn.Sequential:
    """Caffe's LeNet, 20-50-500-10: 430,500 weights, 431,080 with biases (paper, Tables 1 and 3).

    Our reading: a ReLU follows both convolutions. Caffe's own example has none there, but the paper
    reports 82 % and 72 % of the pooled outputs as not zero, and without a ReLU none would be zero.
    It stands behind the pooling, where it is the same function (the maximum of ReLUs is the ReLU of
    the maximum) on a quarter of the values. `trained` is that of `lenet_300_100`.
    """
    maps1, maps2, hidden = scaled(width, 20, 50, 500)
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
            **dropped(drop3=dropout),
            fc2=nn.Linear(hidden, classes),
        )
    )
    # Channels last makes a CPU's convolutions about 1.5 times as fast.
    return with_trained(chain.to(memory_format=torch.channels_last), "lenet-5", trained)
