"""Optimal Brain Damage: the diagonal of the Hessian, exact where the theory says so."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.functional import hessian, jacobian
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

from pruning_lab import criteria, masks, models


def some(*shape: int, classes: int = 3, n: int = 5):
    """A batch of images and labels."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(n, *shape, generator=generator, dtype=torch.float64)
    return x, torch.randint(classes, (n,), generator=generator)


def diagonal(model, images) -> dict:
    """h, from the saliencies h w^2 / 2."""
    layers = masks.prunable(model)
    return {
        n: 2 * s / layers[n].weight.detach() ** 2 for n, s in criteria.obd(model, images).items()
    }


def exact(model, name: str, x, y):
    """The diagonal of the Hessian of the mean cross-entropy, by autograd."""
    weight = model.get_submodule(name).weight.detach()

    def loss(flat):
        changed = {f"{name}.weight": flat.view_as(weight)}
        return F.cross_entropy(functional_call(model, changed, (x,)), y)

    return hessian(loss, weight.flatten()).diagonal().view_as(weight)


def by_definition(chain, x, y) -> dict:
    """The paper's recursion, image by image, from whole Jacobians.

    d2E/dx_j^2 is the sum over units i of (dz_i/dx_j)^2 d2E/dz_i^2 + d2z_i/dx_j^2 dE/dz_i, and that
    of a weight likewise, in which every position of a convolution is a unit.
    """
    sums = {}
    for image, label in zip(x.split(1), y, strict=True):
        steps, z = [], image
        for name, layer in chain.named_children():
            steps.append((name, layer, z))
            z = layer(z.clone()).detach()
        p = z.softmax(1).flatten()
        g, h = p - F.one_hot(label, len(p)), p * (1 - p)
        for name, layer, z in reversed(steps):
            if isinstance(layer, nn.Linear | nn.Conv2d):
                weight = layer.weight.detach()
                slopes = jacobian(partial(with_weight, layer, z), weight.flatten())
                sums[name] = sums.get(name, 0) + (h @ slopes.square()).view_as(weight)
            run = partial(flat, layer, z.shape)
            slopes = jacobian(run, z.flatten())
            bends = hessian(lambda t, run=run, g=g: run(t) @ g, z.flatten()).diagonal()
            g, h = g @ slopes, h @ slopes.square() + bends
    return {name: total / len(y) for name, total in sums.items()}


def flat(layer, shape, values):
    return layer(values.view(shape).clone()).flatten()


def with_weight(layer, x, values):
    return functional_call(layer, {"weight": values.view_as(layer.weight)}, x).flatten()


CHAINS = {
    "convolutions": lambda: [
        nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2),  # 7 x 7 -> 4 x 4
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 3, 2, dilation=2),  # -> 2 x 2
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(12, 3),
    ],
    "overlapping maxima": lambda: [
        nn.Conv2d(2, 2, 3),  # 7 x 7 -> 5 x 5
        nn.MaxPool2d(3, stride=2),  # -> 2 x 2
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(8, 3),
    ],
    "averages": lambda: [
        nn.AvgPool2d(3, stride=1, padding=1),
        nn.Conv2d(2, 2, 3),  # 7 x 7 -> 5 x 5
        nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),  # -> 3 x 3
        nn.GELU(),
        nn.AdaptiveAvgPool2d(2),  # windows that overlap
        nn.Flatten(),
        nn.Linear(8, 3),
    ],
    "batch norm": lambda: [
        nn.Conv2d(2, 3, 5),  # 7 x 7 -> 3 x 3
        nn.BatchNorm2d(3),
        nn.LeakyReLU(0.3),
        nn.Flatten(),
        nn.Linear(27, 4),
        nn.Tanh(),
        nn.Linear(4, 3),
    ],
}


def chain_of(name: str) -> nn.Sequential:
    """In evaluation mode, with weights so large that second derivatives matter."""
    torch.manual_seed(1)
    chain = nn.Sequential(*CHAINS[name]()).double().eval()
    for layer in chain:
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 2)
            layer.running_mean.uniform_(-1, 1)
            layer.running_var.uniform_(0.5, 2)
        elif hasattr(layer, "weight"):
            nn.init.normal_(layer.weight, std=0.5)
    return chain


