"""README's animation of the studio: a threshold dragged, a retraining, and back by a click.

python tools/readme_animation.py

Needs MNIST (in $PRUNING_LAB_DATA or data/) and Chromium on the PATH, which talks to this machine
alone. The page is that of `pruning-lab studio`. Waiting is cut: retraining takes longer than here.
"""

import io
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, Page, sync_playwright

TARGET = Path(__file__).resolve().parent.parent / "results" / "studio.webp"
MOST_BYTES, SECONDS = 1_500_000, (6, 10)
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
QUIET = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
SIZE, WIDE = {"width": 1240, "height": 800}, 1000  # of the page; of the picture, in pixels

# Of the view
ROW, NAME, PICTURE = '.pl-row[data-layer="{}"]', ".pl-name", "canvas.pl-big"
RETRAIN, ATTEMPT = "Retrain", '.pl-attempt[data-number="{}"]'
FINAL = "document.querySelector('.pl-head .pl-accuracy')?.dataset.state == 'final'"
IDLE = "document.querySelector('.pl-task')?.hidden !== false"
HERE = "Number(document.querySelector('.pl-here').dataset.number)"
LAYER, FROM, TO = "fc1", 0.03, 0.62  # parts of the picture's width

# A headless browser draws no pointer.
POINTER = """() => {
    const make = tag => document.createElementNS('http://www.w3.org/2000/svg', tag);
    const svg = make('svg'), path = make('path');
    const set = (element, values) =>
        Object.entries(values).forEach(([name, value]) => element.setAttribute(name, value));
    set(svg, {width: 18, height: 26, viewBox: '0 0 18 26'});
    set(path, {d: 'M1 1v19l5-4 3 8 4-2-4-7h6z', fill: 'black', stroke: 'white',
               'stroke-width': 1.5});
    svg.append(path);
    Object.assign(svg.style, {position: 'fixed', zIndex: 1e6, pointerEvents: 'none'});
    document.body.append(svg);
    addEventListener('pointermove', event => Object.assign(svg.style, {
        left: `${event.clientX}px`, top: `${event.clientY}px`}), true);
}"""
PAINTED = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


@dataclass
class Film:
    """Frames of a page, each with the milliseconds it is shown."""

    page: Page
    frames: list[tuple[Image.Image, int]] = field(default_factory=list)
    at: tuple[float, float] = (SIZE["width"] * 0.8, SIZE["height"] * 0.6)  # of the pointer

    def shoot(self, milliseconds: int) -> None:
        self.page.evaluate(PAINTED)
        image = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        if self.frames and self.frames[-1][0].tobytes() == image.tobytes():
            image, shown = self.frames.pop()
            milliseconds += shown
        self.frames.append((image, milliseconds))

    def move(self, x: float, y: float, steps: int, milliseconds: int = 50) -> None:
        """The pointer on a straight line, first fast and then slow, as a user moves it."""
        (left, top), self.at = self.at, (x, y)
        for step in range(1, steps + 1):
            part = 1 - (1 - step / steps) ** 2
            self.page.mouse.move(left + part * (x - left), top + part * (y - top))
            self.shoot(milliseconds)

    def click(self, target: Locator, steps: int = 6) -> None:
        target.scroll_into_view_if_needed()
        box = target.bounding_box()
        self.move(box["x"] + min(box["width"] / 2, 40), box["y"] + box["height"] / 2, steps)
        self.page.mouse.down()
        self.page.mouse.up()
        self.shoot(250)

    def wait(self, until: str, every: int, milliseconds: int, most: int) -> None:
        """Shoot while the page is busy; of all these frames `most`, evenly spaced, are kept."""
        before = len(self.frames)
        while not self.page.evaluate(until):
            self.page.wait_for_timeout(every)
            self.shoot(milliseconds)
        taken = self.frames[before:]
        if len(taken) > most:
            chosen = [taken[round(n * (len(taken) - 1) / (most - 1))] for n in range(most)]
            self.frames[before:] = [(image, milliseconds) for image, _ in chosen]


def main() -> None:
    if CHROMIUM is None:
        sys.exit("no Chromium on the PATH (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as folder, serving(folder) as address:
        frames = filmed(address)
    write(frames, TARGET)
    seconds = sum(shown for _, shown in frames) / 1000
    if not SECONDS[0] <= seconds <= SECONDS[1]:
        print(f"it takes {seconds:.1f} s, not {SECONDS[0]} to {SECONDS[1]}", file=sys.stderr)
    size = f"{TARGET.stat().st_size:,} bytes"
    print(f"wrote {TARGET.name}: {len(frames)} frames, {seconds:.1f} s, {size}")


@contextmanager
def serving(folder: str) -> Iterator[str]:
    """The address of a studio's page, on LeNet-5 and MNIST."""
    command = [sys.executable, "-m", "pruning_lab", "studio", "--data", "mnist"]
    server = subprocess.Popen(
        [*command, "--no-browser", "--json"], stdout=subprocess.PIPE, text=True, cwd=folder
    )
    try:
        yield json.loads(server.stdout.readline())["address"]
    finally:
        server.terminate()
        server.wait()


def filmed(address: str) -> list[tuple[Image.Image, int]]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page(viewport=SIZE, device_scale_factor=WIDE / SIZE["width"])
        page.set_default_timeout(120_000)
        page.goto(address)
        page.wait_for_function(FINAL)
        page.evaluate(POINTER)
        play(film := Film(page))
        browser.close()
    return film.frames


def play(film: Film) -> None:
    page = film.page
    film.shoot(700)
    film.click(page.locator(ROW.format(LAYER)).locator(NAME))
    box = page.locator(PICTURE).bounding_box()
    y = box["y"] + 0.6 * box["height"]
    film.move(box["x"] + FROM * box["width"], y, 5)
    page.mouse.down()
    film.move(box["x"] + TO * box["width"], y, 26, 60)
    page.mouse.up()
    film.wait(FINAL, every=50, milliseconds=60, most=4)
    film.shoot(1000)
    pruned = page.evaluate(HERE)
    film.click(page.get_by_role("button", name=RETRAIN, exact=True))
    page.wait_for_function(f"!({IDLE})")
    film.wait(IDLE, every=200, milliseconds=110, most=16)
    film.wait(FINAL, every=50, milliseconds=60, most=4)
    film.shoot(1200)
    film.click(page.locator(ATTEMPT.format(pruned)), 8)
    film.wait(FINAL, every=50, milliseconds=60, most=4)
    film.shoot(1000)


def write(frames: Sequence[tuple[Image.Image, int]], path: Path) -> None:
    """An animated WebP that repeats, lossless: a third of a GIF's bytes, and all colours."""
    images, shown = zip(*frames, strict=True)
    options = {"save_all": True, "append_images": images[1:], "duration": list(shown), "loop": 0}
    images[0].save(path, lossless=True, quality=80, method=4, **options)
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes, at most {MOST_BYTES:,}")


if __name__ == "__main__":
    main()
