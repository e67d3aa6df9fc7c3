"""Plots for notebooks: guesses as ghosts, panels that can be compared, words, what is shown."""

import base64
import re
import subprocess
import sys
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from IPython import display
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from test_plots import accuracy, legend, lost, point

from pruning_lab import counts, evaluation, masks, plots, sensitivity

GUESS = "your guess"


@pytest.fixture
def ax():
    return Figure().subplots()


def drawn(figure, size=None):
    if size:
        figure.set_size_inches(size)
    figure.set_layout_engine("constrained")
    FigureCanvasAgg(figure).draw()
    return figure


# --- a guess as a ghost ------------------------------------------------------------------------

POINTS = [(0.5, lost(1)), (0.2, lost(10)), (0.1, lost(50))]


@pytest.mark.parametrize("guess", [{0.5: 90, 0.1: 60, 0.2: 80}, {"0.5": 90, "0.2": 80, "0.1": 60}])
def test_a_guessed_curve_is_dashed_at_its_change_from_dense(guess, ax):
    for known in (guess, [90, 80, 60]):
        ax = plots.trade_off(POINTS, dense=accuracy(95), guess=known, ax=Figure().subplots())
        ghost = legend(ax)[GUESS]
        assert ghost.get_linestyle() == "--"
        assert sorted(map(tuple, ghost.get_xydata())) == [
            (0.1, pytest.approx(-35)),
            (0.2, pytest.approx(-15)),
            (0.5, pytest.approx(-5)),
        ]


@pytest.mark.parametrize("guess", [None, 3, "half", [1, 2], {"a": 1}, {}, [], {0.5: None}])
def test_what_is_no_curve_leaves_the_plots_as_they_are(guess):
    axes = [Figure().subplots() for _ in range(3)]
    plots.trade_off(POINTS, dense=accuracy(95), guess=guess, ax=axes[0])
    plots.sensitivity([point("fc1", 0.1, 90)], guess=guess, ax=axes[1])
    if guess != [1, 2]:  # two halves of a histogram
        plots.weights(torch.randn(50), guess=guess, ax=axes[2])
    assert not any(GUESS in label for ax in axes for label in legend(ax))


def test_a_guessed_order_stands_beside_the_names_and_a_guessed_curve_in_the_axes(ax):
    points = [point(layer, 0.1, 90) for layer in ("conv1", "fc1", "fc2")]
    plots.sensitivity(points, guess=["fc2", "conv1", "other"], ax=ax)
    assert [*legend(ax)] == ["conv1 (your guess: 2)", "fc1", "fc2 (your guess: 1)"]
    ax = plots.sensitivity(points, guess={0.1: 50}, ax=Figure().subplots())
    assert legend(ax)[GUESS].get_xydata().tolist() == [[0.1, pytest.approx(50 - 80)]]


def test_guessed_heights_stand_over_equal_parts_and_the_highest_as_high_as_the_bars(ax):
    weight = torch.randn(500, generator=torch.Generator().manual_seed(0))
    plots.weights(weight, guess=[10, 40, 20], ax=ax)
    x, y = legend(ax)[GUESS].get_data()
    reach = ax.get_xlim()[1]
    assert x == pytest.approx([-2 * reach / 3, 0, 2 * reach / 3])
    top = max(patch.get_data().values.max() for patch in ax.patches)
    assert y == pytest.approx([top / 4, top, top / 2])


# --- pictures that can be compared -------------------------------------------------------------


def test_nothing_left_stands_in_one_place_however_often_a_curve_is_added(ax):
    for densities in ((0.5, 0.1, 0), (1, 0.02, 0), (0.3, 0.01), (0.2, 0), (0.9, 0.8)):
        plots.trade_off([(density, lost(20)) for density in densities], label="x", ax=ax)
    drawn(ax.figure)
    names = {
        text.get_text(): x for x, text in zip(ax.get_xticks(), ax.get_xticklabels(), strict=True)
    }
    curves = [container.lines[0].get_xdata() for container in ax.containers]
    assert {curve[-1] for curve in curves} - {0.01, 0.8} == {names["none"]}
    places = ax.transData.transform([(x, 0) for x in (names["none"], 0.01, 0.5, 1)])[:, 0]
    halving = pytest.approx(places[2] - places[3])
    assert places[0] - places[1] == halving
    assert places[0] < ax.bbox.x1


def test_near_the_top_a_trade_off_is_linear_and_stays_close(ax):
    plots.trade_off([(0.5, lost(2, n=9000)), (0.1, lost(8000, n=9000))], max_drop=1, ax=ax)
    low, high = ax.get_ylim()
    assert ax.get_yscale() == "linear"
    assert -10 < low < -1 < 0 < high < 5
    assert [text.get_text() for text in ax.texts] == ["dense", "allowed: -1 point"]


