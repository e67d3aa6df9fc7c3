"""The studio in a real browser, on its own page and in JupyterLab: thresholds are dragged."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from pruning_lab import data, models
from pruning_lab.studio import Studio

WATCH = """() => {
    window.drawn = [];
    const big = document.querySelector('.pl-big');
    new MutationObserver(() => drawn.push(big.dataset.quality))
        .observe(big, {attributes: true, attributeFilter: ['data-quality']});
}"""


DRAG = """async ([x, y, steps, pause]) => {  // by the page itself: a test that waits would rest
    const big = document.querySelector('.pl-big'), made = {bubbles: true, clientY: y, pointerId: 1};
    for (let step = 1; step <= steps; step++) {
        big.dispatchEvent(new PointerEvent('pointermove', {...made, clientX: x + step}));
        await new Promise(done => setTimeout(done, pause));
    }
}"""


class View:
    """What a user does in the view, and sees."""

    def __init__(self, page):
        self.page = page
        page.locator(".pl-big").first.wait_for(timeout=120_000)

    def text(self, place: str) -> str:
        return self.page.locator(place).first.inner_text()

    def settled(self, timeout: int = 120_000) -> None:
        """Wait until the accuracy shown is that of all images, and nothing else goes on."""
        self.page.wait_for_function(
            """() => document.querySelector('.pl-accuracy').dataset.state == 'final'
                && document.querySelector('.pl-status').innerText == 'measured on all images'""",
            timeout=timeout,
        )

    def select(self, layer: str) -> None:
        self.page.locator(f'.pl-row[data-layer="{layer}"] .pl-name').first.click()

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def drag(self, start: float, to: float, steps: int = 60, *, let_go: bool = True) -> None:
        """By the pointer in the large picture: fractions of its width."""
        box = self.page.locator(".pl-big").first.bounding_box()
        y = box["y"] + box["height"] / 2
        self.page.mouse.move(box["x"] + start * box["width"], y)
        self.page.mouse.down()
        for step in range(1, steps + 1):
            x = start + (to - start) * step / steps
            self.page.mouse.move(box["x"] + x * box["width"], y)
            time.sleep(0.016)
        if let_go:
            self.page.mouse.up()

    @property
    def quality(self) -> float:
        return float(self.page.locator(".pl-big").first.get_attribute("data-quality"))

    @property
    def attempts(self) -> list[str]:
        return self.page.locator(".pl-attempt").all_inner_texts()

    @property
    def numbers(self) -> dict:
        names = ("accuracy", "change", "density", "bytes", "flops")
        found = {name: self.text(f".pl-head .pl-{name}") for name in names}
        one = self.page.locator(".pl").first
        details = one.locator(".pl-head .pl-detail").all_inner_texts()
        rows = one.locator(".pl-row").all_inner_texts()
        return found | {"details": details, "rows": [" ".join(row.split()) for row in rows]}


def expected(studio: Studio) -> dict:
    """What the view has to show of a studio, by the studio's own calls."""
    m = studio.settle().metrics()
    change = -100 * m.drop.value
    sign = "±" if f"{abs(change):.2f}" == "0.00" else "+" if change > 0 else "−"
    return {
        "accuracy": f"{m.accuracy.value:.2%}",
        "change": f"{sign}{abs(change):.2f}",
        "density": f"{m.density:.1%}",
        "bytes": f"{m.bytes / 1000:.1f} kB" if m.bytes < 99_950 else f"{m.bytes / 1000:.0f} kB",
        "flops": f"{m.flops_kept / 1e6:.1f} MFLOP",
        "kept": f"{m.kept:,} of {m.weights:,}",
        "rows": [f"{r.layer} {r.density:.1%} {r.kept:,}" for r in m],
    }


def check(view: View, studio: Studio) -> None:
    shown, right = view.numbers, expected(studio)
    assert right.pop("kept") in shown["details"]
    assert {name: shown[name] for name in right} == right


@pytest.fixture(scope="module")
def oracle():
    """The same studio in this process, to be asked by its own calls."""
    studio = Studio(models.lenet_5(trained="mnist"), data.load("mnist-5k"))
    yield studio
    studio.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """`pruning-lab studio` as a process: its address, and its folder."""
    folder = tmp_path_factory.mktemp("studio")
    command = [sys.executable, "-m", "pruning_lab", "studio", "--no-browser", "--data", "mnist-5k"]
    env = {**os.environ, "PRUNING_LAB_DATA": str(folder / "none")}
    process = subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    end = threading.Timer(120, process.kill)
    end.start()
    said = ""
    while "http" not in said and (line := process.stdout.readline()):
        said += line
    end.cancel()
    try:
        assert "studio.json" in said
        yield re.search(r"http\S+", said)[0], folder
    finally:
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def view(served, page):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    page.set_viewport_size({"width": 1440, "height": 900})
    page.goto(served[0])
    view = View(page)
    view.settled()
    yield view
    host = served[0].split("/")[2]
    assert {url.split("/")[2] for url in asked if not url.startswith(("data:", "blob:"))} == {host}


