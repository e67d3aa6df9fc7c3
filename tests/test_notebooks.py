"""The course runs, says what it says, and would not pass if it did not.

Both editions of every notebook run on mnist-5k, which is always there, and with `--mnist`, which CI
sets, the solved one on MNIST too, as it is. Each on one thread: two run at the same time.
"""

import dataclasses
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from pruning_lab import cli, exercises

ROOT = Path(__file__).resolve().parent.parent
PROMISED_SECONDS = {"08_alexnet": 120}  # 60 where nothing is said


def _builder():
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "tools" / "notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


builder = _builder()
SOURCES = builder.sources()[::-1]  # the last ones take longest: they begin first
STUDENT, READ = zip(*map(builder.targets, SOURCES), strict=True)
# What has a threshold to be moved.
PANELS = re.compile(r"widgets\.(NumbersSlider|ThresholdSlider|DropSlider|StudioPanel)\(")
GUESS = re.compile(r"(?:exercises\.guess|widgets\.\w+)\(\s*\"(\d\d\.\w+)")
REVEAL = re.compile(r"exercises\.reveal\(\s*\"([^\"]+)")
CHECK = re.compile(r"exercises\.(?:check|explain)\(\s*\"([^\"]+)")


def each(name: str, values):
    return pytest.mark.parametrize(name, values, ids=lambda path: path.stem)


every_source = each("source", SOURCES)
every_student = each("path", STUDENT)
every_read = each("path", READ)


def pytest_generate_tests(metafunc):
    if "data" in metafunc.fixturenames:
        mnist = metafunc.config.getoption("mnist")
        metafunc.parametrize("data", ["mnist-5k", "mnist"] if mnist else ["mnist-5k"])


@pytest.fixture
def root(data, request) -> Path | None:
    """The folder with MNIST; None where there is nothing but what is always there."""
    return request.getfixturevalue("mnist_root").resolve() if data == "mnist" else None


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

        nbval marks the cells after a time-out as xfail: they were never run.
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


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def code_cells(path: Path, tag: str = "") -> list[nbformat.NotebookNode]:
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    return [cell for cell in cells if not tag or tag in tags(cell)]


def words(cell: nbformat.NotebookNode) -> str:
    """All that a cell's outputs say, but for pictures and HTML."""
    said = ""
    for output in cell.get("outputs", ()):
        data = output.get("data", {})
        said += output.get("text", "") + data.get("text/plain", "") + data.get("text/markdown", "")
    return said


def warn_if_slow(path: Path, seconds: float, where: str) -> None:
    print(f"{path.relative_to(builder.NOTEBOOKS)} on {where}: {seconds:.0f} s")
    if seconds > (promised := PROMISED_SECONDS.get(path.stem, 60)):
        warnings.warn(
            f"{path.relative_to(builder.NOTEBOOKS)} on {where} took {seconds:.0f} s here, and "
            f"promises to take less than {promised} on an idle machine",
            stacklevel=2,
        )


MOVER = """
import random as _random

from pruning_lab.widgets import StudioPanel as _Panel
from pruning_lab.widgets.studio_view import StudioView as _View

_chance, _shown = _random.Random({seed}), []


def _note(kind):
    bundle = kind._repr_mimebundle_
    kind._repr_mimebundle_ = lambda view, **kw: _shown.append(view) or bundle(view, **kw)


_note(_View), _note(_Panel)


def _move():
    while _shown:
        shown = _shown.pop()
        for layer in _chance.sample(shown.studio.layers, min(3, len(shown.studio.layers))):
            shown.studio.set({{layer: round(_chance.uniform(0, 3), 2)}})
        if isinstance(shown, _Panel):
            n, layers = 1 + shown.handled.get("mover", 0), {{shown.studio.layers[0]: 0.7}}
            request = {{"n": n, "do": "set", "kind": "quality", "layers": layers}}
            shown.set_state({{"requests": {{"view": "mover", "list": [request]}}}})
        else:
            shown.slider.value = _chance.uniform(shown.slider.min, shown.slider.max)
        if _chance.random() < 0.5:
            shown.settle()
"""


