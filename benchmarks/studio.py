"""What a user waits for in the studio: the line, the numbers, the accuracy; and AlexNet's memory.

    python benchmarks/studio.py                        # about eight minutes; needs MNIST, Chromium
    python benchmarks/studio.py --only lenet-5         # or alexnet, demo, kernel
    python benchmarks/studio.py --save                 # also write results/studio.json

LeNet-5 and AlexNet (61M weights, as torchvision has it, with random weights) are dragged in
JupyterLab in a headless Chromium, and timed in the page: from the moment that the browser notes
the pointer until the frame that shows it is painted. `kernel` times AlexNet in a process of its
own, with no page; `demo` the page of tools/demo.py.
"""

import argparse
import contextlib
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does

import torch
import torchvision
from tabulate import tabulate

from pruning_lab import data, files, models, provenance
from pruning_lab.masks import prunable
from pruning_lab.studio import STEP, Studio

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
sys.path.insert(0, str(ROOT / "tests" / "browser"))

import servers  # noqa: E402 - it lies with the tests

# Of the view
PICTURE = "canvas.pl-big"  # data-quality: where its line was last drawn
NAME = '.pl-row[data-layer="{}"] .pl-name'
ACCURACY = ".pl-head .pl-accuracy"  # data-state: waiting, estimate or final
NUMBERS = {  # what moves with the line
    "count": '.pl-row[data-layer="{}"] .pl-row-kept',
    "density": ".pl-head .pl-density",
    "bytes": ".pl-head .pl-bytes",
}
FIRST = '.pl-attempt[data-number="1"]'
TASK, STOP, EPOCHS, RETRAIN = ".pl-task", ".pl-stop", ".pl-epochs", "Retrain"
FINAL = f"document.querySelector('{ACCURACY}')?.dataset.state == 'final'"

PREPARED = {  # a notebook's first cell: what is not timed
    "lenet-5": """from pruning_lab import data, models, studio, widgets
s = studio.Studio(models.lenet_5(trained="mnist"), data.load("mnist"))
s.settle()""",
    "alexnet": """import torch, torchvision
from pruning_lab import data, studio, widgets
torch.manual_seed(0)
pixels = torch.randint(256, (200, 3, 128, 128), dtype=torch.uint8)
labels = torch.randint(1000, (200,))
split = data.Split("val", pixels, labels, mean=127.5, std=74.0, batch_size=50)
s = studio.Studio(torchvision.models.alexnet(weights=None), split)
s.refresh()
s.settle()""",
}
OPEN = """import time
from IPython.display import HTML, display
display(HTML(f"<i id='opened' data-at='{1000 * time.time()}'></i>"))
widgets.StudioPanel(s)"""

# For each step of the pointer the milliseconds until it was painted, and since the last one until
# an accuracy and the one of all images. The view draws when a frame is made: what it writes calls
# the observers in the same frame, and a message that they send comes after that frame was painted.
WATCH = """() => {
    const painted = then => {
        const {port1, port2} = new MessageChannel();
        port1.onmessage = () => then(performance.now());
        port2.postMessage(0);
    };
    const text = place => document.querySelector(place)?.innerText;
    const studio = window.studio = {};
    studio.start = numbers => Object.assign(studio,
        {numbers, waiting: [], last: 0, moves: [], frames: [], shown: [], marks: {}});
    studio.start([]);
    document.addEventListener('pointermove', event => {
        if (!event.buttons) return;
        const all = event.getCoalescedEvents();
        studio.waiting.push(...(all.length ? all : [event]).map(one => one.timeStamp));
        Object.assign(studio, {last: event.timeStamp, marks: {}});
    }, true);
    const accuracy = document.querySelector(ACCURACY), big = document.querySelector(PICTURE);
    const note = () => painted(time => {
        if (!studio.last || studio.waiting.length) return;
        const {state} = accuracy.dataset, ms = time - studio.last;
        if (state != 'waiting') studio.marks.first ??= ms;
        if (state == 'final') studio.marks.final ??= ms;
    });
    new MutationObserver(() => {
        const moved = studio.waiting.splice(0), {quality} = big.dataset;
        const shown = studio.numbers.map(text).join();
        if (moved.length) painted(time => {
            studio.moves.push(...moved.map(began => time - began));
            studio.frames.push([quality, time]);
            studio.shown.push(shown);
        });
        note();
    }).observe(big, {attributes: true, attributeFilter: ['data-quality']});
    new MutationObserver(note).observe(accuracy,
        {attributes: true, attributeFilter: ['data-state']});
}""".replace("ACCURACY", repr(ACCURACY)).replace("PICTURE", repr(PICTURE))
STEPS, PACE = 60, 0.02  # of a drag, and seconds between them
MOVE = {"median": 20, "p95": 34}  # milliseconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parts = {"lenet-5": lenet_5, "alexnet": alexnet, "demo": demo, "kernel": kernel_alone}
    parser.add_argument("--only", choices=parts, action="append", help="may be given again")
    parser.add_argument("--drags", type=int, default=5, help="of each layer")
    parser.add_argument("--save", action="store_true", help="write results/studio.json")
    options = parser.parse_args()
    rows = []
    for name in options.only or parts:
        for found in parts[name](options.drags):
            rows.append(found)
            print(tabulate([found.values()], tablefmt="plain", floatfmt=".1f"), flush=True)
    print(tabulate(rows, headers="keys", floatfmt=".1f"))
    if options.save:
        about = {
            "versions": provenance.versions(),
            "machine": provenance.machine(),
        }
        files.save_json(RESULTS / "studio.json", {**about, "rows": rows})


