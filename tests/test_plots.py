"""Plots draw on the axes they are given, give them back, and show the numbers they got."""

import inspect
from itertools import combinations, pairwise
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from matplotlib.text import Text
from scipy.stats import binomtest, laplace, norm

from pruning_lab import (
    counts,
    evaluation,
    experiments,
    masks,
    models,
    paper,
    plots,
    sensitivity,
    sparse,
)
from pruning_lab.experiments import penalties


def accuracy(right: int, n: int = 100) -> evaluation.Accuracy:
    return evaluation.Accuracy.of(torch.arange(n) < right)


def lost(answers: int, won: int = 0, n: int = 100) -> evaluation.Drop:
    return evaluation.Drop.counted(answers, won, n)


def render(ax) -> None:
    """Draw for real: the canvas of a plain Figure does nothing."""
    FigureCanvasAgg(ax.figure).draw()


@pytest.fixture
def ax():
    """Axes that pyplot knows nothing of."""
    return Figure().subplots()


def every_plot(toy, batches):
    return {
        "weights": lambda **o: plots.weights(toy.fc1.weight, threshold=0.1, **o),
        "trade_off": lambda **o: plots.trade_off([(1, lost(0)), (0.1, lost(90))], **o),
        "epochs": lambda **o: plots.epochs({"$a$": [lost(9), lost(1)], "b": [lost(0, 3)]}, **o),
        "sensitivity": lambda **o: plots.sensitivity(
            sensitivity.scan(toy, batches, [0.1, 0.5]), **o
        ),
        "prior": lambda **o: plots.prior(sensitivity.prior(toy, [0.5, 1, 3]), **o),
        "layer_table": lambda **o: plots.layer_table(
            counts.layers(models.lenet_5(), (1, 28, 28)), paper.LENET_5, **o
        ),
        "bands": lambda **o: plots.bands(torch.rand(5, 784) < 0.1, **o),
        "kept_pixels": lambda **o: plots.kept_pixels(torch.rand(5, 784) < 0.1, **o),
        "images": lambda **o: plots.images(torch.rand(3, 1, 6, 5), ["a", "b", "$c$"], **o),
        "energy": lambda **o: plots.energy(paper.ENERGY_PJ, **o),
        "frontier": lambda **o: plots.frontier([FRONTIER], **o),
        "techniques": lambda **o: plots.techniques([TECHNIQUE], **o),
        "penalties": lambda **o: plots.penalties(PENALTIES, **o),
        "layer_times": lambda **o: plots.layer_times(TIMES, density=0.1, **o),
        "class_points": lambda **o: plots.class_points(EARNED, **o),
        "network": lambda **o: plots.network(counts.layers(toy, (1, 8, 8)), **o),
        "stored": lambda **o: plots.stored({"float32": 4000, "ours": 700}, **o),
    }


FRONTIER = experiments.FrontierRow(
    *("$a$", "mnist", True, 2, 26_000.0, 10.0, 9.9, None, 0.01, 0.01, 0.02, lost(1), lost(2)),
    (0.01, 0.03),
)
TECHNIQUE = experiments.TechniqueRow("a", "$b$", "c", 0.1, 2, 0.02, lost(2), (0.01, 0.03), None)
TIMES = [
    sparse.SparseRow("fc1", 1, d, *(sparse.Spread(x, x - 0.1, x + 0.3),) * 3, "dense", None)
    for d, x in ((0.5, 2.0), (0.1, 0.7))
]
PENALTIES = [
    penalties.CurvePoint(curve, 0.1, 1, None, lost(n), lost(n))
    for n, curve in enumerate(penalties.CURVES)
]

EARNED = [SimpleNamespace(task=task, sign=sign) for task in ("a", "b") for sign in "✓✗○"]

PLOTS = ["weights", "trade_off", "sensitivity", "prior", "layer_table", "bands", "kept_pixels"]
PLOTS += ["images", "energy", "epochs", "frontier", "techniques", "penalties"]
PLOTS += ["class_points", "layer_times", "network", "stored"]


