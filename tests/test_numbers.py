"""The slider over a few numbers, without a browser."""

import base64
import io
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

from pruning_lab import criteria, plots
from pruning_lab.widgets import NumbersSlider

SIX = [0.9, -0.1, 0.4, -0.7, 0.05, 0.3]
GRID = [0.05 * step for step in range(61)]


@pytest.fixture
def panels():
    """A function that makes a panel, closed in the end."""
    made = []

    def make(*args, **options):
        made.append(NumbersSlider(*args, **options))
        return made[-1]

    yield make
    for panel in made:
        panel.close()


def kept_by_hand(numbers, quality):
    there = [w for w in numbers if w != 0]  # a zero is gone already
    mean = math.fsum(there) / max(1, len(there))
    sigma = math.sqrt(math.fsum((w - mean) ** 2 for w in there) / max(1, len(there)))
    return [w != 0 and abs(w) >= quality * sigma for w in numbers]


def colours(panel):
    """How many pixels of the picture are of a bar that stays, and of one that goes."""
    picture = Image.open(io.BytesIO(panel.settle().picture.value)).convert("RGB")
    pixels = np.asarray(picture, np.int64).reshape(-1, 3)

    def count(colour):
        wanted = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
        return int((abs(pixels - wanted).max(1) <= 3).sum())

    return count(plots.KEPT), count(plots.GONE)


def test_it_keeps_what_a_calculation_by_hand_keeps(panels):
    panel, seen = panels(SIX), set()
    for quality in GRID:
        panel.quality = quality
        kept = kept_by_hand(SIX, quality)
        assert panel.kept.tolist() == kept
        assert panel.kept.equal(criteria.by_quality(torch.tensor(SIX), panel.quality))
        assert panel.density == pytest.approx(sum(kept) / 6)
        assert re.search(rf"<td>6</td><td>{sum(kept)}</td>", panel.text.value)
        seen.add(sum(kept))
    assert seen == {0, 1, 2, 3, 4, 5, 6}


def test_the_slider_and_a_cell_move_the_same_number(panels):
    panel = panels(SIX)
    panel.slider.value = 0.8
    assert (panel.quality, panel.kept.tolist()) == (0.8, kept_by_hand(SIX, 0.8))
    panel.quality = 1.26
    assert (panel.quality, panel.slider.value) == (1.26, 1.25)  # on the slider's grid
    assert panel.threshold == pytest.approx(1.26 * torch.tensor(SIX).std(correction=0).item())


def test_bars_turn_grey_as_the_threshold_rises(panels):
    panel = panels(SIX, quality=0.0)
    blue, grey = colours(panel)
    assert blue > 5_000
    assert grey == 0
    last = blue
    for quality in (0.5, 1.0, 1.5):
        panel.quality = quality
        blue, grey = colours(panel)
        assert blue < last
        assert grey > 0
        last = blue
    panel.quality = 3.0
    assert colours(panel)[0] == 0


@pytest.mark.parametrize("numbers", [[0.0], [0.0, 0.0], [1.0, 1.0, 1.0], [-2.0, -1.0], [5.0]])
def test_odd_numbers_are_drawn_too(panels, numbers):
    panel = panels(numbers, quality=0.5).settle()
    assert panel.kept.tolist() == kept_by_hand(numbers, 0.5)
    assert Image.open(io.BytesIO(panel.picture.value)).size[0] >= 720


def test_the_numbers_are_a_copy(panels):
    mine = torch.tensor(SIX, requires_grad=True)
    panel = panels(mine)
    with torch.no_grad():
        mine.zero_()
    assert panel.numbers.tolist() == pytest.approx(SIX)


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        ([], r"a row of 1 to 24 numbers, got the shape \(0,\)"),
        (torch.zeros(25), r"got the shape \(25,\); for a layer there is ThresholdSlider"),
        (torch.zeros(2, 3), r"got the shape \(2, 3\)"),
        ([1.0, math.nan], "expected finite numbers"),
    ],
)
def test_what_is_no_short_row_of_numbers_is_refused(numbers, sentence):
    with pytest.raises(ValueError, match=sentence):
        NumbersSlider(numbers)


@pytest.mark.parametrize("quality", [-0.1, math.inf, math.nan])
def test_an_impossible_quality_is_refused_and_nothing_moves(panels, quality):
    panel = panels(SIX, quality=1.0)
    with pytest.raises(ValueError, match="quality"):
        panel.quality = quality
    assert panel.quality == panel.slider.value == 1.0


def test_a_page_without_widgets_shows_the_picture(panels):
    panel = panels(SIX).settle()
    shown = panel._repr_mimebundle_()
    shown = shown[0] if isinstance(shown, tuple) else shown
    assert base64.b64decode(shown["image/png"]) == panel.picture.value


def test_a_drag_leaves_the_newest_picture(panels):
    panel, lone = panels(SIX), panels(SIX, quality=2.95)
    for quality in GRID[:-1]:
        panel.quality = quality
    assert panel.settle().picture.value == lone.settle().picture.value
