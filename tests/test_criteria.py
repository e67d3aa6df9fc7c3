"""Criteria keep what sorting would keep, and refuse what is no amount."""

import copy
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, TensorDataset

from pruning_lab import criteria, masks, sensitivity
from pruning_lab.studio import Studio

# Few values, so that ties are the rule.
weights = st.lists(st.sampled_from([0.0, 0.5, -0.5, 1.0, -1.0, 2.0]), min_size=1, max_size=24)
densities = st.floats(0, 1)


def first_by_sorting(values, count: int, alive) -> list[bool]:
    """The `count` largest of those alive, earlier positions first: by sorting a list."""
    order = sorted((i for i in range(len(values)) if alive[i]), key=lambda i: (-values[i], i))
    return [i in order[:count] for i in range(len(values))]


@given(weight=weights, density=densities, data=st.data())
def test_a_density_keeps_what_sorting_keeps(weight, density, data):
    alive = data.draw(st.lists(st.booleans(), min_size=len(weight), max_size=len(weight)))
    saliency = torch.tensor(weight).abs()
    count = round(density * len(weight))
    chosen = criteria.by_density(saliency, density)
    assert chosen.tolist() == first_by_sorting(saliency.tolist(), count, [True] * len(weight))
    assert int(chosen.sum()) == count
    within = criteria.by_density(saliency, density, torch.tensor(alive))
    assert within.tolist() == first_by_sorting(saliency.tolist(), count, alive)
    assert int(within.sum()) == min(count, sum(alive))


@pytest.mark.parametrize("n", [1, 7, 1000])
@pytest.mark.parametrize("density", [0, 0.08, 0.125, 0.5, 0.999, 1])
def test_equal_weights_are_kept_by_position_and_never_one_more(n, density):
    chosen = criteria.by_density(torch.ones(n), density)
    count = round(density * n)
    assert chosen.tolist() == [True] * count + [False] * (n - count)


@given(weight=weights, lower=densities, upper=densities)
def test_a_higher_density_keeps_all_that_a_lower_one_keeps(weight, lower, upper):
    assume(lower <= upper)
    saliency = torch.tensor(weight).abs()
    few, many = criteria.by_density(saliency, lower), criteria.by_density(saliency, upper)
    assert not (few & ~many).any()


@given(layers=st.lists(weights, min_size=1, max_size=4), density=densities, data=st.data())
def test_layers_ranked_together_keep_what_sorting_all_of_them_keeps(layers, density, data):
    flat = [value for layer in layers for value in layer]
    alive = data.draw(st.lists(st.booleans(), min_size=len(flat), max_size=len(flat)))
    sizes = [len(layer) for layer in layers]
    names = [f"fc{place}" for place in range(len(layers))]
    kept = dict(zip(names, torch.tensor(alive).split(sizes), strict=True))
    saliencies = {name: torch.tensor(layer) for name, layer in zip(names, layers, strict=True)}
    chosen = criteria.across_layers(saliencies, density, kept, signed=True)
    assert list(chosen) == names
    together = torch.cat(list(chosen.values())).tolist()
    assert together == first_by_sorting(flat, round(density * len(flat)), alive)


@given(weight=weights, levels=st.lists(densities | st.sampled_from([0, 0.5, 1]), max_size=6))
def test_several_densities_keep_what_each_of_them_keeps(weight, levels):
    saliency = torch.tensor(weight).abs()
    before = saliency.clone()
    chosen = list(criteria.by_densities(saliency, levels))
    assert len(chosen) == len(levels)
    for (kept, threshold), density in zip(chosen, levels, strict=True):
        count = round(density * len(weight))
        assert kept.tolist() == first_by_sorting(saliency.tolist(), count, [True] * len(weight))
        assert threshold == (min(saliency[kept].tolist()) if count else None)
    assert torch.equal(saliency, before)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.bool]
)
def test_several_densities_rank_every_precision_and_layout(dtype):
    generator = torch.Generator().manual_seed(0)
    saliency = torch.randint(50, (6, 5, 3, 3), generator=generator).to(dtype)
    levels = [0.3, 0, 1, 0.3, 0.01, 0.999]
    flat = saliency.flatten().tolist()
    for view in (saliency, saliency.to(memory_format=torch.channels_last)):
        for (kept, threshold), density in zip(
            criteria.by_densities(view, levels), levels, strict=True
        ):
            count = round(density * len(flat))
            expected = first_by_sorting(flat, count, [True] * len(flat))
            assert kept.flatten().tolist() == expected
            assert (kept.shape, kept.dtype) == (saliency.shape, torch.bool)
            assert threshold == (min(saliency[kept].tolist()) if count else None)


