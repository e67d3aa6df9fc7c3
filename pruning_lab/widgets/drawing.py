"""Sizes of pictures, and what pages that show no widgets show instead."""

import base64

WIDTH = 720  # of a picture, in the page's pixels


def height_for(layers: int, least: int) -> int:
    """Pixels of a picture whose legend has a line for each layer."""
    return max(least, 24 * (layers + 5))


def for_pages(bundle: dict | tuple, text: str, html: str, picture: bytes) -> dict | tuple:
    """A widget's MIME bundle with what pages that show no widgets show instead."""
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    if data:
        data |= {"text/plain": text, "text/html": html}
        if picture:
            data["image/png"] = base64.b64encode(picture).decode()
    return bundle