def test_a_drag_shows_at_once_what_stays_and_then_what_the_studio_says(view, oracle):
    view.select("fc1")
    view.page.evaluate(WATCH)
    before = len(view.attempts)
    view.drag(0.05, 0.35, let_go=False)
    quality = view.quality
    drawn = view.page.evaluate("drawn")
    assert len(drawn) >= 20  # of 60 steps; how many a second is a matter of the benchmark
    assert [*map(float, drawn)] == sorted(map(float, drawn))
    row = next(row for row in oracle.set({"fc1": quality}).metrics() if row.layer == "fc1")
    shown = view.text('.pl-row[data-layer="fc1"] .pl-row-kept')
    assert shown == f"{row.kept:,}"  # by the page's own counting, before the kernel answers
    view.page.mouse.up()
    view.settled()
    check(view, oracle)
    lost = [flip for flip in oracle.flipped() if flip.lost]
    images = "1 image" if len(lost) == 1 else f"{len(lost)} images"
    assert view.text(".pl-lost-part b").startswith(f"{images} lost, ")
    shown = view.page.locator(".pl-lost").get_attribute("aria-label")
    by_hand = [f"image {flip.index}: {flip.before} → {flip.after}" for flip in lost]
    assert sorted(shown.split(", ")) == sorted(by_hand or ["no image lost"])
    assert len(view.attempts) == before + 1  # one drag, one attempt
    assert view.page.url.endswith(f"#fc1={quality:g}")


FRAMES = """() => new Promise(done => {
    const request = window.requestAnimationFrame;
    let frames = 0;
    window.requestAnimationFrame = draw => { frames++; return request(draw) };
    setTimeout(() => { window.requestAnimationFrame = request; done(frames) }, 700);
})"""


def test_a_page_that_nobody_touches_draws_nothing(view):
    for width in (1440, 1000):
        view.page.set_viewport_size({"width": width, "height": 900})
        view.page.wait_for_timeout(500)
        assert view.page.evaluate(FRAMES) == 0


def test_a_drag_asks_the_kernel_some_times_a_second_and_at_its_end_at_once(view, new_page, served):
    sent = []
    page = new_page()
    page.context.add_cookies(view.page.context.cookies())
    page.on("websocket", lambda socket: socket.on("framesent", lambda _: sent.append(time.time())))
    page.goto(served[0])
    other = View(page)
    other.settled()
    other.select("conv2")
    box = page.locator(".pl-big").bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 30, y)
    page.mouse.down()
    page.evaluate(DRAG, [box["x"] + 30, y, 90, 10])
    during = len(sent)
    page.mouse.move(box["x"] + 200, y)
    page.mouse.up()
    other.settled()
    assert 2 <= during <= 9  # of 90 moves in 0.9 seconds or more
    assert f"conv2={other.quality:g}" in page.url
    assert len(sent) > during
    page.close()


def test_keys_typed_numbers_and_densities(view, oracle):
    view.select("fc2")
    view.page.locator(".pl-big").focus()
    view.press("↺")
    view.page.locator(".pl-big").focus()
    for _ in range(12):
        view.page.keyboard.press("ArrowRight")
    view.page.keyboard.press("Shift+ArrowLeft")
    view.page.wait_for_function(
        "() => document.querySelector('.pl-big').dataset.quality == '0.595'"
    )
    view.settled()
    field = view.page.locator(".pl-percent")
    view.select("conv2")
    field.fill("20")
    field.press("Enter")
    view.page.wait_for_function(
        """() => document.querySelector('.pl-row[data-layer="conv2"] .pl-row-kept')
            .innerText == '5,000'"""
    )
    view.settled()
    oracle.from_string(view.page.url.partition("#")[2])
    assert oracle.setting("fc2").amount == pytest.approx(0.595)
    assert oracle.setting("conv2").kind == "density"
    check(view, oracle)


def test_reload_and_a_second_tab_show_the_same_studio_and_clicks_go_back(view, new_page, served):
    known = view.attempts
    view.page.reload()
    again = View(view.page)
    again.settled()
    assert again.attempts == known
    other_page = new_page()
    other_page.context.add_cookies(view.page.context.cookies())
    other_page.goto(served[0])
    other = View(other_page)
    other.settled()
    assert other.numbers == again.numbers
    again.page.locator('.pl-attempt[data-number="1"]').click()
    for one in (again, other):
        one.page.locator('.pl-attempt.pl-here[data-number="1"]').wait_for()
        one.settled()
    assert other.numbers == again.numbers
    assert again.text(".pl-head .pl-density") == "100.0%"
    other_page.close()


