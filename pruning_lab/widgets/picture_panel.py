"""The base of all panels: widgets around a picture that pages without widgets show too."""

import base64
from collections.abc import Iterator

from ipywidgets import Image, Layout, VBox, Widget

from pruning_lab.studio import Studio


class PicturePanel(VBox):
    """Widgets around a picture; `studio` is what they show, if there is one."""

    studio: Studio | None = None
    picture: Image

    def settle(self, timeout: float | None = None):
        """Wait until the latest state is measured and drawn; raises what went wrong on the way."""
        if self.studio is not None:
            self.studio.settle(timeout)
        return self

    def close(self) -> None:
        """End the studio's thread, and take the panel off the page."""
        if self.studio is not None:
            self.studio.close()
        for widget in _with_parts(self):
            if widget is not self:
                widget.close()
        super().close()

    def _repr_mimebundle_(self, **options) -> dict:
        bundle = super()._repr_mimebundle_(**options)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        if data and self.picture.value:
            data["image/png"] = base64.b64encode(self.picture.value).decode()
        return bundle


def picture_box(width: int) -> Image:
    """A place for a picture; it shrinks with the page."""
    picture = Image(format="png", layout=Layout(max_width=f"min(100%, {width}px)", height="auto"))
    return picture.add_class("studio-plot")


def name_parts(css: str, **parts: Widget) -> None:
    """Classes by which a test in the browser, or a style, finds the parts."""
    for name, part in parts.items():
        part.add_class(f"{css}-{name.replace('_', '-')}")


def _with_parts(widget: Widget) -> Iterator[Widget]:
    """A widget after all that it holds: children, layouts, styles."""
    for value in (getattr(widget, key) for key in widget.keys):
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Widget):
                yield from _with_parts(part)
    yield widget
