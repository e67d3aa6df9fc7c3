"""The teacher's kit: right points for every hand-in, whatever is in it, and for nothing else."""

import ast
import csv
import json
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import pruning_lab as lab
from pruning_lab import cli
from pruning_lab.course import reading
from pruning_lab.course.handing_back import file_names
from pruning_lab.exercises import EXERCISES, judge
from pruning_lab.isolation import Definition, Ended, Remote, Worker

ALL = sum(exercise.points for exercise in EXERCISES.values())
RIGHT = """
def keep(weight, quality):
    return weight.abs() >= quality * weight.std(correction=0)
"""


def notebook(*cells, **about):
    """As any tool may write it: sources as texts or lists of lines, little metadata."""
    made = []
    for number, source in enumerate(cells):
        kind = "markdown" if source.startswith("# ") else "code"
        lines = source.splitlines(keepends=True) if number % 2 else source
        made.append({"cell_type": kind, "metadata": {}, "source": lines, "outputs": []})
    return json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5, **about})


def hand_in(folder, name, *cells):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.ipynb").write_text(notebook(*cells), encoding="utf-8")


def rows_of(graded):
    return {row.task: row for row in graded.grades}


def progress_of(guesses, name=""):
    entries = {id_: {"guess": guess, "near": "", "sign": ""} for id_, guess in guesses.items()}
    entries["05.reinit"] = {"sentence": "The interval ends below zero: worse.", "sign": "✓"}
    return json.dumps({"format": lab.exercises.record.FORM, "students": {name: entries}})


GUESSES = {id_: e.guess.example for id_, e in EXERCISES.items() if e.kind == "predict"}

# --------------------------------------------------------------------------------- three students


@pytest.fixture(scope="module")
def class_of_three(tmp_path_factory):
    """One who has all right, one with a misconception, one who has done nothing."""
    folder = tmp_path_factory.mktemp("hand ins é")
    for name, solved in (("right", True), ("signed", True), ("Zoë Empty", False)):
        (folder / name).mkdir()
        for file, path in lab.course.notebooks(solved=solved).items():
            shutil.copy(path, folder / name / file)
    (folder / "right" / ".pruning_lab").mkdir()
    (folder / "right" / ".pruning_lab" / "progress.json").write_text(progress_of(GUESSES))
    studio = lab.Studio(lab.models.lenet_5(trained="mnist"), lab.data.load("mnist-5k"))
    studio.set(density={"conv1": 0.66, "conv2": 0.12, "fc1": 0.08, "fc2": 0.19})
    studio.export(folder / "right" / "plan.json")  # what the demo's budget allows
    path = folder / "signed" / "02_prune_once.ipynb"
    text = path.read_text(encoding="utf-8")
    assert "return weight.abs() >= quality * sigma" in text
    path.write_text(text.replace("return weight.abs() >=", "return weight >="), encoding="utf-8")
    out = folder.parent / "grades"
    words = [str(folder), "--out", str(out), "--data", "mnist-5k", "--processes", "1"]
    assert cli.main(["course", "grade", *words]) == 0
    return out


def class_table(folder, name="grades.csv"):
    with open(folder / name, encoding="utf-8-sig", newline="") as file:
        return {row["student"]: row for row in csv.DictReader(file)}


def test_three_students_get_the_points_that_the_teachers_page_promises(class_of_three):
    guesses = sum(EXERCISES[id_].points for id_ in GUESSES)
    table = class_table(class_of_three)
    assert int(table["right"]["points"]) == ALL
    # Without a progress file there is no sentence that its notebook has computed either.
    lost = ("02.keep", "05.reinit", "09.budget")
    less = guesses + sum(EXERCISES[id_].points for id_ in lost)
    assert int(table["signed"]["points"]) == ALL - less
    assert int(table["Zoë Empty"]["points"]) == 0
    assert table["signed"]["02.keep"] == "0"
    assert "no progress.json was handed in" in table["signed"]["notes"]
    assert "progress.json" not in table["right"]["notes"]