def row(
    what: str, network: str, layer: str, on: str, unit: str, values, bar: float | dict | None
) -> dict:
    """`bar` is of the median, unless it names others: {"p95": 34}."""
    bars = bar if isinstance(bar, dict) else {"median": bar}
    ordered = sorted(values)
    return {
        "network": network,
        "layer": layer,
        "what": what,
        "on": on,
        "unit": unit,
        "median": statistics.median(values),
        "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        "least": ordered[0],
        "worst": ordered[-1],
        "times": len(ordered),
        "bar": ", ".join(f"{name} {limit:g}" for name, limit in bars.items() if limit is not None),
    }


# In a browser


@contextlib.contextmanager
def opened(network: str) -> Iterator[tuple]:
    """A panel in JupyterLab: its page, ms until it was drawn, bytes that came to the page."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "work").mkdir()
        servers.write_notebook(folder / "work" / "studio.ipynb", PREPARED[network], OPEN)
        root = os.environ.get("PRUNING_LAB_DATA", ROOT / "data")
        with (
            servers.jupyterlab(folder, PRUNING_LAB_DATA=root) as address,
            servers.chromium() as new_page,
        ):
            page, sent = new_page(), []
            page.on(
                "websocket",
                lambda socket: socket.on("framereceived", lambda f: sent.append(len(f))),
            )
            # Before the page is there, since it opens when the preparation is done.
            page.add_init_script(_FIRST_DRAWN)
            servers.run_all_cells(page, address("studio"))
            page.wait_for_function("window.firstDrawn", timeout=600_000)
            began = float(page.locator("#opened").get_attribute("data-at"))
            took = page.evaluate("performance.timeOrigin + firstDrawn") - began
            page.wait_for_function(FINAL, timeout=600_000)
            page.locator(PICTURE).scroll_into_view_if_needed()
            page.evaluate(WATCH)
            yield page, took, sum(sent)


_FIRST_DRAWN = """new MutationObserver((_, observer) => {
    if (!document.querySelector('PICTURE')?.dataset.quality) return;
    observer.disconnect();
    const {port1, port2} = new MessageChannel();
    port1.onmessage = () => { window.firstDrawn = performance.now() };
    port2.postMessage(0);
}).observe(document, {childList: true, subtree: true, attributes: true,
                      attributeFilter: ['data-quality']})""".replace("PICTURE", PICTURE)


def lenet_5(drags: int) -> Iterator[dict]:
    on = f"{data.load('mnist').val.n:,} MNIST val images, JupyterLab in Chromium"
    with opened("lenet-5") as (page, took, _):
        yield row("opens", "lenet-5", "", on, "ms", [took], None)
        layers = prunable(models.lenet_5())
        for layer in layers:
            found = [dragged(page, layer) for _ in range(drags)]
            yield from moves("lenet-5", layer, on, found)
            for name, what, bar in (("first", "first", 120), ("final", "final", 450)):
                values = [drag["marks"][name] for drag in found]
                what = f"{what} accuracy after the last move"
                yield row(what, "lenet-5", layer, on, "ms", values, bar)
        for layer in layers:
            page.locator(FIRST).click()  # a retrained network has no weights to lose at first
            page.wait_for_function(FINAL, timeout=120_000, polling=100)
            with retraining(page):
                found = [dragged(page, layer, settle=False) for _ in range(drags)]
            yield from moves("lenet-5", layer, f"{on}, while it retrains", found)


def alexnet(drags: int) -> Iterator[dict]:
    on = "200 random images of 128 px, JupyterLab in Chromium"
    layers = prunable(torchvision.models.alexnet(weights=None))
    with opened("alexnet") as (page, took, sent):
        yield row("opens, once prepared", "alexnet", "", on, "ms", [took], 5000)
        each = sent / len(layers) / 1000
        yield row("sent to the page per layer", "alexnet", "", on, "kB", [each], 300)
        for layer in layers:
            found = [dragged(page, layer) for _ in range(drags)]
            yield from moves("alexnet", layer, on, found)


def moves(network: str, layer: str, on: str, drags: list[dict]) -> Iterator[dict]:
    values = [value for drag in drags for value in drag["moves"]]
    what = "line, count, bytes and density after a move"
    yield row(what, network, layer, on, "ms", values, MOVE)
    what = f"frames in the {STEPS * PACE:g} s of a drag of {STEPS} steps, at least"
    yield row(what, network, layer, on, "", [drag["frames"] for drag in drags], {"least": 50})


def dragged(page, layer: str, *, settle: bool = True) -> dict:
    """A pointer drags the threshold from 0 on: ms of each move, frames, ms after the last one."""
    page.locator(NAME.format(layer)).click()
    page.locator(PICTURE).press("Home")
    if settle:
        page.wait_for_timeout(300)
        page.wait_for_function(FINAL, timeout=120_000, polling=100)
    box = page.locator(PICTURE).bounding_box()
    left, y = box["x"] + 0.05 * box["width"], box["y"] + 0.6 * box["height"]
    page.mouse.move(left, y)
    page.mouse.down()
    page.wait_for_timeout(500)
    page.evaluate("numbers => studio.start(numbers)", [n.format(layer) for n in NUMBERS.values()])
    began = time.perf_counter()
    for step in range(1, STEPS + 1):
        page.mouse.move(left + 0.5 * box["width"] * step / STEPS, y)
        time.sleep(max(0, began + step * PACE - time.perf_counter()))
    page.mouse.up()
    page.wait_for_function("!studio.waiting.length")
    if settle:
        page.wait_for_function("'final' in studio.marks", timeout=120_000, polling=100)
    page.wait_for_timeout(100)
    found = page.evaluate(
        "(({moves, frames, shown, marks}) => ({moves, frames, shown, marks}))(studio)"
    )
    # A page that is too slow makes the browser wait with the next step: count by the clock.
    (_, first), qualities = found["frames"][0], {quality for quality, _ in found["frames"]}
    in_time = [at for _, at in found["frames"] if at < first + 1000 * STEPS * PACE]
    # Numbers that stand still while the line moves would be quick, and wrong.
    assert len(set(found["shown"])) > 0.8 * len(qualities), "the numbers did not follow the line"
    assert len(found["moves"]) >= STEPS, f"{len(found['moves'])} moves of {STEPS} were painted"
    return {"moves": found["moves"], "frames": len(in_time), "marks": found["marks"]}


@contextlib.contextmanager
def retraining(page) -> Iterator[None]:
    """While the block runs the kernel trains."""
    page.locator(EPOCHS).fill("50")
    page.get_by_role("button", name=RETRAIN, exact=True).click()
    page.wait_for_selector(TASK)
    page.wait_for_timeout(2000)
    yield
    assert page.locator(TASK).is_visible(), "retraining ended before the drags did"
    page.locator(STOP).click()
    page.wait_for_selector(TASK, state="hidden")
    page.wait_for_function(FINAL, timeout=120_000)


def demo(drags: int) -> Iterator[dict]:
    """The page that needs no kernel; its model is JavaScript."""
    layers = prunable(models.lenet_300_100())
    on = "demo.html in Chromium"
    with tempfile.TemporaryDirectory() as folder, servers.chromium() as new_page:
        path = Path(folder) / "demo.html"
        command = [sys.executable, str(ROOT / "tools" / "demo.py"), "--out", str(path)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        size = [path.stat().st_size / 1e6]
        yield row("size of the page", "lenet-300-100", "", on, "MB", size, 1.5)
        firsts = []
        for _ in range(drags):
            page = new_page()
            page.add_init_script(_FIRST_DRAWN)
            page.goto(path.as_uri())
            page.wait_for_function("window.firstDrawn")
            firsts.append(page.evaluate("firstDrawn"))
        yield row("first picture", "lenet-300-100", "", on, "ms", firsts, 1000)
        page.wait_for_function(FINAL)
        page.evaluate(WATCH)
        for layer in layers:
            found = [dragged(page, layer) for _ in range(drags)]
            yield from moves("lenet-300-100", layer, on, found)
            finals = [drag["marks"]["final"] for drag in found]
            what = "accuracy after the last move"
            yield row(what, "lenet-300-100", layer, on, "ms", finals, 150)


# In the kernel alone


def kernel_alone(drags: int) -> Iterator[dict]:
    """In a fresh process, so that its memory is its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        yield from fresh.submit(timed_alexnet, images=200, side=128, turns=drags).result()