def test_several_densities_are_each_a_density_and_of_numbers():
    with pytest.raises(ValueError, match="for a percentage, divide by 100"):
        next(criteria.by_densities(torch.ones(3), [0.5, 50]))
    with pytest.raises(ValueError, match="a weight is not a number"):
        next(criteria.by_densities(torch.tensor([1.0, math.nan]), [0.5]))
    assert list(criteria.by_densities(torch.ones(3), [])) == []


def test_masks_of_several_densities_share_nothing():
    (first, _), (again, _) = criteria.by_densities(torch.rand(9), [0.5, 0.5])
    first.zero_()
    assert again.sum() == 4


def test_layers_keep_their_shapes_when_ranked_together():
    saliencies = {"conv1": torch.rand(4, 1, 3, 3), "fc1": torch.rand(5, 6)}
    chosen = criteria.across_layers(saliencies, 0.5)
    assert {n: c.shape for n, c in chosen.items()} == {n: s.shape for n, s in saliencies.items()}


@given(
    weight=st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=40),
    quality=st.floats(0, 3),
    data=st.data(),
)
def test_quality_is_a_multiple_of_the_survivors_sigma(weight, quality, data):
    alive = data.draw(st.lists(st.booleans(), min_size=len(weight), max_size=len(weight)))
    w = np.array(weight)
    kept = np.array(alive) & (w != 0)  # a zero weight is gone
    sigma = w[kept].std() if kept.any() else 0.0
    assume(not np.isclose(np.abs(w), quality * sigma, rtol=1e-4, atol=1e-6).any())
    tensor, kept_tensor = torch.tensor(weight), torch.tensor(alive)
    assert criteria.sigma(tensor, kept_tensor) == pytest.approx(sigma, rel=1e-4, abs=1e-5)
    chosen = criteria.by_quality(tensor, quality, kept_tensor)
    assert chosen.tolist() == ((np.abs(w) >= quality * sigma) & kept).tolist()


def test_quality_of_a_dense_layer_takes_all_weights_and_both_signs():
    weight = torch.tensor([3.0, -3.0, 1.0, -1.0])  # mean 0, so sigma is the root of 5
    assert criteria.sigma(weight) == pytest.approx(math.sqrt(5))
    assert criteria.by_quality(weight, 1.0).tolist() == [True, True, False, False]


def test_a_gaussian_layer_keeps_the_share_that_the_error_function_gives():
    weight = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    for quality in (0.5, 1.0, 1.5, 2.0):
        share = criteria.by_quality(weight, quality).float().mean().item()
        assert share == pytest.approx(math.erfc(quality / math.sqrt(2)), abs=0.004)


def test_a_weight_at_the_threshold_stays():
    assert criteria.by_threshold(torch.tensor([0.5, 0.25]), 0.5).tolist() == [True, False]
    assert criteria.by_threshold(torch.zeros(2), 0).tolist() == [True, True]


def test_a_constant_layer_has_no_sigma_and_loses_nothing_to_a_quality():
    assert criteria.sigma(torch.full((5,), 0.3)) == pytest.approx(0, abs=1e-7)
    assert criteria.by_quality(torch.full((5,), 0.3), 2.0).all()
    assert criteria.sigma(torch.ones(3), torch.zeros(3, dtype=bool)) == 0


