"""Widgets for a guess: a number, an order, a curve, a few numbers picked; a button notes it."""

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from html import escape

from ipywidgets import (
    HTML,
    Button,
    Dropdown,
    FloatLogSlider,
    FloatSlider,
    HBox,
    ToggleButton,
    VBox,
    Widget,
)
from matplotlib.figure import Figure

from pruning_lab import exercises, plots
from pruning_lab.widgets.drawing import for_pages
from pruning_lab.widgets.numbers import bars
from pruning_lab.widgets.studio_view import picture_box
from pruning_lab.widgets.tables import STYLE

_WRAP = {"align_items": "center", "flex_flow": "row wrap"}


class Guess(VBox):
    """A guess for a task, as `value`: set it in a cell or move it, and press "note my guess".

    What was noted before is shown again. The next cell never waits for a guess.
    """

    picture = None  # a widget that `draw` fills, where there is one

    def __init__(self, id_: str, *controls: Widget):
        self.id = id_
        self.button = Button(description="note my guess", tooltip=f"note my guess for {id_}")
        self.button.on_click(lambda _: self.note())
        self.noted = HTML()
        super().__init__([HTML(STYLE), HBox(controls, layout=_WRAP), self.button, self.noted])
        self.add_class("studio-panel").add_class("guess-panel")
        if (before := exercises.guessed(id_)) is not None:
            with suppress(TypeError, ValueError):  # one of another form, noted in a cell
                self.value = before
            self.noted.value = exercises.guess(id_, before)._repr_html_()
        self.draw()

    def note(self) -> exercises.Verdict:
        """Note the value as this task's guess."""
        verdict = exercises.guess(self.id, self.value)
        self.noted.value = verdict._repr_html_()
        return verdict

    def draw(self) -> None:
        """Fill the picture, where there is one."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r}, value={self.value!r})"

    def _repr_mimebundle_(self, **options) -> dict:
        """With text and picture as they are now, for pages that show no widgets."""
        page, png = f"<p>my guess: {escape(repr(self.value))}</p>{self.noted.value}", b""
        if self.picture:
            png = self.picture.value
            page = plots.Picture(png, repr(self), 420).img + page
        return for_pages(super()._repr_mimebundle_(**options), repr(self), page, png)


class GuessSlider(Guess):
    """A number from `low` to `high`; with `log=True` equal steps are equal ratios."""

    def __init__(self, id_: str, low: float, high: float, unit: str = "", *, log: bool = False):
        if not (-math.inf < low < high < math.inf and (low > 0 or not log)):
            raise ValueError(f"a slider needs low < high{', above 0' * log}, got {low} and {high}")
        self.low, self.high, wide = low, high, {"width": "440px"}
        if log:
            ends = {"min": math.log10(low), "max": math.log10(high), "step": 0.01}
            self.slider = FloatLogSlider(math.sqrt(low * high), **ends, layout=wide)
        else:
            self.slider = FloatSlider((low + high) / 2, layout=wide, **_scale(low, high))
        super().__init__(id_, HTML("my guess"), self.slider, HTML(escape(unit)))

    @property
    def value(self) -> float:
        return float(f"{self.slider.value:.6g}")

    @value.setter
    def value(self, value: float) -> None:
        self.slider.value = _within(value, self.low, self.high)


class Rank(Guess):
    """An order of names, a place each; choosing a name for a place lets two change places."""

    def __init__(self, id_: str, names: Iterable[str]):
        self.names = list(names)
        if len({*self.names}) < max(2, len(self.names)):
            raise ValueError(f"an order needs two different names or more, got {self.names}")
        self.places = [
            Dropdown(options=self.names, value=name, description=f"{place}.")
            for place, name in enumerate(self.names, start=1)
        ]
        for place in self.places:
            place.layout.width = "220px"
            place.style.description_width = "24px"
            place.observe(self._swap, "value")
        super().__init__(id_, VBox(self.places))

    def _swap(self, change: dict) -> None:
        for place in self.places:
            if place is not change["owner"] and place.value == change["new"]:
                place.value = change["old"]

    @property
    def value(self) -> list[str]:
        return [place.value for place in self.places]

    @value.setter
    def value(self, value: Sequence[str]) -> None:
        if sorted(value) != sorted(self.names):
            raise ValueError(f"expected an order of {', '.join(self.names)}, got {value}")
        for place, name in zip(self.places, value, strict=True):
            place.value = name


class DrawCurve(Guess):
    """A curve by a vertical slider at each x (texts, or numbers); `value` lists their heights."""

    def __init__(self, id_: str, x: Iterable[object], low: float = 0, high: float = 100):
        self.x = [at if isinstance(at, str) else f"{at:g}" for at in x]
        if not (self.x and low < high):
            raise ValueError(f"a curve needs an x and low < high, got {self.x}, {low} and {high}")
        self.low, self.high = low, high
        look = {"orientation": "vertical", **_scale(low, high)}
        tall = {"width": "60px", "height": "190px"}
        self.sliders = [
            FloatSlider((low + high) / 2, description=name, **look, layout=tall) for name in self.x
        ]
        for slider in self.sliders:
            slider.observe(lambda _: self.draw(), "value")
        self.picture = picture_box(420)
        super().__init__(id_, HBox(self.sliders), self.picture)

    @property
    def value(self) -> list[float]:
        return [float(f"{slider.value:.6g}") for slider in self.sliders]

    @value.setter
    def value(self, value: Sequence[float]) -> None:
        if len(value) != len(self.x):
            raise ValueError(f"expected {len(self.x)} heights, at {', '.join(self.x)}; got {value}")
        heights = [_within(height, self.low, self.high) for height in value]
        for slider, height in zip(self.sliders, heights, strict=True):
            slider.value = height

    def draw(self) -> None:
        ax = Figure(figsize=(4.2, 2.3), layout="constrained").subplots()
        ax.plot(self.x, self.value, "o--", color=plots.INK, clip_on=False)
        ax.set_ylim(self.low, self.high)
        ax.set_title("your guess", fontsize="medium")
        ax.set_ylabel(exercises.EXERCISES[self.id].guess.unit)
        ax.spines[["top", "right"]].set_visible(False)
        self.picture.value = plots.png(ax.figure)


class Pick(Guess):
    """`count` of a few numbers, picked by a button under each bar; `value` lists the numbers."""

    def __init__(self, id_: str, numbers: Iterable[float], count: int):
        self.numbers, self.count = [float(f"{float(n):.6g}") for n in numbers], count
        if not 0 < count <= len(self.numbers):
            raise ValueError(f"cannot pick {count} of {len(self.numbers)} numbers")
        narrow = {"width": "auto", "flex": "1 1 0", "min_width": "0", "padding": "0"}
        self.toggles = [ToggleButton(description=f"{n:g}", layout=narrow) for n in self.numbers]
        for toggle in self.toggles:
            toggle.observe(lambda _: self.draw(), "value")
        self.picture = picture_box(420)
        super().__init__(id_, VBox([self.picture, HBox(self.toggles)], layout={"width": "424px"}))

    @property
    def value(self) -> list[float]:
        pairs = zip(self.numbers, self.toggles, strict=True)
        return [number for number, toggle in pairs if toggle.value]

    @value.setter
    def value(self, value: Iterable[float]) -> None:
        left, places = list(enumerate(self.numbers)), set()
        for wanted in value:
            found = [pair for pair in left if math.isclose(pair[1], wanted, rel_tol=1e-5)]
            if not found or len(places) == self.count:
                raise ValueError(f"expected up to {self.count} of {self.numbers}, got {value}")
            left.remove(found[0])
            places.add(found[0][0])
        for place, toggle in enumerate(self.toggles):
            toggle.value = place in places

    def draw(self) -> None:
        picked = [toggle.value for toggle in self.toggles]
        for toggle in self.toggles:
            toggle.disabled = sum(picked) >= self.count and not toggle.value
        ax = Figure(figsize=(4.2, 2)).add_axes((0, 0.02, 1, 0.86))
        bars(ax, self.numbers, [not gone for gone in picked])
        ax.set_xlim(-0.5, len(picked) - 0.5)  # each bar above its button
        ax.set_axis_off()
        ax.set_title(f"picked: {sum(picked)} of {self.count}", fontsize="medium")
        self.picture.value = plots.png(ax.figure)


def _scale(low: float, high: float) -> dict:
    """A slider's ends, with 100 steps or more, and as many decimals as they have."""
    power = math.floor(math.log10((high - low) / 100))
    look = {"step": 10.0**power, "readout_format": f".{max(0, -power)}f"}
    return {"min": low, "max": high, **look}


def _within(value: float, low: float, high: float) -> float:
    if not low <= float(value) <= high:
        raise ValueError(f"a guess lies between {low:g} and {high:g}, got {value}")
    return float(value)
