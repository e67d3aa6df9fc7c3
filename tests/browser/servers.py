"""A JupyterLab with folders of its own, and a browser: for tests, and to measure in.

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
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
QUIET = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


def write_notebook(path: Path, *cells: str) -> Path:
    book = nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_code_cell, cells)])
    # Without a kernel's name JupyterLab asks for one.
    book.metadata.kernelspec = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    nbformat.write(book, path)
    return path


@contextlib.contextmanager
def jupyterlab(folder: Path, **variables) -> Iterator[Callable[[str], str]]:
    """JupyterLab in folder/work. A function: the name of a notebook -> the address that opens it.

    `variables` go into its environment.
    """
    config = folder / "home" / "config"
    settings = config / "labconfig" / "default_setting_overrides.json"
    settings.parent.mkdir(parents=True)
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
    variables |= {
        "JUPYTER_CONFIG_DIR": config,
        "JUPYTERLAB_SETTINGS_DIR": folder / "home" / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": folder / "home" / "workspaces",
    }
    options = ("--no-browser", "--ServerApp.allow_root=True")
    options += (f"--ServerApp.root_dir={folder / 'work'}",)
    with _serving("jupyterlab", "ServerApp", options, folder, variables) as (address, token):
        # reset: without what was open before.
        yield lambda name: f"{address}/doc/tree/{name}.ipynb?reset&token={token}"


@contextlib.contextmanager
def chromium() -> Iterator[Callable]:
    """A browser. A function: a new page in it, that knows nothing of the others."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)

        def new_page():
            page = browser.new_page(viewport={"width": 1280, "height": 1000})
            page.set_default_timeout(60_000)
            return page

        yield new_page
        browser.close()


def run_all_cells(page, address: str) -> None:
    page.goto(address)
    # Sooner than this, "Run All" would be swallowed by the question for a kernel.
    page.wait_for_function(
        "document.querySelector('#jp-main-statusbar')?.innerText.includes('| Idle')"
    )
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()


def end_kernels(page) -> None:
    """Shut down what the page's server still runs, with the page's own cookies."""
    page.evaluate(
        """async () => {
            const config = JSON.parse(document.querySelector('#jupyter-config-data').textContent);
            const kernels = config.baseUrl + 'api/kernels';
            const headers = {Authorization: `token ${config.token}`};
            for (const kernel of await (await fetch(kernels, {headers})).json())
                await fetch(`${kernels}/${kernel.id}`, {method: 'DELETE', headers});
        }"""
    )


@contextlib.contextmanager
def _serving(
    module: str, app: str, options: tuple[str, ...], folder: Path, variables: dict
) -> Iterator[tuple[str, str]]:
    """Run a server on a free port in folder/work; gives its address and its token."""
    home, token = folder / "home", secrets.token_hex(16)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {
        "HOME": home,
        "JUPYTER_DATA_DIR": home / "data",
        "JUPYTER_RUNTIME_DIR": home / "runtime",
        "IPYTHONDIR": home / "ipython",
        "PRUNING_LAB_DATA": home,  # nothing there: the digits serve
        "JUPYTER_TOKEN": token,
        **variables,
    }
    log = (folder / f"{module}.log").open("w")
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", module, *options),
            *(f"--{app}.ip=127.0.0.1", f"--{app}.port={port}", f"--{app}.port_retries=0"),
        ],
        cwd=folder / "work",
        env={**os.environ, **{name: str(value) for name, value in own.items()}},
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # a process group of its own, so that nothing else is ended
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}", server)
        yield f"http://127.0.0.1:{port}", token
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
        except urllib.error.HTTPError:
            return  # it wants the token: it is there
        except OSError:
            assert server.poll() is None, "the server ended by itself"
            assert time.monotonic() < until, f"the server did not answer in {seconds} s"
            time.sleep(0.3)
