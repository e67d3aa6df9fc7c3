"""The slider of 04_sensitivity in JupyterLab, in a real browser: keys move text and picture."""

import re

MEASURED = r"change of accuracy\s*[+-][\d.]+ points[^]*up to date"


def test_an_arrow_key_moves_the_allowed_drop_and_all_that_follows(run_all, page, tmp_path):
    settled = run_all("04_sensitivity", "drop", MEASURED, part="headline")
    panel, picture = page.locator(".drop-panel"), page.locator(".drop-picture")
    readout, handle = (
        page.locator(".drop-slider .widget-readout"),
        page.locator(".drop-slider .noUi-handle"),
    )
    assert readout.inner_text() == "0.50"  # where a cell of the notebook has put it
    before = settled(MEASURED)
    panel.scroll_into_view_if_needed()
    drawn = picture.screenshot(path=tmp_path / "picture-before.png")
    panel.screenshot(path=tmp_path / "panel-before.png")
    page.screenshot(path=tmp_path / "page.png")
    assert picture.evaluate("image => image.naturalWidth") > 600

    handle.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "before => document.querySelector('.drop-headline').innerText != before", arg=before
    )
    after = settled(MEASURED)
    assert readout.inner_text() == "0.60"
    assert picture.screenshot(path=tmp_path / "picture-after.png") != drawn
    assert _kept(after) < _kept(before)

    for _ in range(20):  # fast: what stays is the last state
        page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "() => document.querySelector('.drop-slider .widget-readout').innerText == '2.60'"
    )
    page.wait_for_function(
        "after => document.querySelector('.drop-headline').innerText != after", arg=after
    )
    last = settled(MEASURED)
    panel.screenshot(path=tmp_path / "panel-after.png")
    assert _kept(last) < _kept(after)
    assert "do not add" in page.locator(".drop-text").inner_text()
    assert page.get_by_text("Error displaying widget").count() == 0
    assert page.locator(".jp-OutputArea-output[data-mime-type*='error']").count() == 0


def _kept(text: str) -> int:
    """How many weights of all layers the panel says are kept."""
    return int(re.search(r"weights kept\s+[\d.]+%\s+([\d,]+)", text)[1].replace(",", ""))
