"""The threshold studio as a panel: sliders, pictures and buttons over a `studio.Studio`."""

import base64
import html
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import ipywidgets
from ipywidgets import HTML, Box, Button, HBox, Layout, VBox

from pruning_lab.studio import (
    ALL,
    LIMIT,
    STEP,
    LayerMetrics,
    Measured,
    Metrics,
    Moved,
    Setting,
    Studio,
)
from pruning_lab.widgets.scenes import TrailFilm, WeightsFilm
from pruning_lab.widgets.tables import NUMBER, table

MANY = 6  # layers; from here on they are filtered, and linked by kind
_SIDE = 470  # pixels, of the column with the sliders


class StudioPanel(VBox):
    """A slider for each layer, and what follows: pictures, numbers, and attempts that stay.

    Everything the panel does is a call of `panel.studio`, and a cell may do the same: the panel
    shows what came of it. `settle()` waits until all is measured and drawn, and raises what went
    wrong. Qualities of a slider go up to 3; the box beside it takes any.
    """

    def __init__(self, studio: Studio):
        self.studio = studio
        self._lock = threading.RLock()  # of what is shown: two threads write it
        self._shown: dict[str, Setting] = {}  # what each layer's slider and box stand for
        self._settings_of = 0  # the attempt they are of
        self._films = WeightsFilm(studio), TrailFilm(studio)
        self._layer = studio.layers[0]
        self._quiet: int | None = None  # the thread whose own changes are not a hand's
        self.rows = {row.layer: _Row(self, row) for row in studio.metrics().layers}

        self.headline, self.problem, self.message = HTML(), HTML(), HTML()
        self.picture, self.trail = map(_picture, self._films)
        self.table, self.attempts = HTML(), HTML()
        self._buttons = self._make_buttons()
        tabs = ipywidgets.Tab([self.table, self.attempts], titles=["Layers", "Attempts"])
        scrolling = Layout(
            display="flex",
            flex_flow="column",
            max_height="440px",
            overflow="hidden auto",
            width="100%",
        )
        sliders = Box([row.view for row in self.rows.values()], layout=scrolling)
        hand = VBox(
            [*self._tools(), sliders, *self._bars(), self.message],
            layout=Layout(width=f"{_SIDE}px", flex="0 0 auto"),
        )
        # ipywidgets' Image has no alternative text: it stands beside it, for those who listen.
        texts = [HTML(f'<span style="{_UNSEEN}">{film.words}</span>') for film in self._films]
        looks = VBox([self.picture, texts[0], self.trail, texts[1]])
        super().__init__([self.headline, self.problem, HBox([hand, looks]), tabs])
        self._parts = tabs, hand, looks
        named = {
            "panel": self,
            "headline": self.headline,
            "picture": self.picture,
            "trail": self.trail,
            "problem": self.problem,
            "message": self.message,
            "layers": self.table,
            "attempts": self.attempts,
            "max-drop": self.max_drop,
            "epochs": self.epochs,
            "label": self.label,
            "path": self.path,
            "filter": self.filter,
            **{name.replace(" ", "-"): button for name, button in self._buttons.items()},
        }
        for name, part in named.items():
            part.add_class(f"studio-{name}")
        self._write()
        studio.on(object, self._follow)
        studio.refresh()

    # ------------------------------------------------------------------------------ for a cell

    @property
    def layer(self) -> str:
        """The layer in the picture; set it, or press its name."""
        return self._layer

    @layer.setter
    def layer(self, name: str) -> None:
        self.studio.layer(name)  # raises for an unknown one
        with self._lock:
            self._layer = name
        self._write()
        self.studio.refresh()

    def settle(self, timeout: float | None = None) -> "StudioPanel":
        """Wait until the newest state is measured and drawn; raises what went wrong on the way."""
        self.studio.settle(timeout)
        return self

    def close(self) -> None:
        """End the studio's thread, and take the panel off the page."""
        self.studio.close()
        for widget in (*_with_parts(self.filter), *_with_parts(self)):
            if widget is not self:
                widget.close()
        super().close()

    # -------------------------------------------------------------------------------- the parts

    def _tools(self) -> list[ipywidgets.Widget]:
        """What is worth its place only where there are many layers, and links for all."""
        kinds = {row.is_conv for row in self.studio.metrics().layers}
        self.link = {
            kind: ipywidgets.ToggleButton(
                description=f"link all {kind}",
                tooltip=f"moving one {kind} layer moves them all, save those that are locked",
                layout=Layout(width="auto"),
            )
            for kind, is_conv in (("conv", True), ("fc", False))
            if is_conv in kinds
        }
        self.filter = ipywidgets.Text(
            placeholder="filter layers", continuous_update=True, layout=Layout(width="160px")
        )
        self.filter.observe(self._narrow, "value")
        tools = [*self.link.values()]
        if len(self.rows) >= MANY:
            tools.insert(0, self.filter)
        return [HBox(tools)]

    def _narrow(self, change: dict) -> None:
        for name, row in self.rows.items():
            row.view.layout.display = "" if change["new"].strip() in name else "none"

    def _make_buttons(self) -> dict[str, Button]:
        studio = self.studio
        self.max_drop = _number(0.1, 0.0, 100.0, 0.1, "points that each layer alone may lose")
        self.epochs = ipywidgets.BoundedIntText(
            1, min=1, max=1000, layout=Layout(width="60px"), tooltip="epochs to retrain"
        )
        self.label = ipywidgets.Text(placeholder="a name", layout=Layout(width="130px"))
        self.path = ipywidgets.Text("plan.json", layout=Layout(width="150px"))
        actions: dict[str, tuple[str, Callable[[], object]]] = {
            "suggest": (
                "scan the layers, and set them to what each may lose",
                lambda: studio.suggest(self.max_drop.value, wait=False),
            ),
            "retrain": (
                "train what is left; pruned weights stay zero",
                lambda: studio.retrain(self.epochs.value, wait=False),
            ),
            "stop": ("end what is running", studio.stop),
            "undo": ("back one attempt", studio.undo),
            "redo": ("forth again", studio.redo),
            "name": ("call this attempt something", lambda: studio.rename(self.label.value)),
            "branch": ("begin another line of attempts here", self._branch),
            "export": ("write the plan, and the network it is for", self._export),
            "test": (
                "measure on the test images: for the end, not for choosing",
                lambda: studio.test(wait=False),
            ),
        }
        buttons = {}
        for name, (tooltip, action) in actions.items():
            button = Button(description=name, tooltip=tooltip, layout=Layout(width="auto"))
            button.on_click(partial(self._press, action))
            buttons[name] = button
        return buttons

    def _bars(self) -> list[HBox]:
        buttons = self._buttons
        points = HTML("<span>points</span>")
        epochs = HTML("<span>epochs</span>")
        return [
            _bar(
                *(buttons["suggest"], self.max_drop, points, buttons["retrain"], self.epochs),
                *(epochs, buttons["stop"]),
            ),
            _bar(
                *(buttons["undo"], buttons["redo"], self.label, buttons["name"], buttons["branch"])
            ),
            _bar(self.path, buttons["export"], buttons["test"]),
        ]

    # ------------------------------------------------------------------------------- a hand's work

    def moved(self, layer: str, quality: float) -> None:
        """A slider or a box was moved: by it alone, or by all that it is linked with."""
        if self._quiet == threading.get_ident():
            return
        with self._lock:
            self._layer = layer
        linked = self._linked(layer)
        self._press(lambda: self.studio.set(dict.fromkeys(linked, quality), merge=True))

    def select(self, layer: str) -> None:
        self._press(lambda: setattr(self, "layer", layer))

    def lock(self, layer: str, locked: bool) -> None:
        if self._quiet != threading.get_ident():
            self._press(lambda: (self.studio.lock if locked else self.studio.unlock)(layer))

    def _linked(self, layer: str) -> list[str]:
        kind = "conv" if self.studio.layer(layer).is_conv else "fc"
        if not self.link[kind].value:
            return [layer]
        is_conv, locked = kind == "conv", self.studio.locked
        names = self.studio.layers
        return [n for n in names if self.studio.layer(n).is_conv is is_conv and n not in locked]

    def _press(self, action: Callable[[], object], _button: Button | None = None) -> None:
        """Do it and show it; what goes wrong appears in the panel."""
        with self._lock:  # the numbers come first: drawing, in the studio's thread, takes longer
            try:
                action()
            except Exception as error:
                words = error.args[0] if isinstance(error, KeyError) else error  # it adds quotes
                self.problem.value = _alert(str(words) or type(error).__name__)
                self._write(anew=True)  # a slider that was refused goes back
            else:
                self.problem.value = ""
                self._write()

    def _branch(self) -> None:
        self.studio.branch(self.label.value.strip())

    def _export(self) -> None:
        exported = self.studio.export(self.path.value)
        self.message.value = (
            f"wrote {html.escape(str(exported.plan))} and {html.escape(str(exported.network))}; "
            f"the same mask again: <code>{html.escape(exported.command)}</code>"
        )

    # ---------------------------------------------------------------------------- what is shown

    def _follow(self, event: object) -> None:
        """Called by the studio, in its thread."""
        if isinstance(event, Moved):
            self._write()
            self.picture.value = self._films[0].picture(self._layer)
        elif isinstance(event, Measured) and event.final:
            self._write(whole=True)
            if self.studio.attempt.accuracy is not None:  # else a hand is further, and waits
                self.trail.value = self._films[1].picture()
                self.attempts.value = _attempts(self.studio)
        else:
            self._write()

    def _write(self, *, anew: bool = False, whole: bool = False) -> None:
        """The numbers, always the newest: at once from a hand, and again as they are measured."""
        with self._lock, self._silent():
            metrics = self.studio.metrics()
            self.headline.value = _headline(metrics, self.studio)
            for row in metrics.layers:
                setting = (row.asked, row.locked, metrics.attempt if anew else 0)
                self.rows[row.layer].show(row, row.layer == self._layer)
                if self._shown.get(row.layer) != setting:
                    self.rows[row.layer].put(row)
                    self._shown[row.layer] = (row.asked, row.locked, 0)
            self._enable()
            if whole or self.studio.busy:
                self.table.value = _layers(metrics)

    def _enable(self) -> None:
        studio, busy = self.studio, self.studio.busy
        can = {
            "retrain": studio.train is not None,
            "test": studio.has_test,
            "undo": studio.attempt.parent is not None,
            "redo": studio.can_redo,
        }
        for name, button in self._buttons.items():
            button.disabled = not busy if name == "stop" else busy or not can.get(name, True)
        self._buttons["stop"].button_style = "warning" if busy else ""
        self._buttons["test"].description = f"test (used {studio.tests} times)"
        for row in self.rows.values():
            row.enable(not busy)

    @contextmanager
    def _silent(self) -> Iterator[None]:
        """What is put into sliders inside was not put there by a hand."""
        before, self._quiet = self._quiet, threading.get_ident()
        try:
            yield
        finally:
            self._quiet = before

    def _repr_mimebundle_(self, **options) -> dict:
        """With pictures and numbers as they stand, for pages that show no widgets."""
        bundle = super()._repr_mimebundle_(**options)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        if data and self.picture.value:
            shots = [base64.b64encode(pic.value).decode() for pic in (self.picture, self.trail)]
            images = "".join(
                f'<p><img alt="{film.words}" width="{film.pixels[0]}" '
                f'src="data:image/png;base64,{shot}"></p>'
                for film, shot in zip(self._films, shots, strict=True)
                if shot
            )
            data["text/html"] = f"{self.headline.value}{images}{self.table.value}"
            data["image/png"] = shots[0]
            data["text/plain"] = f"{self.studio!r}\n\n{self.studio.mask.receipt}"
        return bundle

    def __repr__(self) -> str:
        return f"StudioPanel({self.studio!r})"