def test_a_retraining_is_in_sight_dragging_goes_on_and_stop_keeps_what_was_learnt(view):
    view.page.locator(".pl-epochs").fill("400")
    view.press("Retrain")
    view.page.locator(".pl-training .pl-loss").wait_for(timeout=60_000)
    view.page.wait_for_function(
        "() => /epoch/.test(document.querySelector('.pl-task-text').innerText)"
    )
    view.select("fc1")
    view.page.evaluate(WATCH)
    view.drag(0.1, 0.3, steps=30)
    assert len(view.page.evaluate("drawn")) >= 10  # while the kernel is busy
    assert "preview" in view.text(".pl-status")
    assert view.page.get_by_role("button", name="Suggest").is_disabled()
    view.press("Stop")
    view.page.locator(".pl-task").wait_for(state="hidden")
    view.settled()
    assert "stopped before 400" in view.attempts[0]
    assert view.text(".pl-head .pl-density") == "100.0%"  # the preview was none of it


def test_what_is_refused_is_said_and_changes_nothing(view):
    before = view.numbers
    field = view.page.locator(".pl-string")
    field.fill("fc9=1.4")
    field.press("Enter")
    view.page.wait_for_function(
        "() => document.querySelector('.pl-problem').innerText.includes('fc9')"
    )
    view.settled()
    assert view.numbers == before
    assert field.input_value() != "fc9=1.4" or view.page.evaluate(
        "document.activeElement.className"
    )


def test_names_of_attempts_that_are_close_to_one_another_can_be_read(view):
    names = "first of three", "second of three", "third of three"
    for place, name in enumerate(names):
        number = 1 + len(view.attempts)
        view.page.locator(".pl-string").fill(f"fc1=0.{50 + place}")
        view.page.locator(".pl-string").press("Enter")
        here = view.page.locator(f'.pl-attempt.pl-here[data-number="{number}"]')
        here.locator(".pl-result", has_text="%").wait_for()  # only what was measured has a mark
        view.page.locator(".pl-name-input").fill(name)
        view.press("Name")
        here.filter(has_text=name).wait_for()
    boxes = view.page.locator(".pl-trail text", has_text="of three").evaluate_all(
        "marks => marks.map(mark => [mark.textContent, mark.getBoundingClientRect().y])"
    )
    assert sorted(name for name, _ in boxes) == sorted(names)
    tops = sorted(top for _, top in boxes)
    assert all(b - a >= 10 for a, b in itertools.pairwise(tops)), boxes


@pytest.mark.parametrize(("width", "scheme"), [(1024, "light"), (1440, "dark"), (1920, "light")])
def test_the_view_fits_the_screen_and_follows_the_theme(view, width, scheme):
    view.page.set_viewport_size({"width": width, "height": 900})
    view.page.emulate_media(color_scheme=scheme)
    view.page.wait_for_timeout(300)
    assert view.page.evaluate("document.documentElement.scrollWidth") == width
    colour = view.page.evaluate(
        "getComputedStyle(document.querySelector('.pl')).getPropertyValue('background-color')"
    )
    assert (sum(map(int, re.findall(r"\d+", colour)[:3])) < 384) == (scheme == "dark")
    named = view.page.locator(".pl [role=slider]")
    labels = [named.nth(i).get_attribute("aria-label") for i in range(named.count())]
    assert labels.count("threshold of fc1") >= 1
    assert all(label.startswith("threshold of ") for label in labels)


# ------------------------------------------------------------------------------- in JupyterLab

CELLS = [
    """import json
from pruning_lab import data, models, studio, widgets
s = studio.Studio(models.lenet_5(trained="mnist"), data.load("mnist-5k"))
panel = widgets.StudioPanel(s).settle()
panel""",
    "panel  # a second view of the same panel",
    "s.settle(); print(json.dumps([s.to_string(), len(s.attempts)]))",
]


def test_in_jupyterlab_two_views_of_one_studio_agree(notebook, jupyter, page, oracle):
    import servers

    notebook("studio", *CELLS)
    servers.run_all_cells(page, jupyter[1]("studio"))
    view = View(page)
    view.settled()
    page.locator(".pl").nth(1).wait_for()
    page.locator(".pl").first.scroll_into_view_if_needed()
    view.select("fc1")
    page.locator(".pl-big").first.scroll_into_view_if_needed()
    view.drag(0.05, 0.3)
    quality = view.quality
    view.settled()
    oracle.from_string(f"fc1={quality:g}")
    check(view, oracle)
    headlines = page.locator(".pl-head")
    page.wait_for_function(
        """() => { const [one, two] = [...document.querySelectorAll('.pl-head')];
            return one.innerText == two.innerText }"""
    )
    assert headlines.count() == 2
    last = page.locator(".jp-CodeCell").nth(2)
    last.locator(".jp-InputArea").click()
    page.keyboard.press("Shift+Enter")
    page.wait_for_function(
        "q => [...document.querySelectorAll('.jp-OutputArea-output pre')].some("
        "pre => pre.innerText.includes(q))",
        arg=f'"fc1={quality:g}", 2',
    )
    text = last.locator(".jp-OutputArea-output pre").inner_text()
    assert json.loads(text) == [f"fc1={quality:g}", 2]
    assert page.get_by_text("Error displaying widget").count() == 0
    assert page.locator(".jp-OutputArea-output[data-mime-type*='error']").count() == 0
    servers.end_kernels(page)
