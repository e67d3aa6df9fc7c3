"""The studio in JupyterLab and on its own page, in a real browser."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

NUMBERS = r"accuracy on val\s+\d+\.\d\d%[^]*weights kept\s+100\.0%"

OPEN = """from pruning_lab import data, models, studio, widgets
s = studio.Studio(models.lenet_5(trained="mnist"), data.load("mnist-5k"))
widgets.StudioPanel(s).settle()"""


def reads(page, pattern: str) -> None:
    page.wait_for_function(
        "pattern => new RegExp(pattern).test(document.body.innerText)", arg=pattern, timeout=120_000
    )


def test_in_jupyterlab(notebook, jupyter, page):
    import servers

    notebook("studio", OPEN)
    servers.run_all_cells(page, jupyter[1]("studio"))
    reads(page, NUMBERS)
    assert page.get_by_text("Error displaying widget").count() == 0
    servers.end_kernels(page)


@pytest.fixture
def served(tmp_path):
    """A function: starts the page, at a port where it was before; (process, its address)."""
    processes = []

    def start(*words):
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pruning_lab", "studio", *words, "--no-browser"],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        address = next(line for line in process.stdout if "http://" in line).split()[-1]
        return process, address

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=60)


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent as POSIX sends it")
def test_a_page_opened_from_a_file_keeps_its_settings_in_the_address(served, page, tmp_path):
    """Strict cookies do not follow a redirection from a file, by which the command opens a page."""
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: said.type == "error" and errors.append(said.text))
    process, address = served("--data", "mnist-5k")
    Path(tmp_path / "open.html").write_text(
        f'<meta http-equiv="refresh" content="0; url={address}">'
    )
    page.goto((tmp_path / "open.html").as_uri())
    reads(page, NUMBERS)
    place = address.partition("?")[0]
    assert page.url == place  # without the token
    page.goto(f"{place}#conv1=0.5")
    page.reload()
    reads(page, "conv1: quality 0.5")
    assert page.url == f"{place}#conv1=0.5"
    assert errors == []
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    reads(page, "connection lost, trying again")