def test_every_public_plot_is_tested_here():
    functions = {name: f for name, f in vars(plots).items() if inspect.isfunction(f)}
    draw_on_axes = {n for n, f in functions.items() if "ax" in inspect.signature(f).parameters}
    assert draw_on_axes == set(PLOTS)


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_draws_on_the_axes_it_is_given_and_gives_them_back(name, toy, batches, ax):
    before = plt.get_fignums()
    assert every_plot(toy, batches)[name](ax=ax, title="a title") is ax
    assert ax.get_title() == "a title"
    render(ax)
    assert plt.get_fignums() == before


@pytest.mark.parametrize("name", PLOTS)
def test_without_axes_a_plot_makes_its_own(name, toy, batches):
    made = every_plot(toy, batches)[name]()
    assert isinstance(made, Axes)
    plt.close(made.figure)


@pytest.mark.parametrize("name", PLOTS)
def test_drawing_leaves_no_trace(name, toy, batches, ax, everything_of):
    draw, before = every_plot(toy, batches)[name], everything_of(toy)
    draw(ax=ax)
    after = everything_of(toy)
    # The masks of two of the plots above are drawn at random by the test itself.
    assert after[:4] == before[:4]


def texts(ax) -> list[Text]:
    """Every text of a figure that says something, drawn once."""
    render(ax)
    return [text for text in ax.figure.findobj(Text) if text.get_text()]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", PLOTS)
def test_a_title_with_dollars_is_no_formula_and_no_error(name, toy, batches, ax):
    every_plot(toy, batches)[name](ax=ax, title="$x^{$")
    assert "$x^{$" in [text.get_text() for text in texts(ax)]


@pytest.mark.filterwarnings("error")
def test_a_layer_with_dollars_in_its_name_is_drawn_as_it_is_called(ax):
    odd = "$x^{$"
    plots.sensitivity([point(odd, 0.1, 90), point("$a$", 0.1, 90)], ax=ax)
    assert {odd, "$a$"} <= {text.get_text() for text in texts(ax) if not text.get_parse_math()}
    row = counts.LayerCount(odd, 10, 5, 20, 1, None, None, 10.0)
    drawn = plots.layer_table(counts.Counts([row]), ax=Figure().subplots())
    assert odd in {text.get_text() for text in texts(drawn) if not text.get_parse_math()}
    plots.trade_off([(0.1, lost(3))], label=odd, ax=(other := Figure().subplots()))
    assert odd in {text.get_text() for text in texts(other) if not text.get_parse_math()}


@pytest.mark.parametrize("name", ["trade_off", "sensitivity"])
def test_density_runs_along_the_axis_and_sparsity_along_the_other_side(name, toy, batches, ax):
    every_plot(toy, batches)[name](ax=ax)
    render(ax)
    assert ax.get_xlabel().startswith("density (fraction kept)")
    assert ax.get_ylabel().startswith("change of accuracy (points)")
    (top,) = ax.child_axes
    assert top.get_xlabel() == "sparsity"
    below, above = (
        {tick: float(text.get_text().rstrip("%")) for tick, text in zip(*labels, strict=True)}
        for labels in (
            (ax.get_xticks(), ax.get_xticklabels()),
            (top.get_xticks(), top.get_xticklabels()),
        )
    )
    assert len(below) >= 3
    assert {tick: 100 - percent for tick, percent in below.items()} == pytest.approx(above)
    for tick in below:  # one above the other
        places = (one.transData.transform((tick, 0))[0] for one in (ax, top))
        assert next(places) == pytest.approx(next(places))


# Machado, Oliveira and Fernandes 2009: what dichromats see, in linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.01182, 0.04294, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.3039],
        ]
    ),
}


