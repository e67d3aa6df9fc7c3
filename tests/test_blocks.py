"""The whole network as blocks: heights, widths and labels are the rows' own numbers."""

from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations, pairwise
from xml.etree import ElementTree

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from pruning_lab import counts, data, masks, models, paper, plots, studio


@dataclass(frozen=True)
class Kept:
    layer: str
    weights: int
    kept: int


@dataclass(frozen=True)
class Counted(Kept):
    flops: int | None


def rows_of(table: str) -> list[Counted]:
    """A network of the paper, pruned as there."""
    rows = [row for row in paper.LAYER_TABLES[table] if row.layer != "total"]
    kept = [(row.layer, int(row.weights), round(row.weights * row.density)) for row in rows]
    return [Counted(*own, row.flops) for own, row in zip(kept, rows, strict=True)]


def blocks(ax) -> dict[str, list]:
    """(x, y, width, height) of the blocks, and of the parts that are filled."""
    found = defaultdict(list)
    for patch in ax.patches:
        found[to_hex(patch.get_facecolor())].append(
            (*patch.get_xy(), patch.get_width(), patch.get_height())
        )
    return {"blocks": found[plots.GONE], "filled": found[plots.KEPT]}


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


@pytest.fixture
def ax():
    return Figure(figsize=(10, 4)).subplots()


def test_a_block_is_filled_as_the_scale_beside_it_says(ax):
    """Ten times fewer weights are the same step everywhere; nothing kept is empty."""
    kept = (100_000, 10_000, 1_000, 100, 5_000, 0)
    rows = [Kept(f"fc{n}", 100_000, k) for n, k in enumerate(kept)]
    found = blocks(plots.network(rows, ax=ax))
    low, high = found["blocks"][0][1], sum(found["blocks"][0][1::2])
    tops = [y + height for _, y, _, height in found["filled"]]
    scale = {t.get_text(): t.get_position()[1] for t in ax.texts if t.get_ha() == "right"}
    assert tops[:4] == pytest.approx([scale[f"{p} %"] for p in ("100", "10", "1", "0.1")])
    assert tops[0] == pytest.approx(high)
    assert {round(a - b, 9) for a, b in pairwise(tops[:4])} == {round(tops[0] - tops[1], 9)}
    # 5 % is log10(2) of a decade below 10 %
    assert (tops[1] - tops[4]) / (tops[0] - tops[1]) == pytest.approx(0.30103, abs=1e-4)
    assert tops[5] == low < tops[3]
    assert "logarithmic" in texts(ax)[-1]


def test_a_scale_reaches_down_to_the_lowest_density(ax):
    found = blocks(plots.network([Kept("fc1", 10**8, 30), Kept("fc2", 10, 10)], ax=ax))
    assert found["filled"][0][3] > 0
    assert "0.0001 %" in texts(ax)


def test_widths_are_as_the_square_roots_of_flops_and_the_smallest_is_seen(ax):
    rows = [
        Counted(name, 9, 3, flops) for name, flops in zip("abcd", (1e9, 4e9, 25e8, 1), strict=True)
    ]
    wide = [width for _, _, width, _ in blocks(plots.network(rows, ax=ax))["blocks"]]
    assert wide[0] / wide[1] == pytest.approx(0.5)
    assert wide[2] / wide[0] == pytest.approx(2.5**0.5)
    inch = ax.bbox.width / ax.figure.dpi / ax.get_xlim()[1]
    assert wide[3] * inch >= 0.04
    assert "square root" in texts(ax)[-1]


@pytest.mark.parametrize("flops", [None, 0])
def test_without_flops_all_blocks_are_of_one_width(ax, flops):
    rows = [Counted("a", 9, 3, flops), Counted("b", 9, 3, flops)]
    found = blocks(plots.network(rows, ax=ax))["blocks"]
    assert found[0][2] == pytest.approx(found[1][2])
    assert "FLOPs" not in texts(ax)[-1]