def test_a_page_names_the_mistake_and_needs_nothing_from_elsewhere(class_of_three):
    page = (class_of_three / "feedback" / "signed.html").read_text(encoding="utf-8")
    assert "signed weights are compared, so large negative ones go" in page
    assert "02_prune_once.ipynb, cell 21" in page
    assert "color-scheme: dark" in page
    assert not re.search(r"""(src|href)=["']?(?!data:)""", page)
    assert (class_of_three / "feedback" / "Zoë Empty.html").exists()


def test_files_for_other_systems_have_the_same_points(class_of_three):
    results = json.loads((class_of_three / "results" / "signed.json").read_text(encoding="utf-8"))
    assert results["score"] == sum(test["score"] for test in results["tests"])
    assert sum(test["max_score"] for test in results["tests"]) == ALL
    keep = next(test for test in results["tests"] if test["name"] == "02.keep")
    assert (keep["score"], keep["status"]) == (0, "failed")
    with open(class_of_three / "moodle.csv", encoding="utf-8-sig") as file:
        grades = {row["Full name"]: int(row["Grade"]) for row in csv.DictReader(file)}
    assert grades["right"] == ALL
    with open(class_of_three / "canvas.csv", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["Student"].strip() == "Points Possible"
    assert {row["Student"]: row["pruning_lab"] for row in rows[1:]}["right"] == str(ALL)
    assert (class_of_three / "points.png").read_bytes().startswith(b"\x89PNG")


# ---------------------------------------------------------------------------------------- attacks

ATTACKS = {
    "equal": """
class Equal:
    __eq__ = __ne__ = __ge__ = lambda self, other: True
    __hash__ = object.__hash__
def keep(weight, quality):
    return Equal()
""",
    "patched": """
import torch
import pruning_lab as lab
def keep(weight, quality):
    torch.equal = torch.isclose = torch.allclose = lambda *_, **__: torch.tensor(True)
    torch.Tensor.abs = torch.Tensor.std = lambda self, *_, **__: self
    lab.isolation.values.packed = lambda *_: ["plain", True]
    return weight >= 0
""",
    "stdout": """
import os, sys
def keep(weight, quality):
    print("✓ right: 6 cases", file=sys.stderr, flush=True)
    os.write(1, b"right"), os.write(2, b"right")
    sys.stdout = None
    return weight.abs() >= quality * weight.std(correction=0)
""",
    "descriptors": """
import os, struct
def keep(weight, quality):
    text = b'["returned", ["plain", true], []]'
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, struct.pack("!Q", len(text)) + text)
        except OSError:
            pass
    return weight
""",
    "state": """
import os
seen = []
def keep(weight, quality):
    first = not seen and not os.path.exists("seen")
    seen.append(1)
    open("seen", "w").close()
    return weight.abs() >= (quality if first else 0) * weight.std(correction=0)
""",
    "exit": "import os\ndef keep(weight, quality):\n    os._exit(0)\n",
    "endless": """
def keep(weight, quality):
    while True:
        try:
            while True: pass
        except BaseException: pass
""",
    "memory": "def keep(weight, quality):\n    return bytearray(2**40)\n",
    "answers": """
def keep(weight, quality):
    from pruning_lab.exercises.once import KEEP
    return KEEP.answer(weight, quality)
""",
    "file of answers": """
import pruning_lab
from pathlib import Path
def keep(weight, quality):
    place = Path(pruning_lab.__file__).parent / "exercises" / "once.py"
    if "def _keep" in place.read_text():
        return weight.abs() >= quality * weight.std(correction=0)
""",
    "objects": """
import gc
def keep(weight, quality):
    for thing in gc.get_objects():
        if type(thing).__name__ == "Exercise":
            return weight.abs() >= quality * weight.std(correction=0)
""",
    "network": """
import socket
import subprocess
import sys
def keep(weight, quality):
    socket.create_connection(("127.0.0.1", PORT), timeout=1).sendall(b"weights")
    return weight.abs() >= quality * weight.std(correction=0)
""",
    "killer": """
import os, signal
def keep(weight, quality):
    for process in (-1, os.getppid(), 1):
        try:
            os.kill(process, signal.SIGKILL)
        except OSError: pass
    return weight
""",
    "library": """
import pruning_lab as lab
def keep(weight, quality):
    return lab.criteria.by_quality(weight, quality)
""",
    "raises": "def keep(weight, quality):\n    raise SystemExit(3)\n",
    "at the top": "raise_ = 1 / 0\ndef keep(weight, quality):\n    return raise_\n",
}
SCAN = """
import torch
def scan(model, evaluate, densities):
    torch.equal = lambda *_: True
    torch.nn.Module.state_dict = torch.nn.Module.parameters = lambda self, **_: {}
    dense, rows = [layer.weight.detach().clone() for layer in model], []
    for (name, layer), weight in zip(model.named_children(), dense):
        for density in densities:
            for each, before in zip(model, dense):
                each.weight.data.copy_(before)
            kept = torch.zeros(weight.numel(), dtype=torch.bool)
            kept[weight.abs().flatten().topk(round(density * weight.numel())).indices] = True
            layer.weight.data.mul_(kept.view_as(weight))
            rows.append((name, density, evaluate(model)))
    return rows
"""


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """All of them in one class, in which an honest student is the last one."""
    folder = tmp_path_factory.mktemp("class")
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.MonkeyPatch.context() as patch:
        patch.setitem(EXERCISES, "02.keep", replace(EXERCISES["02.keep"], seconds=2.0))
        for name, code in ATTACKS.items():
            hand_in(folder, name, "# 02.keep", code.replace("PORT", str(server.getsockname()[1])))
        hand_in(folder, "scan", "# 04.scan", SCAN)
        for name, text in (("no json", "{"), ("no notebook", "[1]"), ("cells", '{"cells": [3]}')):
            (folder / f"{name}.ipynb").write_text(text)
        (folder / "bytes.ipynb").write_bytes(b"\xff\x00" * 99)
        (folder / "deep.ipynb").write_text("[" * 100_000)
        hand_in(folder, "zz honest", "# 02.keep", RIGHT)
        graded = {g.name: g for g in lab.course.grade(folder, images="mnist-5k", memory=2**30)}
        server.settimeout(0.01)
        with pytest.raises(TimeoutError):  # nobody has come
            server.accept()
    return graded


def said(attacked, name, task="02.keep"):
    row = rows_of(attacked[name])[task]
    return row.sign, row.said


def test_nothing_that_a_function_does_changes_its_verdict_or_that_of_others(attacked):
    assert len(attacked) == len(ATTACKS) + 7
    signs = {name: said(attacked, name)[0] for name in (*ATTACKS, "zz honest")}
    assert {name for name, sign in signs.items() if sign == "✓"} == {"stdout", "state", "zz honest"}
    assert attacked["zz honest"].points == EXERCISES["02.keep"].points
    points = {name: attacked[name].points for name in ATTACKS}
    assert {points.pop("stdout"), points.pop("state")} == {EXERCISES["02.keep"].points}
    assert set(points.values()) == {0}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("exit", "it ended the process in which it ran (exit code 0)"),
        ("endless", "your function still ran after 2 seconds"),
        ("memory", "MemoryError"),
        ("answers", "No module named 'pruning_lab.exercises.once'"),
        ("file of answers", "Error"),
        ("descriptors", "its process wrote what no answer is"),
        ("library", "blocked: this task is to write what lab.criteria.by_quality does"),
        ("raises", "it raises SystemExit"),
        ("at the top", "ZeroDivisionError"),
    ],
)
def test_each_is_named(attacked, name, words):
    sign, text = said(attacked, name)
    assert sign == "✗"
    assert words in text


