"""Mean, standard deviation and colour axes of pixels."""

from typing import NamedTuple

import torch
from torch import Tensor

Levels = float | tuple[float, ...]  # one number for all channels, or one for each; 0 ... 255
Axes = tuple[tuple[float, ...], ...]  # (C, C): colour steps, in levels

# What torchvision's pretrained networks expect: mean and std of ImageNet's pixels.
IMAGENET: tuple[Levels, Levels] = (
    tuple(255 * value for value in (0.485, 0.456, 0.406)),
    tuple(255 * value for value in (0.229, 0.224, 0.225)),
)


class Scale(NamedTuple):
    """Statistics of the training pixels."""

    mean: Levels
    std: Levels
    axes: Axes  # eigenvectors of the covariance of the channels, as long as their eigenvalues


# Of ImageNet's RGB, as fb.resnet.torch measured them, in levels of 1: eigenvalues, eigenvectors.
_EIGENVALUES = (0.2175, 0.0188, 0.0045)
_EIGENVECTORS = (
    (-0.5675, -0.5808, -0.5836),
    (0.7192, -0.0045, -0.6948),
    (0.4009, -0.8140, 0.4203),
)
IMAGENET_AXES: Axes = tuple(
    tuple(255 * value * entry for entry in vector)
    for value, vector in zip(_EIGENVALUES, _EIGENVECTORS, strict=True)
)


def scale_of(images: Tensor) -> Scale:
    """Of uint8 (N, C, H, W): one mean and std of grey images, one for each channel of others."""
    if images.shape[1] == 1:
        levels = torch.arange(256, dtype=torch.float64)
        fraction = torch.bincount(images.reshape(-1), minlength=256).cpu() / images.numel()
        mean = float((fraction * levels).sum())
        std = float((fraction * (levels - mean) ** 2).sum().sqrt())
        return Scale(mean, std, ((std**2 / 255,),))
    sums, products = 0, 0  # of whole numbers far below 2^53, so exact in any order
    for chunk in images.split(64):
        values = chunk.transpose(0, 1).reshape(images.shape[1], -1).double()  # (C, pixels)
        sums, products = sums + values.sum(1), products + values @ values.T
    pixels = images.numel() // images.shape[1]
    mean = sums.cpu() / pixels
    covariance = products.cpu() / pixels - mean[:, None] * mean
    # In levels of 1 rather than 255, as everyone reads Krizhevsky et al. (2012, section 4.1):
    # an eigenvalue is a square, and 0.1 of one in levels of 255 would be a thousand levels.
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    axes = (vectors * vectors.sum(0).sign() * (eigenvalues / 255)).T
    std = covariance.diagonal().sqrt()
    return Scale(tuple(mean.tolist()), tuple(std.tolist()), tuple(map(tuple, axes.tolist())))