class _Row:
    """One layer's line: its name, its slider, a box for exact values, what it keeps, its lock."""

    def __init__(self, panel: StudioPanel, row: LayerMetrics):
        self._panel = panel
        self._name = name = row.layer
        self.name = Button(
            description=name,
            tooltip=f"show {name}: {row.weights:,} weights",
            layout=Layout(width="96px"),
        )
        self.slider = ipywidgets.FloatSlider(
            min=0,
            max=LIMIT,
            step=STEP,
            readout=False,
            tooltip=f"quality of {name}: threshold / sigma",
            layout=Layout(width="138px"),
        )
        self.box = _number(0.0, 0.0, 1000.0, None, f"quality of {name}, exactly")
        self.kept = HTML(layout=Layout(width="58px"))
        self.lock = ipywidgets.ToggleButton(
            icon="lock", tooltip=f"leave {name} as it is", layout=Layout(width="36px")
        )
        self.reset = Button(
            icon="undo", tooltip=f"all of {name} again", layout=Layout(width="36px")
        )
        parts = [self.name, self.slider, self.box, self.kept, self.lock, self.reset]
        self.view = HBox(parts, layout=Layout(align_items="center", flex="0 0 auto"))
        css = name.replace(".", "-")
        for part, word in zip(parts, _WORDS, strict=True):
            part.add_class(f"studio-{word}-{css}")
        self.name.on_click(lambda _: panel.select(name))
        self.slider.observe(self._slid, "value")
        self.box.observe(lambda change: panel.moved(name, change["new"]), "value")
        self.lock.observe(lambda change: panel.lock(name, change["new"]), "value")
        self.reset.on_click(lambda _: panel.moved(name, 0.0))

    def _slid(self, change: dict) -> None:
        """A browser answers a new value with its own last digit of it: no hand did that."""
        if _on_grid(change["new"]) != _on_grid(change["old"]):
            self._panel.moved(self._name, _on_grid(change["new"]))

    def show(self, row: LayerMetrics, selected: bool) -> None:
        """What follows from where it stands."""
        self.kept.value = f'<b style="font-size: 14px">{_share(row.density)}</b>'
        self.name.button_style = "primary" if selected else ""

    def put(self, row: LayerMetrics) -> None:
        """Where it stands. A value off the slider's grid would come back from the browser rounded,
        over a later one: exact ones are for the box.
        """
        quality = float(f"{row.quality:.4g}") if row.kept else LIMIT
        if row.asked.kind == "quality":
            quality = row.asked.amount
        place = _on_grid(min(quality, LIMIT))
        if place != _on_grid(self.slider.value):  # it would jump back under a fast hand
            self.slider.value = place
        self.box.value = quality
        self.lock.value = row.locked
        self.lock.icon = "lock" if row.locked else "unlock"

    def enable(self, free: bool) -> None:
        free_now = free and not self.lock.value
        for part in (self.slider, self.box, self.reset):
            part.disabled = not free_now
        self.lock.disabled = not free


