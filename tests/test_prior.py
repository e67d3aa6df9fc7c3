"""What Gaussian or Laplace weights would keep: asked of scipy, and of weights drawn at random."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import nn

from pruning_lab import sensitivity
from pruning_lab.sensitivity import priors

QUALITIES = [0.0, 0.1, 0.5, 1.0, 1.7, 2.0, 3.5, 6.0]


@pytest.mark.parametrize("quality", QUALITIES)
def test_the_predictions_are_the_two_tails_of_scipys_distributions(quality):
    assert priors.gaussian(quality) == pytest.approx(2 * stats.norm.sf(quality), rel=1e-9)
    assert priors.gaussian(quality) == pytest.approx(special.erfc(quality / math.sqrt(2)), rel=1e-9)
    of_sigma_1 = stats.laplace(scale=math.sqrt(0.5))
    assert of_sigma_1.std() == pytest.approx(1)
    assert priors.laplace(quality) == pytest.approx(2 * of_sigma_1.sf(quality), rel=1e-9)


@pytest.mark.parametrize(("shape", "other"), [("gaussian", "laplace"), ("laplace", "gaussian")])
def test_weights_drawn_from_a_shape_keep_what_it_predicts(shape, other):
    random = np.random.default_rng(0)
    draw = {"gaussian": random.normal, "laplace": random.laplace}[shape]
    model = nn.Sequential(nn.Linear(500, 400))
    with torch.no_grad():
        model[0].weight.copy_(torch.from_numpy(draw(scale=0.03, size=(400, 500))))
    for row in sensitivity.prior(model, [0.25, 0.5, 1.0, 2.0, 2.5]):
        expected = getattr(row, shape)
        spread = math.sqrt(expected * (1 - expected) / 200_000)
        assert abs(row.density - expected) < 5 * spread
        assert abs(row.density - getattr(row, other)) > 10 * spread


@pytest.mark.parametrize("name", ["toy", "branching"])
def test_the_density_is_that_of_a_scan_at_the_same_quality(name, request, split):
    model = request.getfixturevalue(name)
    qualities = [0.3, 1.0, 1.6]
    rows = sensitivity.prior(model, qualities)
    scan = sensitivity.scan(model, split, qualities=qualities)
    expected = {(point.layer, point.quality): point.density for point in scan}
    assert {(row.layer, row.quality): row.density for row in rows} == expected
    for row in rows:
        weight = model.get_submodule(row.layer).weight.detach().numpy()
        assert row.density == (np.abs(weight) >= row.quality * weight.std()).mean()
        assert row.gaussian == priors.gaussian(row.quality)
        assert row.laplace == priors.laplace(row.quality)


def test_looking_leaves_no_trace(toy, everything_of):
    before = everything_of(toy)
    sensitivity.prior(toy, QUALITIES)
    assert everything_of(toy) == before


@pytest.mark.parametrize("ask", [priors.gaussian, priors.laplace])
@pytest.mark.parametrize("quality", [-0.5, math.inf, math.nan])
def test_a_quality_that_is_none_is_refused(ask, quality, toy):
    with pytest.raises(ValueError, match="quality must be a finite number >= 0"):
        ask(quality)
    with pytest.raises(ValueError, match="quality must be a finite number >= 0"):
        sensitivity.prior(toy, [1.0, quality])
