"""One layer's line in a panel: its name, slider, box for exact values, density, lock, reset."""

import re
from collections.abc import Callable

import ipywidgets
from ipywidgets import HTML, Button, HBox, Layout

from pruning_lab.studio import LayerMetrics
from pruning_lab.studio.layers import LIMIT, STEP
from pruning_lab.widgets.tables import percent


class LayerRow:
    """Widgets of a layer; what the user does with them is told to the panel's functions.

    `moved(quality)` is called for the slider, the box and the reset button, `selected()` for the
    name, `locked(bool)` for the lock.
    """

    def __init__(
        self,
        row: LayerMetrics,
        label: str,
        width: int,
        moved: Callable[[float], None],
        selected: Callable[[], None],
        locked: Callable[[bool], None],
    ):
        name, small = row.layer, Layout(width="32px")
        tooltip = f"show {name}: {row.weights:,} weights"
        self.name = Button(description=label, tooltip=tooltip, layout=Layout(width=f"{width}px"))
        self.slider = ipywidgets.FloatSlider(
            min=0,
            max=LIMIT,
            step=STEP,
            readout=False,
            tooltip=f"quality of {name}: threshold / sigma",
            layout=Layout(width="auto", min_width="70px", flex="1 1 138px"),
        )
        tooltip = f"quality of {name}, exactly"
        self.box = ipywidgets.FloatText(0, tooltip=tooltip, layout=Layout(width="72px"))
        self.kept = HTML(layout=Layout(width="56px"))
        self.lock = ipywidgets.ToggleButton(icon="lock", tooltip=f"leave {name} as it is")
        self.reset = Button(icon="undo", tooltip=f"set {name} to 0: prune nothing here")
        self.lock.layout = self.reset.layout = small
        self.view = HBox(layout=Layout(align_items="center", flex="0 0 auto"))
        for word in ("name", "slider", "box", "kept", "lock", "reset"):
            getattr(self, word).add_class(f"studio-{word}-{re.sub('[^a-zA-Z0-9_-]', '-', name)}")
            self.view.children += (getattr(self, word),)
        self._moved = moved
        self.name.on_click(lambda _: selected())
        self.slider.observe(self._slid, "value")
        self.box.observe(lambda change: moved(change["new"]), "value")
        self.lock.observe(lambda change: locked(change["new"]), "value")
        self.reset.on_click(lambda _: moved(0.0))

    def _slid(self, change: dict) -> None:
        """A browser answers a new value with its own last digit of it: the user did not do that."""
        if on_grid(change["new"]) != on_grid(change["old"]):
            self._moved(on_grid(change["new"]))

    def show(self, row: LayerMetrics, selected: bool, free: bool) -> None:
        """What follows from the setting."""
        self.kept.value = f'<b style="font-size: 14px">{percent(row.density)}</b>'
        self.name.button_style = "primary" if selected else ""
        for part in (self.slider, self.box, self.reset):
            part.disabled = not free or row.locked
        self.lock.disabled = not free

    def put(self, row: LayerMetrics) -> None:
        """The setting. A value off the slider's grid would come back from the browser rounded, over
        a later one: exact ones are for the box.
        """
        quality = float(f"{row.quality:.4g}") if row.kept else LIMIT
        if row.asked.kind == "quality":
            quality = row.asked.amount
        place = on_grid(min(quality, LIMIT))
        if place != on_grid(self.slider.value):  # else it would jump back during a fast drag
            self.slider.value = place
        self.box.value = quality
        self.lock.value = row.locked
        self.lock.icon = "lock" if row.locked else "unlock"


def on_grid(quality: float) -> float:
    return round(round(quality / STEP) * STEP, 10)
