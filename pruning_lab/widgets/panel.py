"""The threshold studio as a panel: sliders, pictures and buttons over a `studio.Studio`."""

from collections.abc import Callable
from functools import partial
from html import escape
from pathlib import Path

import ipywidgets
from ipywidgets import HTML, Box, Button, HBox, Layout, VBox

from pruning_lab.studio import Measured, Moved, Studio
from pruning_lab.widgets.drawing import data_uri
from pruning_lab.widgets.figures import TrailFilm, WeightsFilm
from pruning_lab.widgets.losses import class_changes, lost_images, pixel_map, sees_pixels
from pruning_lab.widgets.studio_view import StudioView, picture_of
from pruning_lab.widgets.tables import attempts_table, layers_table

MANY = 6  # layers; from here on they are filtered
_UNSEEN = "position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%)"


class StudioPanel(StudioView):
    """A slider for each layer, and what follows: pictures, numbers, losses, attempts that stay.

    Everything the panel does is a call of `panel.studio`, and a cell may do the same: the panel
    shows what came of it. `settle()` waits until all is measured and drawn, and raises what went
    wrong. Qualities of a slider go up to 3; the box beside it takes any.
    """

    def __init__(self, studio: Studio):
        super().__init__(studio, studio.layers, WeightsFilm(studio), "studio")
        self._trail = TrailFilm(studio)
        self._overwrite: tuple | None = None  # the export that was asked about
        self.trail = picture_of(self._trail)
        self.message, self.origin = HTML(), HTML()
        self.table, self.attempts, self.lost, self.classes, self.pixels = (HTML() for _ in range(5))
        self.max_drop = _number(ipywidgets.FloatText, 0.5, "points that the network may lose")
        self.epochs = _number(ipywidgets.IntText, 1, "epochs to retrain")
        self.label = ipywidgets.Text(placeholder="a name", layout=Layout(width="120px"))
        self.path = ipywidgets.Text("plan.json", layout=Layout(width="140px"))
        self.filter = ipywidgets.Text(
            placeholder="filter layers", continuous_update=True, layout=Layout(width="160px")
        )
        self.filter.observe(self._narrow, "value")
        self.buttons = self._make_buttons()
        self.link = self._make_links()
        self._lay_out()
        css = {name.replace(" ", "-"): button for name, button in self.buttons.items()}
        for name in (
            *("trail", "message", "attempts", "max_drop", "epochs", "label", "path", "filter"),
            *("lost", "classes", "pixels", "origin"),
        ):
            css[name] = getattr(self, name)
        self.name_parts("studio", layers=self.table, **css)
        self.start()

    # -------------------------------------------------------------------------------- the parts

    def _lay_out(self) -> None:
        buttons = self.buttons
        tools = [self.filter] * (len(self.rows) >= MANY) + [*self.link.values()]
        scrolling = Layout(
            display="flex", flex_flow="column", max_height="440px", overflow="hidden auto"
        )
        controls = [
            _bar(*tools),
            Box([row.view for row in self.rows.values()], layout=scrolling),
            self.origin,
            _bar(
                *(buttons["suggest"], self.max_drop, HTML("points"), buttons["retrain"]),
                *(self.epochs, HTML("epochs"), buttons["stop"]),
            ),
            _bar(
                *(buttons["undo"], buttons["redo"], self.label, buttons["name"], buttons["branch"])
            ),
            _bar(self.path, buttons["export"], buttons["test"]),
            self.message,
            self.trail,
        ]
        # ipywidgets' Image has no alternative text: it stands beside it, for those who listen.
        words = [f'<span style="{_UNSEEN}">{f.words}</span>' for f in (self._film, self._trail)]
        losses = HBox(
            [self.pixels, self.classes, self.lost],
            layout=Layout(flex_flow="row wrap", width="100%"),
        )
        for part in losses.children:
            part.layout.margin = "0 16px 8px 0"
        left = VBox(controls, layout=Layout(flex="0 1 450px", min_width="400px"))
        right = VBox([self.picture, losses], layout=Layout(flex="1 1 380px", min_width="0"))
        tabs = ipywidgets.Tab([self.table, self.attempts], titles=["Layers", "Attempts"])
        self.children = [
            *(self._style, self.headline, self.problem, HBox([left, right]), tabs),
            HTML("".join(words)),
        ]

    def _make_buttons(self) -> dict[str, Button]:
        studio = self.studio
        actions: dict[str, tuple[str, Callable[[], object]]] = {
            "suggest": (
                "scan the layers, and choose densities for what the network may lose",
                lambda: studio.suggest(self.max_drop.value, wait=False),
            ),
            "retrain": (
                "train the remaining weights; pruned ones stay zero",
                lambda: studio.retrain(self.epochs.value, wait=False),
            ),
            "stop": ("end what is running", studio.stop),
            "undo": ("back one attempt", studio.undo),
            "redo": ("forward again", studio.redo),
            "name": ("give this attempt a name", lambda: studio.rename(self.label.value)),
            "branch": (
                "begin another line of attempts here",
                lambda: studio.branch(self.label.value.strip()),
            ),
            "export": ("write the plan, and the network it is for", self._export),
            "test": (
                "measure on the test images: for the end, not for choosing",
                lambda: studio.test(wait=False),
            ),
        }
        buttons = {}
        for name, (tooltip, action) in actions.items():
            button = Button(description=name, tooltip=tooltip, layout=Layout(width="auto"))
            button.on_click(partial(self.press, action))
            buttons[name] = button
        return buttons

    def _make_links(self) -> dict[str, ipywidgets.ToggleButton]:
        kinds = {row.is_conv for row in self.studio.metrics().layers}
        return {
            kind: ipywidgets.ToggleButton(
                description=f"link all {kind}",
                tooltip=f"moving one {kind} layer moves them all, except locked ones",
                layout=Layout(width="auto"),
            )
            for kind, is_conv in (("conv", True), ("fc", False))
            if is_conv in kinds
        }

    # ------------------------------------------------------------------------ what a user does

    def linked(self, layer: str) -> list[str]:
        rows = {row.layer: row for row in self.studio.metrics().layers}
        is_conv = rows[layer].is_conv
        if not self.link["conv" if is_conv else "fc"].value:
            return [layer]
        return [n for n, row in rows.items() if row.is_conv is is_conv and not row.locked]

    def _narrow(self, change: dict) -> None:
        for name, row in self.rows.items():
            row.view.layout.display = "" if change["new"].strip() in name else "none"

    def _export(self) -> None:
        path = Path(self.path.value)
        there = [p.name for p in (path, path.with_suffix(".safetensors")) if p.exists()]
        asked = path, self.studio.attempt
        if there and self._overwrite != asked:
            self._overwrite = asked
            words = escape(" and ".join(there))
            self.message.value = f"there is {words} already; press export again to overwrite it"
            return
        exported = self.studio.export(path)
        self.message.value = (
            f"wrote {escape(str(exported.plan))} and {escape(str(exported.network))}; "
            f"the same mask again: <code>{escape(exported.command)}</code>"
        )

    # ---------------------------------------------------------------------------- what is shown

    def follow(self, event: object) -> None:
        super().follow(event)
        studio = self.studio
        if isinstance(event, Moved) and (shape := sees_pixels(studio, studio.layers[0])):
            name = studio.layers[0]
            self.pixels.value = pixel_map(name, studio.mask[name], shape)
        if isinstance(event, Measured) and event.final:
            self.write_table()
            self.trail.value = self._trail.picture()
            self.attempts.value = attempts_table(studio)
            self.classes.value = class_changes(studio.metrics().per_class)
            self.lost.value = lost_images(studio)

    def write(self) -> None:
        with self._lock:
            super().write()
            studio, busy = self.studio, self.studio.busy
            can = {
                "retrain": studio.train is not None,
                "test": studio.has_test,
                "undo": studio.attempt.parent is not None,
                "redo": studio.can_redo,
            }
            for name, button in self.buttons.items():
                button.disabled = not busy if name == "stop" else busy or not can.get(name, True)
            self.buttons["stop"].button_style = "warning" if busy else ""
            self.buttons["test"].description = f"test (used {studio.tests} times)"