def heights(ax):
    return next(p.get_data() for p in ax.patches if isinstance(p, StepPatch))


def test_histograms_beside_each_other_have_the_same_bins_and_the_same_axis():
    narrow, wide = torch.randn(900) * 0.1, torch.randn(900)
    figure = Figure(figsize=(9, 3))
    left, right = plots.weights_beside({"a": wide, "b": wide * 0.9}, figure=figure)
    assert (heights(left).edges == heights(right).edges).all()
    assert left.get_ylim() == right.get_ylim()
    assert left.get_xlim() == right.get_xlim()
    assert (left.get_title(), right.get_title()) == ("a", "b")
    low, high = plots.weights_beside({"a": wide, "b": narrow}, down=True, figure=Figure())
    times = heights(high).values.max() / heights(low).values.max()
    assert times > 5
    assert low.get_ylim()[1] * times == pytest.approx(high.get_ylim()[1])
    assert f"drawn {times:.0f}x larger" in low.get_ylabel()
    assert high.get_ylabel() == "number of weights"
    plots.weights_beside({"a": wide, "gone": wide[:0]}, figure=Figure())


def test_each_layer_has_its_own_panel_with_the_bound_and_the_same_scales():
    layers = [*(f"conv{n}" for n in range(1, 6)), "fc1", "fc2", "fc3"]
    points = [point(name, d, k) for name in layers for d, k in ((0.5, 1), (0.1, 40), (0.01, 300))]
    axes = plots.sensitivity_grid(points, max_drop=2, title="$x^{$", figure=Figure(figsize=(10, 4)))
    figure = drawn(axes[0].figure)
    assert [ax.get_title() for ax in axes] == layers
    assert len({ax.get_ylim() for ax in axes}) == len({ax.get_xlim() for ax in axes}) == 1
    assert all(-2 in {line.get_ydata()[0] for line in ax.lines} for ax in axes)
    assert "-2 points" in figure.get_supxlabel()
    assert "accuracy" in figure.get_supylabel()
    assert len(figure.axes) == 8
    five = plots.sensitivity_grid([p for p in points if p.layer < "conv6"], figure=Figure())
    assert len(five) == len(five[0].figure.axes) == 5


@pytest.mark.parametrize("width", [4, 6, 10])
@pytest.mark.parametrize("lowest", [0.5, 0.02, 0.001, 0])
def test_labels_of_ticks_never_meet(width, lowest):
    figure = Figure(figsize=(width, 3))
    left, right = figure.subplots(1, 2)
    plots.trade_off([(1, lost(0)), (lowest or 0.01, lost(9)), (lowest, lost(90))], ax=left)
    plots.weights(torch.randn(99) * 0.07, ax=right)
    drawn(figure)
    for axis in (left.xaxis, left.child_axes[0].xaxis, right.xaxis, left.yaxis, right.yaxis):
        low, high = sorted(axis.get_view_interval())
        ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
        side = "label2" if axis.axes is left.child_axes[0] else "label1"
        boxes = [getattr(tick, side).get_window_extent() for tick in ticks]
        assert len(boxes) >= 2
        for one, other in combinations(boxes, 2):
            assert not one.overlaps(other), axis


# --- lost images -------------------------------------------------------------------------------


def test_the_first_lost_images_stand_with_both_answers(toy, split):
    cut = masks.prune(toy, density=0.3)
    before = evaluation.evaluate(toy, split)
    with masks.masked(toy, cut), torch.no_grad():
        after = evaluation.evaluate(toy, split)
        answers = torch.cat([toy.eval()(x).argmax(1) for x, _ in split])
    was = (before.hits & (answers != split.labels)).nonzero().flatten().tolist()
    assert was
    axes = plots.lost_images(split, before, after, answers, first=2, figure=Figure())
    titles = [ax.get_title() for ax in axes]
    assert titles == [f"{split.labels[n]}, now {answers[n]}" for n in was[:2]]
    for ax, place in zip(axes, was, strict=False):
        assert np.array_equal(ax.images[0].get_array(), split.images[place, 0].numpy())
    words = axes[0].figure.get_suptitle()
    assert re.match(rf"{len(was)} images? lost, \d+ won", words)
    (none,) = plots.lost_images(split, before, before, answers, figure=Figure())
    assert (len(none.images), none.figure.get_suptitle()) == (0, "0 images lost, 0 won")
    with pytest.raises(ValueError, match=r"all 50 images are needed, got .* and 3 answers"):
        plots.lost_images(split, before, after, answers[:3], figure=Figure())


# --- words -------------------------------------------------------------------------------------