_UNSEEN = "position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%)"
_WORDS = ("name", "slider", "box", "kept", "lock", "reset")


def _on_grid(quality: float) -> float:
    return round(round(quality / STEP) * STEP, 10)


def _with_parts(widget: ipywidgets.Widget) -> Iterator[ipywidgets.Widget]:
    """A widget after all that hangs on it: children, layouts, styles."""
    for value in (getattr(widget, key) for key in widget.keys):
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, ipywidgets.Widget):
                yield from _with_parts(part)
    yield widget


def _bar(*parts: ipywidgets.Widget) -> HBox:
    return HBox(parts, layout=Layout(align_items="center", flex_flow="row wrap"))


def _number(
    value: float, low: float, high: float, step: float | None, tooltip: str
) -> ipywidgets.BoundedFloatText:
    return ipywidgets.BoundedFloatText(
        value, min=low, max=high, step=step, tooltip=tooltip, layout=Layout(width="80px")
    )


def _picture(film) -> ipywidgets.Image:
    width, height = film.pixels
    return ipywidgets.Image(
        format="png",
        layout=Layout(width=f"{width}px", height=f"{height}px", flex="0 0 auto"),
    )


def _share(density: float) -> str:
    return f"{density:.1%}" if density >= 0.01 or density == 0 else f"{density:.2%}"


