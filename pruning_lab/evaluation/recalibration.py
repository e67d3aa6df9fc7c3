"""BatchNorm statistics of a pruned network: those of the dense one no longer fit it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pruning_lab.data import Images
from pruning_lab.layers import device_of, mode


def recalibrate(model: nn.Module, images: Images) -> int:
    """Set the statistics of all BatchNorm layers to those of `images`, batch by batch; how many.

    Give training images: a thousand are enough, and more are better. Weights stay as they are, and
    so does the mode. Raises ValueError where there is no image.
    """
    norms = batch_norms(model)
    device, seen = device_of(model), 0
    with torch.no_grad(), mode(model, training=False), renewed_statistics(model):
        for x, _ in images if norms else ():
            model(x.to(device))
            seen += len(x)
        if norms and not seen:
            raise ValueError("no images to recalibrate BatchNorm layers with; give training images")
    return len(norms)


def batch_norms(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that normalise with running statistics, by their path."""
    modules = model.named_modules()
    return {n: m for n, m in modules if isinstance(m, _BatchNorm) and m.running_mean is not None}


@contextmanager
def renewed_statistics(model: nn.Module) -> Iterator[None]:
    """BatchNorm layers average the statistics of all batches inside; an error restores the old."""
    norms = list(batch_norms(model).values())
    before = [(norm.momentum, norm.training) for norm in norms]
    buffers = [(b, b.clone()) for norm in norms for b in norm.buffers()]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum, norm.training = None, True
        yield
    except BaseException:
        for buffer, old in buffers:
            buffer.copy_(old)
        raise
    finally:
        for norm, (momentum, training) in zip(norms, before, strict=True):
            norm.momentum, norm.training = momentum, training
