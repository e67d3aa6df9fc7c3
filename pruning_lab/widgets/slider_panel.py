"""What every panel with one slider for one number is made of."""

import ipywidgets
import traitlets
from ipywidgets import HTML

from pruning_lab import criteria
from pruning_lab.widgets.drawing import WIDTH
from pruning_lab.widgets.picture_panel import PicturePanel, name_parts, picture_box


class SliderPanel(PicturePanel):
    """A slider for one number, a trait, and a picture and a text that follow it.

    A subclass names the trait, validates it with `_on_the_grid`, and shows its value in `_show`.
    """

    number: str  # the trait
    limited_by: str  # the argument that says how far it goes
    css: str

    def __init__(self, value: float, *, limit: float, step: float, description: str):
        self._limit, self._step = limit, step
        self.slider = ipywidgets.FloatSlider(
            min=0,
            max=limit,
            step=step,
            description=description,
            readout_format=".2f",
            style={"description_width": "initial"},
            layout={"max_width": f"{WIDTH}px"},
        )
        self.picture, self.text = picture_box(WIDTH), HTML()
        super().__init__([self.slider, self.picture, self.text])
        parts = {"slider": self.slider, "picture": self.picture, "text": self.text}
        name_parts(self.css, panel=self, **parts)
        setattr(self, self.number, value)
        traitlets.link((self, self.number), (self.slider, "value"))
        self.observe(lambda change: self._show(), self.number)
        self._show()

    def _on_the_grid(self, proposal: dict) -> float:
        """A value between two steps would come back rounded from the browser, over a later one."""
        value = proposal["value"]
        criteria.check_amount(self.number, value)
        if value > self._limit:
            raise ValueError(
                f"{self.number} must lie in [0, {self._limit:g}] here, got {value:g}; "
                f"for more, make the slider with {self.limited_by}="
            )
        return round(round(value / self._step) * self._step, 10)

    def _show(self) -> None:
        raise NotImplementedError
