"""The paper's figures as rows: verdicts that can go either way, curves done once more by others."""

import copy
import json
from contextlib import chdir
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from test_tables import few, quick

from pruning_lab import cli, data, evaluation, experiments, masks, models, paper, plots, training
from pruning_lab.evaluation import Accuracy, Drop
from pruning_lab.experiments import figures, penalties
from pruning_lab.sensitivity import Scan, ScanPoint


@pytest.fixture(scope="module")
def splits():
    return few(data.load("mnist-5k"), 400)


def run_of(kept, dense=None, pruned=None):
    """A run of LeNet-300-100 with this mask of fc1, and these weights."""
    before, after = models.lenet_300_100(), models.lenet_300_100()
    for model, weight in ((before, dense), (after, pruned)):
        if weight is not None:
            model.fc1.weight.data = weight.float()
    record = {"recipe": {"network": "lenet-300-100"}, "data": {"name": "mnist"}}
    return experiments.Run(record, before, after, masks.Mask({"fc1": kept}))


def test_figure_1_has_the_numbers_that_the_paper_prints():
    rows = experiments.figure_1()
    assert [row.relative for row in rows] == [1, 9, 10, 31, 37, 50, 6400]
    assert {row.operation: row.picojoules for row in rows} == paper.ENERGY_PJ
    assert "20 x 1,000,000,000 x 640 pJ = 12.8 W" in rows.sentences[0]


def centred(inside: bool):
    """300 neurons of which every third keeps the middle 14 x 14 pixels, or all others."""
    kept = torch.zeros(300, 28, 28, dtype=torch.bool)
    kept[::3, 7:21, 7:21] = True
    kept[::3] ^= not inside
    return kept.reshape(300, 784)


def test_figure_4_counts_the_connections_of_each_row_and_column():
    rows = figures.figure_4(run_of(centred(True)))
    assert [row.along for row in rows] == 28 * ["row"] + 28 * ["column"]
    assert [row.kept for row in rows][:28] == 7 * [0] + 14 * [1400] + 7 * [0]
    assert rows[10].density == pytest.approx(1400 / (300 * 28))
    uneven = torch.zeros(300, 28, 28, dtype=torch.bool)
    uneven[:5, 3, 20] = True
    found = figures.figure_4(run_of(uneven.reshape(300, 784)))
    assert [(row.along, row.number) for row in found if row.kept] == [("row", 4), ("column", 21)]


@pytest.mark.parametrize(
    ("inside", "says"),
    [
        (True, "keeps 33.3% of the connections of the 14 x 14 pixels in the centre, and 0.0%"),
        (False, "0.0% of the connections of the 14 x 14 pixels in the centre, and 33.3%"),
    ],
)
def test_figure_4_says_whether_the_centre_keeps_more(inside, says):
    (said,) = figures.figure_4(run_of(centred(inside))).sentences
    assert says in said
    assert ("unlike in the paper" in said) is not inside
    assert ("as in the paper" in said) is inside


def test_figure_4_is_of_a_layer_that_takes_in_pixels(splits):
    run = experiments.Run({}, None, None, masks.Mask.of(models.lenet_5()))
    with pytest.raises(ValueError, match=r"\(neurons, 784\), got \(20, 1, 5, 5\)"):
        figures.figure_4(run)


