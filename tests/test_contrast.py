"""Weights pruned beside neurons removed: alike in all but what goes."""

import sys
from dataclasses import replace
from itertools import count

import pytest
from torch.optim.optimizer import register_optimizer_step_pre_hook

from pruning_lab import counts, data, masks, models, neurons, storage
from pruning_lab.evaluation import Drop, drop, evaluate
from pruning_lab.experiments import Contrast, ContrastRow, Workspace, compressed_recipe, contrast
from pruning_lab.experiments.contrast import METHODS, narrowed
from pruning_lab.plots import contrast as draw
from pruning_lab.rows import plain


def tiny(compression, network="lenet-300-100"):
    """A narrow network, two rounds, one epoch each."""
    recipe = compressed_recipe(network, compression, "mnist-5k", {"width": 0.3})
    recipe = recipe.trained_with(epochs=1, batch_size=16)
    return replace(recipe, rounds=recipe.rounds[5::6], retrain=recipe.retrain[5::6], scan=(0.5,))


@pytest.fixture(scope="module")
def digits():
    splits = data.load("mnist-5k")
    parts = {"train": splits.train.head(300), "val": splits.val.head(100)}
    return replace(splits, **parts, test=splits.test.head(200))


@pytest.fixture(scope="module")
def recipes():
    return [tiny(3), tiny(9)]


@pytest.fixture(scope="module")
def found(digits, recipes, tmp_path_factory):
    """Two compressions with two seeds, the folder, and the batches that each training took."""
    folder, steps = tmp_path_factory.mktemp("workspace"), []
    hook = register_optimizer_step_pre_hook(lambda *_: steps.append(1))
    rows = contrast(digits, recipes=recipes, seeds=(0, 1), workspace=Workspace(folder))
    hook.remove()
    return rows, folder, len(steps)


def test_both_take_the_parameters_of_the_recipe(found):
    rows, *_ = found
    assert [row.method for row in rows] == 2 * [*METHODS]
    assert [row.seeds for row in rows] == 4 * [2]
    for compression, pruned, removed in ((3, *rows[:2]), (9, *rows[2:])):
        # Biases of dead neurons go too, and neurons are whole.
        assert compression <= pruned.compression * 1.001 < 1.1 * compression
        assert compression <= removed.compression < 1.1 * compression


