"""The course runs, says what it says, and would not pass if it did not.

Every notebook runs on the digits, which are always there, and with `--mnist`, which CI sets, on
MNIST too.
"""

import dataclasses
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROMISED_SECONDS = {"08_alexnet": 120}  # 60 where nothing is said

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def pytest_generate_tests(metafunc):
    if "data" in metafunc.fixturenames:
        mnist = metafunc.config.getoption("mnist")
        metafunc.parametrize("data", ["mnist-5k", "mnist"] if mnist else ["mnist-5k"])


def _builder():
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "tools" / "notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one run of nbval came to."""

    code: int
    counts: dict[str, int]  # "passed", "failed", "xfailed", ... as pytest's last line has them
    cells: int
    output: str
    seconds: float

    @property
    def verdicts(self) -> list[str]:
        """PASSED, FAILED, XFAIL, ...: a word for each cell."""
        return re.findall(r"::Cell \d+ ([A-Z]+)", self.output)

    @property
    def complaint(self) -> str:
        """Empty where every code cell of the notebook passed, and nothing else happened.

        nbval marks the cells behind a time-out as xfail: they were never run.
        """
        if self.code == 0 and self.cells and self.counts == {"passed": self.cells}:
            return ""
        return f"{self.counts} of {self.cells} cells, exit {self.code}\n{self.output[-6000:]}"


def nbval(
    path: Path, folder: Path, *, data: Path | None = None, cell_timeout: int = 300
) -> Outcome:
    """Run one notebook in `folder` as a reader without any settings would, and compare."""
    copy = folder / path.name
    if copy != path:
        copy.write_bytes(path.read_bytes())
    own = {name: str(folder / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "IPYTHONDIR")}
    nothing = folder / "nothing"
    nothing.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", "addopts="]
    command += ["--rootdir", str(folder), "--nbval-lax", "--nbval-current-env"]
    command += ["-v", f"--nbval-cell-timeout={cell_timeout}"]
    command += [f"--nbval-sanitize-with={ROOT / 'tests' / 'nbval-sanitize.cfg'}", str(copy)]
    began = time.perf_counter()
    run = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **own, "PRUNING_LAB_DATA": str(data or nothing), "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = run.communicate(timeout=600)
    except BaseException:
        os.killpg(run.pid, signal.SIGKILL)  # its kernel ends by itself then
        run.wait()
        raise
    last = output.rstrip().rsplit("\n", 1)[-1]
    counts = {word: int(n) for n, word in re.findall(r"(\d+) ([a-z]+)", last.split(" in ")[0])}
    counts.pop("warnings", counts.pop("warning", None))
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    return Outcome(run.returncode, counts, len(cells), output, time.perf_counter() - began)


