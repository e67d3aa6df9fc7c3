"""The threshold studio as a panel: sliders, pictures and buttons over a `studio.Studio`."""

from html import escape
from pathlib import Path

import ipywidgets
from ipywidgets import HTML, Box, Button, FloatText, HBox, IntText, Text, ToggleButton, VBox

from pruning_lab.rows import counted
from pruning_lab.studio import Measured, Studio
from pruning_lab.widgets.figures import TrailFilm, WeightsFilm
from pruning_lab.widgets.losses import class_changes, image_shape, lost_images, pixel_map
from pruning_lab.widgets.studio_view import StudioView, picture_box
from pruning_lab.widgets.tables import attempts_table, table

MANY = 6  # layers; from here on they are filtered
_UNSEEN = "position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%)"


class StudioPanel(StudioView):
    """A slider for each layer, and what follows: pictures, numbers, losses, attempts that stay.

    Everything the panel does is a call of `panel.studio`, and a cell may do the same: the panel
    shows what came of it. Qualities of a slider go up to 3; the box beside it takes any.
    """

    def __init__(self, studio: Studio):
        self._film, self._trail_film = WeightsFilm(studio), TrailFilm(studio)
        super().__init__(studio, studio.layers, "studio", 620, self._film.words)
        self._overwrite: Path | None = None  # the plan whose export was refused, to be asked again
        self._pixels_of = image_shape(studio)
        self.trail = self.pictures[self._trail_film.words] = picture_box(620)
        self.layers, self.attempts, self.made, self.message = HTML(), HTML(), HTML(), HTML()
        self.pixels, self.classes, self.lost = HTML(), HTML(), HTML()
        tooltip = "points that the whole network may lose"
        self.max_drop = FloatText(0.5, tooltip=tooltip, layout={"width": "64px"})
        self.epochs = IntText(1, tooltip="epochs to retrain", layout={"width": "56px"})
        self.label = Text(placeholder="a name", layout={"width": "120px"})
        self.path = Text("plan.json", layout={"width": "140px"})
        self.filter = Text(placeholder="filter layers", layout={"width": "160px"})
        self.filter.observe(self._narrow, "value")
        kinds = dict.fromkeys("conv" if row.is_conv else "fc" for row in studio.metrics())
        tooltip = "moving one of these layers moves them all, except locked ones"
        self.link = {k: ToggleButton(description=f"link all {k}", tooltip=tooltip) for k in kinds}
        self.buttons = self._make_buttons()
        self._arrange()
        self.start()

    def _make_buttons(self) -> dict[str, Button]:
        studio, later = self.studio, {"wait": False}
        actions = {
            "suggest": ("scan, and choose", lambda: studio.suggest(self.max_drop.value, **later)),
            "retrain": ("pruned stay zero", lambda: studio.retrain(self.epochs.value, **later)),
            "stop": ("end what is running", studio.stop),
            "undo": ("back one attempt", studio.undo),
            "redo": ("forward again", studio.redo),
            "name": ("name this attempt", lambda: studio.rename(self.label.value)),
            "branch": ("begin a line of attempts", lambda: studio.branch(self.label.value.strip())),
            "export": ("write the plan, and the network it is for", self._export),
            "test": ("at the end, not for choosing", lambda: studio.test(**later)),
        }
        buttons = {}
        for name, (tooltip, action) in actions.items():
            buttons[name] = button = Button(description=name, tooltip=tooltip)
            button.add_class(f"studio-{name}").on_click(lambda _, action=action: self.press(action))
        return buttons

    def _arrange(self) -> None:
        buttons = self.buttons
        for button in (*buttons.values(), *self.link.values()):
            button.layout.width = "auto"
        scrolling = {"display": "block", "max_height": "440px", "overflow": "hidden auto"}
        controls = [
            _bar(*[self.filter] * (len(self.rows) >= MANY), *self.link.values()),
            Box([*self.rows.values()], layout=scrolling),
            self.made,
            _bar(buttons["suggest"], self.max_drop, HTML("points"), buttons["stop"]),
            _bar(buttons["retrain"], self.epochs, HTML("epochs"), buttons["undo"], buttons["redo"]),
            _bar(self.label, buttons["name"], buttons["branch"]),
            _bar(self.path, buttons["export"], buttons["test"]),
            *(self.message, self.trail),
        ]
        losses = HBox([self.pixels, self.classes, self.lost], layout={"flex_flow": "row wrap"})
        for part in losses.children:
            part.layout.margin = "0 16px 8px 0"
        left = VBox(controls, layout={"flex": "0 0 480px"})
        right = VBox([self.picture, losses], layout={"flex": "1 1 380px", "min_width": "0"})
        tabs = ipywidgets.Tab([self.layers, self.attempts], titles=["Layers", "Attempts"])
        # ipywidgets' Image has no alternative text: it stands beside it, for those who listen.
        words = HTML(f'<span style="{_UNSEEN}">{"; ".join(self.pictures)}</span>')
        top = self.style_sheet, self.headline, self.problem
        self.children = [*top, HBox([left, right]), tabs, words]

    # ------------------------------------------------------------------------ what a user does

    def linked(self, layer: str) -> list[str]:
        rows = {row.layer: row for row in self.studio.metrics()}
        is_conv = rows[layer].is_conv
        if not self.link["conv" if is_conv else "fc"].value:
            return [layer]
        return [n for n, row in rows.items() if row.is_conv is is_conv and not row.locked]

    def _narrow(self, change: dict) -> None:
        for name, row in self.rows.items():
            row.layout.display = "" if change["new"].strip() in name else "none"

    def _export(self) -> None:
        """A file is overwritten only when the button is pressed again for the same plan."""
        path, again = Path(self.path.value), self._overwrite
        self._overwrite = None
        try:
            done = self.studio.export(path, overwrite=path == again)
        except FileExistsError as error:
            if error.errno is None:  # else the system says it, of a folder
                self._overwrite = path
                files = str(error).partition(";")[0]
                raise FileExistsError(f"{files}; press export again to do so") from None
            raise
        self.message.value = (
            f"wrote {escape(str(done.plan))} and {escape(str(done.network))}; "
            f"the same mask again: <code>{escape(done.command)}</code>"
        )

    # ---------------------------------------------------------------------------- what is shown

    def draw(self) -> bytes:
        first = self.studio.layers[0]
        if self._pixels_of:
            self.pixels.value = pixel_map(self.mask[first], self._pixels_of)
        return self._film.picture(self._layer)

    def follow(self, event: object) -> None:
        super().follow(event)
        if isinstance(event, Measured) and event.final:
            metrics = self.studio.metrics()
            self.layers.value = table(metrics.columns, metrics)
            self.trail.value = self._trail_film.picture()
            self.attempts.value = attempts_table(self.studio)
            self.classes.value = class_changes(metrics.per_class)
            self.lost.value = lost_images(self.studio)

    def write(self) -> None:
        with self._lock:
            super().write()
            studio, busy = self.studio, self.studio.busy
            made = f"<i>{escape(studio.history.made)}; sliders prune further from here</i>"
            self.made.value = made if studio.attempt.version else ""
            can = {
                "retrain": studio.train is not None,
                "test": studio.has_test,
                "undo": studio.attempt.parent is not None,
                "redo": studio.can_redo,
            }
            for name, button in self.buttons.items():
                button.disabled = not busy if name == "stop" else busy or not can.get(name, True)
            self.buttons["stop"].button_style = "warning" if busy else ""
            self.buttons["test"].description = f"test (used {counted(studio.tests, 'time')})"

    def __repr__(self) -> str:
        return f"StudioPanel({self.studio!r})"


def _bar(*parts: ipywidgets.Widget) -> HBox:
    return HBox(parts, layout={"align_items": "center", "flex_flow": "row wrap"})