def lab(colour: str, blindness: str) -> np.ndarray:
    """CIELAB (D65) of a colour as someone sees it."""
    rgb = np.array(to_rgb(colour))
    rgb = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    rgb = (BLINDNESS[blindness] @ rgb).clip(0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(to_xyz @ rgb / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_the_palette_is_told_apart_by_every_eye(blindness):
    meanings = (plots.KEPT, plots.GONE, plots.PAPER, plots.NOISE, plots.LIMIT, plots.INK)
    assert plots.OURS == plots.KEPT
    for palette in (meanings, plots.CURVES):
        assert len(set(palette)) == len(palette)
        for one, other in combinations(palette, 2):
            distance = np.linalg.norm(lab(one, blindness) - lab(other, blindness))
            assert distance > 15, (one, other, distance)


def test_the_style_is_for_ones_own_figures_and_ends_with_its_block():
    before = dict(plt.rcParams)
    with plots.style():
        ax = Figure().subplots()
        (line,) = ax.plot([0, 1], [1, 0], label="$x^{$")
        ax.legend()
        render(ax)
    assert line.get_color() == plots.OURS
    assert not ax.spines["top"].get_visible()
    assert dict(plt.rcParams) == before


# --- weights -----------------------------------------------------------------------------------


def heights(ax) -> dict[str, np.ndarray]:
    """How high each part of a histogram stands, from left to right."""
    patches = [patch for patch in ax.patches if isinstance(patch, StepPatch)]
    return {patch.get_label(): patch.get_data().values for patch in patches}


def test_the_histogram_is_numpys(ax):
    weight = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    plots.weights(weight.reshape(50, 100), bins=21, ax=ax)
    reach = ax.get_xlim()[1]
    counted, edges = np.histogram(weight.numpy(), bins=21, range=(-reach, reach))
    assert heights(ax)["kept"].tolist() == counted.tolist()
    assert ax.patches[0].get_data().edges == pytest.approx(edges, abs=1e-6)
    assert 4980 <= counted.sum() <= 5000  # but for the outermost 0.1 % on either side


def test_of_six_weights_all_six_are_drawn(ax):
    plots.weights(torch.tensor([0.9, -0.1, 0.4, -0.7, 0.05, 0.3]), ax=ax)
    assert heights(ax)["kept"].sum() == 6


def test_what_lies_below_the_threshold_is_grey(ax):
    weight = torch.tensor([-0.9, -0.4, 0.0, 0.1, 0.5, 0.8])
    plots.weights(weight, threshold=0.3, bins=101, ax=ax)
    assert {name: part.sum() for name, part in heights(ax).items()} == {"kept": 4, "pruned": 2}
    assert sorted(line.get_xdata()[0] for line in ax.lines) == [-0.3, 0.3]


def test_only_survivors_are_drawn(ax):
    weight = torch.tensor([-0.9, 0.0, 0.0, 0.0, 0.8])
    plots.weights(weight, kept=weight != 0, ax=ax)
    assert heights(ax)["kept"].sum() == 2


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("threshold", [None, 0.1])
def test_a_layer_of_zeros_and_a_layer_of_nothing_are_drawn(threshold):
    for weight, kept in [
        (torch.zeros(20), None),
        (torch.ones(20), torch.zeros(20, dtype=torch.bool)),
        (torch.full((1,), 0.25), None),
    ]:
        ax = plots.weights(weight, kept=kept, threshold=threshold, ax=Figure().subplots())
        render(ax)


def test_a_parameter_of_any_precision_is_drawn(ax):
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        plots.weights(torch.nn.Parameter(torch.randn(30).to(dtype)), ax=ax)


# --- curves ------------------------------------------------------------------------------------


def test_a_trade_off_shows_changes_with_their_sign_and_their_paired_intervals(ax):
    drops = {1.0: lost(0), 0.5: lost(2, 6), 0.1: lost(30, 3)}
    plots.trade_off(reversed(drops.items()), label="ours", dense=accuracy(90), ax=ax)
    line = ax.containers[0].lines[0]
    assert line.get_xdata() == pytest.approx([1, 0.5, 0.1])
    assert line.get_ydata() == pytest.approx([0, 4, -27])
    (segments,) = (c.get_segments() for c in ax.containers[0].lines[2])
    for ((_, low), (_, high)), drop in zip(segments, drops.values(), strict=True):
        assert (low, high) == pytest.approx((-100 * drop.high, -100 * drop.low))
    assert [text.get_text() for text in ax.texts] == ["dense 90.00%"]
    left, right = ax.get_xlim()
    assert left > 1 > 0.1 > right


def test_epochs_are_counted_from_the_cut_on_and_bands_are_the_paired_intervals(ax):
    curves = {"pruned": [lost(30, 3), lost(2, 6), lost(0)], "control": [lost(0), lost(1, 9)]}
    plots.epochs(curves, ax=ax)
    lines = {line.get_label(): line for line in ax.lines}
    for name, drops in curves.items():
        x, y = lines[name].get_data()
        assert list(x) == list(range(len(drops)))
        assert y == pytest.approx([-100 * drop.value for drop in drops])
    ends = {round(float(y), 6) for y in ax.collections[0].get_paths()[0].vertices[:, 1]}
    wanted = {round(-100 * end, 6) for drop in curves["pruned"] for end in (drop.low, drop.high)}
    assert ends == wanted
    assert plots.words(curves) == (
        "Change from the dense network: pruned: -27.00 points at first, +0.00 after 2 epochs; "
        "control: +0.00 points at first, +8.00 after 1 epoch."
    )


def test_a_second_curve_keeps_the_title_and_the_points_of_the_first_in_sight(ax):
    plots.trade_off([(0.02, lost(80)), (0.5, lost(1))], label="a", title="both", ax=ax)
    plots.trade_off([(0.3, lost(2)), (1.0, lost(0))], label="b", ax=ax)
    assert ax.get_title() == "both"
    assert ax.get_xlim()[0] > 1 > 0.02 > ax.get_xlim()[1]
    colours = [container.lines[0].get_color() for container in ax.containers]
    assert colours == list(plots.CURVES[:2])
    assert len(ax.child_axes) == len(ax.texts) == 1
    render(ax)
    assert {"0", "-1", "-50"} <= {text.get_text() for text in ax.get_yticklabels()}


@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_a_curve_of_one_point_has_an_axis(density, ax):
    plots.trade_off([(density, lost(4))], ax=ax)
    render(ax)
    left, right = ax.get_xlim()
    assert 20 > left > ax.containers[0].lines[0].get_xdata()[0] > right


def test_one_network_at_chance_does_not_flatten_the_others(ax):
    """Of the height between the worst and the best, the two good ones still take a tenth."""
    drops = [(0.5, lost(10, n=5000)), (0.3, lost(60, n=5000)), (0.02, lost(4400, n=5000))]
    plots.trade_off(drops, ax=ax)
    ys = ax.transData.transform([(1, y) for y in ax.containers[0].lines[0].get_ydata()])[:, 1]
    assert ys[0] - ys[1] > 0.1 * (ys[0] - ys[2])


@pytest.mark.parametrize("n", [1, 48, 144, 359, 5000])
def test_a_loss_of_nothing_or_all_has_a_bar_that_can_be_drawn(ax, n):
    plots.trade_off([(1, lost(0, n, n)), (0.5, lost(n, 0, n)), (0.0, lost(0, 0, n))], ax=ax)
    render(ax)


# --- sensitivity -------------------------------------------------------------------------------


def point(layer: str, density: float, lost: int, won: int = 0, n: int = 500):
    """Of a dense network that answers 80 % rightly."""
    right = round(0.8 * n) - lost + won
    return sensitivity.ScanPoint(
        layer=layer,
        density=density,
        quality=None,
        threshold=None,
        accuracy=evaluation.Accuracy.counted(right, n),
        drop=evaluation.Drop.counted(lost, won, n),
    )


def legend(ax) -> dict:
    handles, labels = ax.get_legend_handles_labels()
    return dict(zip(labels, handles, strict=True))


def dots(ax, layer: str) -> dict[str, set]:
    """(x, y) of a layer's points by their colour; its marker is that of the legend."""
    line = legend(ax)[layer]
    hollow = line.get_markerfacecolor() == "white"
    found = {}
    for other in ax.lines:
        same = other.get_marker() == line.get_marker() and other.get_linestyle() == "None"
        if same and len(other.get_xydata()) and hollow == (other.get_markerfacecolor() == "white"):
            found.setdefault(other.get_markeredgecolor(), set()).update(
                (round(float(x), 9), round(float(y), 9)) for x, y in other.get_xydata()
            )
    return found


def bands_of(ax) -> dict[str, list[tuple]]:
    """(x, lowest, highest) of every band at each of its corners, by colour."""
    found = {}
    for band in ax.collections:
        if not isinstance(band, PolyCollection):
            continue
        corners = {}
        for x, y in band.get_paths()[0].vertices:
            corners.setdefault(round(float(x), 9), []).append(float(y))
        ends = [(x, min(y), max(y)) for x, y in sorted(corners.items())]
        found.setdefault(to_hex(band.get_facecolor()[0]), []).extend(ends)
    return found


def height_of(ax, label: str) -> float:
    return legend(ax)[label].get_ydata()[0]


def test_a_scan_is_a_curve_per_layer(toy, batches, ax):
    points = sensitivity.scan(toy, batches, [0.5, 0.1, 1.0])
    plots.sensitivity(points, ax=ax)
    for layer in ("conv1", "fc1", "fc2"):
        drawn = set().union(*dots(ax, layer).values())
        mine = [point for point in points if point.layer == layer]
        assert drawn == {(round(p.density, 9), round(-100 * p.drop.value, 9)) for p in mine}
    left, right = ax.get_xlim()
    assert left > 1 > 0.1 > right  # the densest stand on the left, as in the paper


def test_a_drop_that_may_be_none_is_grey_and_a_real_one_is_not(ax):
    levels = {0.9: (0, 0), 0.5: (4, 2), 0.2: (30, 5), 0.1: (3, 20), 0.05: (7, 4), 0.02: (80, 1)}
    plots.sensitivity([point("fc1", d, *counts) for d, counts in levels.items()], ax=ax)
    colours = dots(ax, "fc1")
    # By scipy: may the answers that changed for the worse and for the better be equally likely?
    by_chance = {d for d, (lost, won) in levels.items() if not lost + won or p(lost, won) > 0.05}
    assert {x for x, _ in colours.pop(plots.NOISE)} == by_chance == {0.9, 0.5, 0.05}
    assert {x for x, _ in colours.pop(legend(ax)["fc1"].get_color())} == {0.2, 0.1, 0.02}
    assert colours == {}
    # Between two grey points the line is grey, elsewhere it leads to or from a real drop.
    lines = [
        (line.get_color(), [round(float(x), 9) for x in line.get_xdata()])
        for line in ax.lines
        if line.get_marker() == "" and line.get_linestyle() == "--"
    ]
    colour = legend(ax)["fc1"].get_color()
    assert lines == [(plots.NOISE, [0.9, 0.5]), (colour, [0.5, 0.2, 0.1, 0.05, 0.02])]


def p(lost: int, won: int) -> float:
    return binomtest(lost, lost + won).pvalue


def test_a_band_is_the_paired_interval_below_the_dense_accuracy(toy, batches, ax):
    points = sensitivity.scan(toy, batches, [0.5, 0.3, 0.1])
    plots.sensitivity(points, ax=ax)
    assert all(low <= 0 <= high for _, low, high in bands_of(ax).get(plots.NOISE, []))
    drawn = [corner for bands in bands_of(ax).values() for corner in bands]
    for row in points:
        expected = (row.density, -100 * row.drop.high, -100 * row.drop.low)
        assert any(corner == pytest.approx(expected, abs=1e-6) for corner in drawn)


@pytest.mark.parametrize("kind", [list, lambda scan: scan])
def test_the_allowed_drop_is_a_line_below_the_dense_accuracy(kind, toy, batches, ax):
    scan = sensitivity.scan(toy, batches, [0.5, 0.1])
    plots.sensitivity(kind(scan), max_drop=2.5, ax=ax)
    dense = evaluation.evaluate(toy, batches)
    assert height_of(ax, "allowed: -2.5 points") == -2.5
    assert [text.get_text() for text in ax.texts] == [f"dense {dense.value:.2%}"]
    low, high = ax.get_ylim()
    assert -100 <= low < -2.5 < 0 < high


def test_with_an_allowed_drop_the_picture_stays_close_to_it(ax):
    points = [point("fc1", 0.5, 2, n=10_000), point("fc1", 0.1, 5000, n=10_000)]
    plots.sensitivity(points, max_drop=1, ax=ax)
    low, high = ax.get_ylim()
    assert height_of(ax, "allowed: -1 point") == -1
    assert -10 < low < -1 < 0 < high < 5
    few = [point("fc1", 0.5, 2, n=100), point("fc1", 0.1, 50, n=100)]
    low, high = plots.sensitivity(few, max_drop=0.2, ax=Figure().subplots()).get_ylim()
    assert low < -100 * few[0].drop.high < -100 * few[0].drop.low < high  # the noise is in sight


def are_convolutions(ax) -> dict[str, bool]:
    """By line style and filling, which must agree, and by what is more of a colour: blue or red."""
    found = {}
    for layer, line in legend(ax).items():
        red, _, blue = to_rgb(line.get_color())
        looks = {
            line.get_linestyle() == "-",
            line.get_markerfacecolor() == line.get_color(),
            blue > red,
        }
        assert len(looks) == 1, layer
        found[layer] = looks.pop()
    return found


def test_convolutions_and_fully_connected_layers_look_different(ax):
    points = [point(layer, 0.1, 100) for layer in ("conv1", "features.3", "fc1", "classifier.6")]
    plots.sensitivity(points, ax=ax)
    expected = {"conv1": True, "features.3": True, "fc1": False, "classifier.6": False}
    assert are_convolutions(ax) == expected


def test_a_scan_that_knows_its_layers_shapes_is_believed(ax):
    points = [point(layer, 0.1, 100) for layer in ("stem", "mix", "convert")]
    shapes = {"stem": [4, 1, 3, 3], "mix": [4, 4, 3], "convert": [4, 16]}
    shapes = {layer: {"shape": shape} for layer, shape in shapes.items()}
    scan = sensitivity.Scan(
        points, dense=evaluation.Accuracy.counted(400, 500), about={"layers": shapes}
    )
    plots.sensitivity(scan, ax=ax)
    assert are_convolutions(ax) == {"stem": True, "mix": True, "convert": False}


@pytest.mark.parametrize("count", [1, 2, 5, 13])
def test_every_line_can_be_seen_on_white_and_each_is_lighter_than_the_one_before(count, ax):
    """WCAG 2.1, 1.4.11: graphics need a contrast of 3 : 1."""

    def luminance(colour):
        parts = [
            c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)
        ]
        return sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), parts, strict=True))

    names = [f"conv{k}" for k in range(count)] + [f"fc{k}" for k in range(count)]
    plots.sensitivity([point(name, 0.1, 100) for name in names], ax=ax)
    shades = [luminance(legend(ax)[name].get_color()) for name in names]
    assert all(1.05 / (shade + 0.05) >= 3 for shade in (*shades, luminance(plots.NOISE)))
    for family in (shades[:count], shades[count:]):
        assert all(dark < light for dark, light in pairwise(family))
    markers = [(legend(ax)[name].get_marker(), name[:2]) for name in names]
    assert len(set(markers)) == len(markers) if count <= 6 else True


