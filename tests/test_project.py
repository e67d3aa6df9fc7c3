"""The project: a planted layer is found, a budget is kept, test is used once."""

import copy
import json

import pytest
import torch

import pruning_lab as lab
from pruning_lab import cli
from pruning_lab.exercises import EXERCISES, judge, project


def planted(student):
    (plan,) = EXERCISES["09.repair"].cases_of(student)[0]
    (layer,) = [name for name, density in plan.items() if density < project._GENTLE[name]]
    return layer


# One for each layer.
STUDENTS = {planted(name): name for name in map(str, range(30))}


@pytest.fixture(scope="module")
def there():
    torch.set_num_threads(1)
    splits = lab.data.load("mnist-5k")
    return lab.models.lenet_5(trained="mnist"), splits


def exported(folder, densities, model):
    studio = lab.Studio(model, lab.data.load("mnist-5k"), about={"network": "lenet-5"})
    studio.set(density=densities).settle()
    return studio.export(folder / "plan.json", overwrite=True).plan


PAPERS = {"conv1": 0.66, "conv2": 0.12, "fc1": 0.08, "fc2": 0.19}


def test_the_planted_layer_is_the_one_to_find_for_every_student(there):
    model, splits = there
    exercise = EXERCISES["09.repair"]
    assert len(STUDENTS) == 4
    for layer, student in STUDENTS.items():
        (plan,) = exercise.cases_of(student)[0]
        signs = {n: judge(exercise, n, student, model=model, images=splits.val).sign for n in plan}
        assert signs == {name: "✓" if name == layer else "✗" for name in plan}


def test_other_answers_to_repair_are_named(there):
    model, splits = there
    exercise = EXERCISES["09.repair"]
    student = STUDENTS["conv1"]

    def said(answer, images=splits.val):
        return str(judge(exercise, answer, student, model=model, images=images))

    assert "smallest fraction" in said("fc1")
    assert "is not the best of the four" in said("fc2")
    assert "one of conv1, conv2, fc1, fc2" in said("fc3")
    assert "test split is not for choosing" in said("conv1", splits.test)
    assert said(None).startswith("○")
    assert "give the network" in judge(exercise, "fc1", student).text


def test_a_score_counts_what_is_left(there, tmp_path):
    model, splits = there
    mask = lab.prune(model, density=PAPERS)
    with lab.masks.masked(model, mask):
        found = project.score(model, splits.val)
        pruned = lab.evaluate(model, splits.val)
    assert found.weights == mask.kept == 36_280
    positions = {"conv1": 24 * 24, "conv2": 8 * 8, "fc1": 1, "fc2": 1}
    kept = {row.layer: row.kept for row in mask.receipt}
    assert found.flops == sum(2 * kept[layer] * at for layer, at in positions.items())
    pruned_model = copy.deepcopy(model)
    mask.apply_(pruned_model)
    lab.storage.pack(tmp_path / "packed", pruned_model)
    packed = (tmp_path / "packed").stat().st_size
    assert found.bytes < packed < found.bytes + 4_000  # biases, names and shapes
    assert found.drop == lab.evaluation.drop(lab.evaluate(model, splits.val), pruned)


@pytest.mark.parametrize(
    ("what", "most", "points", "sign", "word"),
    [
        ("weights", 36_280, 5.0, "✓", "right: 36,280 weights"),
        ("weights", 36_279, 5.0, "✗", "1 too many"),
        ("FLOPs", 100_000, 5.0, "✗", "FLOPs are left"),
        ("bytes", 1_000_000, -1.0, "✗", "points, and -1 are allowed"),
    ],
)
def test_a_budget_is_kept_or_what_is_too_much_is_said(what, most, points, sign, word, there):
    model, splits = there
    with lab.masks.masked(model, lab.prune(model, density=PAPERS)):
        found = project.score(model, splits.val)
    verdict = project.verdict(project.Budget(what, most, points), found)
    assert verdict.sign == sign
    assert word in verdict.text


def test_budgets_are_of_three_kinds_and_each_students_own():
    budgets = {EXERCISES["09.budget"].cases_of(str(n))[0][0] for n in range(60)}
    assert {budget.what for budget in budgets} == {"bytes", "FLOPs", "weights"}
    assert len(budgets) > 40
    assert EXERCISES["09.own"].kind == "explain"
    assert len(EXERCISES["09.own"].rubric) == 5


def test_a_plan_is_checked_on_val_and_scored_once_on_test(there, tmp_path, monkeypatch, capsys):
    model, splits = there
    monkeypatch.chdir(tmp_path)
    name = next(
        str(n)
        for n in range(99)
        if EXERCISES["09.budget"].cases_of(str(n))[0][0][:2] >= ("weights", 37_000)
    )
    lab.exercises.student(name)
    plan = exported(tmp_path, PAPERS, model)
    verdict = lab.exercises.check("09.budget", str(plan), images=splits.val)
    assert verdict.sign == "✓", verdict
    refused = lab.exercises.check("09.budget", str(plan), images=splits.test)
    assert "test split" in refused.text
    assert "studio.export" in lab.exercises.check("09.budget", {"fc1": 1}, images=splits.val).text

    score = ["course", "score", str(plan), "--data", "mnist-5k"]
    assert cli.main(score) == 0
    assert "36,280" in capsys.readouterr().out
    assert cli.main(score) == 0  # the same network again is no second look
    kept = json.loads((tmp_path / "hall-of-fame.json").read_text())["entries"]
    assert [(entry["student"], entry["tests"]) for entry in kept] == [(name, 1)]
    plan = exported(tmp_path, PAPERS | {"fc1": 0.06}, model)
    assert cli.main(score) == 2
    assert "used" in capsys.readouterr().err
    assert cli.main([*score, "--again", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["tests"] == 2
    assert record["weights"] == 36_280 - 8_000
    capsys.readouterr()
    assert cli.main([*score, "--student", "bob"]) == 0
    entries = lab.course.scoring.load(tmp_path / "hall-of-fame.json")
    hall = lab.course.fame(entries)
    assert [row.weights for row in hall] == sorted(row.weights for row in hall)
    assert all(row.lost <= 0.5 for row in hall)


def test_a_plan_that_was_handed_in_is_scored_with_its_network(there, tmp_path):
    model, _ = there
    (tmp_path / "ada").mkdir()
    exported(tmp_path / "ada", PAPERS, model)
    (graded,) = lab.course.grade(tmp_path, begins="09.budget", images="mnist-5k")
    row = graded.grades[0]
    expected = project.verdict(
        EXERCISES["09.budget"].cases_of("ada")[0][0],
        project.score(
            project.pruned_by(tmp_path / "ada" / "plan.json"), lab.data.load("mnist-5k").val
        ),
    )
    assert (row.sign, row.said) == (expected.sign, expected.text)
    assert row.where == "plan.json"
    for number, path in enumerate(list((tmp_path / "ada").iterdir())):  # as Canvas names files
        path.rename(tmp_path / f"ada_5_{number}_mine{path.suffix}")
    (tmp_path / "ada").rmdir()
    (tmp_path / "ada_5_9_00_start.ipynb").write_text("{}")
    (graded,) = lab.course.grade(tmp_path, begins="09.budget", images="mnist-5k")
    assert (graded.number, graded.grades[0].said) == ("5", expected.text)