def test_what_a_function_did_to_a_network_is_seen_though_torch_is_patched(attacked):
    sign, text = said(attacked, "scan", "04.scan")
    assert (sign, "its last layer is still pruned" in text) == ("✗", True)


@pytest.mark.parametrize("name", ["no json", "no notebook", "cells", "bytes", "deep"])
def test_a_file_that_is_no_notebook_is_named(attacked, name):
    assert f"{name}.ipynb is no notebook that can be read" in attacked[name].faults
    assert attacked[name].points == 0


def test_where_the_system_isolates_nothing_python_refuses_and_it_is_said(tmp_path):
    tried = """
import os, socket, subprocess, sys
from pathlib import Path
def answer(kind):
    if kind == "connect": socket.create_connection(("127.0.0.1", 9), timeout=1)
    if kind == "kill": os.kill(os.getppid(), 9)
    if kind == "start": subprocess.run(["true"])
    if kind == "read": open(PACKAGE + "/exercises/once.py")
    if kind == "write": open(OUTSIDE, "w")
    if kind == "own": Path("mine").write_text("mine")
    return kind
""".replace("PACKAGE", repr(str(Path(lab.__file__).parent)))
    tried = tried.replace("OUTSIDE", repr(str(tmp_path / "x")))
    with Worker(isolate=False) as worker:
        assert worker.isolated == frozenset()
        for kind in ("connect", "kill", "start", "read", "write"):
            remote = Remote(worker, Definition("answer", (("a cell", tried, 1, 11),)), 5.0)
            with pytest.raises(Exception, match="is not for answers") as caught:
                remote(kind)
            assert isinstance(caught.value, PermissionError)
            remote.close()
        remote = Remote(worker, Definition("answer", (("a cell", tried, 1, 11),)), 5.0)
        assert remote("own") == "own"
        remote.close()
    assert not (tmp_path / "x").exists()


