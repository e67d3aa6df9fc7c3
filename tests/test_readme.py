"""The examples of the README, the guide and the docstrings run; the reference has no dead link."""

import doctest
import importlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import pruning_lab

ROOT = Path(__file__).resolve().parent.parent
PAGES = {  # page -> what its examples print
    "README.md": ("is the most sensitive", "not covered: 410 biases"),
    "docs/guide.md": ("not covered: 410 biases", "* no other attempt"),
}
PACKAGE = Path(pruning_lab.__file__).parent
MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.fixture
def adapters():
    """The table of layer types is as before afterwards."""
    table = pruning_lab.masks.ADAPTERS
    before = dict(table)
    yield
    table.clear()
    table.update(before)


@pytest.mark.usefixtures("adapters")
@pytest.mark.parametrize(("page", "printed"), PAGES.items(), ids=str)
def test_the_examples_of_a_page_run_from_top_to_bottom(
    page, printed, tmp_path, monkeypatch, capsys
):
    """As a reader pastes them, block after block, in a folder without data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRUNING_LAB_DATA", str(tmp_path))
    text = (ROOT / page).read_text()
    names: dict = {}
    for block in re.finditer(r"```python\n(.*?)```", text, re.DOTALL):
        line = text.count("\n", 0, block.start())
        exec(compile("\n" * (line + 1) + block[1], page, "exec"), names)
    output = capsys.readouterr().out
    for phrase in PAGES[page]:
        assert phrase in output
    if "s" in names:
        assert names["s"].attempts[-1].name == "first"
        names["s"].close()


@pytest.mark.parametrize("page", [*PAGES, "results/README.md", "notebooks/README.md"])
def test_no_link_of_a_page_is_dead(page):
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text())
    assert links
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_the_docstrings_run(name):
    module = importlib.import_module(name)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, _ = doctest.testmod(module, optionflags=flags)
    assert failed == 0


class _Links(HTMLParser):
    """The anchors of a page of the reference, and the links in it."""

    def __init__(self, path: Path):
        super().__init__()
        self.anchors, self.links = set(), set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors.add(attributes.get("id"))
        if tag == "a" and "href" in attributes:
            self.links.add(attributes["href"])


def test_the_reference_is_built_offline_and_has_no_dead_link(tmp_path):
    command = [sys.executable, "-m", "pdoc", "pruning_lab", "-o", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    pages = {path: _Links(path) for path in tmp_path.rglob("*.html")}
    assert (tmp_path / "pruning_lab" / "masks.html") in pages
    for path, page in pages.items():
        for link in page.links:
            target, _, anchor = link.partition("#")
            if "://" in link:
                assert "pdoc.dev" in link  # the one outward link is to the generator
                continue
            file = (path.parent / target).resolve() if target else path
            assert file in pages, f"{path.name}: {link}"
            assert not anchor or anchor in pages[file].anchors, f"{path.name}: {link}"