def timed_alexnet(images: int, side: int, turns: int) -> list[dict]:
    before = _resident()
    torch.manual_seed(0)
    model = torchvision.models.alexnet(weights=None)
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    pixels = torch.randint(256, (images, 3, side, side), dtype=torch.uint8)
    labels = torch.randint(1000, (images,))
    split = data.Split("val", pixels, labels, mean=127.5, std=74.0, batch_size=50)
    on = f"{images} random images of {side} px, no page"
    watch = Watch(studio := Studio(model, split))
    began = time.perf_counter()
    studio.refresh()
    studio.settle()

    def one(what, layer, unit, values, bar):
        return row(what, "alexnet", layer, on, unit, values, bar)

    rows = [one("preparation, once", "", "ms", [1e3 * (time.perf_counter() - began)], None)]
    shown_now = {status for status in watch.texts if status.startswith("preparing")}
    rows.append(one("messages meanwhile", "", "", [len(shown_now)], None))
    for layer in studio.layers:
        is_conv = studio.layer(layer).is_conv
        on_grid = [round((10 + turn) * STEP, 10) for turn in range(turns)]
        typed, *_ = zip(*(watch.move(layer, q + STEP / 3) for q in on_grid), strict=True)
        sizes, firsts, finals = zip(*(watch.move(layer, q) for q in on_grid), strict=True)
        bar = 2000 if is_conv else 300
        rows.append(one("density and bytes, quality of a slider", layer, "ms", sizes, 30))
        rows.append(one("density and bytes, quality typed", layer, "ms", typed, None))
        rows.append(one("first accuracy", layer, "ms", firsts, bar))
        rows.append(one(f"accuracy of all {images}", layer, "ms", finals, bar))
    grown = (_peak() - before) / weights
    rows.append(one("peak of memory / the model's", "", "x", [grown], 2.5))
    studio.close()
    return rows


class Watch:
    """Notes when a studio has something to show."""

    def __init__(self, studio: Studio):
        self.studio, self.texts, self.first = studio, [], None
        studio.on(object, self._listen)

    def _listen(self, event: object) -> None:
        self.texts.append(self.studio.status)
        if self.first is None and self.studio.metrics().accuracy is not None:
            self.first = time.perf_counter()

    def move(self, layer: str, quality: float) -> tuple[float, float, float]:
        """Milliseconds until there are density and bytes, a first accuracy, and all of it."""
        self.first = None
        began = time.perf_counter()
        self.studio.set({layer: quality})
        metrics = self.studio.metrics()
        assert 0 < metrics.density < 1 < metrics.bytes
        sized = time.perf_counter()
        self.studio.settle()
        return tuple(1e3 * (at - began) for at in (sized, self.first, time.perf_counter()))


def _resident() -> int:
    """Bytes in memory now."""
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])


def _peak() -> int:
    """Bytes in memory at most, so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