def test_values_come_back_as_they_were_and_a_strange_one_as_its_text():
    import torch

    cell = """
import torch
def back(value):
    return {"same": value, "more": [True, None, ..., 2**70, float("nan"), torch.eye(2).bool()]}
def strange(value):
    return lambda: 1
"""
    with Worker() as worker:
        remote = Remote(worker, Definition("back", (("a cell", cell, 1, 6),)), 5.0)
        sent = [(1.5, "é"), {"a": torch.arange(6).view(2, 3).to(torch.int16)}]
        made = remote(sent)
        remote.close()
        assert made["same"][0] == (1.5, "é")
        assert torch.equal(made["same"][1]["a"], sent[1]["a"])
        assert made["same"][1]["a"].dtype == torch.int16
        assert made["more"][:4] == [True, None, ..., 2**70]
        assert made["more"][4] != made["more"][4]
        assert made["more"][5].tolist() == [[True, False], [False, True]]
        remote = Remote(worker, Definition("strange", (("a cell", cell, 1, 6),)), 5.0)
        assert type(remote(1)).__name__ == "function"
        with pytest.raises(Ended):
            remote.value()


@pytest.mark.parametrize("id_", [id_ for id_, e in EXERCISES.items() if callable(e.answer)])
def test_a_function_is_judged_elsewhere_as_it_is_here(id_, worker):
    """The solved notebooks' answers, which are code of their own."""
    name = lab.course.grading.asked()[id_]
    solved = lab.course.notebooks(solved=True)
    path = next(path for file, path in solved.items() if file.startswith(id_[:2]))
    exercise = EXERCISES[id_]
    made = reading.definition(reading.read(path), name)
    remote = Remote(worker, made, exercise.seconds, exercise.blocked)
    verdict = judge(exercise, remote, "ada")
    remote.close()
    assert str(verdict) == str(judge(exercise, exercise.answer, "ada"))


@pytest.fixture(scope="module")
def worker():
    with Worker() as made:
        yield made


# ----------------------------------------------------------------------------- reading a notebook


def read(tmp_path, *cells, **about):
    path = tmp_path / "02.ipynb"
    path.write_text(notebook(*cells, **about), encoding="utf-8")
    return reading.read(path)


def value(tmp_path, worker, name, *cells, **given):
    made = reading.definition(read(tmp_path, *cells), name, given=given)
    remote = Remote(worker, made, 5.0)
    try:
        return remote(3) if reading.is_function(made) else remote.value()
    finally:
        remote.close()


def test_the_last_definition_counts_with_what_it_needs_and_no_more(tmp_path, worker):
    cells = (
        "import math, not_installed\nimport does_not_exist",
        "FACTOR = 2\ndef helper(x):\n    return FACTOR * x",
        "def f(x):\n    return 1",
        "1 / 0\nexpensive = [0] * 10**12",
        "def f(x):\n    return helper(x) + math.floor(0.5)",
        "FACTOR = 10",
        "for f in range(3):\n    pass",
    )
    made = reading.definition(read(tmp_path, *cells), "f")
    names = [cell for cell, *_ in made.parts]
    assert [name[-1] for name in names] == ["1", "2", "5", "6"]
    assert value(tmp_path, worker, "f", *("import math", *cells[1:])) == 30