@pytest.mark.filterwarnings("error")
def test_a_scan_can_be_drawn_while_it_grows(toy, split, ax):
    drawn = []

    def draw(progress):
        if progress.images:
            axes = Figure(layout="constrained").subplots()
            render(plots.sensitivity(progress.scan(), max_drop=1, ax=axes))
            drawn.append(progress.images)

    sensitivity.scan(toy, split, [0.5, 0.1, 0.0], notify=draw)
    assert drawn == [16, 32, 48, 50]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("densities", [[0.0], [1.0], [0.0, 1.0], [0.3], [1e-5, 0.9], [0.9, 0.8]])
def test_any_levels_have_an_axis_on_which_they_can_be_read(densities, ax):
    plots.sensitivity([point("fc1", density, 90) for density in densities], ax=ax)
    render(ax)
    left, right = ax.get_xlim()
    (drawn,) = dots(ax, "fc1").values()
    assert len(drawn) == len(densities)
    assert all(left > x > right for x, _ in drawn)
    ticks = dict(zip(ax.get_xticks(), (t.get_text() for t in ax.get_xticklabels()), strict=True))
    assert 1 <= len(ticks) <= 12
    assert ("none" in ticks.values()) == (0.0 in densities)
    named = {tick: text for tick, text in ticks.items() if text != "none"}
    assert all(float(text.rstrip("%")) == pytest.approx(100 * tick) for tick, text in named.items())
    if 0.0 in densities:
        (none,) = (tick for tick, text in ticks.items() if text == "none")
        assert min(x for x, _ in drawn) == pytest.approx(none)