def test_figure_7_tells_two_peaks_from_one():
    torch.manual_seed(0)
    dense, everything = 0.02 * torch.randn(300, 784), torch.ones(300, 784, dtype=torch.bool)
    kept = dense.abs() > 0.03
    parted = 1.5 * dense * kept
    rows = figures.figure_7(run_of(kept, dense, parted))
    (said,) = rows.sentences
    assert "0% of those left after" in said
    assert "38% of the weights lie within half a sigma (0.01)" in said  # of a Gaussian
    assert "is bimodal, as in the paper, and wider than before" in said
    assert rows.layer == "fc1"
    middle = rows[len(rows) // 2]
    assert (middle.dense > 1000, middle.pruned) == (True, 0)
    inside = ((dense.numpy() >= rows[30].low) & (dense.numpy() < rows[30].high)).sum()
    assert rows[30].dense == pytest.approx(inside, abs=2)
    assert sum(row.pruned for row in rows) == pytest.approx(int(kept.sum()), rel=1e-3)

    (said,) = figures.figure_7(run_of(everything, dense, dense / 2)).sentences
    assert "is not bimodal, unlike in the paper, and not wider than before" in said
    with pytest.raises(ValueError, match="no weight of fc1 is left"):
        figures.figure_7(run_of(~everything, dense, dense))


def scan_of(lost):
    """A scan: layer -> the density from which on it loses 3 points, and none above it."""
    points, about = [], {"layers": {}}
    for layer, at in lost.items():
        about["layers"][layer] = {"shape": [2, 2, 3, 3] if "conv" in layer else [2, 2]}
        for density in (0.5, 0.2, 0.1):
            change = Drop.counted(30 if density <= at else 0, 0, 1000)
            accuracy = Accuracy.counted(970, 1000)
            row = {"quality": None, "threshold": None, "accuracy": accuracy, "drop": change}
            points.append(ScanPoint(layer=layer, density=density, **row))
    return Scan(points, dense=Accuracy.counted(990, 1000), about=about)


@pytest.mark.parametrize(
    ("lost", "says"),
    [
        (
            {"conv1": 0.5, "conv2": 0.2, "fc1": 0.1, "fc2": 0},
            (
                "Of 3 pairs of conv1 and another layer, the first is more sensitive in 3, as in "
                "the paper.",
                "Of 4 pairs of a convolution and a fully connected layer, the first is more "
                "sensitive in 4, as in the paper.",
            ),
        ),
        (
            {"conv1": 0.2, "conv2": 0.2, "fc1": 0.5, "fc2": 0.1},
            (
                "Of 3 pairs of conv1 and another layer, the first is more sensitive in 1, the "
                "paper has it in all; less sensitive: conv1 than fc1; not measurably more "
                "sensitive: conv1 than conv2.",
                "Of 4 pairs of a convolution and a fully connected layer, the first is more "
                "sensitive in 2, the paper has it in all; less sensitive: conv1 than fc1, conv2 "
                "than fc1.",
            ),
        ),
        (
            {"conv1": 0, "fc1": 0.5},
            2
            * (
                "the first is more sensitive in 0, the paper has it in all; less sensitive: "
                "conv1 than fc1.",
            ),
        ),
        ({"fc1": 0.5, "fc2": 0.1}, ()),  # nothing to compare
    ],
)
def test_figure_6_says_which_layers_are_more_sensitive(lost, says, splits, monkeypatch):
    monkeypatch.setattr("pruning_lab.sensitivity.scan", lambda *about: scan_of(lost))
    found = experiments.figure_6(splits, models.lenet_300_100())
    places = ", ".join(f"{layer} {100 * at:g} %" for layer, at in lost.items() if at)
    first, *claims = found.sentences
    assert first == f"More than 1 point is lost from these densities down: {places}."
    assert len(claims) == len(says)
    assert all(said.endswith(end) for said, end in zip(claims, says, strict=True))


def test_figure_6_trains_the_network_that_a_run_trains(splits, tmp_path):
    recipe, workspace = quick(experiments.paper_recipe("lenet-5")), experiments.Workspace(tmp_path)
    run = workspace.run(recipe, splits, seed=3)
    before = sorted((tmp_path / "trained").rglob("*"))
    scan = experiments.figure_6(splits, recipe, densities=[0.1], seed=3, workspace=workspace)
    assert sorted((tmp_path / "trained").rglob("*")) == before  # the run's was read
    assert scan.dense.value == evaluation.evaluate(run.dense, splits.val).value
    assert [plain.drop for plain in scan] == [
        plain.drop for plain in experiments.figure_6(splits, run.dense, densities=[0.1])
    ]
    assert "Here: LeNet-5 on mnist-5k" in scan.caption


# --------------------------------------------------------------------------------------- Figure 5


def compared(lost, won, by_control=False):
    curves = ("L1 without retraining", "L2 without retraining")
    return lambda density: penalties.Comparison(
        *curves, density, by_control, Drop.counted(lost, won, 1000)
    )


def test_the_order_says_where_it_holds_where_it_is_reversed_and_where_nothing_can_be_told():
    made = [
        compared(0, 40)(0.2),
        compared(40, 0)(0.1),
        compared(9, 10)(0.05),
        compared(1, 30)(0.01),
    ]
    first, *_ = penalties.order(SimpleNamespace(comparisons=made))
    assert first == (
        "L1 without retraining above L2 without retraining: holds at 20 % (+4.00, +2.76 to +5.22), "
        "1 % (+2.90, +1.80 to +3.99); is reversed at 10 % (-4.00, -5.22 to -2.76); cannot be told "
        "at 5 % (+0.10, -0.77 to +0.97)."
    )


LEVELS = (0.1, 0.3)


@pytest.fixture(scope="module")
def recipe():
    made = experiments.paper_recipe("lenet-300-100", "mnist-5k")
    return replace(made, dense=replace(made.dense, epochs=2))


@pytest.fixture(scope="module")
def figure(recipe, splits):
    return experiments.figure_5(splits, recipe, densities=LEVELS, seeds=(0, 1))


def test_figure_5_has_five_curves_and_the_control(figure):
    places = [(row.curve, row.density) for row in figure]
    assert places == [(curve, level) for curve in penalties.CURVES for level in (0.3, 0.1)]
    assert [row.epochs for row in figure] == [0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 1, 2]
    assert {row.accuracy.n for row in figure} == {800}


def by_others(recipe, splits, penalty, seed):
    """The dense network, the control's epochs and the iterative chain, by `train` and masks."""
    torch.manual_seed(seed)
    dense = models.lenet_300_100()
    config = replace(recipe.dense, **penalty)
    train(dense, splits, replace(config, seed=100 * seed))
    networks = {"dense": dense}
    for name, levels in (("chain", (0.3, 0.1)), ("control", (1.0, 1.0)), ("once", (0.1,))):
        model = copy.deepcopy(dense)
        for phase, level in enumerate(levels, start=1):
            mask = masks.prune(model, density=level, across="network")
            mask.apply_(model)
            networks[f"{name} {phase} cut"] = copy.deepcopy(model)
            train(model, splits, replace(config, epochs=1, seed=100 * seed + phase), mask)
            networks[f"{name} {phase}"] = copy.deepcopy(model)
    return networks


def train(model, splits, config, mask=None):
    for _ in training.train(model, splits.train, config, mask=mask):
        pass


def test_every_curve_is_what_train_and_masks_make(figure, recipe, splits):
    at = {(row.curve, row.density): row for row in figure}
    for name, penalty in {
        "L1": {"l1": penalties.L1, "weight_decay": 0.0},
        "L2": {"l1": 0.0, "weight_decay": penalties.L2},
    }.items():
        each = [by_others(recipe, splits, penalty, seed) for seed in (0, 1)]

        def error(which, each=each):
            return sum(evaluation.evaluate(n[which], splits.test).value for n in each) / 2

        def is_like(curve, level, ours, control, error=error, at=at):
            row = at[curve, level]
            assert row.accuracy.value == pytest.approx(error(ours))
            assert row.control_drop.value == pytest.approx(error(control) - error(ours))

        is_like(f"{name} without retraining", 0.1, "once 1 cut", "dense")
        is_like(f"{name} with retraining", 0.1, "once 1", "control 1")
        is_like(f"{name} with retraining", 0.3, "chain 1", "control 1")
        if name == "L2":
            is_like("L2 iterative", 0.1, "chain 2", "control 2")
            is_like("L2 control", 0.1, "control 2", "control 2")
            for row in figure:
                reference = error("dense") - row.accuracy.value
                assert row.dense_drop.value == pytest.approx(reference)


def test_comparisons_are_paired_differences_of_the_curves(figure):
    at = {(row.curve, row.density): row for row in figure}
    for one in figure.comparisons:
        above, below = (at[curve, one.density] for curve in (one.above, one.below))
        if one.by_control:
            expected = above.control_drop.value - below.control_drop.value
        else:
            expected = below.accuracy.value - above.accuracy.value
        assert one.drop.value == pytest.approx(expected)
        assert one.drop.low <= one.drop.value <= one.drop.high
    assert len(figure.comparisons) == 5 * len(LEVELS)
    assert len(figure.sentences) == 5


def test_the_interval_of_costs_is_that_of_the_mean_over_images():
    torch.manual_seed(0)
    hits = [Accuracy.of(torch.rand(500) < p) for p in (0.7, 0.8, 0.75, 0.9)]
    once, chain = [(1, hits[0], hits[1])], [(2, hits[2], hits[3])]
    found = penalties._lost(once, chain, True)
    ours = np.array([(h.hits.float() - c.hits.float()).numpy() for h, c in (hits[:2], hits[2:])])
    gains = ours[1] - ours[0]
    assert found.value == pytest.approx(-gains.mean())
    half = 1.959964 * gains.std(ddof=1) / np.sqrt(500)
    assert (found.low, found.high) == pytest.approx(
        (found.value - half, found.value + half), abs=1e-7
    )


def test_an_interrupted_figure_5_resumes_to_the_same_rows(figure, recipe, splits, tmp_path):
    seen = []

    def stop(note):
        seen.append(note)
        if len(seen) == 8:
            raise KeyboardInterrupt

    options = {"densities": LEVELS, "seeds": (0, 1)}
    workspace = experiments.Workspace(tmp_path, stop)
    with pytest.raises(KeyboardInterrupt):
        experiments.figure_5(splits, recipe, workspace=workspace, **options)
    notes = []
    workspace = experiments.Workspace(tmp_path, notes.append)
    again = experiments.figure_5(splits, recipe, workspace=workspace, **options)
    assert tuple(again) == tuple(figure)
    assert again.comparisons == figure.comparisons
    assert len(notes) == 2 * penalties.epochs_of(recipe, LEVELS)


@pytest.mark.parametrize("wrong", [{"densities": ()}, {"seeds": ()}, {"densities": (8,)}])
def test_figure_5_refuses_what_it_could_only_fail_at_later(wrong, splits):
    with pytest.raises(ValueError, match=r"needs a density and a seed|divide by 100"):
        experiments.figure_5(splits, **wrong)


def test_the_picture_has_a_look_for_every_curve(figure):
    ax = plots.penalties(figure, ax=Figure(figsize=(8, 5)).subplots())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(penalties.CURVES)
    lines = [container[0] for container in ax.containers]
    looks = {(line.get_color(), line.get_linestyle(), line.get_markerfacecolor()) for line in lines}
    assert len(looks) == 6
    for line, curve in zip(lines, penalties.CURVES, strict=True):
        drawn = [-100 * row.dense_drop.value for row in figure if row.curve == curve]
        assert line.get_ydata() == pytest.approx(drawn)
        assert (line.get_linestyle() == "--") == ("without" in curve)


# ---------------------------------------------------------------------------------------- command


@pytest.fixture
def inside(tmp_path, monkeypatch, splits):
    """An empty folder, where recipes are short and the images few."""
    made = experiments.paper_recipe
    monkeypatch.setattr(experiments, "paper_recipe", lambda *about: quick(made(*about)))
    monkeypatch.setattr(data, "load", lambda *name, **options: splits)
    monkeypatch.setattr(penalties, "DENSITIES", (0.3,))
    with chdir(tmp_path):
        yield tmp_path


def test_the_command_draws_each_figure_and_says_what_it_shows(inside, capsys):
    assert cli.main(("figure", "1")) == 0
    assert "12.8 W" in capsys.readouterr().out
    assert cli.main(("figure", "4")) == 0
    said = capsys.readouterr().out
    assert "fc1 keeps" in said
    assert "wrote runs/paper/figure-4.png and runs/paper/figure-4.json" in said
    assert cli.main(("figure", "7", "--model", "lenet-300-100", "--json")) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["out"] == "runs/paper/figure-7.png"
    assert len(record["rows"]) == 101
    assert cli.main(("figure", "6", "--model", "lenet-300-100", "--out", "scan.png")) == 0
    assert "More than 1 point is lost from these densities down" in capsys.readouterr().out
    assert len(list(inside.glob("runs/*/run.json"))) == 1  # 7 has found that of 4
    pictures = [*inside.rglob("*.png")]
    names = {*(f"figure-{number}.png" for number in (1, 4, 7)), "scan.png"}
    assert {path.name for path in pictures} == names
    for path in pictures:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.with_suffix(".json").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("figure", "8"), "must be a whole number from 1 to 7, got '8'"),
        (("figure", "3"), "figure 3 is a drawing of the method; there are 1, 4, 5, 6 and 7"),
        (("figure", "4", "--seeds", "2"), "figure 4 is of one network; leave --seeds out"),
        (("figure", "1", "--out", "a.pdf"), "name a file that ends in .png"),
        (("figure", "4", "--model", "lenet-5"), "got (20, 1, 5, 5); this picture is of the layer"),
    ],
)
def test_a_bad_number_gets_one_sentence(words, expected, inside, capsys):
    assert cli.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert not list(inside.iterdir())