def test_plans_may_be_computed_and_changed(tmp_path, worker):
    cells = (
        "after = {}\nfor n in 'abc':\n    if n != 'b':\n        after[n] = n",
        "best = max(after)",
    )
    assert value(tmp_path, worker, "best", *cells) == "c"
    cells = "plan = {}", "plan['fc1'] = 1 + 1", "plan.update(fc2=base)\nplan['fc1'] += 1"
    assert value(tmp_path, worker, "plan", *cells, base=5) == {"fc1": 3, "fc2": 5}


def settings_of(name, variables):
    """What a notebook sets for each data set."""
    text = reading.read(lab.course.notebooks()[f"{name}.ipynb"]).text
    settings = ast.literal_eval(re.search(rf"{variables} = (\{{.*\}})\[splits.name\]", text)[1])
    assert settings.keys() == {"mnist", "mnist-5k"}
    return settings


def test_a_schedule_is_raced_as_in_its_notebook_and_no_verdict_is_against_it(tmp_path):
    _, each, _ = settings_of("05_iterate", "EPOCHS, EACH, BATCH")["mnist-5k"]
    one = "{{'density': {}, 'across': 'network', 'epochs': {}}}"
    for name, density, epochs in ("bold", 0.001, 0), ("lazy", 0.5, 0), ("slow", 0.01, "7 * EACH"):
        hand_in(tmp_path / name, "05_iterate", f"rounds = [{one.format(density, epochs)}]")
    hand_in(tmp_path / "torn", "05_iterate", f"rounds = 101 * [{one.format(0.5, 0)}]")
    options = {"begins": "05.race", "images": "mnist-5k"}
    graded = {row.name: rows_of(row)["05.race"] for row in lab.course.grade(tmp_path, **options)}
    for name, words in {
        "bold": "more than 0.5 points are lost; look at it",
        "lazy": "50.00% is left",
        "slow": f"{7 * each} epochs in all; there are {6 * each}",
    }.items():
        assert (graded[name].sign, words in graded[name].said) == ("", True), graded[name]
    torn = graded["torn"]  # which is not of a form that could be raced anywhere
    assert (torn.sign, torn.said) == ("✗", "wrong: 101 rounds; at most 100 are raced")


def test_a_control_counts_its_epochs_by_the_data_that_its_notebook_had(tmp_path):
    epochs = settings_of("03_retrain", "EPOCHS, MORE")
    control = "def control():\n    return dict(start='dense', epochs={}, lr=0.1, mask=False)"
    for name, more in {"a": epochs["mnist"][1], "b": epochs["mnist-5k"][1], "c": 7}.items():
        hand_in(tmp_path / name, "03_retrain", control.format(more))
    graded = {each.name: rows_of(each) for each in lab.course.grade(tmp_path, begins="03.control")}
    signs = {name: rows["03.control"].sign for name, rows in graded.items()}
    assert signs == {"a": "✓", "b": "✓", "c": "✗"}
    assert "the control trains for more epochs" in graded["c"]["03.control"].said


def test_a_cell_with_a_syntax_error_is_left_out_and_named(tmp_path, worker):
    cells = "x = 1", "def f(x:\n    return 1", "def f(x):\n    return 2 * x"
    assert read(tmp_path, *cells).faults == (
        "02.ipynb, cell 2 is left out: '(' was never closed, line 1",
    )
    assert value(tmp_path, worker, "f", *cells) == 6


def test_lines_of_ipython_and_other_languages_are_no_hindrance(tmp_path, worker):
    cells = (
        "%pip install something\n!ls\nimport math",
        "%%bash\nrm -r ~",
        "%%time\ndef f(x):\n    %matplotlib inline\n    return math.pi // 1",
        "f?",
    )
    assert read(tmp_path, *cells).faults == ()
    assert value(tmp_path, worker, "f", *cells) == 3


def test_a_notebook_of_an_old_format_is_read(tmp_path):
    cells = [{"cell_type": "code", "input": ["def f(x):\n", "    return x"]}]
    path = tmp_path / "02.ipynb"
    path.write_text(json.dumps({"worksheets": [{"cells": cells}], "nbformat": 3}))
    assert reading.definition(reading.read(path), "f").name == "f"


