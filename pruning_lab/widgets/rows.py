"""One layer's line in a panel: its name, slider, box for exact values, density, lock, reset."""

import re

import ipywidgets
from ipywidgets import HTML, Button, FloatSlider, HBox

from pruning_lab.studio import LIMIT, STEP, LayerMetrics
from pruning_lab.widgets.tables import percent


class LayerRow(HBox):
    """Widgets of a layer; what the user does with them is a call of the view they belong to."""

    def __init__(self, view, row: LayerMetrics, label: str, width: int):
        name = row.layer
        self.name = Button(description=label, tooltip=f"show {name}: {row.weights:,} weights")
        self.slider = FloatSlider(
            max=LIMIT, step=STEP, readout=False, tooltip=f"quality of {name}: threshold / sigma"
        )
        self.box = ipywidgets.FloatText(0, tooltip=f"quality of {name}, exactly")
        self.kept = HTML()
        self.lock = ipywidgets.ToggleButton(icon="lock", tooltip=f"leave {name} as it is")
        self.reset = Button(icon="undo", tooltip=f"set {name} to 0: prune nothing here")
        parts = {
            "name": (self.name, f"{width}px"),
            "slider": (self.slider, "138px"),
            "box": (self.box, "76px"),
            "kept": (self.kept, "58px"),
            "lock": (self.lock, "36px"),
            "reset": (self.reset, "36px"),
        }
        for word, (part, wide) in parts.items():
            part.layout.width = wide
            part.add_class(f"studio-{word}-{re.sub('[^a-zA-Z0-9_-]', '-', name)}")
        layout = {"align_items": "center", "flex": "0 0 auto"}
        super().__init__([part for part, _ in parts.values()], layout=layout)
        self.name.on_click(lambda _: view.press(lambda: setattr(view, "layer", name)))
        self.box.observe(lambda change: view.moved(name, change["new"]), "value")
        self.lock.observe(lambda change: view.lock(name, change["new"]), "value")
        self.reset.on_click(lambda _: view.moved(name, 0.0))
        on_steps(self.slider, lambda quality: view.moved(name, quality))

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
        place = on_grid(min(quality, LIMIT), STEP)
        if place != on_grid(self.slider.value, STEP):  # else it would jump back during a fast drag
            self.slider.value = place
        self.box.value = quality
        self.lock.value = row.locked
        self.lock.icon = "lock" if row.locked else "unlock"


def on_steps(slider: FloatSlider, moved) -> None:
    """Call `moved` when the user moves a slider by a step.

    A browser answers a new value with its own last digit of it: the user did not do that.
    """

    def slid(change: dict) -> None:
        old, new = (on_grid(change[when], slider.step) for when in ("old", "new"))
        if new != old:
            moved(new)

    slider.observe(slid, "value")


def on_grid(value: float, step: float) -> float:
    return round(round(value / step) * step, 10)