def test_nothing_to_draw_and_a_drop_that_is_none_are_refused(ax):
    with pytest.raises(ValueError, match=r"give what sensitivity\.scan returned"):
        plots.sensitivity([], ax=ax)
    with pytest.raises(ValueError, match="max_drop must be a finite number >= 0, got -1"):
        plots.sensitivity([point("fc1", 0.1, 9)], max_drop=-1, ax=ax)
    with pytest.raises(ValueError, match=r"give what sensitivity\.prior returned"):
        plots.prior([], ax=ax)


def test_what_is_kept_stands_beside_what_either_shape_would_keep(toy, ax):
    rows = sensitivity.prior(toy, [0.0, 1.0, 2.0, 9.0])
    plots.prior(rows, ax=ax)
    for label, shape in (("if Gaussian", norm()), ("if Laplace", laplace(scale=0.5**0.5))):
        x, y = legend(ax)[label].get_data()
        assert y == pytest.approx(2 * shape.sf(x), rel=1e-9)
        assert (x.min(), x.max()) == (0, 9)
    none = dict(zip((t.get_text() for t in ax.get_yticklabels()), ax.get_yticks(), strict=True))
    for layer in ("conv1", "fc1", "fc2"):
        drawn = legend(ax)[layer].get_xydata().tolist()
        mine = [row for row in rows if row.layer == layer]
        assert drawn == [[r.quality, r.density or none["none"]] for r in mine]
        assert mine[-1].density == 0


