"""What every panel with one slider is made of."""

import base64
from collections.abc import Callable

import ipywidgets
import traitlets

from pruning_lab import criteria
from pruning_lab.studio import LatestOnlyWorker
from pruning_lab.widgets.pictures import WIDTH


class SliderPanel(ipywidgets.VBox):
    """A slider for one number; the text and the picture below it follow.

    A subclass names the number, a trait, and shows what belongs to its value (`_show`): what takes
    no time at once, and the rest in `work`, which a thread of its own does. It sets what these need
    before it calls this `__init__`.
    """

    follows: str  # the trait
    limited_by: str  # the argument that says how far it goes
    css: str
    height: int  # of the picture
    _worker = None  # what a refused panel, which is closed too, never got

    def __init__(
        self,
        work: Callable[[float, Callable[[], bool]], None],
        value: float,
        *,
        limit: float,
        step: float,
        description: str,
    ):
        self._limit, self._step = limit, step
        self._worker = LatestOnlyWorker(work)
        self.slider = ipywidgets.FloatSlider(
            min=0,
            max=limit,
            step=step,
            description=description,
            readout_format=".2f",
            style={"description_width": "initial"},
            layout=ipywidgets.Layout(width=f"{WIDTH}px"),
        )
        self.picture = ipywidgets.Image(
            format="png", layout=ipywidgets.Layout(width=f"{WIDTH}px", height=f"{self.height}px")
        )
        self.text = ipywidgets.HTML()
        super().__init__([self.slider, self.picture, self.text])
        for part, name in (
            (self, "panel"), (self.slider, "slider"), (self.picture, "picture"), (self.text, "text")
        ):  # fmt: skip
            part.add_class(f"{self.css}-{name}")

        setattr(self, self.follows, value)
        traitlets.link((self, self.follows), (self.slider, "value"))
        self._show()
        self.observe(lambda change: self._show(), self.follows)

    def _on_the_grid(self, value: float) -> float:
        """A value between two steps would come back rounded from the browser, over a later one."""
        criteria.check_amount(self.follows, value)
        if value > self._limit:
            raise ValueError(
                f"{self.follows} must lie in [0, {self._limit:g}] here, got {value:g}; "
                f"for more, make the slider with {self.limited_by}="
            )
        return round(round(value / self._step) * self._step, 10)

    def _show(self) -> None:
        raise NotImplementedError

    def settle(self, timeout: float | None = None):
        """Wait until the newest state is evaluated and drawn; raises what went wrong on the way."""
        self._worker.settle(timeout)
        return self

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()
        for part in self.children:
            part.close()
        super().close()

    def _repr_mimebundle_(self, **options) -> dict:
        """With the picture as it stands, for pages that show no widgets."""
        bundle = super()._repr_mimebundle_(**options)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        if data and self.picture.value:
            data["image/png"] = base64.b64encode(self.picture.value).decode()
        return bundle