def test_zeros_count_neither_for_sigma_nor_for_a_quality():
    survivors = torch.tensor([3.0, -3.0, 1.0, -1.0])
    pruned = torch.tensor([0.0, 3.0, -3.0, -0.0, 1.0, 0.0, -1.0])
    assert criteria.sigma(pruned) == criteria.sigma(survivors)
    assert criteria.by_quality(pruned, 0.0).tolist() == [
        False,
        True,
        True,
        False,
        True,
        False,
        True,
    ]
    assert not criteria.by_quality(torch.zeros(5), 0.0).any()


def test_sigma_needs_no_float64_where_a_device_has_none():
    """As Apple's GPUs: whatever asks for float64 raises TypeError."""

    class NoDouble(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            kwargs = kwargs or {}
            if func is torch.Tensor.double or torch.float64 in (*args, *kwargs.values()):
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
            return func(*args, **kwargs)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 10))
    images = [(torch.rand(20, 1, 28, 28), torch.arange(20) % 10)]
    expected = model[1].weight.detach().double().std(correction=0).item()
    with NoDouble():
        assert criteria.sigma(model[1].weight) == pytest.approx(expected, rel=1e-6)
        for amounts in ({"quality": 1.0}, {"density": 0.1}, {"density": 0.1, "across": "lamp"}):
            mask = masks.prune(model, **amounts)
        points = sensitivity.scan(model, images, [0.5])
        studio = Studio(model, images)
        studio.set(1.0).settle()
        assert studio.mask == masks.prune(model, quality=1.0)
        studio.close()
    assert 0.09 < mask.density < 0.11
    assert len(points) == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_precision_is_ranked(dtype):
    weight = torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:200].to(dtype)
    expected = first_by_sorting(weight.tolist(), 50, [True] * 200)
    assert criteria.by_density(weight, 0.25).tolist() == expected
    assert criteria.by_threshold(weight, 500).tolist() == [w >= 500 for w in weight.tolist()]
    assert criteria.sigma(weight) == pytest.approx(weight.double().numpy().std(), rel=0.01)


def test_whole_numbers_and_a_plain_yes_or_no_are_ranked_too():
    kept = torch.tensor([True, True, True, False])
    assert criteria.by_density(torch.arange(4), 0.5, kept).tolist() == [False, True, True, False]
    yes = torch.tensor([False, True, False, True])
    assert criteria.by_density(yes, 0.75).tolist() == [True, True, False, True]


def test_minus_infinity_survives_only_where_it_was_alive():
    saliency, kept = torch.tensor([1, -torch.inf, -torch.inf]), torch.tensor([True, False, True])
    assert criteria.by_density(saliency, 1.0, kept, signed=True).tolist() == [True, False, True]


@pytest.mark.parametrize(
    "view",
    [
        lambda w: w.transpose(0, 1),
        lambda w: w.to(memory_format=torch.channels_last),
        lambda w: w[:, ::2],
        lambda w: w.flip(0).expand(2, 6, 4, 3, 3),
    ],
)
def test_the_layout_in_memory_changes_nothing(view):
    weight = view(torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0)).round())
    plain = weight.contiguous()
    saliency = criteria.magnitude(plain)
    for density in (0.1, 0.5):
        chosen = criteria.by_density(criteria.magnitude(weight), density)
        assert torch.equal(chosen, criteria.by_density(saliency, density))
    assert torch.equal(criteria.by_quality(weight, 1.0), criteria.by_quality(plain, 1.0))


def test_choosing_changes_neither_weights_nor_what_was_kept():
    weight = torch.nn.Parameter(torch.randn(20))
    kept = torch.rand(20) < 0.5
    before = weight.detach().clone(), kept.clone()
    criteria.by_density(criteria.magnitude(weight), 0.3, kept)
    criteria.by_quality(weight, 0.3, kept)
    assert torch.equal(weight, before[0])
    assert torch.equal(kept, before[1])
    assert not criteria.magnitude(weight).requires_grad


