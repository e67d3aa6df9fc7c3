"""Widgets for guesses, without a browser: what is moved is the value, and what is noted stays."""

import base64
import io
import itertools

import numpy as np
import pytest
from PIL import Image

from pruning_lab import exercises, plots
from pruning_lab.widgets import DrawCurve, GuessSlider, Pick, Rank

SIX = [0.9, -0.1, 0.4, -0.7, 0.05, 0.3]
X = ["50 %", "20 %", "10 %", "5 %", "2 %"]
LAYERS = ["conv1", "conv2", "fc1", "fc2"]
# Each with a value that it can have, and some that it cannot have.
MADE = {
    "number": (lambda: GuessSlider("00.watts", 0, 100, "W"), 12.8, (-1, 101, "much", None)),
    "log": (lambda: GuessSlider("00.watts", 0.001, 1000, "W", log=True), 12.8, (0, 1001)),
    "order": (lambda: Rank("04.rank", LAYERS), ["fc2", "conv1", "fc1", "conv2"], (LAYERS[:3], "x")),
    "curve": (lambda: DrawCurve("02.curve", X), [98, 95, 70, 40.5, 10], ([1], [0, 0, 0, 0, 101])),
    "pick": (lambda: Pick("02.three", SIX, 3), [-0.1, 0.05, 0.3], ([0.2], SIX[:4], [0.3, 0.3])),
}
NOTED = ["number", "log", "curve", "pick"]  # 04's table comes with its notebook


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Progress is kept in the current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def press(panel):
    panel.button.click()


@pytest.mark.parametrize("name", MADE)
def test_a_cell_sets_and_reads_the_value_and_a_wrong_one_is_refused(name):
    make, value, wrong = MADE[name]
    panel = make()
    panel.value = value
    assert panel.value == pytest.approx(value) if name != "order" else panel.value == value
    before = panel.value
    for other in wrong:
        with pytest.raises((ValueError, TypeError)):
            panel.value = other
        assert panel.value == before


@pytest.mark.parametrize("name", NOTED)
def test_only_the_button_notes_and_a_later_widget_shows_what_was_noted(name):
    make, value, _ = MADE[name]
    panel = make()
    panel.value = value
    assert exercises.guessed(panel.id) is None
    assert panel.noted.value == ""
    press(panel)
    assert exercises.guessed(panel.id) == pytest.approx(value)
    assert "noted" in panel.noted.value
    again = make()
    assert again.value == pytest.approx(value)
    assert again.noted.value == panel.noted.value


def test_a_guess_noted_in_a_cell_that_a_widget_cannot_show_stays_as_it_is():
    exercises.guess("00.watts", 5000)
    panel = GuessSlider("00.watts", 0, 100, "W")
    assert panel.value == 50
    assert "5000" in panel.noted.value.replace(",", "")
    assert exercises.guessed("00.watts") == 5000


def test_a_task_that_is_not_there_is_said_and_nothing_is_raised():
    panel = GuessSlider("99.none", 0, 1)
    press(panel)
    assert "99.none" in panel.noted.value


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("name", LAYERS)
def test_a_name_chosen_for_a_place_changes_places_with_the_one_there(place, name):
    panel = Rank("04.rank", LAYERS)
    panel.places[place].value = name
    expected = list(LAYERS)
    other = expected.index(name)
    expected[other], expected[place] = expected[place], name
    assert panel.value == expected


def test_every_order_can_be_set():
    panel = Rank("04.rank", LAYERS)
    for order in itertools.permutations(LAYERS):
        panel.value = order
        assert panel.value == list(order)


def shown(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_the_picture_of_a_curve_follows_each_slider():
    panel, pictures = DrawCurve("02.curve", X), set()
    for slider in panel.sliders:
        slider.value = 80
        pictures.add(bytes(panel.picture.value))
    assert len(pictures) == 5
    assert panel.value == [80] * 5


def test_of_six_no_more_than_three_can_be_picked_and_picked_bars_are_grey():
    panel = Pick("02.three", SIX, 3)
    grey = []
    for toggle in panel.toggles[:3]:
        assert not any(other.disabled for other in panel.toggles)
        toggle.value = True
        colour = [int(plots.GONE[at : at + 2], 16) for at in (1, 3, 5)]
        grey.append(int((abs(shown(panel.picture.value) - colour).max(-1) <= 3).sum()))
    assert grey == sorted(grey)
    assert grey[0] > 0
    assert [toggle.disabled for toggle in panel.toggles] == [False] * 3 + [True] * 3
    panel.toggles[0].value = False
    assert not any(toggle.disabled for toggle in panel.toggles)
    assert panel.value == SIX[1:3]


def test_two_equal_numbers_are_two_bars():
    panel = Pick("02.three", [0.5, 0.5, 1.0], 2)
    panel.value = [0.5]
    assert [toggle.value for toggle in panel.toggles] == [True, False, False]
    panel.value = [0.5, 0.5]
    assert panel.value == [0.5, 0.5]


@pytest.mark.parametrize("name", MADE)
def test_pages_without_widgets_get_text_and_picture(name):
    make, value, _ = MADE[name]
    panel = make()
    panel.value = value
    bundle = panel._repr_mimebundle_()
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == panel.model_id
    assert bundle["text/plain"] == repr(panel)
    assert repr(panel.value) in repr(panel)
    assert type(panel).__name__ in repr(panel)
    assert ("image/png" in bundle) == bool(panel.picture)
    if panel.picture:
        assert base64.b64decode(bundle["image/png"]) == panel.picture.value
        assert "alt=" in bundle["text/html"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: GuessSlider("a", 1, 1),
        lambda: GuessSlider("a", 0, 1, log=True),
        lambda: GuessSlider("a", 0, float("inf")),
        lambda: Rank("a", ["x"]),
        lambda: Rank("a", ["x", "x"]),
        lambda: DrawCurve("a", []),
        lambda: DrawCurve("a", X, 1, 0),
        lambda: Pick("a", SIX, 0),
        lambda: Pick("a", SIX, 7),
    ],
)
def test_a_widget_that_cannot_be_is_refused_in_a_sentence(make):
    with pytest.raises(ValueError, match=r"needs|cannot pick"):
        make()