def test_both_are_retrained_for_as_long_from_one_dense_network_with_one_control(found):
    """Per seed: the dense network and the control once, then both networks per compression."""
    *_, steps = found
    batches = -(-300 // 16)
    rounds = 2
    assert steps == 2 * batches * (1 + rounds + 2 * (rounds + rounds))


def test_a_row_says_what_its_networks_answer(digits, recipes, found):
    """The pruned network and the control come from the files of a run, the other is made again."""
    rows, folder, _ = found
    workspace = Workspace(folder)
    (row, other) = contrast(digits, recipes=recipes[:1], seeds=[1], workspace=workspace)
    run = workspace.run(recipes[0], digits, seed=1)
    before = evaluate(run.control, digits.test)
    after = evaluate(run.model, digits.test)
    assert row.drop == drop(before, after)
    assert row.error == after.error
    assert (row.difference, other.difference.n) == (None, 200)
    assert other.difference.value == pytest.approx(other.drop.value - row.drop.value)
    assert rows[0].drops[1] == row.drop.value
    alive, _ = neurons.remove(run.model)
    exact = sum(storage.sizes(x.weight.detach())["ours"] for x in masks.prunable(alive).values())
    biases = sum(p.numel() for n, p in alive.named_parameters() if n.endswith("bias"))
    assert row.size == exact + 4 * biases
    total = counts.parameters(run.dense).total
    assert other.size == pytest.approx(4 * total / other.compression)


def test_seeds_are_pooled(found):
    rows, *_ = found
    for row in rows:
        assert row.drop.n == 400
        assert row.drop.value == pytest.approx(sum(row.drops) / 2)
    assert min(ms for row in rows for ms in (*row.milliseconds, *row.speedup)) > 0


def test_what_was_measured_is_read_and_what_was_trained_is_not_trained_again(
    digits, recipes, found
):
    rows, folder, _ = found
    steps = []
    hook = register_optimizer_step_pre_hook(lambda *_: steps.append(1))
    again = contrast(digits, recipes=recipes, seeds=(0, 1), workspace=Workspace(folder))
    for path in (folder / "measured").glob("*.json"):
        path.unlink()
    new = contrast(digits, recipes=recipes, seeds=(0, 1), workspace=Workspace(folder))
    hook.remove()
    assert (plain(again), steps) == (plain(rows), [])
    assert [row.drop for row in new] == [row.drop for row in rows]


def test_narrowed_takes_the_largest_chain_that_fits():
    model = models.lenet_300_100(width=0.3)  # 784-90-30-10
    network = narrowed(model, 10_000)
    a, b = network.fc1.out_features, network.fc2.out_features

    def size(a, b):
        return 785 * a + (a + 1) * b + (b + 1) * 10

    assert counts.parameters(network).total == size(a, b) <= 10_000 < size(a + 1, b)
    assert abs(a / 90 - b / 30) < 1 / 30
    assert counts.parameters(narrowed(model, 1)).total == size(1, 1)
    assert counts.parameters(narrowed(model, 10**9)).total == counts.parameters(model).total


def test_a_network_with_convolutions_and_frozen_layers_will_do(digits, monkeypatch):
    """Timed by a clock that ticks once per second, and once per look at it."""
    clock = sys.modules["pruning_lab.experiments.contrast"]
    monkeypatch.setattr(clock, "perf_counter", count().__next__)
    recipe = replace(tiny(4, "lenet-5"), freeze=(("conv1", "conv2"), ()))
    rows = contrast(digits, recipes=[recipe], seeds=[0])
    assert [row.network for row in rows] == ["lenet-5", "lenet-5"]
    assert rows[1].compression >= 4
    assert {(row.milliseconds, row.speedup) for row in rows} == {((1000, 1000), (1, 1))}


def row(method, compression, lost, difference):
    change = Drop.counted(round(lost * 1000), 0, 1000)
    difference = difference and Drop.counted(*difference, 1000)
    times = (1.0, 2.0), (1.5, 3.0)
    return ContrastRow(
        method, "lenet-5", 1, compression, 9, 0.1, change, (lost,), difference, *times
    )


MADE = Contrast(
    [
        row(METHODS[0], 2.0, 0.0, None),
        row(METHODS[1], 2.0, 0.02, (20, 0)),
        row(METHODS[0], 8.0, 0.01, None),
        row(METHODS[1], 8.1, 0.01, (5, 5)),
    ]
)


def test_conclusions_say_what_came_out():
    worse, open_ = MADE.conclusions
    assert worse.startswith("At 2.0x, neurons removed instead of weights: worse, -2.00 points")
    assert "At 8.0x" in open_
    assert "these 1,000 images cannot tell the two apart" in open_
    assert worse.endswith("a single image 1.5x as fast as dense instead of 1.5x.")


def test_the_table_has_a_line_for_each_row():
    lines = str(MADE).splitlines()
    assert len(lines) == 6
    assert "1.000 / 2.000" in lines[2]
    assert "1.5x / 3.0x" in lines[2]


def test_the_picture_has_both_lines_and_the_speed():
    left, right = draw(MADE)
    curves = {c.get_label(): c.lines[0].get_data() for c in left.containers}
    assert [list(xy) for xy in curves["neurons removed"]] == [[2.0, 8.1], [-2.0, -1.0]]
    assert [list(xy) for xy in curves["weights pruned"]] == [[2.0, 8.0], [0.0, -1.0]]
    speeds = [list(line.get_ydata()) for line in right.lines if len(line.get_xdata()) == 2][1:]
    assert speeds == 2 * [[1.5, 1.5], [3.0, 3.0]]
    with pytest.raises(ValueError, match="no rows to draw"):
        draw([])