# --- tables and pictures -----------------------------------------------------------------------


def test_the_papers_bars_stand_beside_ours(ax):
    model = models.lenet_300_100()
    masks.prune(model, density={"fc1": 0.08, "fc2": 0.09, "fc3": 0.26}).apply_(model)
    rows = counts.layers(model, (1, 28, 28))
    plots.layer_table(rows, paper.LENET_300_100, ax=ax)
    heights = {c.get_label(): [bar.get_height() for bar in c] for c in ax.containers}
    assert heights["weights, paper"] == [row.density for row in paper.LENET_300_100]
    assert heights["FLOP, paper"] == [row.flop_density for row in paper.LENET_300_100]
    assert heights["weights, ours"] == pytest.approx(heights["weights, paper"], abs=0.005)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["fc1", "fc2", "fc3", "total"]


def test_a_network_of_ones_own_stands_alone_or_beside_gaps(toy, ax):
    rows = counts.layers(toy, (1, 8, 8))
    assert len(plots.layer_table(rows, ax=Figure().subplots()).containers) == 2
    plots.layer_table(rows, paper.LENET_300_100, ax=ax)
    render(ax)
    assert not any("nan" in text.get_text() for text in ax.texts)


def test_bands_show_the_mask_neurons_down_and_pixels_across(ax):
    kept = torch.rand(7, 784) < 0.2
    plots.bands(kept, ax=ax)
    (picture,) = ax.images
    assert (np.asarray(picture.get_array()) == kept.numpy()).all()
    assert len(ax.lines) == paper.FC1_BANDS - 1