@pytest.mark.parametrize("by", [criteria.by_density, criteria.by_threshold])
def test_a_weight_in_the_place_of_a_saliency_is_noticed(by):
    weight = torch.tensor([0.9, -0.1, -0.7])
    with pytest.raises(ValueError, match=r"below 0 \(-0\.7\): rank weights by magnitude\(w\)"):
        by(weight, 0.5)
    assert by(criteria.magnitude(weight), 0.5).tolist() == [True, False, True]
    with pytest.raises(ValueError, match="magnitude"):
        criteria.across_layers({"fc1": weight}, 0.5)


def test_the_sign_can_be_meant():
    """Movement pruning (Sanh et al. 2020) ranks signed scores."""
    scores = torch.tensor([0.9, -0.1, -0.7])
    assert criteria.by_density(scores, 2 / 3, signed=True).tolist() == [True, True, False]


# --- saliencies --------------------------------------------------------------------------------


def test_random_is_uniform_the_same_again_and_draws_from_no_generator_of_others():
    before = torch.get_rng_state()
    weight = torch.zeros(200, 500)
    first, again = criteria.random(7)(weight), criteria.random(7)(weight)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, criteria.random(8)(weight))
    counts = np.histogram(first.numpy(), bins=10, range=(0, 1))[0]
    assert counts.sum() == 100_000
    assert abs(counts - 10_000).max() < 500  # five sigma


def test_random_ranks_two_layers_of_one_shape_differently():
    model = nn.Sequential(nn.Linear(30, 30), nn.Linear(30, 30))
    mask = masks.prune(model, density=0.5, saliency=criteria.random(0))
    assert not torch.equal(mask["0"], mask["1"])
    assert mask == masks.prune(model, density=0.5, saliency=criteria.random(0))


def by_hand(model, images):
    """The gradients of the mean cross-entropy over all images, in one batch, by backward()."""
    twin = copy.deepcopy(model).eval().requires_grad_(True)
    x, y = (torch.cat(parts) for parts in zip(*images, strict=True))
    F.cross_entropy(twin(x), y).backward()
    return {n: twin.get_submodule(n).weight.grad for n in masks.prunable(model)}


def test_gradient_and_taylor_are_what_backward_gives(toy, batches):
    expected = by_hand(toy, batches)
    gradient, taylor = criteria.gradient(toy, batches), criteria.taylor(toy, batches)
    for name, g in expected.items():
        weight = toy.get_submodule(name).weight.detach()
        assert torch.allclose(gradient[name], g.abs(), atol=1e-7)
        assert torch.allclose(taylor[name], (weight * g).abs(), atol=1e-7)
    mask = masks.prune(toy, density=0.25, saliency=taylor)
    order = (toy.fc1.weight * expected["fc1"]).abs().flatten().argsort(descending=True)
    assert set(mask["fc1"].flatten().nonzero().squeeze(1).tolist()) == set(order[:108].tolist())


def test_computing_a_saliency_leaves_no_trace(toy, batches, everything_of):
    toy.train()
    toy.conv1.requires_grad_(False)
    toy.fc1.weight.grad = torch.ones_like(toy.fc1.weight)
    before = everything_of(toy)
    criteria.taylor(toy, DataLoader(TensorDataset(*batches[0]), batch_size=5))
    with pytest.raises(RuntimeError):
        criteria.gradient(toy, [(torch.zeros(2, 3, 5, 5), torch.zeros(2).long())])
    assert everything_of(toy) == before
    assert torch.equal(toy.fc1.weight.grad, torch.ones_like(toy.fc1.weight))


def test_a_saliency_is_not_computed_on_the_test_split_or_on_nothing(toy, split):
    with pytest.raises(ValueError, match="the test split is not for choosing"):
        criteria.taylor(toy, replace(split, name="test"))
    with pytest.raises(ValueError, match="no images"):
        criteria.gradient(toy, [])


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (lambda x: (x, x), "a tuple"),
        (lambda x: x[:, :, None], r"a Tensor of shape \(16, 4, 1\)"),
        (lambda x: x[:, 0], r"a Tensor of shape \(16,\)"),
    ],
)
def test_a_network_that_gives_no_logits_is_told_to_be_wrapped(toy, batches, answer, got):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = toy

        def forward(self, x):
            return answer(self.net(x))

    with pytest.raises(ValueError, match=rf"\(N, classes\), got {got}; wrap it in a module"):
        criteria.taylor(Odd(), batches)


