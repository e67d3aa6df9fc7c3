"""The frontier: means and pooled costs of several seeds, and what counts as free."""

import json
from dataclasses import replace

import pytest

from pruning_lab import data, evaluation, experiments, neurons, plots
from pruning_lab.evaluation import Drop


@pytest.fixture(scope="module")
def splits():
    return data.load("mnist-5k")


@pytest.fixture(scope="module")
def recipe():
    made = experiments.compressed_recipe("lenet-300-100", 20, "mnist-5k")
    return replace(made.trained_with(epochs=1), rounds=made.rounds[-2:], retrain=made.retrain[-2:])


def test_a_row_has_the_means_and_the_pooled_costs_of_its_seeds(splits, recipe, tmp_path):
    recipe = recipe.trained_with(epochs=1)
    workspace = experiments.Workspace(tmp_path)
    (row,) = experiments.frontier([recipe], splits, seeds=(0, 1), workspace=workspace)
    runs = [workspace.run(recipe, splits, seed=seed) for seed in (0, 1)]
    tests = [
        [evaluation.evaluate(model, splits.test) for model in (run.dense, run.control, run.model)]
        for run in runs
    ]
    for name, of_seeds in zip(("dense", "control", ""), zip(*tests, strict=True), strict=True):
        error = getattr(row, f"{name}_error".lstrip("_"))
        assert error == pytest.approx(sum(a.error for a in of_seeds) / 2, abs=1e-12)
    lost = sum(int((c.hits & ~m.hits).sum()) for _, c, m in tests)
    won = sum(int((m.hits & ~c.hits).sum()) for _, c, m in tests)
    assert row.cost == Drop.counted(lost, won, 2000)
    assert row.costs == tuple((1000 * c.value - 1000 * m.value) / 1000 for _, c, m in tests)
    weights = [
        sum(int(p.count_nonzero()) for n, p in r.model.named_parameters() if "w" in n) for r in runs
    ]
    assert row.kept == sum(weights) / 2
    assert row.compression == pytest.approx(266_200 / row.kept)
    assert row.parameter_compression == pytest.approx(20, rel=1e-3)
    alive = [sum(p.numel() for p in neurons.remove(run.model)[0].parameters()) for run in runs]
    zeros = [
        sum(
            int((p == 0).sum())
            for n, p in neurons.remove(run.model)[0].named_parameters()
            if "weight" in n
        )
        for run in runs
    ]
    assert row.alive_compression == pytest.approx(2 * 266_610 / (sum(alive) - sum(zeros)))
    assert row.alive_compression >= row.parameter_compression
    assert json.dumps(row.costs)


def row(compression, cost, network="lenet-5", augmented=True):
    return experiments.FrontierRow(
        network,
        "mnist",
        augmented,
        5,
        430_500 / compression,
        compression,
        compression,
        None,
        0.01,
        0.008,
        0.008 + cost.value,
        cost,
        cost,
        (cost.value,) * 5,
    )


FREE, OPEN, WORSE, BETTER = (
    Drop.counted(lost, won, 50_000)
    for lost, won in ((300, 300), (340, 300), (400, 300), (300, 400))
)


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        ([FREE, OPEN, BETTER], 40),
        ([FREE, OPEN, WORSE], 20),
        ([FREE, WORSE, FREE], 40),
        ([WORSE, WORSE, WORSE], None),
    ],
)
def test_the_largest_compression_that_is_free(costs, expected):
    rows = [row(c, cost) for c, cost in zip((10, 20, 40), costs, strict=True)]
    found = experiments.Frontier(rows[::-1]).free("lenet-5")
    assert (found and found.compression) == expected


def test_rows_of_other_networks_and_of_unaugmented_images_are_not_mixed_in():
    rows = [row(10, WORSE, "lenet-300-100"), row(10, FREE), row(20, WORSE, augmented=False)]
    frontier = experiments.Frontier(rows)
    assert frontier.free("lenet-5").compression == 10
    assert frontier.free("lenet-300-100") is None
    assert frontier.free("lenet-5", augmented=False) is None


def test_unaugmented_changes_the_images_alone():
    recipe = experiments.paper_recipe("alexnet", "imagenette", {"width": 0.25, "size": 64})
    plain = recipe.unaugmented()
    for before, after in zip(
        (recipe.dense, *recipe.retrain), (plain.dense, *plain.retrain), strict=True
    ):
        assert after == replace(before, shift=0, flip=False, crop=1.0, colour=0.0)
    assert replace(plain, dense=recipe.dense, retrain=recipe.retrain) == recipe


def test_the_picture_fills_what_is_free_and_draws_a_loss_downwards():
    rows = [row(10, FREE), row(40, WORSE)]
    ax = plots.frontier(rows)
    markers = {
        line.get_markerfacecolor(): line.get_xydata().tolist()
        for line in ax.lines
        if line.get_marker() == "o" and len(line.get_xdata()) == 1
    }
    (hollow,) = markers.pop("white")
    ((filled,),) = markers.values()
    assert filled == pytest.approx([10, 0])
    assert hollow == pytest.approx([40, -0.2])
    assert ax.get_xscale() == "log"
    with pytest.raises(ValueError, match="no rows to draw"):
        plots.frontier([])
