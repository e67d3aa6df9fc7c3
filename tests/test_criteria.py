"""Criteria keep what sorting would keep, and refuse what is no amount."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from pruning_lab import criteria

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
    chosen = criteria.across_layers(saliencies, density, kept)
    assert list(chosen) == names
    together = torch.cat(list(chosen.values())).tolist()
    assert together == first_by_sorting(flat, round(density * len(flat)), alive)


@given(weight=weights, levels=st.lists(densities | st.sampled_from([0, 0.5, 1]), max_size=6))
def test_several_densities_keep_what_each_of_them_keeps(weight, levels):
    saliency = torch.tensor(weight).abs()
    before = saliency.clone()
    chosen = criteria.by_densities(saliency, levels)
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
        criteria.by_densities(torch.ones(3), [0.5, 50])
    with pytest.raises(ValueError, match="a weight is not a number"):
        criteria.by_densities(torch.tensor([1.0, math.nan]), [0.5])
    assert criteria.by_densities(torch.ones(3), []) == []


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
    w, kept = np.array(weight), np.array(alive)
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
    assert criteria.by_quality(torch.zeros(5), 2.0).all()
    assert criteria.sigma(torch.ones(3), torch.zeros(3, dtype=bool)) == 0


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
    assert criteria.by_density(saliency, 1.0, kept).tolist() == [True, False, True]


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


def test_random_asks_the_generator_it_is_given_and_no_other():
    before = torch.get_rng_state()
    first, again = (
        criteria.random(torch.zeros(3, 5), torch.Generator().manual_seed(7)) for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert first.shape == (3, 5)
    assert ((first >= 0) & (first < 1)).all()


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
