"""The slider of 02_prune_once in JupyterLab, in a real browser: keys move text and picture."""

import re


def test_an_arrow_key_moves_the_threshold_and_all_that_follows(run_all, page, tmp_path):
    def measured(quality):
        return rf"up to date[^]*quality {quality:g}\s"

    # where a cell has put it
    settled = run_all("02_prune_once", "threshold", measured(2.0), part="panel")
    before = settled(measured(2.0))
    panel, picture = page.locator(".threshold-panel"), page.locator(".threshold-picture")
    panel.scroll_into_view_if_needed()
    drawn = picture.screenshot(path=tmp_path / "picture-before.png")
    panel.screenshot(path=tmp_path / "panel-before.png")
    page.screenshot(path=tmp_path / "page.png")
    assert picture.evaluate("image => image.naturalWidth") > 600

    page.locator(".threshold-slider .noUi-handle").focus()
    page.keyboard.press("ArrowLeft")
    after = settled(measured(1.95))
    panel.screenshot(path=tmp_path / "panel-after.png")
    assert picture.screenshot(path=tmp_path / "picture-after.png") != drawn
    assert _kept(after) > _kept(before)

    for _ in range(10):  # fast: what stays is the last state
        page.keyboard.press("ArrowLeft")
    assert _kept(settled(measured(1.45))) > _kept(after)
    assert page.get_by_text("Error displaying widget").count() == 0
    assert page.locator(".jp-OutputArea-output[data-mime-type*='error']").count() == 0


def _kept(text: str) -> int:
    """How many weights of the layer the panel's table says are kept."""
    return int(re.search(r"quality [\d.]+\s+[\d.]+\s+[\d,]+\s+([\d,]+)", text)[1].replace(",", ""))
