"""The pages of a run and of the paper on screens of all sizes, light and dark."""

import io
import re
from contextlib import chdir
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pruning_lab import cli, data, experiments, reports


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The file of a short run's page."""
    recipe = experiments.paper_recipe("lenet-300-100", "mnist-5k")
    one = [replace(config, epochs=1) for config in (recipe.dense, *recipe.retrain)]
    recipe = replace(recipe, dense=one[0], retrain=tuple(one[1:]), scan=(0.5, 0.1))
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(reports.html(experiments.run(recipe, data.load("mnist-5k"))))
    return path


def lightness(colour: str) -> int:
    return sum(map(int, re.findall(r"\d+", colour)[:3]))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1024, 1440])
def test_the_page_fits_the_screen_and_follows_the_theme(page, report, width, scheme):
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    page.goto(f"file://{report}")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    widths = page.evaluate("[...document.images].map(i => i.getBoundingClientRect().width)")
    assert min(widths) >= 330  # letters of 10 pt in a plot are 9 px high at least
    style = "getComputedStyle(document.body)"
    ground, ink = (page.evaluate(f"{style}.{name}") for name in ("backgroundColor", "color"))
    assert (lightness(ground) < lightness(ink)) == (scheme == "dark")
    picture = np.asarray(
        Image.open(io.BytesIO(page.locator("img").nth(1).screenshot())).convert("L"), dtype=float
    )
    background = np.median(picture)
    assert (background < 128) == (scheme == "dark")
    assert abs(picture - background).max() > 150  # and its letters stand out from it


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_of_the_paper_fits_the_screen(page, tmp_path, width):
    with chdir(tmp_path):
        assert cli.main(("figure", "1")) == cli.main(("report", "--all")) == 0
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"file://{tmp_path}/runs/paper/paper.html")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    page.get_by_role("link", name="Figure 1", exact=True).click()
    assert page.locator("#figure-1").bounding_box()["y"] < 100
