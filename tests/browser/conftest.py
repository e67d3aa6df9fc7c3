"""Notebooks in a real browser, and what one does there."""

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


@pytest.fixture(scope="session")
def jupyter(tmp_path_factory):
    """A JupyterLab with copies of the notebooks, a token, and folders of its own.

    The folder it serves, and a function: the name of a notebook -> the address that opens it.
    """
    folder = tmp_path_factory.mktemp("jupyter")
    (folder / "work").mkdir()
    for path in NOTEBOOKS.glob("*.ipynb"):
        shutil.copy(path, folder / "work")
    with servers.jupyterlab(folder) as address:
        yield folder / "work", address


@pytest.fixture(scope="session")
def new_page():
    with servers.chromium() as new_page:
        yield new_page


@pytest.fixture
def notebook(jupyter):
    """A function: writes cells as a notebook into the folder that is served; gives its path."""
    return lambda name, *cells: servers.write_notebook(jupyter[0] / f"{name}.ipynb", *cells)


@pytest.fixture
def page(new_page):
    page = new_page()
    yield page
    page.close()


@pytest.fixture
def run_all(jupyter, page):
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
        servers.run_all_cells(page, jupyter[1](name))
        settled(css, words, part)
        waiting = r"/^\[[ *]\]:$/.test(prompt.innerText)"
        page.wait_for_function(  # every cell has run
            f"[...document.querySelectorAll('.jp-InputPrompt')].every(prompt => !{waiting})",
            timeout=240_000,
        )
        settled(css, words, part)
        return lambda words: settled(css, words, part)

    yield run
    servers.end_kernels(page)