def with_moves(notebook: nbformat.NotebookNode, seed: int) -> nbformat.NotebookNode:
    """After each cell that shows a panel, its thresholds are moved."""
    cells = [nbformat.v4.new_code_cell(MOVER.format(seed=seed))]
    for made in notebook.cells:
        cells.append(made)
        if made.cell_type == "code":
            cells.append(nbformat.v4.new_code_cell("_move()"))
    notebook.cells = cells
    return notebook


# The edition to read


def test_the_course_is_there():
    course = ["00_start", "01_dense", "02_prune_once", "03_retrain", "04_sensitivity"]
    course += ["05_iterate", "06_counting", "07_store_and_run", "08_alexnet", "09_studio"]
    assert sorted(path.stem for path in SOURCES) == course
    for folder, paths in ((builder.NOTEBOOKS, STUDENT), (builder.NOTEBOOKS / "read", READ)):
        assert sorted(folder.glob("*.ipynb")) == sorted(paths)


@every_read
def test_it_runs_solves_its_tasks_and_says_what_it_said(path, data, root, tmp_path):
    """On mnist-5k the panels are moved after each cell: what is checked must not depend on them."""
    run = path
    if data == "mnist-5k" and PANELS.search(path.read_text(encoding="utf-8")):
        run = tmp_path / path.name
        nbformat.write(with_moves(nbformat.read(path, as_version=4), seed=len(path.stem)), run)
    outcome = nbval(run, tmp_path, data=root)
    assert not outcome.complaint, outcome.complaint
    asked = {id_ for cell in code_cells(path) for id_ in CHECK.findall(cell.source)}
    record = tmp_path / ".pruning_lab" / "progress.json"
    students = json.loads(record.read_text())["students"] if record.exists() else {}
    done = {id_: entry for entries in students.values() for id_, entry in entries.items()}
    solved = {id_ for id_ in asked if done[id_]["sign"] == "✓" or done[id_]["sentence"]}
    assert solved == asked, {id_: done[id_]["said"] for id_ in asked - solved}
    warn_if_slow(path, outcome.seconds, data)


@every_read
def test_its_checks_are_stored_as_right(path):
    for made in code_cells(path):
        assert "✓" in words(made) or not CHECK.search(made.source), made.source


@every_read
def test_every_checked_cell_has_a_reference(path):
    notebook = nbformat.read(path, as_version=4)
    assert len(checked(notebook)) >= 5
    assert without_reference(notebook) == []


@every_read
def test_it_is_from_one_fresh_run(path):
    numbers = [cell.execution_count for cell in code_cells(path)]
    assert numbers == list(range(1, len(numbers) + 1))


@every_read
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
    photos = path.stem == "08_alexnet"  # they compress less well than plots
    assert path.stat().st_size < (600_000 if photos else 450_000)


@every_read
def test_it_knows_nothing_of_the_machine_that_made_it(path):
    notebook = nbformat.read(path, as_version=4)
    texts = [cell.source for cell in notebook.cells]
    texts += [content for kind, content in outputs(notebook) if not kind.startswith("image/")]
    for text in texts:
        assert not re.search(
            r"(^|[\s\"'(=])(/[a-z]+/|[A-Z]:\\|~/)|site-packages|0x[0-9a-f]{6}", text
        )


# The student's edition

ALIVE = """
from pruning_lab.widgets import StudioPanel
from pruning_lab.widgets.studio_view import StudioView

kinds = StudioPanel, StudioView
for panel in [value for value in dict(globals()).values() if isinstance(value, kinds)]:
    panel.studio.set(1.0)
    panel.settle()
    assert panel.comm is not None and panel.studio.metrics().final, panel
"""


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A term's edition for students, in a folder such as they have."""
    folder = tmp_path_factory.mktemp("term") / "Übung 1 – prune & retrain"
    assert cli.main(["course", "release", "--term", "autumn", "--out", str(folder)]) == 0
    return folder / "student"


