"""The studio in JupyterLab and as a page of Voila, in a real browser: hands move it, it follows."""

import json
import re

import pytest

from pruning_lab import models, sensitivity

OPEN = """import json, ipywidgets
from pruning_lab import data, models, studio, widgets
s = studio.Studio(models.lenet_5(trained="mnist"), data.load("digits"))
panel = widgets.StudioPanel(s).settle()"""

# What the studio's own calls say, in the page, after whatever a hand did.
SHOW = """def facts():
    m, a = s.metrics(), s.metrics().accuracy
    return json.dumps({
        "what": s.attempt.what,
        "accuracy": f"{a.value:.2%} {a.low:.2%} to {a.high:.2%}, {a.n:,} images",
        "drop": str(m.drop),
        "kept": f"{m.density:.1%} {m.kept:,}",
        "layers": {row.layer: [row.quality, f"{row.density:.1%}"] for row in m.layers},
        "mask": s.mask.fingerprint(),
    })

shown = ipywidgets.HTML()
shown.add_class("facts")
s.listen(lambda event: event == "done" and shown.set_trait("value", facts()))
s.refresh()
ipywidgets.VBox([panel, shown])"""

READ = "print(facts())"


class Hand:
    """What one does in the panel, and sees."""

    def __init__(self, page, tmp_path):
        self.page, self.folder = page, tmp_path

    def until(self, what: str) -> dict:
        """Wait until the studio stands at an attempt with such words, all measured and drawn."""
        self.page.wait_for_function(
            """what => {
                const text = name => document.querySelector(name)?.innerText ?? '';
                const facts = text('.facts');
                return text('.studio-headline').includes('up to date') && facts.includes('{')
                    && new RegExp(what).test(JSON.parse(facts).what);
            }""",
            arg=what,
            timeout=120_000,
        )
        facts = json.loads(self.page.locator(".facts").inner_text())
        self.check(facts)
        return facts

    def check(self, facts: dict) -> None:
        """The panel says what the studio says."""
        headline = " ".join(self.page.locator(".studio-headline").inner_text().split())
        assert f"accuracy on val {facts['accuracy']} drop {facts['drop']}" in headline
        assert f"weights kept {facts['kept']}" in headline
        for layer, (quality, kept) in facts["layers"].items():
            assert self.page.locator(f".studio-kept-{layer}").inner_text() == kept
            assert self.slider(layer) == pytest.approx(min(3, round(quality / 0.05) * 0.05))

    def slider(self, layer: str) -> float:
        handle = self.page.locator(f".studio-slider-{layer} .noUi-handle")
        return float(handle.get_attribute("aria-valuetext"))

    def keys(self, layer: str, key: str, times: int) -> None:
        self.page.locator(f".studio-slider-{layer} .noUi-handle").focus()
        for _ in range(times):
            self.page.keyboard.press(key)

    def fill(self, css: str, value: str) -> None:
        field = self.page.locator(f".{css} input")
        field.fill(value)
        field.press("Enter")

    def press(self, name: str) -> None:
        self.page.locator(f"button.studio-{name}").click()

    def picture(self) -> str:
        return self.page.locator(".studio-picture").get_attribute("src")

    def shoot(self, name: str) -> None:
        self.page.locator(".studio-panel").screenshot(path=self.folder / f"{name}.png")


def use(hand: Hand, work) -> dict:
    """A session of everything; gives the facts at its end."""
    dense = hand.until("as it came")
    pictures = [hand.picture()]
    assert hand.page.locator(".studio-picture").evaluate("image => image.naturalWidth") > 600
    hand.shoot("1-dense")

    hand.keys("fc1", "ArrowRight", 1)
    one = hand.until("fc1: quality 0.05$")
    pictures.append(hand.picture())
    hand.keys("fc1", "ArrowRight", 29)  # a fast hand: what stays is the last state
    moved = hand.until("fc1: quality 1.5$")
    pictures.append(hand.picture())
    assert len({*pictures}) == 3
    assert len({dense["kept"], one["kept"], moved["kept"]}) == 3
    assert moved["layers"]["fc1"][0] == pytest.approx(1.5)
    hand.fill("studio-box-conv2", "1.2345")
    exact = hand.until(r"conv2: quality 1\.23")
    assert exact["layers"]["conv2"][0] == pytest.approx(1.2345, abs=1e-9)
    assert hand.slider("conv2") == pytest.approx(1.25)  # and yet no answer to it moved anything
    assert exact["accuracy"] != dense["accuracy"]
    hand.shoot("2-moved")

    hand.press("suggest")
    suggested = hand.until("suggested for")
    assert suggested["mask"] != exact["mask"]
    hand.shoot("3-suggested")

    hand.fill("studio-epochs", "500")
    hand.press("retrain")
    hand.page.wait_for_function(
        "document.querySelector('.studio-headline').innerText.includes('epoch 1 of 500')",
        timeout=120_000,
    )
    assert hand.page.locator("button.studio-undo").is_disabled()
    hand.shoot("4-retraining")
    hand.press("stop")
    retrained = hand.until(r"retrained \d+ epochs? of 500, stopped")
    assert retrained["mask"] == suggested["mask"]
    hand.shoot("5-retrained")

    hand.press("undo")
    assert hand.until("suggested for") == suggested
    hand.press("redo")
    hand.until("retrained")
    hand.press("undo")
    undone = hand.until("suggested for")
    hand.press("export")
    hand.page.wait_for_function(
        "document.querySelector('.studio-message').innerText.includes('wrote plan.json')"
    )
    model, _ = models.load(work / "plan.safetensors", "lenet-5")
    mask = sensitivity.Plan.load(work / "plan.json").mask(model)
    assert mask.fingerprint() == undone["mask"]
    assert hand.page.locator(".studio-problem").inner_text().strip() == ""
    hand.shoot("6-exported")
    return undone


def test_in_jupyterlab(run_all, notebook, page, tmp_path):
    path = notebook("studio", OPEN, SHOW, READ)
    run_all("studio", "studio", "up to date", part="headline")
    facts = use(Hand(page, tmp_path), path.parent)
    last = page.locator(".jp-CodeCell").nth(2)
    last.locator(".jp-InputArea").click()
    page.keyboard.press("Shift+Enter")  # a second cell, that reads the studio
    page.wait_for_function(
        "what => [...document.querySelectorAll('.jp-OutputArea-output pre')].some("
        "pre => pre.innerText.includes(what))",
        arg=facts["what"],
    )
    assert json.loads(last.locator(".jp-OutputArea-output pre").inner_text()) == facts
    assert page.get_by_text("Error displaying widget").count() == 0
    assert page.locator(".jp-OutputArea-output[data-mime-type*='error']").count() == 0


def test_as_a_page_of_voila(voila, notebook, page, tmp_path):
    path = notebook("studio", OPEN, SHOW)
    page.goto(voila(path), wait_until="commit")
    use(Hand(page, tmp_path), path.parent)
    assert not re.search("Traceback|Error displaying widget", page.locator("body").inner_text())