def checked(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Code cells whose output nbval compares, by tag or by comment."""
    return [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code"
        and (
            "nbval-check-output" in cell.metadata.get("tags", ())
            or "NBVAL_CHECK_OUTPUT" in cell.source
        )
    ]


def without_reference(notebook: nbformat.NotebookNode) -> list[str]:
    """Checked cells that check nothing: nbval passes a cell that was stored unrun or empty."""
    return [
        cell.source
        for cell in checked(notebook)
        if cell.execution_count is None or not cell.outputs
    ]


def outputs(notebook: nbformat.NotebookNode):
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            parts = {"text": output.text} if output.output_type == "stream" else output.get("data")
            yield from (parts or {}).items()


# The course


def test_the_course_is_there():
    course = ["01_dense", "02_prune_once", "03_retrain", "04_sensitivity"]
    assert [path.stem for path in NOTEBOOKS][:4] == course


@every_notebook
def test_it_runs_and_its_checked_cells_say_what_they_said(path, data, tmp_path, request):
    root = request.getfixturevalue("mnist_root").resolve() if data == "mnist" else None
    outcome = nbval(path, tmp_path, data=root)
    assert not outcome.complaint, outcome.complaint
    print(f"{path.stem} on {data}: {outcome.seconds:.0f} s")
    if outcome.seconds > (promised := PROMISED_SECONDS.get(path.stem, 60)):
        warnings.warn(
            f"{path.stem} on {data} took {outcome.seconds:.0f} s here, and promises to take less "
            f"than {promised} on an idle machine",
            stacklevel=1,
        )


@every_notebook
def test_every_checked_cell_has_a_reference(path):
    notebook = nbformat.read(path, as_version=4)
    assert len(checked(notebook)) >= 5
    assert without_reference(notebook) == []


@every_notebook
def test_it_is_what_its_source_says(path):
    builder = _builder()
    source = ROOT / "notebooks" / "source" / f"{path.stem}.py"
    assert builder.same(builder.assemble(source), nbformat.read(path, as_version=4)), (
        f"type: python tools/notebooks.py {path.stem}"
    )


def test_no_source_is_without_a_notebook():
    assert [source.stem for source in _builder().sources()] == [path.stem for path in NOTEBOOKS]


@every_notebook
def test_jupyter_opens_it_without_asking(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    numbers = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert numbers == list(range(1, len(numbers) + 1)), "not from one fresh run"


@every_notebook
def test_its_outputs_are_small_and_whole(path):
    notebook = nbformat.read(path, as_version=4)
    kinds = {output.output_type for cell in notebook.cells for output in cell.get("outputs", ())}
    assert kinds <= {"stream", "display_data", "execute_result"}
    names = {o.name for c in notebook.cells for o in c.get("outputs", ()) if "name" in o}
    assert names <= {"stdout"}, "a warning is stored"
    for kind, content in outputs(notebook):
        picture = kind.startswith("image/") or "data:image/png" in content
        assert len(content) < (200_000 if picture else 4_000), kind
        assert "widget" not in kind, "a stored widget has no kernel, and shows as an error"
    assert path.stat().st_size < 450_000


@every_notebook
def test_it_knows_nothing_of_the_machine_that_made_it(path):
    notebook = nbformat.read(path, as_version=4)
    texts = [cell.source for cell in notebook.cells]
    texts += [content for kind, content in outputs(notebook) if not kind.startswith("image/")]
    for text in texts:
        assert not re.search(
            r"(^|[\s\"'(=])(/[a-z]+/|[A-Z]:\\|~/)|site-packages|0x[0-9a-f]{6}", text
        )


@every_notebook
def test_its_prose_holds_no_measured_number(path):
    prose = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown"]
    shares = re.findall(r"\d+(?:[.,]\d+)?\s?%", "\n".join(prose))
    assert set(shares) <= {"95 %"}, "a number that code does not compute goes stale"


@every_notebook
def test_the_index_lists_it(path):
    assert f"[{path.stem}]({path.name})" in (ROOT / "notebooks" / "README.md").read_text()


# The gate itself, on a notebook made here


def cell(source: str, output: str = "") -> nbformat.NotebookNode:
    """A cell that has been run, and is checked where it gave something."""
    made = nbformat.v4.new_code_cell(source, execution_count=1)
    if output:
        made.outputs = [nbformat.v4.new_output("stream", name="stdout", text=output)]
        made.metadata.tags = ["nbval-check-output"]
    return made


def book(*cells: nbformat.NotebookNode) -> nbformat.NotebookNode:
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return nbformat.v4.new_notebook(cells=[*cells], metadata={"kernelspec": kernel})


@pytest.fixture
def stripped() -> nbformat.NotebookNode:
    """A checked cell whose number is wrong, and whose reference nbstripout has removed."""
    cleaned = cell("print(6 * 8)", "42\n")
    cleaned.execution_count, cleaned.outputs = None, []
    return cleaned


def test_the_gate_stops_changed_numbers_errors_and_cells_that_never_ran(stripped, tmp_path):
    """Why it looks for references itself: nbval lets a stripped one pass."""
    right, changed = cell("print(n * 7)", "42\n"), cell("print(n * 9)", "42\n")
    late = "import time; time.sleep(60); late = 1"
    cases = [
        (cell("n = 6"), "PASSED"),
        (right, "PASSED"),
        (changed, "FAILED"),
        (stripped, "PASSED"),
        (cell("n / 0"), "FAILED"),  # not checked, and yet an error
        (cell("n + 1"), "PASSED"),
        (cell(late), "FAILED"),
        (cell("late"), "XFAIL"),
    ]
    nbformat.write(book(*(made for made, _ in cases)), tmp_path / "small.ipynb")
    outcome = nbval(tmp_path / "small.ipynb", tmp_path, cell_timeout=2)
    assert outcome.verdicts == [verdict for _, verdict in cases], outcome.output
    assert outcome.counts == {"passed": 4, "failed": 3, "xfailed": 1}
    assert outcome.complaint


@pytest.mark.parametrize(
    ("code", "counts", "cells", "passes"),
    [
        (0, {"passed": 3}, 3, True),
        (1, {"passed": 3}, 3, False),
        (0, {"passed": 2}, 3, False),
        (1, {"passed": 2, "failed": 1}, 3, False),
        (0, {"passed": 2, "xfailed": 1}, 3, False),  # it never ran
        (0, {"passed": 3, "xpassed": 1}, 3, False),
        (0, {"passed": 2, "skipped": 1}, 3, False),
        (0, {}, 0, False),  # an empty notebook
        (0, {"passed": 0}, 0, False),
    ],
)
def test_the_gate_lets_only_a_notebook_pass_whose_cells_all_passed(code, counts, cells, passes):
    assert (Outcome(code, counts, cells, "", 1.0).complaint == "") == passes


def test_the_gate_stops_a_stripped_reference(stripped):
    right, uncounted, empty = (cell("print(6 * 7)", "42\n") for _ in range(3))
    uncounted.execution_count, empty.outputs = None, []
    assert without_reference(book(right, cell("n + 1"))) == []
    for one in (uncounted, empty, stripped):
        assert without_reference(book(right, one)) == [one.source]
