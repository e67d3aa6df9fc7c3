"""A slider for one number, and what a function says of it."""

from collections.abc import Callable
from html import escape

from ipywidgets import HTML, FloatSlider, HBox, VBox

from pruning_lab.widgets.drawing import for_pages


class FunctionSlider(VBox):
    """Shows what `function` returns for the slider's `value`, which a cell can set and read.

    Unlike ipywidgets' `interact` it leaves its text on pages that show no widgets.
    """

    def __init__(
        self, function: Callable[[float], object], low: float, high: float, *, label: str = ""
    ):
        self.function, self.result, self.label = function, HTML(), label
        step, wide = (high - low) / 100, {"width": "440px"}
        self.slider = FloatSlider(low, min=low, max=high, step=step, layout=wide)
        self.slider.observe(lambda _: self._write(), "value")
        super().__init__([HBox([HTML(escape(label)), self.slider]), self.result])
        self._write()

    def _write(self) -> None:
        self.result.value = f'<pre role="status">{escape(str(self.function(self.value)))}</pre>'

    @property
    def value(self) -> float:
        return self.slider.value

    @value.setter
    def value(self, value: float) -> None:
        self.slider.value = value

    def __repr__(self) -> str:
        return f"{self.label} {self.value:g}: {self.function(self.value)}".strip()

    def _repr_mimebundle_(self, **options) -> dict:
        text = repr(self)
        return for_pages(super()._repr_mimebundle_(**options), text, f"<p>{escape(text)}</p>", b"")
