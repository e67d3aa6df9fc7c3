"""Notebooks in a real browser, and what one does there."""

import contextlib
import shutil
from pathlib import Path

import pytest
import servers
from servers import CHROMIUM, QUIET  # noqa: F401 - for scripts that draw the README's pictures

NOTEBOOKS = Path(__file__).resolve().parent.parent.parent / "notebooks"


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if CHROMIUM is None and here in item.path.parents:
            reason = "no Chromium on the PATH (Debian: apt-get install chromium)"
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def notebook(tmp_path):
    """A function: writes cells as a notebook into the folder that is served; gives its path."""
    (tmp_path / "work").mkdir(exist_ok=True)
    return lambda name, *cells: servers.write_notebook(tmp_path / "work" / f"{name}.ipynb", *cells)


@pytest.fixture
def lab(tmp_path):
    """A JupyterLab with copies of the notebooks, a token, and folders of its own.

    A function: the name of a notebook -> the address that opens it.
    """
    (tmp_path / "work").mkdir(exist_ok=True)
    for path in NOTEBOOKS.glob("*.ipynb"):
        shutil.copy(path, tmp_path / "work")
    with servers.jupyterlab(tmp_path) as address:
        yield address


@pytest.fixture
def voila(tmp_path):
    """A function: serves a notebook, given its path, as a page of Voila; gives the address."""
    with contextlib.ExitStack() as serving:
        yield lambda path: serving.enter_context(servers.voila(tmp_path, path))


@pytest.fixture
def page(tmp_path):
    with servers.chromium(tmp_path) as page:
        yield page


@pytest.fixture
def run_all(lab, page):
    """A function: open a notebook, run all its cells, and wait until a panel says `words`.

    `words` are a pattern for JavaScript; the panel's parts have classes beginning with `css`, and
    `part` is the one that says them.
    """

    def settled(css, words, part):
        page.wait_for_function(
            """([css, words, part]) => {
                const text = document.querySelector(`.${css}-${part}`)?.innerText ?? '';
                const idle = document.querySelector('#jp-main-statusbar').innerText;
                return new RegExp(words).test(text) && idle.includes('| Idle');
            }""",
            arg=[css, words, part],
            timeout=240_000,
        )
        return page.locator(f".{css}-{part}").inner_text()

    def run(name, css, words, part="text"):
        servers.run_all_cells(page, lab(name))
        settled(css, words, part)
        waiting = r"/^\[[ *]\]:$/.test(prompt.innerText)"
        page.wait_for_function(  # every cell has run
            f"[...document.querySelectorAll('.jp-InputPrompt')].every(prompt => !{waiting})",
            timeout=240_000,
        )
        settled(css, words, part)
        return lambda words: settled(css, words, part)

    return run
