"""A JupyterLab of its own in a real browser, and what one does there.

Needs Chromium on the PATH; nothing is downloaded, and nothing but this machine is talked to.
"""

import contextlib
import json
import os
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


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if CHROMIUM is None and here in item.path.parents:
            reason = "no Chromium on the PATH (Debian: apt-get install chromium)"
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def lab(tmp_path):
    """A JupyterLab with copies of the notebooks, a token, and folders of its own.

    A function: the name of a notebook -> the address that opens it.
    """
    work, home = tmp_path / "work", tmp_path / "home"
    settings = home / "config" / "labconfig" / "default_setting_overrides.json"
    settings.parent.mkdir(parents=True)
    work.mkdir()
    for notebook in NOTEBOOKS.glob("*.ipynb"):
        shutil.copy(notebook, work)
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
        yield lambda name: f"http://127.0.0.1:{port}/doc/tree/{name}.ipynb?token={token}"
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


@pytest.fixture
def run_all(lab, page):
    """A function: open a notebook, run all its cells, and wait until a panel says `words`.

    `words` are a pattern for JavaScript; the panel's parts have classes beginning with `css`.
    """

    def settled(css, words):
        page.wait_for_function(
            """([css, words]) => {
                const text = document.querySelector(`.${css}-text`)?.innerText ?? '';
                const idle = document.querySelector('#jp-main-statusbar').innerText;
                return new RegExp(words).test(text) && idle.includes('| Idle');
            }""",
            arg=[css, words],
            timeout=240_000,
        )
        return page.locator(f".{css}-text").inner_text()

    def run(name, css, words):
        page.goto(lab(name))
        # Sooner than this, "Run All" would be swallowed by the question for a kernel.
        page.wait_for_function(
            "document.querySelector('#jp-main-statusbar')?.innerText.includes('| Idle')"
        )
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        settled(css, words)
        waiting = r"/^\[[ *]\]:$/.test(prompt.innerText)"
        page.wait_for_function(  # every cell has run
            f"[...document.querySelectorAll('.jp-InputPrompt')].every(prompt => !{waiting})",
            timeout=240_000,
        )
        settled(css, words)
        return lambda words: settled(css, words)

    return run