@every_student
def test_untouched_it_runs_says_not_yet_and_leaves_its_panels_open(path, released, monkeypatch):
    """On the data that are always there; the solved one runs on MNIST too, in the same cells."""
    notebook = nbformat.read(released / path.name, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(ALIVE))
    monkeypatch.delenv("PRUNING_LAB_DATA", raising=False)
    began = time.perf_counter()
    where = {"metadata": {"path": str(released)}}
    NotebookClient(notebook, timeout=600, resources=where).execute()  # raises where a cell does
    seconds = time.perf_counter() - began
    for cell in notebook.cells:
        if CHECK.search(cell.source) or REVEAL.search(cell.source):
            verdicts = re.findall("○ not yet|[✓✗]", words(cell))
            assert set(verdicts) == {"○ not yet"}, f"{cell.source}\n{words(cell)}"
    warn_if_slow(path, seconds, "mnist-5k")


@every_student
def test_nothing_is_stored_in_it(path):
    for cell in code_cells(path):
        assert (cell.outputs, cell.execution_count) == ([], None)


@every_student
def test_it_has_neither_solutions_nor_what_only_the_tests_need(path):
    assert "SOLUTION" not in path.read_text(encoding="utf-8")
    assert {tag for cell in code_cells(path) for tag in tags(cell)} <= builder.TAGS - {
        "ci",
        "nbval-check-output",
    }


def test_no_verdict_passes_for_other_data():
    for path in (*SOURCES, *STUDENT, *READ):
        assert 'splits.name != "mnist"' not in path.read_text(encoding="utf-8"), path.name


def test_most_cells_of_the_first_notebooks_have_eight_lines_or_fewer():
    lines = [
        len(cell.source.splitlines())
        for path in STUDENT
        if path.stem < "07"
        for cell in code_cells(path)
    ]
    assert sum(n <= 8 for n in lines) >= 0.85 * len(lines), sorted(lines)[-30:]


# Both


@every_source
def test_both_editions_are_what_their_source_and_the_code_that_draws_make_of_them(source):
    assert builder.faults(source) == []


@each("path", [*STUDENT, *READ])
def test_jupyter_opens_it_without_asking(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)


@every_student
def test_its_prose_holds_no_measured_number(path):
    prose = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown"]
    shares = re.findall(r"\d+(?:[.,]\d+)?\s?%", "\n".join(prose))
    assert set(shares) <= {"95 %"}, "a number that code does not compute goes stale"


@every_source
def test_its_tags_say_what_its_cells_do(source):
    for cell in builder.assemble(source).cells:
        for tag, call in (("check", CHECK), ("reveal", REVEAL), ("guess", GUESS)):
            if cell.cell_type == "code":
                assert (tag in tags(cell)) == bool(call.search(cell.source)), cell.source


@every_source
def test_every_task_has_its_header_and_every_header_its_task(source):
    cells = [cell for cell in builder.assemble(source).cells if cell.cell_type == "code"]
    code = "\n".join(cell.source for cell in cells)
    called = {id_ for call in (CHECK, GUESS, REVEAL) for id_ in call.findall(code)}
    assert called == set(builder.tasks(source))
    assert len(set(builder.tasks(source))) == len(builder.tasks(source))


LONG = r"\d[\d.,]*\d"  # a number; one digit alone may be anything


def told_too_early(cells: list[nbformat.NotebookNode]) -> Iterator[str]:
    """Guesses whose answer can be read before they are revealed.

    A guess and what reveals it are different cells, in this order. The answer, as the stored output
    of the latter has it, must not stand in the two cells after the guess, in words or outputs;
    what the guess itself says is no answer yet.
    """
    for number, cell in enumerate(cells):
        for id_ in GUESS.findall(cell.source) if "guess" in tags(cell) else ():
            reveals = [n for n, c in enumerate(cells) if id_ in REVEAL.findall(c.source)]
            if len(reveals) != 1 or reveals[0] <= number:
                yield f"{id_} is not revealed once, in a later cell"
                continue
            said = re.search(r"guess (.*), answer (.*?): ", words(cells[reveals[0]]))
            guess, answer = (set(re.findall(LONG, part)) for part in said.groups())
            for between in cells[number + 1 : min(number + 3, reveals[0])]:
                text = words(between) + between.source * (between.cell_type == "markdown")
                if answer - guess and answer <= set(re.findall(LONG, text)):
                    yield f"{id_} is told before it is revealed: {text}"