def test_hand_ins_are_found_as_systems_name_them(tmp_path):
    for place in (
        "Ada Lovelace_1234_assignsubmission_file_/02_prune_once.ipynb",
        "Ada Lovelace_1234_assignsubmission_file_/.pruning_lab/progress.json",
        "lovelaceada_LATE_55_777_02_prune_once.ipynb",
        "bob - 02_prune_once.ipynb",
        "李/notebooks/02_prune_once.ipynb",
        "李/.ipynb_checkpoints/02_prune_once.ipynb",
        "notes.txt",
    ):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    (tmp_path / "link.ipynb").symlink_to(tmp_path / "notes.txt")
    found = {each.name: each for each in lab.course.hand_ins.find(tmp_path)}
    assert set(found) == {"Ada Lovelace", "lovelaceada", "bob", "李"}
    assert found["Ada Lovelace"].number == "1234"
    assert found["lovelaceada"].number == "55"
    assert [len(found[name].paths) for name in ("Ada Lovelace", "李")] == [2, 1]


def put(folder, files):
    """Files by their places: a text, or a notebook's cells."""
    for place, content in files.items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else notebook(*content))


def test_nobody_is_lost_or_taken_for_another(tmp_path):
    """Two of one name, files that are no notebooks, and files that a system has renamed."""
    moodle, canvas, named = "{}_{}_assignsubmission_file_{}", "bo_5_{}_{}", 'x.student("{}")'
    right, wrong = ["# 02.keep", RIGHT], ["# 02.keep", "def keep(w, q): pass"]
    files = {
        moodle.format("Anna Schmidt", 1, "/02_prune_once.ipynb"): right,
        moodle.format("Anna Schmidt", 2, "/02_prune_once.ipynb"): wrong,
        moodle.format("Emil", 3, "/all.zip"): "PK",
        moodle.format("Flo", 4, "02_prune_once.ipynb"): right,
        moodle.format("Flo", 4, "03_retrain.ipynb"): ["x = 1"],
        canvas.format(71, "02_prune_once.ipynb"): [named.format("Bo"), *right],
        canvas.format(72, "progress.json"): progress_of(GUESSES, "Bo"),
        "Ada/02_prune_once.ipynb": wrong,
        "Ada/02_prune_once (1).ipynb": right,
        "grades/grades.csv": "",
        "grades/results/Ada.json": "{}",
    }
    put(tmp_path, files)
    graded = list(lab.course.grade(tmp_path, begins=("02.keep", "02.three")))
    found = {(each.name, each.number): each for each in graded}
    points = {who: [row.points for row in each.grades] for who, each in found.items()}
    keep, three = EXERCISES["02.keep"].points, EXERCISES["02.three"].points
    assert points == {
        ("Ada", ""): [0, keep],
        ("Anna Schmidt", "1"): [0, keep],
        ("Anna Schmidt", "2"): [0, 0],
        ("Emil", "3"): [0, 0],
        ("Flo", "4"): [0, keep],
        ("bo", "5"): [three, keep],
    }
    notes = {who: " ".join(each.faults) for who, each in found.items()}
    assert "no notebook (.ipynb) was handed in, only all.zip" in notes["Emil", "3"]
    assert "02_prune_once (1).ipynb: the last one counts" in notes["Ada", ""]
    assert "the cases are of 'Anna Schmidt'" in notes["Anna Schmidt", "2"]
    assert notes["bo", "5"] == ""
    lab.course.write(tmp_path / "out", graded)
    with open(tmp_path / "out" / "grades.csv", encoding="utf-8-sig", newline="") as file:
        assert [(row["student"], row["id"]) for row in csv.DictReader(file)] == list(points)


def test_a_folder_of_students_in_a_folder_of_its_own_is_that_of_the_students(tmp_path):
    students = {f"unzipped/{name}/work/02_prune_once.ipynb": [RIGHT] for name in ("Ada", "Ben")}
    put(tmp_path, {**students, "__MACOSX/._Ada": ""})
    assert [each.name for each in lab.course.hand_ins.find(tmp_path)] == ["Ada", "Ben"]
    shutil.rmtree(tmp_path / "unzipped" / "Ben")
    assert [each.name for each in lab.course.hand_ins.find(tmp_path)] == ["unzipped"]