def _size(count: float) -> str:
    """Three digits and a unit's prefix: 61M weights, 1.45G operations."""
    power = 0
    while count >= 999.5 and power < 4:
        count, power = count / 1000, power + 1
    return f"{count:.3g} {' kMGT'[power].strip()}"


def _headline(metrics: Metrics, studio: Studio) -> str:
    """What one looks at first, large enough for the last row."""
    accuracy, lost = "…", "…"
    if metrics.accuracy is not None:
        a = metrics.accuracy
        accuracy = f"{a.value:.2%} {_small(f'{a.low:.2%} to {a.high:.2%}, {a.n:,} images')}"
        value, _, rest = str(metrics.drop).partition(" ")
        lost = f"{value} {_small(rest)}"
    dense = f"{_size(4 * metrics.weights)}B"
    flops = "…" if metrics.flops is None else f"{_size(metrics.flops_kept)}FLOP"
    cells = (
        ("accuracy on val", accuracy),
        ("drop", lost),
        ("weights kept", f"{_share(metrics.density)} {_small(f'{metrics.kept:,}')}"),
        ("stored", f"{_size(metrics.bytes)}B {_small(f'of {dense}')}"),
        ("an image takes", flops),
    )
    faded = "" if metrics.final else "; opacity: 0.7"
    parts = "".join(
        f'<div style="margin-right: 1.3em"><div style="opacity: 0.65">{name}</div>'
        f'<div style="font-size: 20px; font-weight: 600{faded if "acc" in name else ""}">'
        f"{value}</div></div>"
        for name, value in cells
    )
    chip = _chip(metrics)
    used = ""
    if studio.tested is not None:
        used = (
            f"<div>test images: {studio.tested}, drop {studio.test_drop}; looked at "
            f"{studio.tests} times</div>"
        )
    return (
        f'<div style="line-height: 1.5"><div style="display: flex; flex-wrap: wrap">{parts}</div>'
        f"{chip}{used}</div>"
    )


