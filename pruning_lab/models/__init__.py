"""The paper's networks as chains: nn.Sequential of layers named as its tables name them."""

from pruning_lab.models.networks import (
    BUILT_IN,
    LocalResponseNorm,
    Model,
    alexnet,
    alexnet_torchvision,
    build,
    describe,
    lenet_5,
    lenet_300_100,
    load,
    settings,
    vgg_16,
)
from pruning_lab.models.stored import fill_, fingerprint, load_, save

__all__ = [
    "BUILT_IN",
    "LocalResponseNorm",
    "Model",
    "alexnet",
    "alexnet_torchvision",
    "build",
    "describe",
    "fill_",
    "fingerprint",
    "lenet_5",
    "lenet_300_100",
    "load",
    "load_",
    "save",
    "settings",
    "vgg_16",
]
