"""What a user waits for in the studio: the text, the picture, the accuracy; and AlexNet's memory.

    python benchmarks/studio.py                        # about eight minutes; needs MNIST, Chromium
    python benchmarks/studio.py --only lenet-5         # or lenet-300-100, alexnet
    python benchmarks/studio.py --save                 # also write results/studio.json

The LeNets are moved in JupyterLab in a headless Chromium, and timed in the page: from the moment
that the browser notes a key or the pointer until what changed has been painted. AlexNet (61M
weights, as torchvision has it, with random weights) is timed in a process of its own, with no page.
"""

import argparse
import multiprocessing
import os
import resource
import statistics
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
from pruning_lab.studio import LIMIT, STEP, Studio

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
sys.path.insert(0, str(ROOT / "tests" / "browser"))

import servers  # noqa: E402 - it lies with the tests

OPEN = """from pruning_lab import data, models, studio, widgets
s = studio.Studio(models.BUILT_IN["{network}"](trained="mnist"), data.load("mnist"))
panel = widgets.StudioPanel(s)
panel.settle()
panel"""

# Milliseconds after a key or the pointer moved, of what was painted then. The headline says "…" for
# an accuracy that is not known, and "up to date" once it is that of all images.
WATCH = """() => {
    const now = performance.now.bind(performance);
    const painted = then => requestAnimationFrame(() => setTimeout(() => then(now())));
    window.began = 0;
    const mark = (name, time) => {
        if (!window.began) return;
        const marks = window.marks;
        if (!(name in marks) || name == 'final') marks[name] = time - window.began;
    };
    window.start = () => { window.began = 0; window.marks = {}; window.pictures = []; };
    window.start();
    const begin = event => { if (!window.began) window.began = event.timeStamp; };
    document.addEventListener('keydown', begin, true);
    document.addEventListener('pointermove', event => {
        if (!event.buttons) return;
        begin(event);
        window.last = event.timeStamp;
    }, true);
    const headline = document.querySelector('.studio-headline');
    new MutationObserver(() => {
        const text = headline.innerText;
        painted(time => {
            mark('text', time);
            if (/accuracy on val\\s+[\\d.]+%/.test(text)) mark('first', time);
            if (text.includes('up to date')) mark('final', time);
        });
    }).observe(headline, {childList: true, subtree: true, characterData: true});
    const picture = document.querySelector('.studio-picture');
    picture.addEventListener('load', () => painted(time => {
        mark('picture', time);
        if (window.began) window.pictures.push(time - window.began);
    }));
}"""
DRAGS = 5  # of each slider
DONE = "() => 'final' in marks && 'picture' in marks"
BARS = {
    "lenet-5": {"text": 60, "picture": 130, "first": 150, "final": 500},
    "lenet-300-100": {"final": 150},
}
WORDS = {
    "text": "status text",
    "picture": "new picture",
    "first": "first accuracy with its interval",
    "final": "final accuracy",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    names = (*BARS, "alexnet")
    parser.add_argument("--only", choices=names, action="append", help="may be given again")
    parser.add_argument("--keys", type=int, default=25, help="presses for each layer")
    parser.add_argument("--save", action="store_true", help="write results/studio.json")
    options = parser.parse_args()
    rows = []
    for name in options.only or names:
        some = alexnet_alone() if name == "alexnet" else browsed(name, options.keys)
        for row in some:
            rows.append(row)
            print(tabulate([row.values()], tablefmt="plain", floatfmt=".1f"), flush=True)
    print(tabulate(rows, headers="keys", floatfmt=".1f"))
    if options.save:
        about = {
            "versions": provenance.versions(),
            "machine": provenance.machine(),
        }
        files.save_json(RESULTS / "studio.json", {**about, "rows": rows})


def row(what: str, network: str, layer: str, on: str, unit: str, values, bar: float | None) -> dict:
    return {
        "network": network,
        "layer": layer,
        "what": what,
        "on": on,
        "unit": unit,
        "median": statistics.median(values),
        "worst": max(values),
        "times": len(values),
        "bar": bar,
    }


# In a browser


def browsed(network: str, keys: int) -> Iterator[dict]:
    """Keys on every layer's slider, and some drags of each."""
    on = f"{data.load('mnist').val.n:,} MNIST val images, JupyterLab in Chromium"
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "work").mkdir()
        servers.write_notebook(folder / "work" / "studio.ipynb", OPEN.format(network=network))
        root = os.environ.get("PRUNING_LAB_DATA", ROOT / "data")
        with (
            servers.jupyterlab(folder, PRUNING_LAB_DATA=root) as address,
            servers.chromium() as new_page,
        ):
            page = new_page()
            servers.run_all_cells(page, address("studio"))
            until = "document.querySelector('.studio-headline')?.innerText.includes('up to date')"
            page.wait_for_function(until, timeout=120_000)
            page.evaluate(WATCH)
            for layer in prunable(models.BUILT_IN[network]()):
                marks = [*pressed(page, layer, keys)]
                for name, what in WORDS.items():
                    values = [mark[name] for mark in marks]
                    bar = BARS[network].get(name)
                    yield row(f"{what}, after a key", network, layer, on, "ms", values, bar)
                drags = [dragged(page, layer, steps=30) for _ in range(DRAGS)]
                pictures, finals = zip(*drags, strict=True)
                bar = 600 if network == "lenet-5" else None
                what = "final accuracy, after the last of 30 steps of a drag"
                yield row(what, network, layer, on, "ms", finals, bar)
                # As many as at least: the other bars are upper ones.
                yield row("pictures in it, at least", network, layer, on, "", pictures, 10)


