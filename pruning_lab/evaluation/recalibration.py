"""BatchNorm statistics of a pruned network: those of the dense one no longer fit it."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pruning_lab import data
from pruning_lab.data import Images
from pruning_lab.layers import device_of, mode


def recalibrate(model: nn.Module, images: Images) -> int:
    """Set the statistics of all BatchNorm layers to those of `images`, batch by batch; how many.

    Give training images: a thousand are enough, and more are better. Weights and mode stay as they
    are, after an error the statistics too. Raises ValueError where there is no image.
    """
    norms = batch_norms(model).values()
    momenta = [(norm, norm.momentum) for norm in norms]
    buffers = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    device, seen = device_of(model), 0
    with torch.no_grad(), mode(model, training=False):
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum, norm.training = None, True  # None: all batches count alike
            for x, _ in data.checked(images) if norms else ():
                model(x.to(device))
                seen += len(x)
            if norms and not seen:
                raise ValueError("no images to recalibrate BatchNorm layers; give training images")
        except BaseException:
            for buffer, old in buffers:
                buffer.copy_(old)
            raise
        finally:
            for norm, momentum in momenta:
                norm.momentum = momentum
    return len(norms)


def batch_norms(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that normalise with running statistics, by their path."""
    modules = model.named_modules()
    return {n: m for n, m in modules if isinstance(m, _BatchNorm) and m.running_mean is not None}