@pytest.mark.parametrize("name", CHAINS)
def test_every_layer_follows_the_papers_recursion(name):
    chain, (x, _) = chain_of(name), some(2, 7, 7)
    y = chain(x).argmax(1)  # few second derivatives are negative then
    expected = by_definition(chain, x, y)
    found = diagonal(chain.train(), [(x, y)])  # measures in evaluation mode all the same
    assert found.keys() == expected.keys()
    for layer, h in expected.items():
        assert (h > 0).float().mean() > 0.5
        torch.testing.assert_close(found[layer], h.clamp(min=0))  # none is negative at a minimum


def three_layers(activation, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = nn.Linear(10, 8), activation(), nn.Linear(8, 6), activation(), nn.Linear(6, 3)
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_the_last_layer_is_exact_and_deeper_ones_are_near(activation):
    """Only what two units do together is left out, and in the last layer there is nothing."""
    model, (x, y) = three_layers(activation, 1), some(10, n=200)
    found = diagonal(model, [(x, y)])
    torch.testing.assert_close(found["4"], exact(model, "4", x, y), rtol=1e-5, atol=0)
    for name in ("0", "2"):
        h = exact(model, name, x, y)
        assert 0.5 < found[name].mean() / h.mean() < 2
        assert torch.corrcoef(torch.stack([found[name].flatten(), h.flatten()]))[0, 1] > 0.5


def test_with_one_unit_in_each_layer_all_is_exact_and_the_printed_sign_is_not():
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(4, 1), nn.Tanh(), nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 2))
    model, (x, y) = model.double(), some(4, classes=2)
    with torch.no_grad():
        model[2].bias.fill_(1.0)
        model[4].weight.copy_(torch.tensor([[3.0], [0.0]]))  # two logits would interact
    found = criteria.obd(model, [(x, y)])
    for name in ("0", "2", "4"):
        h, w = exact(model, name, x, y), model.get_submodule(name).weight.detach()
        torch.testing.assert_close(found[name], h.clamp(min=0) * w.square() / 2)
    # The layer before the last with both signs, by hand: tanh' is 1 - t^2, tanh'' -2 t tanh'.
    before, t = model[:2](x), model[:4](x)
    p, w, slope = model(x).softmax(1)[:, :1], model[4].weight[0], 1 - t.square()
    h, bend = (slope * w).square() * p * (1 - p), -2 * t * slope * w * (p - (y == 0)[:, None] * 1)
    right, printed = (((h + sign * bend) * before.square()).mean().item() for sign in (1, -1))
    assert right == pytest.approx(exact(model, "2", x, y).item())
    assert printed != pytest.approx(right, rel=0.2)


def test_a_convolution_is_the_sum_over_positions_of_the_layer_unrolled():
    """A Linear that does the same has a weight of its own for each position."""
    torch.manual_seed(4)
    conv, (x, y) = nn.Conv2d(2, 3, 3, stride=2, padding=1).double(), some(2, 5, 5)
    rest = nn.ReLU(), nn.Flatten(), nn.Linear(27, 3).double()
    unrolled = nn.Linear(50, 27).double()
    basis = torch.eye(50, dtype=torch.float64).view(50, 2, 5, 5)
    with torch.no_grad():
        unrolled.bias.copy_(conv(torch.zeros_like(basis[:1])).flatten())
        unrolled.weight.copy_((conv(basis) - unrolled.bias.view(1, 3, 3, 3)).flatten(1).T)
    linear = nn.Sequential(nn.Flatten(), unrolled, *rest)
    found = criteria.obd(nn.Sequential(conv, *rest), [(x, y)])["0"]
    alone = criteria.obd(linear, [(x, y)])["1"]
    # Which weight of the convolution each entry of the Linear is: by one-hot weights.
    expected = torch.zeros_like(conv.weight)
    for place in range(conv.weight.numel()):
        one = torch.zeros_like(conv.weight).flatten().index_fill(0, torch.tensor(place), 1)
        twin = F.conv2d(basis, one.view_as(conv.weight), stride=2, padding=1)
        expected.view(-1)[place] = alone[twin.flatten(1).T != 0].sum()
    torch.testing.assert_close(found, expected.detach())


