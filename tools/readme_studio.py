"""The README's picture of the studio: some moves, a suggestion and a retraining, in a browser.

python tools/readme_studio.py

Needs MNIST (in $PRUNING_LAB_DATA or data/) and Chromium on the PATH, which talks to this machine
alone. The page is that of `pruning-lab studio`.
"""

import io
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

TARGET = Path(__file__).resolve().parent.parent / "results" / "studio.png"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
QUIET = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
MOVES = {"fc1": "1.4", "fc2": "1", "conv2": "1.2", "conv1": "0.6"}  # layer -> quality
ALLOWED = "0.1"  # points


def main() -> None:
    if CHROMIUM is None:
        sys.exit("no Chromium on the PATH (Debian: apt-get install chromium)")
    command = [sys.executable, "-m", "pruning_lab", "studio", "--data", "mnist"]
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [*command, "--no-browser", "--json"], stdout=subprocess.PIPE, text=True
        )
        try:
            address = json.loads(server.stdout.readline())["address"]
            shot = picture_of(address, folder)
        finally:
            server.terminate()
            server.wait()
    image = Image.open(io.BytesIO(shot)).convert("RGB").quantize(256)
    image.save(TARGET, optimize=True)
    print(f"wrote {TARGET.name}: {image.width} x {image.height}, {TARGET.stat().st_size:,} bytes")


def picture_of(address: str, folder: str) -> bytes:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            folder,
            executable_path=CHROMIUM,
            args=QUIET,
            viewport={"width": 1180, "height": 1000},
        )
        page = browser.pages[0]
        page.set_default_timeout(120_000)
        page.goto(address, wait_until="commit")
        settled(page)
        for layer, quality in MOVES.items():
            box = page.locator(f".studio-box-{layer} input")
            box.fill(quality)
            box.press("Enter")
            settled(page)
        bar = page.locator(".widget-hbox", has=page.locator(".studio-suggest")).last
        points = bar.locator("input").first
        points.fill(ALLOWED)
        points.press("Enter")
        press(page, "suggest")
        press(page, "name", "suggested")
        press(page, "retrain")
        press(page, "name", "retrained")
        press(page, "undo")  # where there is a curve for each layer
        page.locator(".studio-name-fc1").click()
        settled(page)
        page.get_by_role("tab", name="Attempts").click()
        page.wait_for_timeout(500)
        shot = page.locator(".studio-panel").screenshot()
        browser.close()
    return shot


def press(page: Page, button: str, words: str | None = None) -> None:
    if words is not None:
        page.get_by_placeholder("a name").fill(words)
        page.get_by_placeholder("a name").press("Tab")
    page.locator(f".studio-{button}").first.click()
    page.wait_for_timeout(500)
    settled(page)


def settled(page: Page) -> None:
    page.wait_for_timeout(300)
    page.wait_for_function(
        "document.querySelector('.studio-headline')?.innerText.includes('up to date')"
    )


if __name__ == "__main__":
    main()
