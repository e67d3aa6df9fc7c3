"""Optimal Brain Damage: saliencies from the diagonal of the Hessian, by one pass backwards."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import grad
from torch.func import functional_call

from pruning_lab.criteria.saliencies import Computed, mean_over
from pruning_lab.layers import check_logits, prunable, unwrapped

Loss = Callable[[Tensor, Tensor], Tensor]  # logits (N, classes), labels (N,) -> mean over the batch

# What a chain may hold, by the rule that goes with it. Batch norm is elementwise in evaluation.
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
ELEMENTWISE = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid)
ELEMENTWISE += (nn.BatchNorm1d, nn.BatchNorm2d)
AVERAGING = (nn.AvgPool2d, nn.AdaptiveAvgPool2d)
SELECTING = (nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout2d, nn.MaxPool2d)
KINDS = (*WEIGHTED, *ELEMENTWISE, *AVERAGING, *SELECTING, nn.LocalResponseNorm)


def obd(
    model: nn.Module, images: Iterable[tuple[Tensor, Tensor]], *, loss: Loss = F.cross_entropy
) -> Computed:
    """h w^2 / 2: the second-order change of the loss when a weight is removed (LeCun et al. 1989).

    h is the diagonal of the Hessian of the mean loss over training images, in evaluation mode, by
    the paper's pass from the logits back to the images, where cross-entropy has p (1 - p): what two
    units of a layer do together is left out, and a convolution's h is the sum over its positions.
    In the last layer it is exact. `loss(logits, y)` is a mean over the batch, as in `train`.

    The paper prints f'^2 h - f'' g for an activation; the sign that is right is +. At a minimum no
    h is negative (the paper's extremal approximation): an h below 0 comes of a network that is not
    at one, and counts as 0. In LocalResponseNorm the divisor counts as a constant.

    The network must be an nn.Sequential, nested or not, of the layers in `hessian.KINDS`; else
    ValueError. Compute it again after the weights have changed.

    >>> model = nn.Sequential(nn.Linear(1, 2, bias=False))
    >>> nn.init.ones_(model[0].weight).tolist()  # so p = 1/2, and h = p (1 - p) x^2
    [[1.0], [1.0]]
    >>> obd(model, [(torch.tensor([[2.0]]), torch.tensor([0]))])["0"].tolist()
    [[0.5], [0.5]]
    """
    chain = list(_chain(unwrapped(model)))
    diagonal = mean_over(model, images, partial(_diagonal, chain, loss))
    weights = {name: layer.weight.detach() for name, layer in prunable(model).items()}
    saliencies = {n: h.clamp(min=0) * weights[n].square() / 2 for n, h in diagonal.items()}
    return Computed("obd", saliencies)


def _chain(model: nn.Module) -> Iterator[nn.Module]:
    """The layers in the order in which they run; ValueError where one has no rule."""
    computed = isinstance(model, WEIGHTED) and "weight" not in model._parameters
    if isinstance(model, nn.Sequential):
        for layer in model:
            yield from _chain(layer)
    elif isinstance(model, KINDS) and not computed:
        yield model
    else:
        got = f"a {type(model).__name__}" + " that computes its weight" * computed
        raise ValueError(
            f"Optimal Brain Damage needs an nn.Sequential of "
            f"{', '.join(kind.__name__ for kind in KINDS)}, got {got}; criteria.taylor takes any "
            f"network"
        )


def _diagonal(
    chain: list[nn.Module], loss: Loss, x: Tensor, y: Tensor, weights: Sequence[nn.Parameter]
) -> list[Tensor]:
    """For each weight the sum over images, and over all its uses, of d2E/dw2."""
    sums = {weight: torch.zeros_like(weight) for weight in weights}
    steps, z = [], x
    for layer in chain:
        x = z.detach().requires_grad_(True)
        z = layer(x.clone())  # a clone: some layers work in place
        if steps or isinstance(layer, WEIGHTED):  # what comes before is not needed
            steps.append((layer, x, z))
    check_logits(z)
    logits = z.detach().requires_grad_(True)
    (g,) = grad(len(y) * loss(logits, y), logits, create_graph=True)
    each = (grad(column.sum(), logits, retain_graph=True)[0] for column in g.unbind(1))
    h = torch.stack([second[:, n] for n, second in enumerate(each)], dim=1)
    g = g.detach()
    while steps:  # from g = dE/dz and h = d2E/dz2 to those of x
        layer, x, z = steps.pop()
        if isinstance(layer, WEIGHTED):
            # The layer of squares: dz/dw is x, dz/dx is w, and both enter as squares.
            x2, w2 = (t.detach().square().requires_grad_(True) for t in (x, layer.weight))
            squares = {"weight": w2} | ({} if layer.bias is None else {"bias": layer.bias * 0})
            wanted = (w2, x2) if steps else (w2,)
            part, *rest = grad(functional_call(layer, squares, x2), wanted, h)
            sums[layer.weight] += part
            if not steps:
                break
            (h,) = rest
        elif isinstance(layer, ELEMENTWISE):
            (slope,) = grad(z.sum(), x, create_graph=True)
            (bend,) = grad(slope.sum(), x, retain_graph=True, materialize_grads=True)
            h = slope.detach().square() * h + bend * g
        elif isinstance(layer, AVERAGING):
            pixels = x[0, 0].numel()  # every channel's map is averaged in the same way
            basis = torch.eye(pixels, dtype=x.dtype, device=x.device)
            factors = layer(basis.view(pixels, 1, *x.shape[2:])).flatten(1)  # (pixels, outputs)
            h = (h.flatten(2) @ factors.square().T).view_as(x)
        elif isinstance(layer, nn.LocalResponseNorm):
            h = torch.where(x == 0, 1, z / x).detach().square() * h
        else:
            (h,) = grad(z, x, h, retain_graph=True)
        (g,) = grad(z, x, g)
    return [sums[weight] for weight in weights]