def test_a_task_is_read_off_its_own_notebook_alone(tmp_path):
    cells = ["# 02.keep", RIGHT, "size = changes = accuracy = 5", "rounds = 3"]
    put(tmp_path, {"ada/02_prune_once.ipynb": cells, "bo/05_iterate.ipynb": ["rounds = unknown"]})
    tasks = "02.keep", "01.accuracy", "04.paired", "05.race", "07.bytes"
    ada, bo = (rows_of(each) for each in lab.course.grade(tmp_path, begins=tasks))
    assert ada.pop("02.keep").sign == "✓"
    for task, row in ada.items():
        assert (row.sign, row.said) == ("○", f"not yet: notebook {task[:2]} was not handed in")
    assert bo["05.race"].sign == "✗"
    assert "rounds raises NameError" in bo["05.race"].said


def test_who_has_the_notebooks_of_another_term_is_named(tmp_path):
    typed = 'x.student("{}", term="{}")'
    for name, *terms in (("a", "27"), ("b", "27"), ("c", "26"), ("d", "27", "26")):
        cells = [typed.format(name, term) for term in terms]
        hand_in(tmp_path / name, "02_prune_once", "# 02.keep", RIGHT, *cells)
    graded = list(lab.course.grade(tmp_path, begins="02.keep"))
    lab.course.write(tmp_path / "out", graded)
    notes = {name: row["notes"] for name, row in class_table(tmp_path / "out").items()}
    assert "term" not in notes["a"] + notes["b"]
    assert "of term '26', most others of '27'" in notes["c"]
    assert "the notebooks are of term '27' and '26', not of '26'" in notes["d"]


def test_file_names_differ_and_leave_no_folder():
    made = file_names(["a/b", "a_b", "A/B", "../..", "", "李"])
    assert len({name.casefold() for name in made}) == 6
    assert not any("/" in name or name.startswith(".") for name in made)
    assert made[-1] == "李"


def test_a_table_has_no_formulas(tmp_path):
    hand_in(tmp_path / "in", "=1+1", "x = 1")
    graded = list(lab.course.grade(tmp_path / "in", begins="00"))
    lab.course.write(tmp_path / "out", graded)
    assert list(class_table(tmp_path / "out")) == ["'=1+1"]


# -------------------------------------------------------------------------- copies and terms


def test_a_copy_has_the_students_edition_and_on_request_the_solved_one(tmp_path, capsys):
    folder = tmp_path / "Übung 1"
    assert cli.main(["course", "start", str(folder)]) == 0
    assert f"jupyter lab '{folder}'" in capsys.readouterr().out
    names = sorted(lab.course.notebooks())
    assert sorted(path.name for path in folder.iterdir()) == names
    assert cli.main(["course", "start", str(folder), "--solved"]) == 2
    assert cli.main(["course", "start", str(folder), "--solved", "--force"]) == 0
    assert sorted(path.name for path in (folder / "read").iterdir()) == names


@pytest.fixture(scope="module")
def terms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("terms")
    for term in ("autumn", "spring"):
        words = ["--term", term, "--out", str(folder / term), "--nbgrader"]
        assert cli.main(["course", "release", *words]) == 0
    return folder