def test_kept_pixels_count_the_connections_of_each_pixel(ax):
    kept = torch.rand(7, 12) < 0.5
    plots.kept_pixels(kept, image=(3, 4), ax=ax)
    (picture,) = ax.images
    expected = [[int(kept[:, 4 * row + col].sum()) for col in range(4)] for row in range(3)]
    assert np.asarray(picture.get_array()).tolist() == expected


@pytest.mark.parametrize("draw", [plots.bands, plots.kept_pixels])
@pytest.mark.parametrize("shape", [(7, 783), (784,), (4, 1, 5, 5)])
def test_a_layer_that_does_not_take_in_pixels_is_refused(draw, shape, ax):
    with pytest.raises(ValueError, match=r"a mask of shape \(neurons, 784\), got"):
        draw(torch.ones(shape, dtype=torch.bool), ax=ax)


def test_images_stand_in_rows_each_below_its_own_title(ax):
    pictures = torch.arange(1, 6)[:, None, None, None].expand(5, 1, 4, 3)  # each of one colour
    plots.images(pictures, [10, 20, 30, 40, 50], columns=2, ax=ax)
    sheet = ax.images[0].get_array()
    for text in ax.texts:
        column, below = text.get_position()
        found = sheet[int(below) + 2 : int(below) + 6, int(column)]
        assert set(found.tolist()) == {int(text.get_text()) / 10}
    assert (sheet > 0).sum() == 5 * 4 * 3  # what lies between is masked: not a number
    assert len({y for _, y in (text.get_position() for text in ax.texts)}) == 3
    with pytest.raises(ValueError, match="no images"):
        plots.images([], ax=ax)


