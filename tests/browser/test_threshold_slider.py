"""The slider of 02_prune_once in JupyterLab, in a real browser: a key press moves text and picture.

Needs Chromium on the PATH; nothing is downloaded, and nothing but this machine is talked to.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).resolve().parent.parent.parent / "notebooks"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
QUIET = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on the PATH (Debian: apt-get install chromium)"
)


@pytest.fixture
def lab(tmp_path):
    """A JupyterLab with a copy of the notebook, a token, and folders of its own; its address."""
    work, home = tmp_path / "work", tmp_path / "home"
    settings = home / "config" / "labconfig" / "default_setting_overrides.json"
    settings.parent.mkdir(parents=True)
    work.mkdir()
    shutil.copy(NOTEBOOKS / "02_prune_once.ipynb", work)
    settings.write_text(
        json.dumps(
            {  # every cell in the page, also those far down; and no question about news
                "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
                "@jupyterlab/apputils-extension:notification": {
                    "fetchNews": "false",
                    "checkForUpdates": False,
                },
            }
        )
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    own = {
        "HOME": home,
        "JUPYTER_CONFIG_DIR": home / "config",
        "JUPYTER_DATA_DIR": home / "data",
        "JUPYTER_RUNTIME_DIR": home / "runtime",
        "JUPYTERLAB_SETTINGS_DIR": home / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": home / "workspaces",
        "IPYTHONDIR": home / "ipython",
        "PRUNING_LAB_DATA": home,  # nothing there: the digits serve
        "JUPYTER_TOKEN": token,
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ServerApp.ip=127.0.0.1"]
    command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    command += [f"--ServerApp.root_dir={work}", "--ServerApp.allow_root=True"]
    log = (tmp_path / "jupyterlab.log").open("w")
    server = subprocess.Popen(
        command,
        cwd=work,
        env={**os.environ, **{name: str(value) for name, value in own.items()}},
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # a process group of its own, so that nothing else is ended
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/api?token={token}", server)
        yield f"http://127.0.0.1:{port}/doc/tree/02_prune_once.ipynb?token={token}"
    finally:
        server.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)  # a kernel whose server is gone ends by itself
        server.wait()
        log.close()


def _wait_for(address: str, server: subprocess.Popen, seconds: float = 90) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + seconds
    while True:
        try:
            direct.open(address, timeout=5).close()
            return
        except OSError:
            assert server.poll() is None, "JupyterLab ended by itself"
            assert time.monotonic() < until, f"JupyterLab did not answer in {seconds} s"
            time.sleep(0.3)


@pytest.fixture
def page(tmp_path):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            tmp_path / "profile",
            executable_path=CHROMIUM,
            args=QUIET,
            viewport={"width": 1280, "height": 1000},
        )
        browser.set_default_timeout(60_000)
        yield browser.pages[0]
        browser.close()


def test_an_arrow_key_moves_the_threshold_and_all_that_follows(lab, page, tmp_path):
    page.goto(lab)
    # Sooner than this, "Run All" would be swallowed by the question for a kernel.
    page.wait_for_function(
        "document.querySelector('#jp-main-statusbar')?.innerText.includes('| Idle')"
    )
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()

    panel, text = page.locator(".threshold-panel"), page.locator(".threshold-text")
    picture, handle = (
        page.locator(".threshold-picture"),
        page.locator(".threshold-slider .noUi-handle"),
    )
    measured = re.compile(r"accuracy\s*[\d.]+% \(.*images\)")

    def wait_for(quality):
        """Until the panel shows this quality, measured, and the notebook has run to its end."""
        page.wait_for_function(
            """([quality, measured]) => {
                const text = document.querySelector('.threshold-text')?.innerText ?? '';
                const idle = document.querySelector('#jp-main-statusbar').innerText;
                return text.includes(quality) && new RegExp(measured).test(text)
                    && idle.includes('| Idle');
            }""",
            arg=[f"{quality:.2f} × σ", measured.pattern],
            timeout=240_000,
        )
        return text.inner_text()

    wait_for(2.0)  # where a cell of the notebook has put it
    waiting = r"/^\[[ *]\]:$/.test(prompt.innerText)"
    page.wait_for_function(  # every cell has run
        f"[...document.querySelectorAll('.jp-InputPrompt')].every(prompt => !{waiting})"
    )
    before = wait_for(2.0)
    panel.scroll_into_view_if_needed()
    drawn = picture.screenshot(path=tmp_path / "picture-before.png")
    panel.screenshot(path=tmp_path / "panel-before.png")
    page.screenshot(path=tmp_path / "page.png")
    assert picture.evaluate("image => image.naturalWidth") > 600

    handle.focus()
    page.keyboard.press("ArrowLeft")
    after = wait_for(1.95)
    panel.screenshot(path=tmp_path / "panel-after.png")
    assert picture.screenshot(path=tmp_path / "picture-after.png") != drawn
    assert _kept(after) > _kept(before)

    for _ in range(10):  # a fast hand: what stays is the last state
        page.keyboard.press("ArrowLeft")
    assert _kept(wait_for(1.45)) > _kept(after)
    assert page.get_by_text("Error displaying widget").count() == 0
    assert page.locator(".jp-OutputArea-output[data-mime-type*='error']").count() == 0


def _kept(text: str) -> int:
    """How many weights of the layer the panel says are kept."""
    return int(re.search(r"\(([\d,]+) of [\d,]+ weights\)", text)[1].replace(",", ""))