def pressed(page, layer: str, keys: int) -> Iterator[dict]:
    """From quality 0.3 on, a step at a time; the next when all is still."""
    put(page, layer, 0.3)
    handle = page.locator(f".studio-slider-{layer} .noUi-handle")
    handle.focus()
    for press in range(keys + 1):
        page.evaluate("start()")
        page.keyboard.press("ArrowRight")
        page.wait_for_function(DONE, polling=100)  # at every frame it would take time itself
        page.wait_for_timeout(400)
        if press:  # the first one draws another layer's picture
            yield page.evaluate("marks")


def put(page, layer: str, quality: float) -> None:
    box = page.locator(f".studio-box-{layer} input")
    box.fill(str(quality))
    box.press("Enter")
    page.wait_for_timeout(3000)


def dragged(page, layer: str, steps: int) -> tuple[int, float]:
    """A pointer drags the handle, 30 steps a second: (pictures, ms from the last to final)."""
    put(page, layer, 0.3)
    track = page.locator(f".studio-slider-{layer} .noUi-base").bounding_box()["width"]
    box = page.locator(f".studio-slider-{layer} .noUi-handle").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.evaluate("start()")
    for step in range(1, steps + 1):
        began = time.perf_counter()
        page.mouse.move(x + track * step * STEP / LIMIT, y)
        page.wait_for_timeout(max(0, 33 - 1e3 * (time.perf_counter() - began)))
    page.mouse.up()
    page.wait_for_timeout(3000)
    shown_now = page.evaluate(
        "() => ({pictures: pictures.length, final: marks.final - (last - began), box: "
        f"document.querySelector('.studio-box-{layer} input').value}})"
    )
    shown = page.locator(f".studio-slider-{layer} .noUi-handle").get_attribute("aria-valuetext")
    assert abs(float(shown_now["box"]) - float(shown)) < 0.01, "the drag ended elsewhere"
    return shown_now["pictures"], shown_now["final"]


# In the kernel alone


def alexnet_alone() -> Iterator[dict]:
    """In a fresh process, so that its memory is its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        yield from fresh.submit(alexnet, images=200, side=128, turns=5).result()


def alexnet(images: int, side: int, turns: int) -> list[dict]:
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