@every_read
def test_no_guess_is_answered_in_the_two_cells_after_it_before_it_is_revealed(path):
    assert list(told_too_early(nbformat.read(path, as_version=4).cells)) == []


# The index


def test_the_index_has_every_notebook_and_the_minutes_of_people():
    page = (builder.NOTEBOOKS / "README.md").read_text(encoding="utf-8")
    for stem in (path.stem for path in SOURCES):
        assert f"| [{stem}]({stem}.ipynb) ([solved](read/{stem}.ipynb)) |" in page
    assert builder.index(page) == page, "type: python tools/notebooks.py"


def test_people_read_180_words_a_minute_and_do_the_tasks(tmp_path):
    text = "# %% [markdown]\n# " + 179 * "word " + "\n# %%\nprint()\n"
    (tmp_path / "05_x.py").write_text(text)
    assert builder.minutes(tmp_path / "05_x.py") == 5  # one minute
    (tmp_path / "05_x.py").write_text(text.replace(" word ", "\n# @task 02.keep\n# ", 1))
    assert builder.tasks(tmp_path / "05_x.py") == ["02.keep"]
    more = exercises.EXERCISES["02.keep"].minutes
    assert more < builder.minutes(tmp_path / "05_x.py") <= more + 5 + 1


# The builder, on sources made here

