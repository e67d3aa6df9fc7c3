"""The README's examples and those of the docstrings run."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

import pruning_lab

README = Path(__file__).resolve().parent.parent / "README.md"
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
def test_the_examples_of_the_readme_run_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    """As a reader pastes them, block after block, in a folder without data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRUNING_LAB_DATA", str(tmp_path))
    text = README.read_text()
    blocks = list(re.finditer(r"```python\n(.*?)```", text, re.DOTALL))
    assert len(blocks) >= 4
    names: dict = {}
    for block in blocks:
        line = text.count("\n", 0, block.start())
        exec(compile("\n" * (line + 1) + block[1], str(README), "exec"), names)
    assert names["s"].attempts[-1].name == "first"
    assert list(names["mask"]) == ["fc1", "fc2", "fc3"]
    assert "not covered: 410 biases" in capsys.readouterr().out
    names["s"].close()


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_the_docstrings_run(name):
    module = importlib.import_module(name)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, _ = doctest.testmod(module, optionflags=flags)
    assert failed == 0