def test_a_name_tells_saliencies_apart_and_rebuilds_those_it_can(toy, batches):
    taylor = criteria.taylor(toy, batches)
    known = [criteria.magnitude, criteria.random(0), criteria.random(1)]
    others = [
        taylor,
        criteria.gradient(toy, batches),
        {**taylor, "fc1": taylor["fc1"] + 1},
        lambda w: w.abs(),
        lambda w: -w.abs(),
        partial(torch.pow, exponent=2),
        partial(torch.pow, exponent=4),
    ]
    names = [criteria.name_of(saliency) for saliency in known + others]
    assert len(set(names)) == len(names)
    assert names[:3] == ["magnitude", "random(seed=0)", "random(seed=1)"]
    assert names[3].startswith("taylor ")
    assert [criteria.by_name(name) for name in names] == known + [None] * len(others)
    assert criteria.name_of(criteria.taylor(toy, batches)) == names[3]


@pytest.mark.parametrize(
    ("saliency", "says"),
    [
        (lambda w: w.norm(dim=1), r"shaped like its weight, \(3, 5\), got \(3,\)"),
        (lambda w: 0.5, "got float"),
        (lambda w: 1 / w, "not finite"),
        (lambda w: w / w, "no rank"),
        (lambda w: torch.rand_like(w), "differs from one call to the next"),
        (lambda w: w.data.zero_().abs(), "changes the weight"),
        (lambda w: w.requires_grad_(False).abs(), "requires_grad"),
        (lambda w: w.square().sum().backward() or w.grad.abs(), "leaves a gradient"),
    ],
)
def test_the_contract_names_what_a_saliency_of_ones_own_does_wrong(saliency, says):
    with pytest.raises(ValueError, match=says) as caught:
        criteria.check(saliency)
    assert "\n" not in str(caught.value)


def test_the_contract_holds_for_what_comes_with_the_library(toy, batches):
    criteria.check(criteria.magnitude)
    criteria.check(criteria.random(3))
    criteria.check(criteria.taylor(toy, batches), toy)
    with pytest.raises(KeyError, match="the saliency has no layer 'conv1'"):
        criteria.check({"fc1": toy.fc1.weight.abs()}, toy)
    with pytest.raises(ValueError, match=r"check\(saliency, model\)"):
        criteria.check({"fc1": toy.fc1.weight.abs()})


# --- amounts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amount", "error", "says"),
    [
        (8, ValueError, "for a percentage, divide by 100"),
        (1.0001, ValueError, r"\[0, 1\], got 1.0001"),
        (-0.1, ValueError, "got -0.1"),
        (math.nan, ValueError, "got nan"),
        (True, TypeError, "a number, got True"),
        ("0.5", TypeError, "a number, got '0.5'"),
        (None, TypeError, "a number, got None"),
    ],
)
def test_an_impossible_density_gets_one_clear_sentence(amount, error, says):
    with pytest.raises(error, match=says) as caught:
        criteria.by_density(torch.ones(3), amount)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("amount", [-1, math.inf, math.nan])
def test_an_impossible_quality_or_threshold_is_refused(amount):
    with pytest.raises(ValueError, match="quality must be a finite number >= 0"):
        criteria.by_quality(torch.ones(3), amount)
    with pytest.raises(ValueError, match="threshold must be a finite number >= 0"):
        criteria.by_threshold(torch.ones(3), amount)


@pytest.mark.parametrize("by", [criteria.by_density, criteria.by_quality, criteria.by_threshold])
def test_a_weight_that_is_not_a_number_is_said_to_be_none(by):
    with pytest.raises(ValueError, match="a weight is not a number"):
        by(torch.tensor([1.0, math.nan]), 0.5)


def test_amounts_may_be_numpys_and_whole():
    assert criteria.by_density(torch.ones(4), np.float32(0.5)).sum() == 2
    assert criteria.by_density(torch.ones(4), np.int64(1)).sum() == 4