def test_a_scan_in_words_says_where_each_layer_loses_more_than_a_point():
    levels = {"fc1": (0, 1, 2), "conv1": (2, 30, 90), "fc2": (0, 6, 40), "conv2": (0, 7, 40)}
    points = [
        point(layer, density, k)
        for layer, drops in levels.items()
        for density, k in zip((0.5, 0.3, 0.01), drops, strict=True)
    ]
    expected = (
        "More than 1 point is lost by conv1, conv2 and fc2 at 30 % kept; at most 1 point is lost "
        "by fc1 down to 1 % kept (-0.40)."
    )
    assert plots.words(points) == plots.words(points[::-1]) == expected
    assert plots.words([point("fc1", 0.3, 1)]).startswith("At most 1 point is lost by fc1 down")


def test_a_trade_off_in_words_says_from_where_on_it_loses():
    assert plots.words([(0.1, lost(50)), (1, lost(0)), (0.5, lost(1)), (0.2, lost(20))]) == (
        "No loss beyond noise down to 50 % kept; -20.00 points at 20 %; -50.00 points at 10 %."
    )
    assert plots.words([(0.5, lost(50))]) == "-50.00 points at 50 %."
    assert plots.words([(0.5, lost(0))]) == "No loss beyond noise down to 50 % kept."


def test_other_rows_in_words_have_their_numbers(toy):
    weight = torch.arange(-100, 101) / 100
    assert plots.words(weight) == (
        "201 weights: 5 % lie within ±0.05, half within ±0.5, 95 % within ±0.95."
    )
    assert plots.words(weight[:0]) == "No weight is left."
    mask = torch.tensor([[True, False, True], [True, False, False]])
    assert plots.words(mask) == (
        "3 of 6 weights are kept. Inputs without any: 1 of 3; most for one input: 2."
    )
    rows = counts.layers(toy, (1, 8, 8))
    assert plots.words(rows).startswith("100 % of 516 weights and 100 % of the operations are left")
    assert "conv1 100 % and 100 %" in plots.words(rows)
    prior = sensitivity.prior(toy, [0, 1, 3])
    kept = {row.layer: row.density for row in prior if row.quality == 1}
    assert plots.words(prior).startswith("A threshold of 1 sigma keeps ")
    assert all(f"{100 * kept[name]:.3g} % of {name}" in plots.words(prior) for name in kept)
    assert plots.words([]) == "Nothing is drawn."


# --- what a notebook shows ---------------------------------------------------------------------


@pytest.fixture
def shown(monkeypatch):
    found = []
    monkeypatch.setattr(display, "display", found.append)
    return found


def test_a_plot_is_shown_once_with_its_words_as_alternative_text_and_below(shown):
    open_before = plt.get_fignums()
    plots.show(plots.trade_off(POINTS), POINTS)
    assert plt.get_fignums() == open_before  # else a notebook would show it twice
    bundle = shown[0]._repr_mimebundle_()
    words = plots.words(POINTS)
    assert bundle["text/plain"] == words == repr(shown[0])
    alt, width, png = re.fullmatch(
        r'<img alt="(.*?)" width="(\d+)" style=".*?" src="data:image/png;base64,(.*?)">'
        r"<details><summary>in words</summary>.*</details>",
        bundle["text/html"],
    ).groups()
    assert (alt, width) == (words, "640")
    size = base64.b64decode(png)[16:24]
    assert [int.from_bytes(part, "big") for part in (size[:4], size[4:])] == [960, 720]


def test_a_text_of_ones_own_and_a_list_of_axes_are_shown(shown):
    axes = plots.weights_beside({"a": torch.randn(9), "b": torch.randn(9)}, figure=Figure())
    plots.show(axes, 'a < b & "c"')
    assert 'alt="a &lt; b &amp; &quot;c&quot;"' in shown[0]._repr_mimebundle_()["text/html"]
    plots.show(axes[0].figure, "again")
    assert len(shown) == 2


def test_a_legend_beside_the_axes_is_not_cut_off(shown):
    ax = Figure(figsize=(5, 3)).subplots()
    plots.sensitivity([point("a_layer_with_a_long_name", 0.1, 90)], ax=ax)
    plots.show(ax, "")
    assert ax.get_legend().get_window_extent().x1 <= ax.figure.bbox.x1


def test_where_no_notebook_is_words_are_printed_and_nothing_else_is_loaded():
    script = """
import sys, torch
from matplotlib.figure import Figure
from pruning_lab import plots
print("IPython" in sys.modules)
w = torch.ones(3)
plots.show(plots.weights(w, ax=Figure().subplots()), w)
print("matplotlib.pyplot" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split("\n")[:3] == [
        "False",
        "3 weights: 5 % lie within ±1, half within ±1, 95 % within ±1.",
        "False",
    ], done.stderr
