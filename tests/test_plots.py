"""Plots draw on the axes they are given, give them back, and show the numbers they got."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pruning_lab import counts, evaluation, masks, models, paper, plots, sensitivity


def accuracy(right: int, n: int = 100) -> evaluation.Accuracy:
    return evaluation.Accuracy.of(torch.arange(n) < right)


@pytest.fixture
def ax():
    """Axes that pyplot knows nothing of."""
    return Figure().subplots()


def every_plot(toy, batches):
    return {
        "weights": lambda **o: plots.weights(toy.fc1.weight, threshold=0.1, **o),
        "trade_off": lambda **o: plots.trade_off([(1, accuracy(90)), (0.1, accuracy(0))], **o),
        "sensitivity": lambda **o: plots.sensitivity(
            sensitivity.scan(toy, batches, [0.1, 0.5]), **o
        ),
        "layer_table": lambda **o: plots.layer_table(
            counts.layers(models.lenet_5(), (1, 28, 28)), paper.LENET_5, **o
        ),
        "bands": lambda **o: plots.bands(torch.rand(5, 784) < 0.1, **o),
        "kept_pixels": lambda **o: plots.kept_pixels(torch.rand(5, 784) < 0.1, **o),
    }


PLOTS = ["weights", "trade_off", "sensitivity", "layer_table", "bands", "kept_pixels"]


def test_every_public_plot_is_tested_here():
    public = {n for n, f in vars(plots).items() if callable(f) and f.__module__ == plots.__name__}
    assert {name for name in public if not name.startswith("_")} == set(PLOTS)


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_draws_on_the_axes_it_is_given_and_gives_them_back(name, toy, batches, ax):
    before = plt.get_fignums()
    assert every_plot(toy, batches)[name](ax=ax, title="a title") is ax
    assert ax.get_title() == "a title"
    ax.figure.canvas.draw()
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


# --- weights -----------------------------------------------------------------------------------


def bars(ax) -> np.ndarray:
    """(left, height) of every bar, from left to right."""
    return np.array(sorted((bar.get_x(), bar.get_height()) for bar in ax.patches))


def test_the_histogram_is_numpys(ax):
    weight = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    plots.weights(weight.reshape(50, 100), bins=21, ax=ax)
    reach = ax.get_xlim()[1]
    counted, edges = np.histogram(weight.numpy(), bins=21, range=(-reach, reach))
    assert bars(ax)[:, 1].tolist() == counted.tolist()
    assert bars(ax)[:, 0] == pytest.approx(edges[:-1], abs=1e-6)
    assert 4980 <= counted.sum() <= 5000  # but for the outermost 0.1 % on either side


def test_of_six_weights_all_six_are_drawn(ax):
    plots.weights(torch.tensor([0.9, -0.1, 0.4, -0.7, 0.05, 0.3]), ax=ax)
    assert bars(ax)[:, 1].sum() == 6


def test_what_lies_below_the_threshold_is_grey(ax):
    weight = torch.tensor([-0.9, -0.4, 0.0, 0.1, 0.5, 0.8])
    plots.weights(weight, threshold=0.3, bins=101, ax=ax)
    heights = dict.fromkeys(("kept", "pruned"), 0)
    for container in ax.containers:
        heights[container.get_label()] += sum(bar.get_height() for bar in container)
    assert heights == {"kept": 4, "pruned": 2}
    assert sorted(line.get_xdata()[0] for line in ax.lines) == [-0.3, 0.3]


def test_only_survivors_are_drawn(ax):
    weight = torch.tensor([-0.9, 0.0, 0.0, 0.0, 0.8])
    plots.weights(weight, kept=weight != 0, ax=ax)
    assert bars(ax)[:, 1].sum() == 2


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("threshold", [None, 0.1])
def test_a_layer_of_zeros_and_a_layer_of_nothing_are_drawn(threshold):
    for weight, kept in [
        (torch.zeros(20), None),
        (torch.ones(20), torch.zeros(20, dtype=torch.bool)),
        (torch.full((1,), 0.25), None),
    ]:
        ax = plots.weights(weight, kept=kept, threshold=threshold, ax=Figure().subplots())
        ax.figure.canvas.draw()


def test_a_parameter_of_any_precision_is_drawn(ax):
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        plots.weights(torch.nn.Parameter(torch.randn(30).to(dtype)), ax=ax)


# --- curves ------------------------------------------------------------------------------------


def test_a_trade_off_shows_sparsity_and_wilsons_bars(ax):
    points = [(0.1, accuracy(60)), (1.0, accuracy(90)), (0.5, accuracy(100))]
    plots.trade_off(points, label="ours", dense=accuracy(90), ax=ax)
    line = ax.lines[0]
    assert line.get_xdata() == pytest.approx([0, 0.5, 0.9])
    assert line.get_ydata() == pytest.approx([0.9, 1.0, 0.6])
    (segments,) = (c.get_segments() for c in ax.containers[0].lines[2])
    ends = [(low, high) for (_, low), (_, high) in segments]
    for (low, high), right in zip(ends, (90, 100, 60), strict=True):
        assert (low, high) == pytest.approx(evaluation.wilson(right, 100))


@pytest.mark.parametrize("n", [1, 48, 144, 359, 5000])
def test_an_accuracy_of_nothing_or_all_has_a_bar_that_can_be_drawn(ax, n):
    plots.trade_off([(1, accuracy(n, n)), (0.5, accuracy(0, n))], ax=ax)


def test_a_scan_is_a_curve_per_layer(toy, batches, ax):
    points = sensitivity.scan(toy, batches, [0.5, 0.1, 1.0])
    plots.sensitivity(points, ax=ax)
    for container, layer in zip(ax.containers, ("conv1", "fc1", "fc2"), strict=True):
        assert container.get_label() == layer
        rows = sorted((1 - p.density, p.accuracy.value) for p in points if p.layer == layer)
        drawn = np.array(container.lines[0].get_data()).T
        assert drawn == pytest.approx(np.array(rows))


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
    ax.figure.canvas.draw()
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
