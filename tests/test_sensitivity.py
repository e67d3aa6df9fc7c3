"""A scan says what pruning one layer for real would have said, and leaves no trace."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import lively
from torch import nn

from pruning_lab import criteria, evaluation, sensitivity

LEVELS = [0.0, 0.1, 0.3, 0.6, 1.0]


def pruned_for_real(model, layer, kept, batches):
    """Every image's hit after a copy of the model lost the layer's other weights."""
    copied = copy.deepcopy(model).eval()
    with torch.no_grad():
        copied.get_submodule(layer).weight.mul_(kept)
        return torch.cat([copied(x).argmax(1) == y for x, y in batches])


def check_every_cell(model, batches, points, choose):
    dense = torch.cat([copy.deepcopy(model).eval()(x).argmax(1) == y for x, y in batches])
    seen = set()
    for point in points:
        weight = model.get_submodule(point.layer).weight.detach()
        hits = pruned_for_real(model, point.layer, choose(weight, point), batches)
        assert point.accuracy == evaluation.Accuracy.of(hits), point
        expected = evaluation.drop(evaluation.Accuracy.of(dense), evaluation.Accuracy.of(hits))
        assert point.drop == expected, point
        seen.add(tuple(hits.tolist()))
    assert len(seen) > 4  # the cells do differ, or nothing is shown here


def largest(weight, point):
    """By numpy's own sorting."""
    flat = weight.abs().flatten().numpy()
    kept = np.zeros(len(flat), dtype=bool)
    kept[np.argsort(-flat, kind="stable")[: round(point.density * len(flat))]] = True
    return torch.from_numpy(kept).reshape(weight.shape)


def above_sigma(weight, point):
    return weight.abs() >= point.quality * weight.numpy().std()


class OwnForward(nn.Sequential):
    """A list of layers and a shortcut around them: no chain, though it looks like one."""

    def forward(self, x):
        return super().forward(x) + 0.2 * x.flatten(1)[:, :4]


class Named(nn.Sequential):
    """A chain with a constructor of its own."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 4))


def reusing_one_relu():
    relu = nn.ReLU()
    layers = nn.Linear(64, 9), relu, nn.Linear(9, 9), relu, nn.Linear(9, 4)
    return nn.Sequential(nn.Flatten(), *layers)


def with_tied_layers():
    first, second = nn.Linear(64, 64), nn.Linear(64, 64)
    second.weight = first.weight
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), nn.Linear(64, 4))


MODELS = {
    "one relu": reusing_one_relu,
    "tied layers": with_tied_layers,
    "own forward": lambda: OwnForward(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 4)),
    "own constructor": Named,
    "nested": lambda: nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(64, 9)), nn.Linear(9, 4)),
}


@pytest.mark.parametrize("name", ["toy", "branching"])
def test_every_cell_is_what_pruning_that_layer_for_real_gives(name, request, split, batches):
    model = request.getfixturevalue(name).train()
    points = sensitivity.scan(model, split, LEVELS)
    layers = dict.fromkeys(point.layer for point in points)
    assert [(p.layer, p.density) for p in points] == [
        (layer, round(level * model.get_submodule(layer).weight.numel()) / n)
        for layer in layers
        for level in LEVELS
        for n in [model.get_submodule(layer).weight.numel()]
    ]
    check_every_cell(model, batches, points, largest)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_every_cell_is_right_for_chains_of_every_kind(make, batches):
    torch.manual_seed(1)
    model = lively(make())
    check_every_cell(model, batches, sensitivity.scan(model, batches, LEVELS), largest)


def test_qualities_are_scanned_as_multiples_of_sigma(toy, batches):
    points = sensitivity.scan(toy, batches, qualities=[0.5, 1.0, 1.5])
    assert [point.quality for point in points] == 3 * [0.5, 1.0, 1.5]
    assert points[0].threshold == pytest.approx(0.5 * toy.conv1.weight.detach().numpy().std())
    check_every_cell(toy, batches, points, above_sigma)


def test_an_unpruned_layer_drops_nothing(toy, split):
    points = sensitivity.scan(toy, split, [1.0])
    assert {point.drop.value for point in points} == {0}
    assert {point.accuracy for point in points} == {evaluation.evaluate(toy, split)}


def test_the_test_split_is_not_for_choosing(toy, split):
    with pytest.raises(ValueError, match=r"not for choosing; give splits\.val"):
        sensitivity.scan(toy, replace(split, name="test"), LEVELS)


@pytest.mark.parametrize("levels", [{}, {"densities": [0.5], "qualities": [1.0]}])
def test_levels_are_densities_or_qualities(toy, split, levels):
    with pytest.raises(ValueError, match="give densities or qualities, one of the two"):
        sensitivity.scan(toy, split, **levels)


def test_a_level_that_is_no_density_is_refused_before_anything_is_computed(toy):
    def images():
        raise AssertionError("looked at an image")
        yield

    with pytest.raises(ValueError, match="for a percentage, divide by 100"):
        sensitivity.scan(toy, images(), [0.5, 50])


@pytest.mark.parametrize("name", ["toy", "branching"])
@pytest.mark.parametrize("criterion", [criteria.magnitude, criteria.random])
def test_a_scan_leaves_every_byte_mode_and_random_state(
    name, criterion, request, split, everything_of
):
    model = request.getfixturevalue(name).train()
    before = everything_of(model)
    sensitivity.scan(model, split, LEVELS, criterion=criterion)
    assert everything_of(model) == before


@pytest.mark.parametrize("name", ["toy", "branching"])
def test_an_interrupt_in_the_middle_of_a_scan_leaves_no_trace(name, request, split, everything_of):
    """In the middle of a batch, while some layer is pruned."""
    model = request.getfixturevalue(name).train()
    layer = list(model.modules())[-1]
    calls = 0

    def interrupt(*_):
        nonlocal calls
        calls += 1
        if calls == 9:
            raise KeyboardInterrupt

    handle = layer.register_forward_hook(interrupt)
    before = everything_of(model)
    with pytest.raises(KeyboardInterrupt):
        sensitivity.scan(model, split, LEVELS)
    assert everything_of(model) == before
    handle.remove()