def test_a_release_gives_its_term_to_every_notebook_with_tasks(terms, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in lab.course.notebooks():
        path = terms / "autumn" / "student" / name
        made = reading.read(path)
        asks = any(list(reading.calls(made, word)) for word in ("check", "guess", "reveal"))
        found = [call for call in reading.calls(made, "student") if call.keywords]
        assert len(found) >= asks, name
    for path in (terms / "autumn").rglob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert not any(cell.get("outputs") for cell in cells)
        assert len({cell["id"] for cell in cells}) == len(cells)
    lab.exercises.student("ada", term="autumn")
    autumn = lab.exercises.case("04.plan")
    assert str(lab.exercises.student()) == "student: ada, term autumn"
    lab.exercises.student(term="spring")
    assert lab.exercises.case("04.plan") != autumn
    lab.exercises.student("ada", term="")
    assert lab.exercises.case("04.plan") == EXERCISES["04.plan"].cases_of("ada")[0]


def test_nbgraders_cells_have_the_points(terms):
    path = terms / "autumn" / "student" / "02_prune_once.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    about = [cell["metadata"]["nbgrader"] for cell in cells if "nbgrader" in cell["metadata"]]
    graded = {each["grade_id"]: each["points"] for each in about if each["grade"]}
    in_02 = {id_: e.points for id_, e in EXERCISES.items() if id_.startswith("02")}
    assert graded == {f"{id_.replace('.', '-')}-points": most for id_, most in in_02.items()}
    assert {each["grade_id"] for each in about if each["solution"]} == {
        id_.replace(".", "-") for id_ in in_02
    }
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(nbformat.read(path, as_version=4))


def plan_of(term, name="ada"):
    """As many weights as this term asks for, and better than the single choice."""
    (budget,) = EXERCISES["04.plan"].cases_of(f"{name} in {term}")[0]
    counts = {"conv1": 450, "conv2": 8_750, "fc2": 3_000}
    counts["fc1"] = budget - sum(counts.values())
    sizes = {"conv1": 500, "conv2": 25_000, "fc1": 400_000, "fc2": 5_000}
    return {layer: count / sizes[layer] for layer, count in counts.items()}


def test_code_of_one_term_is_right_in_another_and_its_numbers_are_not(tmp_path):
    for term in ("autumn", "spring"):
        cells = (
            f'lab.exercises.student("ada", term="{term}")',
            "# 02.keep",
            RIGHT,
            "# 04.plan",
            f"mine = {plan_of('autumn')}",
        )
        hand_in(tmp_path, term, *cells)
    graded = {each.name: each for each in lab.course.grade(tmp_path, images="mnist-5k")}
    signs = {
        name: [rows_of(each)[task].sign for task in ("02.keep", "04.plan")]
        for name, each in graded.items()
    }
    assert signs == {"autumn": ["✓", "✓"], "spring": ["✓", "✗"]}
    assert graded["spring"].seed == "ada in spring"
    assert "are asked for" in rows_of(graded["spring"])["04.plan"].said
    (other, _) = lab.course.grade(tmp_path, term="winter", begins="02.keep")
    assert "of term 'autumn', not of 'winter'" in other.faults[0]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["grade", "nowhere"], "nowhere is no folder"),
        (["grade", "."], "no notebooks"),
        (["grade", ".", "--tasks", "02,99"], "no task begins with '99'"),
        (["grade", ".", "--data", "shapes"], "--data is auto or mnist or mnist-5k here"),
        (["release", "--term", "\n", "--out", "x"], "--term is a word"),
    ],
)
def test_bad_input_gets_one_sentence(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["course", *words]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


# ------------------------------------------------------------------------------ the teacher's page


def test_the_teachers_page_has_the_points_and_minutes_of_the_tasks():
    page = (Path(lab.__file__).parents[1] / "notebooks" / "TEACHING.md").read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\| (\d\d\.\w+) \| (\w+) \| (\d+) \| (\d+) \|$", page)
    assert rows == [(i, e.kind, str(e.minutes), str(e.points)) for i, e in EXERCISES.items()]
    assert f"| everything | {len(EXERCISES)} |" in page
    assert page.split("| everything |")[1].split("\n")[0].endswith(f"| {ALL} |")
    questions = re.findall(r"(?m)^(\d+)\. \*.+\?\* .+\.$", page)
    assert questions == [str(number) for number in range(1, 21)]
    words = " ".join(re.findall(r"pruning-lab course (\w+)", page))
    assert {"start", "release", "grade", "score"} <= set(words.split())


def test_the_slides_are_ten_with_their_pictures(tmp_path):
    root = Path(lab.__file__).parents[1]
    tool = [sys.executable, str(root / "tools" / "slides.py"), "--out", str(tmp_path)]
    subprocess.run(tool, check=True, capture_output=True)
    text = (tmp_path / "slides.md").read_text(encoding="utf-8")
    _, head, *slides = re.split(r"(?m)^---$", text)
    assert "marp: true" in head
    assert len(slides) == 10
    pictures = re.findall(r"!\[.*?\]\((.+?)\)", text)
    assert len(pictures) == 3
    assert all((tmp_path / picture).stat().st_size < 100_000 for picture in pictures)
