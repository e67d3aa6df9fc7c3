"""The paper's tables agree with themselves, by the arithmetic that makes their columns."""

from itertools import pairwise

import pytest

from pruning_lab import paper

HALF = 0.005 + 1e-9  # half a percentage point: what rounding to whole percents hides

NEURONS = {  # outputs per image that the next layer sees, after pooling
    "lenet-300-100": [300, 100, 10],
    "lenet-5": [20 * 12**2, 50 * 4**2, 500, 10],
    "alexnet": [96 * 27**2, 256 * 13**2, 384 * 13**2, 384 * 13**2, 256 * 6**2, 4096, 4096, 1000],
    "vgg-16": [
        *(64 * 224**2, 64 * 112**2),
        *(128 * 112**2, 128 * 56**2),
        *(256 * 56**2, 256 * 56**2, 256 * 28**2),
        *(512 * 28**2, 512 * 28**2, 512 * 14**2),
        *(512 * 14**2, 512 * 14**2, 512 * 7**2),
        *(4096, 4096, 1000),
    ],
}


def mean(values, weights):
    return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)


@pytest.fixture(params=paper.LAYER_TABLES)
def table(request):
    """(layer rows, total, name) of one of Tables 2-5."""
    *rows, total = paper.LAYER_TABLES[request.param]
    return rows, total, request.param


def test_there_are_31_layers_and_four_totals():
    rows = [row for table in paper.LAYER_TABLES.values() for row in table]
    assert sum(row.layer != "total" for row in rows) == 31
    assert sum(row.layer == "total" for row in rows) == 4
    assert paper.TABLE_NUMBERS.keys() == paper.LAYER_TABLES.keys() == paper.TABLE_1.keys()


def test_operations_left_are_weights_left_times_activations_that_enter(table):
    rows, _, _ = table
    first = rows[0]
    assert first.flop_density == first.density
    for before, row in pairwise(rows):
        low = (row.density - HALF) * (before.activation_density - HALF)
        high = (row.density + HALF) * (before.activation_density + HALF)
        assert low - HALF <= row.flop_density <= high + HALF, row.layer


def test_totals_are_weighted_means(table):
    rows, total, name = table
    flops, weights = [r.flops for r in rows], [r.weights for r in rows]
    assert mean([r.flop_density for r in rows], flops) == pytest.approx(
        total.flop_density, abs=HALF
    )
    assert mean([r.density for r in rows], weights) == pytest.approx(total.density, abs=HALF)
    activations = mean([r.activation_density for r in rows], NEURONS[name])
    assert activations == pytest.approx(total.activation_density, abs=HALF)


def test_totals_are_sums(table):
    rows, total, _ = table
    assert sum(r.weights for r in rows) == pytest.approx(total.weights, rel=0.01)
    assert sum(r.flops for r in rows) == pytest.approx(total.flops, rel=0.04)


def test_table_1_is_the_layer_tables_with_biases(table):
    _, total, name = table
    assert total.weights == pytest.approx(paper.TABLE_1[name].dense_parameters, rel=0.005)
    left = paper.TABLE_1[name].parameters / paper.TABLE_1[name].dense_parameters
    assert left == pytest.approx(total.density, abs=HALF)


@pytest.mark.parametrize("row", paper.TABLE_1.values(), ids=lambda row: row.network)
def test_compression_is_a_quotient_of_parameters(row):
    assert round(row.dense_parameters / row.parameters) == row.compression
    assert row.error < row.dense_error  # "with no drop in predictive performance"


def test_the_rivals_rates_are_quotients_of_parameters():
    for row in paper.TABLE_6:
        rate = paper.TABLE_6[0].parameters / row.parameters
        digits = 0 if float(row.compression).is_integer() else 1
        assert round(rate, digits) == row.compression, row.method


def test_alexnet_is_the_same_in_tables_1_and_6():
    alexnet, baseline, pruned = paper.TABLE_1["alexnet"], paper.TABLE_6[0], paper.TABLE_6[-1]
    assert (alexnet.dense_error, alexnet.dense_top5_error) == (
        baseline.top1_error,
        baseline.top5_error,
    )
    assert (alexnet.error, alexnet.top5_error) == (pruned.top1_error, pruned.top5_error)
    assert alexnet.parameters == pruned.parameters


def test_energies_stand_in_the_relation_that_figure_1_prints():
    add, *_ = energies = list(paper.ENERGY_PJ.values())
    assert [round(energy / add) for energy in energies] == [1, 9, 10, 31, 37, 50, 6400]