def test_what_stands_on_it_are_the_numbers_of_the_rows(ax):
    rows = rows_of("lenet-5")
    plots.network(rows, ax=ax)
    kept = 330 + 3_000 + 32_000 + 950
    head = (
        f"{100 * kept / 430_500:.3g} % of 430,500 weights kept, compression {430_500 / kept:.3g}x"
    )
    assert head in texts(ax)
    assert {"conv1\n66 %\n330", "conv2\n12 %\n3,000", "fc1\n8 %\n32k"} <= {*texts(ax)}
    assert plots.words(rows) == f"{head}; conv1 66 %, conv2 12 %, fc1 8 %, fc2 19 %."


@pytest.mark.parametrize("table", paper.LAYER_TABLES)
def test_nothing_overlaps_in_the_papers_networks(table):
    figure = plots.network(rows_of(table), title=table).figure
    FigureCanvasAgg(figure).draw()
    (ax,) = figure.axes
    shown = [ax.title, *ax.texts]
    boxes = {text.get_text(): text.get_window_extent() for text in shown}
    for (one, a), (other, b) in combinations(boxes.items(), 2):
        assert not a.overlaps(b), (one, other)
    for patch in ax.patches:
        box = patch.get_window_extent()
        assert not [name for name, text in boxes.items() if text.overlaps(box) and box.height]
    for name, box in boxes.items():  # none is cut off at an edge
        assert figure.bbox.containsx(box.x0), name
        assert figure.bbox.containsx(box.x1), name
        assert figure.bbox.containsy(box.y0), name
        assert figure.bbox.containsy(box.y1), name


def test_many_layers_have_labels_that_are_turned_and_do_not_overlap():
    ax = plots.network([Counted(f"layer{n}.conv", 64, n + 1, n + 1) for n in range(60)])
    FigureCanvasAgg(ax.figure).draw()
    turned = [text.get_window_extent() for text in ax.texts if text.get_rotation() == 270]
    assert len(turned) == 60
    assert not [1 for a, b in pairwise(turned) if a.overlaps(b)]


def test_it_takes_what_the_library_counts(ax, toy):
    mask = masks.prune(toy, density=0.5)
    found = blocks(plots.network(mask.receipt, ax=ax))
    assert len(found["blocks"]) == len(mask.receipt)
    counted = counts.layers(models.lenet_5(), (1, 28, 28))
    drawn = plots.network(counted, ax=Figure().subplots())
    assert len(blocks(drawn)["blocks"]) == 4
    assert "square root" in texts(drawn)[-1]


def test_of_a_studio_it_draws_the_current_attempt(ax):
    s = studio.Studio(models.lenet_300_100(), data.load("mnist-5k").val.head(50))
    try:
        metrics = s.set({"fc1": 1.4}).settle().metrics()
    finally:
        s.close()
    plots.network(metrics, ax=ax)
    assert plots.words(metrics).startswith(texts(ax)[-2])


def test_bad_rows_get_one_sentence(ax):
    for rows, error, said in (
        ([], ValueError, "no layers to draw; give studio.metrics()"),
        ([Kept("other", 0, 0)], ValueError, "no layers to draw"),
        ([("fc1", 0.1)], TypeError, "tuple lacks one"),
    ):
        with pytest.raises(error, match=said.replace("(", r"\(").replace(")", r"\)")):
            plots.network(rows, ax=ax)


def test_as_svg_it_is_the_same_file_each_time_with_a_transparent_background():
    made = [plots.svg(plots.network(rows_of("vgg-16")).figure) for _ in range(2)]
    assert made[0] == made[1]
    root = ElementTree.fromstring(made[0])
    assert root.tag.endswith("svg")
    assert made[0].count(plots.KEPT.encode()) == made[0].count(plots.GONE.encode()) == 16
    assert b"<image" not in made[0]
    assert b"fill: #ffffff" not in made[0]