def test_energy_bars_are_as_long_as_the_papers_figure_says(ax):
    plots.energy(paper.ENERGY_PJ, ax=ax)
    widths = [bar.get_width() for bar in ax.patches]
    assert widths == [*paper.ENERGY_PJ.values()]
    assert widths[-1] / widths[1] == pytest.approx(640 / 0.9)
    assert ax.get_xscale() == "log"
    assert {"0.1", "1", "10", "100"} <= {text.get_text() for text in texts(ax)}  # no formulas


# --- saliencies --------------------------------------------------------------------------------


def compared(retrained: bool = True) -> experiments.Saliencies:
    return experiments.Saliencies(
        experiments.SaliencyRow(
            name, density, (0.5, 0.7), lost(40 * better), lost(9), lost(9) if retrained else None
        )
        for name, better in (("magnitude", 1), ("OBD", 2), ("$x^{$", 0))
        for density in (0.1, 0.02)
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("retrained", [True, False])
def test_saliencies_are_drawn_side_by_side_with_the_numbers_of_their_rows(retrained):
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = plots.saliencies(compared(retrained), title="$x$", figure=figure)
    assert left.figure is right.figure is figure
    curves = {bars.get_label(): bars for bars in left.containers}
    assert list(curves) == ["magnitude", "OBD", "$x^{$"]
    x, y = curves["OBD"][0].get_data()
    assert x == pytest.approx([0.1, 0.02], rel=0.05)
    assert y == pytest.approx([-80, -80])
    heights = [bars[0].get_ydata() for bars in right.containers]
    assert np.allclose(heights, -9 if retrained else 0.6)
    ((low, high), *_) = right.containers[0][2][0].get_segments()
    change = plots.looks.points_of(lost(9))[1:] if retrained else (0.5, 0.7)
    assert (low[1], high[1]) == pytest.approx(change)
    assert {"$x$", "$x^{$"} <= {text.get_text() for text in texts(left)}


def test_no_saliencies_are_no_plot():
    with pytest.raises(ValueError, match="no rows to draw"):
        plots.saliencies([])


def test_times_are_drawn_at_their_densities_with_both_sides_and_the_density_looked_at(ax):
    plots.layer_times(TIMES, density=0.2, ax=ax)
    lines = {tuple(line.get_xdata()): line for line in ax.lines if len(line.get_xdata()) == 2}
    assert [*ax.containers[0][0].get_xdata()] == [0.1, 0.5]
    assert [*ax.containers[0][0].get_ydata()] == [0.7, 2.0]
    assert (0.2, 0.2) in lines
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["dense", "sparse"]


def test_guessed_times_are_percentages_of_the_dense_time_at_the_same_density(ax):
    plots.layer_times(TIMES, guess=[50, 20], ax=ax)  # of the densest first
    guess = next(line for line in ax.lines if line.get_label() == "your guess")
    dense = dict(zip(*ax.containers[0][0].get_data(), strict=True))
    assert [*guess.get_xdata()] == [0.1, 0.5]
    assert [*guess.get_ydata()] == pytest.approx([0.2 * dense[0.1], 0.5 * dense[0.5]])


def test_bytes_are_bars_in_kilobytes_in_the_order_of_the_encodings(ax):
    plots.stored({"float32": 4000, "ours": 700}, ax=ax)
    assert [bar.get_width() for bar in ax.patches] == [4.0, 0.7]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["float32", "ours"]
    assert [text.get_text() for text in ax.texts] == ["4", "0.7"]


def test_a_megabyte_has_all_its_digits(ax):
    plots.stored({"float32": 1_600_000}, ax=ax)
    assert [text.get_text() for text in ax.texts] == ["1,600"]