SOLVED = '''# %% [markdown]
# @task 02.keep
#
# Write it.


# %% tags=["exercise", "nbval-check-output"]
def keep(weight, quality):
    """bool"""
    # BEGIN SOLUTION
    return weight.abs() >= quality * weight.std(correction=0)
    # END SOLUTION


plan = None  # layer -> quality
# BEGIN SOLUTION
plan = {"fc1": 1.2}
# END SOLUTION
print(plan)

# %% tags=["ci"]
print(True)

# %% tags=["check"]
%time keep
'''
LEFT = '''def keep(weight, quality):
    """bool"""
    ...  # your code here


plan = None  # layer -> quality
# your code here
print(plan)'''


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A function: a source of this text, in a course of its own."""
    monkeypatch.setattr(builder, "NOTEBOOKS", tmp_path)
    for name in ("source", "read"):
        (tmp_path / name).mkdir()

    def write(text: str) -> Path:
        path = tmp_path / "source" / "02_x.py"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_student_gets_gaps_for_solutions_and_no_cells_of_the_tests(written):
    text, gap, last = builder.strip(written(SOLVED)).cells
    assert text.source == f"{exercises.header('02.keep')}\n\nWrite it."
    assert (gap.source, gap.metadata.tags) == (LEFT, ["exercise"])
    assert last.metadata.tags == ["check"]
    solved = builder.assemble(written(SOLVED)).cells
    assert "std(correction=0)" in solved[1].source
    assert [tags(cell) for cell in solved[1:3]] == [["exercise", "nbval-check-output"], ["ci"]]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("# %%\n1\n# BEGIN SOLUTION\n2", "a solution has no end"),
        ("# %%\n1\n# END SOLUTION", "ends no solution"),
        ("# %%\n# BEGIN SOLUTION\n# BEGIN SOLUTION\n# END SOLUTION", "inside a solution"),
        ("# %%\nif 1:\n    # BEGIN SOLUTION\n    2\n# END SOLUTION", "not indented alike"),
        ("# %%\n1\n# BEGIN SOLUTIONS", "alone in a line, not `# BEGIN SOLUTIONS`"),
        ("# %%\ntry:\n    1\n# BEGIN SOLUTION\nfinally:\n    1\n# END SOLUTION", "without its sol"),
        ("# %%\nif 1:\n1", "no Python: expected an indented block"),
        ('# %% tags=["chek"]\n1', "unknown tag chek; there are"),
        ("# %% [markdown]\n# # BEGIN SOLUTION\n# # END SOLUTION", "a solution in a text"),
        ("# %% [markdown]\n# @task 02.kep", "there is no task '02.kep'"),
    ],
)
def test_wrong_markup_is_a_sentence_with_its_cell(written, text, sentence):
    source = written(f"# %%\n0\n\n{text}\n")
    with pytest.raises(ValueError, match=r"^02_x\.py, cell 1: ") as error:
        builder.strip(source)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_an_edition_that_was_left_behind_is_noticed(written, monkeypatch):
    source = written("# %%\n1\n")
    student, read = builder.targets(source)

    def found():
        return [fault.split("; ")[0] for fault in builder.faults(source)]

    assert found() == ["02_x.ipynb is not there", "read/02_x.ipynb is not there"]
    nbformat.write(builder.strip(source), student)
    solved = builder.assemble(source)
    builder.run(solved, None)
    nbformat.write(solved, read)
    assert found() == []
    written("# %%\n2\n")
    assert found() == [f"{n}02_x.ipynb is not what its source says" for n in ("", "read/")]
    written("# %%\n1\n")
    monkeypatch.setattr(builder, "drawn_by", lambda: "other code")
    assert found() == ["the pictures in read/02_x.ipynb are older than the code that draws them"]


def test_the_code_that_draws_is_the_plots_and_the_widgets(monkeypatch, tmp_path):
    package, before = tmp_path / "pruning_lab", set()
    (package / "widgets").mkdir(parents=True)
    monkeypatch.setattr(builder, "ROOT", tmp_path)
    for name in ("plots.py", "widgets/panel.py", "widgets/panel.py", "paper.py"):
        (package / name).write_text(f"# {len(before)}\n")
        before.add(builder.drawn_by())
    assert len(before) == 3  # not for the last


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


def test_the_gate_stops_a_cell_that_relies_on_where_a_panel_was_left(tmp_path):
    shown = "import pruning_lab as lab\nsix = lab.widgets.NumbersSlider([0.9, -0.1, 0.4])\nsix"
    relies, sets = cell("print(six.quality)", "1.0\n"), cell("six.quality = 1.0\nprint(1)", "1\n")
    nbformat.write(with_moves(book(cell(shown), relies, sets), seed=0), tmp_path / "small.ipynb")
    outcome = nbval(tmp_path / "small.ipynb", tmp_path)
    # The mover, then each cell and a move after it.
    assert outcome.verdicts == ["PASSED"] * 3 + ["FAILED"] + ["PASSED"] * 3, outcome.output


def test_an_answer_before_its_reveal_is_found():
    def course(*between, answer="12.8 W"):
        guess = nbformat.v4.new_code_cell('lab.exercises.guess("00.watts", 5)')
        guess.metadata.tags = ["guess"]
        reveal = cell('lab.exercises.reveal("00.watts", w)')
        said = {"text/plain": f"✓ guess 5 W, answer {answer}: near"}
        reveal.outputs = [nbformat.v4.new_output("execute_result", said)]
        return [guess, *between, reveal]

    silent, told = cell("print(5)", "5\n"), cell("print(w)", "12.8\n")
    prose = nbformat.v4.new_markdown_cell("It takes 12.8 W.")
    assert list(told_too_early(course(silent, silent))) == []
    assert list(told_too_early(course(silent, silent, told))) == []  # a third cell is out of sight
    for early in ([told], [silent, told], [prose]):
        assert len(list(told_too_early(course(*early)))) == 1
    assert len(list(told_too_early(course()[::-1]))) == 1
    assert len(list(told_too_early(course()[:1]))) == 1


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