def test_a_layer_that_is_used_twice_has_the_sum_of_both_uses():
    torch.manual_seed(5)
    first, last = nn.Linear(4, 4).double(), nn.Linear(4, 3).double()
    twins = [first, nn.ReLU(), copy.deepcopy(first), nn.ReLU(), last]
    tied = nn.Sequential(first, nn.ReLU(), first, nn.ReLU(), last)
    found, apart = (criteria.obd(net, [some(4)]) for net in (tied, nn.Sequential(*twins)))
    assert list(found) == ["0", "4"]
    torch.testing.assert_close(found["0"], apart["0"] + apart["2"])


def test_the_papers_networks_have_it_and_can_be_pruned_by_it(toy, batches):
    criteria.check(criteria.obd(toy, batches), toy)
    assert criteria.name_of(criteria.obd(toy, batches)).startswith("obd ")
    for across in ("layer", "network", "lamp"):
        saliency = criteria.obd(toy, batches)
        assert masks.prune(toy, density=0.3, across=across, saliency=saliency).kept == 155
    alexnet = models.alexnet(width=0.05, size=64, classes=3)
    x, y = some(3, 64, 64, n=2)
    found = criteria.obd(alexnet, [(x.float(), y)])
    assert found.keys() == masks.prunable(alexnet).keys()
    assert all(s.isfinite().all() and s.max() > 0 for s in found.values())


def test_the_divisor_of_local_response_norm_counts_as_a_constant():
    torch.manual_seed(6)
    first, last = nn.Conv2d(2, 6, 3).double(), nn.Linear(54, 3).double()
    chain = nn.Sequential(first, nn.ReLU(), models.LocalResponseNorm(), nn.Flatten(), last)
    x, y = some(2, 5, 5)
    expected = by_definition(chain, x, y)
    for name, h in diagonal(chain, [(x, y)]).items():
        torch.testing.assert_close(h, expected[name], rtol=0.01, atol=1e-7)
    strong = nn.Sequential(first, nn.LocalResponseNorm(3, alpha=5.0, k=2.0), nn.Flatten(), last)
    divided = [nn.Flatten(), nn.Linear(54, 54, bias=False).double(), last]  # as a diagonal
    image, label = x[:1], y[:1]
    a = first(image)
    with torch.no_grad():
        divided[1].weight.copy_(torch.diag((strong[1](a) / a).flatten()))
    twin = nn.Sequential(first, *divided)
    torch.testing.assert_close(
        criteria.obd(strong, [(image, label)])["0"], criteria.obd(twin, [(image, label)])["0"]
    )


def test_batches_change_nothing(toy, split):
    one, many = (criteria.obd(toy, replace(split, batch_size=size)) for size in (50, 7))
    for name, saliency in one.items():
        torch.testing.assert_close(many[name], saliency)


def test_it_leaves_no_trace(toy, batches, everything_of):
    toy.train()
    toy.conv1.requires_grad_(False)
    toy.relu1.inplace = True
    before = everything_of(toy)
    criteria.obd(toy, DataLoader(TensorDataset(*batches[0]), batch_size=5))
    with pytest.raises(RuntimeError):
        criteria.obd(toy, [(torch.zeros(2, 3, 5, 5), torch.zeros(2).long())])
    assert everything_of(toy) == before


def test_the_test_split_and_no_images_are_refused(toy, split):
    with pytest.raises(ValueError, match="the test split is not for choosing"):
        criteria.obd(toy, replace(split, name="test"))
    with pytest.raises(ValueError, match="no images"):
        criteria.obd(toy, [])


@pytest.mark.parametrize(
    ("layer", "got"),
    [
        (lambda: nn.Softmax(1), "got a Softmax;"),
        (
            lambda: nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 1)),
            "MultiheadAttention;",
        ),
        (
            lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
            "Linear that computes its weight;",
        ),
    ],
)
def test_another_network_gets_one_sentence(layer, got, branching):
    with pytest.raises(ValueError, match=got) as caught:
        criteria.obd(nn.Sequential(nn.Linear(4, 4), layer()), [some(4)])
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"got a Branching; criteria\.taylor takes any network"):
        criteria.obd(branching, [])