def _small(words: str) -> str:
    return f'<span style="font-size: 13px; font-weight: 400">{words}</span>'


def _chip(metrics: Metrics) -> str:
    """Whether what is shown is up to date."""
    if metrics.status.startswith("failed"):
        return _alert(metrics.status)
    done = metrics.final and metrics.status == "ready"
    colour, sign = ("#0a6b3b", "●") if done else ("#9a5b00", "◌")
    words = "up to date" if done else metrics.status
    return f'<div style="color: {colour}; font-size: 15px">{sign} {html.escape(words)}</div>'


def _alert(words: str) -> str:
    return f'<div role="alert" style="color: #a40e26; font-size: 15px">▲ {html.escape(words)}</div>'


def _layers(metrics: Metrics) -> str:
    rows = [("layer", "asked", "threshold", "kept", "of weights", "bytes", "operations")]
    for row in (*metrics.layers, None):
        if row is None:
            kept, weights, size = metrics.kept, metrics.weights, metrics.bytes
            flops = metrics.flops_kept
            cells = ("all", "", "")
        else:
            kept, weights, size = row.kept, row.weights, row.bytes
            flops = None if row.flops is None else row.flops * row.density
            asked = "all" if row.asked == ALL else str(row.asked)
            asked += " (locked)" if row.locked else ""
            cells = (html.escape(row.layer), asked, f"{row.threshold:.4g}")
        share = f"<b>{_share(kept / max(weights, 1))}</b>"
        operations = "…" if flops is None else _size(flops)
        rows.append((*cells, share, f"{kept:,} of {weights:,}", f"{_size(size)}B", operations))
    return table(rows, NUMBER)


def _attempts(studio: Studio) -> str:
    """The newest above; a star where no other is as accurate with as few weights."""
    comparison = studio.compare()
    best = {attempt.number for attempt in comparison.pareto}
    rows = [("", "line", "what", "name", "kept", "accuracy", "drop")]
    for a in reversed(comparison):
        here = " ◀" if a.number == studio.attempt.number else ""
        star = "★ " if a.number in best else ""
        words = html.escape(a.what), html.escape(a.name)
        accuracy = "" if a.accuracy is None else f"{a.accuracy.value:.2%}"
        lost = "" if a.drop is None else str(a.drop)
        number = f"{star}{a.number}{here}"
        rows.append((number, html.escape(a.line), *words, _share(a.density), accuracy, lost))
    inside = table(rows, NUMBER)
    return f'<div style="max-height: 320px; overflow: auto">{inside}</div>'
