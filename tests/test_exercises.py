"""The course's tasks: every known mistake is named, no other is; nothing of a check stays."""

import inspect
import json
import math
import os
import random
import statistics
import subprocess
import sys
import textwrap
import threading
import time
import unicodedata
import warnings
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import pruning_lab as lab
from pruning_lab import paper
from pruning_lab.criteria import by_quality as an_alias
from pruning_lab.exercises import EXERCISES, Exercise, Guess, Run, dense, judge, once
from pruning_lab.exercises.comparison import brief, difference
from pruning_lab.exercises.nearness import factor, order

TABLES = dense, once  # those of other notebooks have files of their own
CHECKED = [e.id for table in TABLES for e in table.EXERCISES if e.answer is not None]
SAME_FOR_ALL = ("02.which",)  # whose cases do not depend on the student


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Progress is written here."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def quick(monkeypatch):
    """02.keep with a short time limit."""
    monkeypatch.setitem(EXERCISES, "02.keep", replace(EXERCISES["02.keep"], seconds=0.3))


def students(id_, most):
    return map(str, range(2 if id_ in SAME_FOR_ALL else most))


def keep(weight, quality):
    """The right answer as most would write it."""
    return weight.abs() >= quality * weight.std(correction=0)


def unfinished(weight, quality):
    """A stub with a docstring."""
    ...  # noqa: PIE790


# ------------------------------------------------------------------------------------- the tables


def at_random(like, draw):
    """A value of the same form as this one."""
    if isinstance(like, torch.Tensor):
        flat = [draw.random() for _ in range(like.numel())]
        return (torch.tensor(flat) > draw.random()).view(like.shape)
    if isinstance(like, int):
        return draw.randint(1, 2 * like)
    if isinstance(like, float):
        return like * draw.uniform(0.5, 1.5)
    return None


FORMS = {  # of what is no number and no mask: a random answer to a case
    "01.leak": lambda draw, runs: draw.choice(runs),
    "02.which": lambda draw, model: [
        name for name, _ in model.named_modules() if name and draw.random() < 0.5
    ],
    "02.exact": lambda draw, weight, density: at_random(weight, draw),
}


@pytest.mark.parametrize("id_", CHECKED)
def test_random_functions_are_neither_right_nor_named(id_):
    exercise = EXERCISES[id_]
    form = FORMS.get(id_, lambda draw, *case: at_random(exercise.answer(*case), draw))
    for number in range(100):
        draw = random.Random(number)  # of its own: a check seeds the global one

        def function(*case, draw=draw):
            return form(draw, *case)

        verdict = judge(exercise, function, str(number % 7))
        assert verdict.sign == "✗", verdict
        assert not [message for message in exercise.twins if message in verdict.text]


def flattened(model, prefix=""):
    for name, child in model.named_children():
        yield f"{prefix}{name}", child
        yield from flattened(child, f"{prefix}{name}.")


UNLISTED = {
    "01.flops": (
        lambda out, in_, positions=1: 2 * out + in_ * positions,
        lambda out, in_, positions=1: 2 * out * in_ * positions**2,
        lambda out, in_, positions=1: 4 * out * in_ * positions,
        lambda out, in_: 2 * out * in_,
        lambda out, in_, positions=1: float(2 * out * in_ * positions) + 1,
        lambda out, in_, positions=1: str(2 * out * in_ * positions),
    ),
    "01.accuracy": (
        lambda batches: batches[0].float().mean().item(),
        lambda batches: max(b.float().mean().item() for b in batches),
        lambda batches: 100 - 100 * sum(int(b.sum()) for b in batches) / sum(map(len, batches)),
        lambda batches: [b.float().mean().item() for b in batches],
    ),
    "01.leak": (
        lambda runs: runs[0],
        lambda runs: min(runs, key=lambda run: run.val),
        lambda runs: max(runs, key=lambda run: run.val - run.test),
        lambda runs: runs[1],
        lambda runs: max(runs, key=lambda run: run.val).name,
        lambda runs: sorted(runs, key=lambda run: run.val),
    ),
    "02.keep": (
        lambda w, q: w.abs() >= q * w.abs().median(),
        lambda w, q: w.abs() >= q * w.abs().max() / 2,
        lambda w, q: w.abs() >= q * w.var(correction=0),
        lambda w, q: w.square() >= q * w.std(correction=0),
        lambda w, q: (w.abs() >= q * w.std(correction=0)).float(),
        lambda w, q: (w.abs() >= q * w.std(correction=0)).tolist(),
        lambda w, q: w[w.abs() >= q * w.std(correction=0)],
        lambda w, q: (w.abs() >= q * w.std(correction=0)).flatten()[1:],
        lambda w, q: w.abs() >= w.std(correction=0),
        lambda w, q: w.abs() >= w.std(correction=0) / q,
        lambda w, q: w.abs() >= w.mean() + q * w.std(correction=0),
        lambda w, q: w.abs() >= q * w.std(dim=0, correction=0),
        lambda w, q: torch.ones_like(w, dtype=torch.bool),
        lambda w, q: torch.zeros_like(w, dtype=torch.bool),
        lambda w, q: w > w.abs(),
        lambda w, q: w.abs() >= 0.5,
        lambda w, q: q,
    ),
    "02.exact": (
        lambda w, d: w.abs() >= 1 - d,
        lambda w, d: w.abs() >= d * w.abs().max(),
        lambda w, d: w.abs() <= w.abs().flatten().sort().values[int(d * (w.numel() - 1))],
        lambda w, d: torch.rand(w.shape) < d,
        lambda w, d: w.abs() >= w.std(),
        lambda w, d: w.abs().flatten().topk(round(d * w.numel())).values,
        lambda w, d: w.abs().flatten().topk(round(d * w.numel())).indices,
        lambda w, d: w * (w.abs() >= w.abs().quantile(1 - d)),
        lambda w, d: w.abs().flatten().argsort(descending=True) < round(d * w.numel()),
        lambda w, d: w.abs().flatten().argsort().argsort() >= math.floor((1 - d) * w.numel()),
    ),
    "02.which": (
        lambda model: [n for n, m in model.named_modules() if n and not list(m.children())],
        lambda model: [n for n, _ in model.named_children()],
        lambda model: [n for n, _ in model.named_modules()],
        lambda model: [n for n, p in model.named_parameters() if p.dim() == 2],
        lambda model: [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)],
        lambda model: len(list(model.modules())),
        lambda model: [n for n, m in flattened(model) if "Norm" not in type(m).__name__],
    ),
}


@pytest.mark.parametrize("id_", CHECKED)
def test_wrong_answers_that_no_table_knows_are_never_right_and_never_misnamed(id_):
    exercise = EXERCISES[id_]
    for student in students(id_, most=20):
        for number, function in enumerate(UNLISTED[id_]):
            verdict = judge(exercise, function, student)
            named = [message for message in exercise.twins if message in verdict.text]
            assert (verdict.sign, named) == ("✗", []), (number, student, verdict)


def by_hand(weight, quality):
    values = weight.flatten().tolist()
    mean = sum(values) / len(values)
    threshold = quality * math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
    return torch.tensor([abs(v) >= threshold for v in values]).view(weight.shape)


def in_numpy(weight, quality):
    return torch.from_numpy(abs(weight.numpy()) >= quality * weight.numpy().std())


def by_topk(weight, density):
    kept = torch.zeros(weight.numel(), dtype=torch.bool)
    kept[weight.abs().flatten().topk(round(density * weight.numel())).indices] = True
    return kept.view(weight.shape)


RIGHT = {
    "01.accuracy": (lambda batches: torch.cat(batches).float().mean(),),
    "01.leak": (lambda runs: sorted(runs, key=lambda run: run.val)[-1],),
    "02.keep": (
        *(lab.criteria.by_quality, by_hand, in_numpy),
        lambda w, q: w.abs() >= q * w.double().std(correction=0),
        lambda w, q: w.abs() >= q * (w - w.mean()).square().mean().sqrt(),
        lambda w, q: w.abs() >= q * statistics.pstdev(w.flatten().tolist()),
        lambda w, q: ~(w.abs() < q * w.var(unbiased=False).sqrt()),
    ),
    "02.exact": (by_topk, lambda w, d: lab.criteria.by_density(w.abs(), d)),
    "02.which": (
        lambda model: list(lab.masks.prunable(model)),
        lambda model: [f"{name}.weight" for name in lab.masks.prunable(model)],
    ),
}


@pytest.mark.parametrize("id_", RIGHT)
def test_other_ways_to_the_same_answer_are_right(id_):
    exercise = replace(EXERCISES[id_], blocked=())
    for student in students(id_, most=50):
        for function in RIGHT[id_]:
            verdict = judge(exercise, function, student)
            assert verdict.sign == "✓", (student, verdict)
            assert ";" not in verdict.text


def test_flops_are_those_of_the_papers_table():
    flops = EXERCISES["01.flops"].answer
    table = {row.layer: row.flops for row in paper.LENET_5}
    ours = flops(20, 25, 24 * 24), flops(50, 500, 8 * 8), flops(500, 800), flops(10, 500)
    assert ours == tuple(table[name] for name in ("conv1", "conv2", "fc1", "fc2"))


def test_a_deviation_with_n_minus_1_is_accepted_and_said():
    verdict = lab.exercises.check("02.keep", lambda w, q: w.abs() >= q * w.std())
    assert verdict.sign == "✓"
    assert "n - 1" in verdict.text


def test_which_of_equal_weights_stay_is_up_to_the_student():
    def later_first(weight, density):
        return by_topk(weight.flip(0), density).flip(0)

    assert judge(EXERCISES["02.exact"], later_first).sign == "✓"


def test_every_task_has_what_a_table_needs():
    for id_, exercise in EXERCISES.items():
        assert exercise.id == id_
        assert exercise.kind in ("predict", "write", "debug", "design", "explain")
        assert len(exercise.hints) == 3
        assert all(text[0] == text[0].lower() for text in exercise.twins), id_  # after "wrong: "
        assert 1 <= exercise.difficulty <= 5
        assert 1 <= exercise.importance <= 5
    expected = "**02.keep** · write · 8 min · difficulty ●●○○○ · importance 5 of 5 · 10 points"
    assert lab.exercises.header("02.keep") == expected


def test_the_cases_of_a_name_are_the_same_everywhere_and_differ_by_name():
    script = (
        "import pruning_lab as lab; "
        "print([str(e.cases_of('Zoë')) for e in lab.exercises.EXERCISES.values() if e.id[:4] in "
        "('01.f', '01.l', '02.k', '02.b')])"
    )
    texts = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={
                **os.environ,
                "PYTHONHASHSEED": seed,
                "PYTHONPATH": str(Path(lab.__file__).parents[1]),
            },
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert len(texts[0]) > 1000
    assert texts[0] == texts[1]
    budgets = {EXERCISES["02.budget"].cases_of(name)[0][0] for name in map(str, range(50))}
    assert budgets == {0.12, 0.13, 0.14, 0.15, 0.16, 0.17, 0.18}


# ---------------------------------------------------------------------------------------- verdicts


def test_a_verdict_is_one_sentence_with_the_smallest_failing_case_as_text_and_as_html():
    verdict = lab.exercises.check("02.keep", lambda w, q: w >= q * w.std())
    lines = str(verdict).split("\n")
    assert lines[0].startswith("✗ wrong: signed weights are compared")
    assert "tensor([0.9, -0.1, 0.4, -0.7, 0.05, 0.3])" in lines[1]
    assert lines[2].endswith("tensor([True, False, True, True, False, False])")
    assert lines[4].split(None, 1)[1] == "at [2]: expected True, got False (2 of 6 differ)"
    assert repr(verdict) == str(verdict)
    html = verdict._repr_html_()
    assert "✗" in html
    assert "wrong: signed weights are compared" in html
    assert "&lt;lambda&gt;" in html
    assert str(lab.exercises.check("02.keep", keep)) == "✓ right: 6 cases"


@pytest.mark.parametrize("answer", [None, ..., unfinished])
def test_what_is_not_written_is_not_yet(answer):
    verdict = lab.exercises.check("02.keep", answer)
    assert verdict.sign == "○"
    assert verdict.text.startswith("not yet: ")


def test_stubs_of_all_kinds_are_not_yet():
    def not_implemented(weight, quality):
        raise NotImplementedError

    def begun(weight, quality):
        sigma = weight.std(correction=0)
        print(sigma)
        ...  # noqa: PIE790

    def not_implemented_later(weight, quality):
        if weight.numel():
            raise NotImplementedError("later")
        return weight

    for stub in (
        not_implemented,
        begun,
        not_implemented_later,
        lambda w, q: None,
        lambda w, q: ...,
    ):
        assert lab.exercises.check("02.keep", stub).sign == "○"
    assert "'fc2'" in lab.exercises.check("02.budget", {"fc1": 1.0, "fc2": None}).text
    assert lab.exercises.check("02.budget", {"fc1": ...}).sign == "○"


def test_an_error_of_torchs_that_is_called_not_implemented_is_wrong():
    verdict = lab.exercises.check("02.keep", lambda w, q: (w > q) - (w < -q))
    assert verdict.sign == "✗"
    assert "it raises NotImplementedError: Subtraction" in verdict.text


@pytest.mark.parametrize("id_", ["01.leak", "02.which"])
def test_given_code_is_not_yet_unless_it_was_written_again_in_other_words(id_):
    given = EXERCISES[id_].given
    source = textwrap.dedent(inspect.getsource(given)).replace(given.__name__, "function")
    head, body = source.split("\n", 1)
    namespace = {}
    exec(f'{head}\n    """Of the notebook."""\n    # A comment.\n{body}', namespace)
    verdict = lab.exercises.check(id_, namespace["function"])
    assert verdict.sign == "○"
    assert "as it was given" in verdict.text
    assert lab.exercises.check(id_, lambda *case: given(*case)).sign == "✗"


def test_an_exception_is_told_with_the_students_own_line():
    def keep(weight, quality):
        sigma = weight.deviation()  # no such method
        return weight.abs() >= quality * sigma

    verdict = lab.exercises.check("02.keep", keep)
    assert verdict.sign == "✗"
    assert "it raises AttributeError: 'Tensor' object has no attribute 'deviation'" in verdict.text
    line = keep.__code__.co_firstlineno + 1
    assert verdict.lines[-1] == (
        "in your line",
        f"{line}: sigma = weight.deviation()  # no such method",
    )

    def inside_of_torch(weight, quality):
        return torch.cat([weight, quality])

    assert "torch.cat([weight, quality])" in str(lab.exercises.check("02.keep", inside_of_torch))
    assert "takes 1 positional argument" in lab.exercises.check("02.keep", lambda w: w).text


def test_exceptions_of_every_kind_end_in_a_sentence():
    class OddError(Exception):
        def __str__(self):
            raise ValueError

    def recursive(weight, quality):
        return recursive(weight, quality)

    def leave(weight, quality):
        sys.exit(3)

    def odd(weight, quality):
        raise OddError

    for function, word in ((recursive, "RecursionError"), (leave, "SystemExit"), (odd, "OddError")):
        verdict = lab.exercises.check("02.keep", function)
        assert verdict.sign == "✗"
        assert word in verdict.text


class Hostile:
    def __eq__(self, other):
        raise RuntimeError

    def __repr__(self):
        raise RuntimeError


def test_a_check_never_raises():
    endless = []
    endless.append(endless)
    answers = [
        3,
        "keep",
        Hostile,
        Hostile(),
        nn.Linear(2, 2),
        [],
        {},
        endless,
        Run("a", 1, 1),
    ]
    answers += [float("nan"), torch.ones(3), (x for x in ()), int, {"a": endless}]
    for answer in answers:
        for value in (answer, lambda *case, answer=answer: answer):
            for id_ in (*EXERCISES, "02.kep", 7):
                verdict = lab.exercises.check(id_, value)
                assert verdict.sign in ("✗", "○"), (id_, value)
                assert verdict._repr_html_()
    sparse = torch.eye(3).to_sparse()
    assert lab.exercises.check("02.keep", lambda w, q: sparse).sign == "✗"


def test_an_unknown_task_is_told_with_the_nearest():
    assert "did you mean 02.keep" in lab.exercises.check("02.kep", keep).text
    assert "01.flops" in lab.exercises.hint("flops").text
    for function in (lab.exercises.header, lab.exercises.case):
        with pytest.raises(KeyError, match=r"did you mean 02\.keep"):
            function("02.kep")
    assert "exercises.guess" in lab.exercises.check("00.watts", 12.8).text


def test_what_differs_is_found_in_nested_values():
    assert difference({"a": [1, 2.0]}, {"a": (1, 2.0 + 1e-9)}) is None
    assert difference({"a": [1, 2.0]}, {"a": [1, 2.1]}) == "at ['a'][1]: expected 2, got 2.1"
    assert difference(2_000_000, 2_000_001) is not None
    assert difference(float("nan"), float("nan")) is None
    assert difference(float("nan"), 1.0) is not None
    assert difference(True, 1) is not None
    assert difference(1.0, torch.tensor(1.0)) is None
    assert difference(1.0, np.float32(1)) is None
    nan = torch.tensor([1.0, float("nan"), float("inf")])
    assert difference(nan, nan.double()) is None
    assert "shape" in difference(torch.zeros(2, 3), torch.zeros(3, 2))
    assert "a tensor of bool" in difference(torch.zeros(2) > 0, torch.zeros(2))
    assert difference([1, 2], [1]) == "expected 2 entries, got 1"
    assert difference({"a": 1}, {"b": 1}) == "'a' is missing"
    assert difference({"a": 1}, {"a": 1, "b": 1}) == "'b' is too much"
    assert brief(torch.zeros(50, 2)) == "tensor of shape (50, 2)"


# --------------------------------------------------------------------------------------- isolation


def test_a_function_that_the_task_is_to_write_is_refused_under_any_name():
    def aliased(weight, quality):
        return an_alias(weight, quality)

    for function in (aliased, an_alias, lambda w, q: lab.criteria.by_quality(w, q)):
        verdict = lab.exercises.check("02.keep", function)
        assert verdict.sign == "✗"
        assert "write what lab.criteria.by_quality does" in verdict.text
    assert an_alias(torch.tensor([1.0, 3.0]), 2.0).tolist() == [False, True]
    assert lab.exercises.check("02.keep", lambda w, q: 1 / 0).sign == "✗"
    assert an_alias(torch.tensor([1.0, 3.0]), 2.0).tolist() == [False, True]


def test_all_blocked_functions_exist_and_can_be_refused():
    for exercise in EXERCISES.values():
        for name in exercise.blocked:
            task = replace(exercise, blocked=(name,))

            def function(*case, name=name):
                return attrgetter(name)(lab)(*case)

            assert f"lab.{name} does" in judge(task, function).text


def forever(weight, quality):
    while True:
        pass


def forever_catching(weight, quality):
    while True:
        try:
            weight.sum()
        except Exception:
            continue


def forever_catching_everything(weight, quality):
    while True:
        try:  # noqa: SIM105
            weight.sum()
        except:  # noqa: E722
            pass


def late_and_content(weight, quality):
    try:
        while True:
            pass
    except BaseException:
        return keep(weight, quality)


ENDLESS = (forever, forever_catching, forever_catching_everything, late_and_content)


@pytest.mark.parametrize("function", ENDLESS)
@pytest.mark.parametrize("place", ["main thread", "another thread"])
def test_a_loop_without_end_ends_in_a_sentence(function, place, quick):
    verdicts, began = [], time.monotonic()

    def check():
        verdicts.append(lab.exercises.check("02.keep", function))

    if place == "main thread":
        check()
    else:
        thread = threading.Thread(target=check)
        thread.start()
        thread.join()
    assert verdicts[0].sign == "✗"
    assert "after 0.3 seconds" in verdicts[0].text
    assert time.monotonic() - began < 20  # of a busy machine
    time.sleep(0.2)  # no signal comes any more
    assert lab.exercises.check("02.keep", keep).sign == "✓"


def test_a_function_that_catches_its_end_and_answers_is_late_all_the_same():
    exercise = task(seconds=0.3, cases=lambda _: [(torch.tensor([1.0]), 1.0)], answer=keep)
    assert judge(exercise, late_and_content).text.startswith("stopped")
    assert judge(exercise, keep).sign == "✓"


def test_a_function_that_changes_its_argument_spoils_nothing():
    def keep_in_place(weight, quality):
        sigma = weight.std(correction=0)
        return weight.abs_() >= quality * sigma

    assert lab.exercises.check("02.keep", keep_in_place).sign == "✓"

    def wrong_in_place(weight, quality):
        return weight.zero_() > 0

    assert "-0.7" in str(lab.exercises.check("02.keep", wrong_in_place))

    def clear(runs):
        runs.clear()

    assert lab.exercises.check("01.leak", clear).sign == "○"
    assert lab.exercises.check("01.leak", EXERCISES["01.leak"].answer).sign == "✓"


def test_random_states_and_output_are_left_alone(capsys):
    def noisy(weight, quality):
        print("hello")
        print("there", file=sys.stderr)
        warnings.warn("careful", stacklevel=1)
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        random.random(), np.random.rand(), torch.rand(1)
        torch.set_grad_enabled(False)
        return keep(weight, quality)

    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    random.random(), np.random.rand(), torch.rand(1)
    before = states()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lab.exercises.check("02.keep", noisy).sign == "✓"
        assert lab.exercises.check("02.which", EXERCISES["02.which"].answer).sign == "✓"
    assert states() == before
    assert torch.is_grad_enabled()
    assert capsys.readouterr() == ("", "")


def test_an_answer_and_a_function_meet_the_same_random_numbers():
    def observe(function, case):
        return function(case), torch.rand(1), random.random(), np.random.rand()

    exercise = task(cases=lambda random: [(1,), (2,)], observe=observe, answer=lambda case: case)
    assert judge(exercise, lambda case: case).sign == "✓"


def test_an_unseeded_answer_gets_the_same_verdict_again():
    def guessing(weight, quality):
        return torch.rand(weight.shape) > 0.5

    assert str(lab.exercises.check("02.keep", guessing)) == str(
        lab.exercises.check("02.keep", guessing)
    )


def test_importing_loads_no_plots_widgets_or_tables():
    script = (
        "import sys, pruning_lab as lab; lab.exercises.check; "
        "print(sorted({'matplotlib', 'ipywidgets', 'IPython', 'pandas'} & set(sys.modules)))"
    )
    path = {**os.environ, "PYTHONPATH": str(Path(lab.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", script], env=path, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


# ------------------------------------------------------------------------------ what a table may do


def task(**options):
    made = {
        "id": "t",
        "kind": "design",
        "minutes": 1,
        "difficulty": 1,
        "importance": 1,
        "points": 1,
    }
    return Exercise(**{**made, **options})


def test_an_answer_may_be_a_value_with_a_message_for_each_wrong_entry():
    true = {"SGD": False, "Adam": True}
    twins = {f"{name} is wrong.": {**true, name: not true[name]} for name in true}
    exercise = task(answer=true, twins=twins)
    assert judge(exercise, dict(true)).sign == "✓"
    assert "Adam is wrong." in judge(exercise, {"SGD": False, "Adam": False}).text
    assert judge(exercise, {"SGD": False, "Adam": None}).sign == "○"
    wrong = judge(exercise, {"SGD": True, "Adam": False})
    assert "difference  at ['SGD']: expected False, got True" in str(wrong)


def test_behaviour_is_compared_by_its_trace_and_a_twins_exception_is_a_value():
    def observe(step, start):
        weight = torch.tensor([start, 0.0], requires_grad=True)
        step(weight)
        return {"weight": weight}

    def right(weight):
        with torch.no_grad():
            weight.mul_(2)

    def without(weight):
        weight.mul_(2)

    exercise = task(
        cases=lambda random: [(1.0,), (random.random(),)],
        observe=observe,
        answer=right,
        twins={"no_grad is missing.": without, "nothing happens.": lambda weight: weight},
    )
    assert judge(exercise, right).sign == "✓"
    assert "no_grad is missing." in judge(exercise, lambda weight: weight.mul_(2)).text
    assert "nothing happens." in judge(exercise, lambda weight: 5).text
    assert "it raises ZeroDivisionError" in judge(exercise, lambda weight: 1 / 0).text


def test_what_a_right_answer_shows_is_measured_after_it():
    exercise = task(answer=lambda: {"epochs": 6}, shows=lambda control, *, lr: f"{control()} {lr}")
    assert judge(exercise, lambda: {"epochs": 6}, lr=0.1).text.endswith(". {'epochs': 6} 0.1")
    assert judge(exercise, lambda: {"epochs": 3}, lr=0.1).sign == "✗"
    measured = task(answer=1, observe=lambda answer, *, model: answer)
    assert "cannot be checked so" in judge(measured, 1).text  # nor is it right


# ---------------------------------------------------------------------------------------- 02.budget


@pytest.fixture(scope="module")
def network():
    splits = lab.data.load("mnist-5k")
    return lab.models.lenet_300_100(trained="mnist"), splits.val, splits.test


def test_a_plan_is_measured_beside_the_same_quality_everywhere(network):
    model, val, test = network
    lab.exercises.student("ada")
    (budget,) = lab.exercises.case("02.budget")

    def check(plan, images=val):
        return lab.exercises.check("02.budget", plan, model=model, images=images)

    weights = {name: p.clone() for name, p in model.named_parameters()}
    too_much = check({"fc1": 1.0})
    assert too_much.sign == "✗"
    assert f"at most {budget:.0%} may stay" in too_much.text

    weights_over_sigma = [
        abs(layer.weight.detach().numpy()) / layer.weight.detach().numpy().std()
        for layer in (model.fc1, model.fc2, model.fc3)
    ]
    same = float(np.quantile(np.concatenate([w.ravel() for w in weights_over_sigma]), 1 - budget))
    everywhere = check(dict.fromkeys(("fc1", "fc2", "fc3"), same + 1e-5))
    assert everywhere.sign == "✗"  # the answer cannot be copied from the verdict
    assert "loses as much as the same quality everywhere" in everywhere.text
    densities = check({"fc1": budget - 0.02, "fc2": budget - 0.02, "fc3": 0.3})
    assert "Are these densities?" in densities.text
    assert "densities" not in too_much.text
    better = check({"fc1": same + 0.15, "fc2": same - 0.1, "fc3": 0.3})
    assert better.sign == "✓"
    mask = lab.prune(model, quality={"fc1": same + 0.15, "fc2": same - 0.1, "fc3": 0.3})
    with lab.masks.masked(model, mask):
        pruned = lab.evaluate(model, val)
    drop = lab.evaluation.drop(lab.evaluate(model, val), pruned)
    assert better.lines[0] == ("your plan", str(drop))
    assert f"keeps {mask.density:.2%}" in better.text
    worse = check({"fc1": same - 0.03, "fc2": 3.0, "fc3": 3.0})
    assert worse.sign == "✗"
    assert "loses more than the same quality everywhere" in worse.text
    assert all(torch.equal(weights[name], p) for name, p in model.named_parameters())

    refused = check({"fc1": 2.0}, images=test)
    assert (refused.sign, "the test split is not for choosing" in refused.text) == ("✗", True)
    assert "did you mean" in check({"fc": 2.0}).text
    assert check({"fc1": -1.0}).sign == check({"fc1": "much"}).sign == check(3).sign == "✗"
    assert "model=model, images=splits.val" in lab.exercises.check("02.budget", {"fc1": 2.0}).text


def at_least_the_kth(weight, density):
    count = round(density * weight.numel())
    return weight.abs() >= weight.abs().flatten().kthvalue(weight.numel() - count + 1).values


def at_least_the_last_of_a_ranking(weight, density):
    ranked = sorted(weight.abs().flatten().tolist(), reverse=True)
    return weight.abs() >= ranked[round(density * len(ranked)) - 1]


def above_the_next_of_a_ranking(weight, density):
    ranked = sorted(weight.abs().flatten().tolist(), reverse=True)
    return weight.abs() > ranked[round(density * len(ranked))]


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (at_least_the_kth, "tie at the threshold stay"),
        (at_least_the_last_of_a_ranking, "tie at the threshold stay"),
        (above_the_next_of_a_ranking, "tie at the threshold go"),
    ],
)
def test_ties_are_named_in_code_that_fails_at_an_edge_too(function, named):
    """As one first writes it, an index runs off the ranking where nothing or all stays."""
    for student in ("", "ada", "bob"):
        assert named in judge(EXERCISES["02.exact"], function, student).text


# ------------------------------------------------------------------------- guesses and what is kept


def test_a_guess_is_kept_until_it_is_revealed(folder):
    exercises = lab.exercises
    assert str(exercises.reveal("00.watts", 12.8)) == "○ not yet: no guess noted"
    assert exercises.guess("00.watts", None).sign == "○"
    assert exercises.guessed("00.watts") is None
    exercises.guess("00.watts", 50)
    assert str(exercises.guess("00.watts", 25.6)) == "✓ noted: 25.6 W"
    assert exercises.guessed("00.watts") == 25.6
    revealed = exercises.reveal("00.watts", 12.8)
    assert str(revealed) == "✓ guess 25.6 W, answer 12.8 W: 2 times too high"
    assert "25.6 W; that one counts" in exercises.guess("00.watts", 12.8).text
    assert exercises.guess("00.watts", 25.6).text == "noted: 25.6 W"  # Run All again
    assert exercises.guessed("00.watts") == 25.6
    assert exercises.reveal("00.watts", 12.8) == revealed
    kept = json.loads((folder / ".pruning_lab" / "progress.json").read_text(encoding="utf-8"))
    assert kept["students"][""]["00.watts"]["guess"] == 25.6


@pytest.mark.parametrize(
    ("id_", "guess", "truth", "words"),
    [
        ("00.watts", 12_500, 12.8, "(nJ)"),
        ("00.watts", 1.3e-8, 12.8, "one access per layer"),
        ("01.share", {"layer": "fc1", "share": 0.9}, {"layer": "fc1", "share": 0.884}, "1.6 perc"),
        ("01.share", {"layer": "fc2", "share": 0.9}, {"layer": "fc1", "share": 0.884}, "another"),
        (
            "01.interval",
            [98, 98.7],
            [94.5, 98.7],
            "one image in 50 to be wrong; it may be one imag",
        ),
        ("01.interval", [97, 98.7], [94.5, 98.7], "2 sqrt(p (1 - p) / n)"),
        ("01.interval", [98.6, 98.6], [94.5, 98.7], "the same for both"),
        ("02.three", [-0.7, 0.05, -0.1], [-0.1, 0.05, 0.3], "the size |w|"),
        ("02.three", (0.3, 0.05, -0.1), [-0.1, 0.05, 0.3], "3 of 3 are right"),
        ("02.curve", [99, 98, 90, 80, 70], [98, 97, 85, 50, 20], "at 2 % kept: 50.0 too high"),
        ("02.curve", np.full(5, 50), torch.full((5,), 50.0), "0.0 percentage points"),
    ],
)
def test_how_near_a_guess_is_in_words(id_, guess, truth, words):
    assert lab.exercises.guess(id_, guess).sign == "✓"
    assert words in lab.exercises.reveal(id_, truth).text


def test_a_slip_is_only_named_near_it():
    lab.exercises.guess("00.watts", 100)
    assert "?" not in lab.exercises.reveal("00.watts", 12.8).text


@pytest.mark.parametrize(
    ("id_", "guess"),
    [
        *(("00.watts", odd) for odd in ("a lot", -1, 0, [1, 2], {}, float("nan"), Hostile())),
        *(("02.curve", odd) for odd in (50, [1, 2], [101, 50, 50, 50, 50], {"a": 1})),
        *(("01.share", odd) for odd in (0.9, {"layer": "fc1"}, {"layer": "fc1", "share": 88.4})),
        *(("04.rank", odd) for odd in (["conv1", "conv2", "fc1", "fc3"], ["fc1"] * 4)),
        *(("02.keep", 1), ("00.wats", 1)),
    ],
)
def test_a_guess_of_another_form_is_not_noted(id_, guess):
    assert lab.exercises.guess(id_, guess).sign == "✗"
    assert lab.exercises.guessed(id_) is None
    assert lab.exercises.reveal(id_, 3).sign in ("○", "✗")


def test_a_reveal_of_another_form_raises_nothing():
    lab.exercises.guess("00.watts", 3)
    for odd in (None, 0, "x", [1], Hostile()):
        assert lab.exercises.reveal("00.watts", odd).sign == "✗"


def test_rankings_and_ratios():
    assert order(["a", "b", "c", "d"], ["a", "b", "d", "c"]).words.startswith("5 of 6 pairs")
    assert order(["a", "b"], ["a", "b"]).score == 1
    assert factor(2, 1).score == factor(1, 2).score == 0.5


def test_hints_come_one_after_the_other_and_are_counted():
    texts = [lab.exercises.hint("02.keep").text for _ in range(4)]
    assert [text[:12] for text in texts] == ["hint 1 of 3:", "hint 2 of 3:", *2 * ["hint 3 of 3:"]]
    row = next(row for row in lab.exercises.progress() if row.task == "02.keep")
    assert (row.hints, row.verdict, row.points) == (3, "○ not yet", 0)


def test_progress_has_a_row_for_each_task():
    lab.exercises.check("02.keep", lambda w, q: w > q)
    lab.exercises.check("02.keep", keep)
    lab.exercises.check("02.exact", keep)
    lab.exercises.guess("00.watts", 100)
    lab.exercises.reveal("00.watts", 12.8)
    rows = {row.task: row for row in lab.exercises.progress()}
    assert list(rows) == list(EXERCISES)
    assert (rows["02.keep"].verdict, rows["02.keep"].checks, rows["02.keep"].points) == (
        "✓ right",
        2,
        10,
    )
    assert (rows["02.exact"].verdict, rows["02.exact"].points) == ("✗ wrong", 0)
    assert (rows["00.watts"].verdict, rows["00.watts"].near) == ("✓ noted", "7.81 times too high")
    printed = repr(lab.exercises.progress())
    most = sum(exercise.points for exercise in EXERCISES.values())
    assert printed.endswith(f"13 of {most} points")
    assert "10 of 10" in printed
    assert [row.task for row in lab.exercises.progress("00")] == ["00.watts"]


def test_a_sentence_is_kept_and_answered_by_what_a_good_one_says(folder, monkeypatch):
    rubric = ("It names the control.", "It names the interval.")
    monkeypatch.setitem(EXERCISES, "t", task(id="t", kind="explain", rubric=rubric))
    for empty in (None, "", "  ", ...):
        assert lab.exercises.explain("t", empty).sign == "○"
    verdict = lab.exercises.explain("t", "Because of the\ncontrol.")
    assert str(verdict).split("\n")[1].split(None, 1)[1] == "It names the control."
    assert verdict.sign == "✓"
    assert "Because of the control." in Path(".pruning_lab", "progress.json").read_text()
    assert lab.exercises.explain("02.keep", "?").sign == "✗"
    assert next(r for r in lab.exercises.progress() if r.task == "t").points == 1
    assert "exercises.explain" in lab.exercises.check("t", "so").text


def test_a_task_may_ask_for_a_guess_and_a_design(monkeypatch):
    both = task(id="t", answer={"a": 1}, guess=Guess(example=1.0, nearness=factor))
    monkeypatch.setitem(EXERCISES, "t", both)
    assert lab.exercises.guess("t", 3).sign == "✓"
    assert lab.exercises.progress()[-1].points == 0
    assert lab.exercises.check("t", {"a": 1}).sign == "✓"
    assert lab.exercises.progress()[-1].points == 1


def test_names_are_kept_in_any_script_and_each_student_has_progress_of_their_own():
    assert lab.exercises.student().text == "student: none (demo cases)"
    composed = unicodedata.normalize("NFC", "Zoë  Łuczak 李")
    lab.exercises.student(unicodedata.normalize("NFD", f" {composed} "))
    assert lab.exercises.student().text == "student: Zoë Łuczak 李"
    lab.exercises.check("02.keep", keep)
    lab.exercises.student("ada")
    assert {row.verdict for row in lab.exercises.progress()} == {"○ not yet"}
    lab.exercises.student(composed)
    assert "✓ right" in {row.verdict for row in lab.exercises.progress()}


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"format": "pruning_lab progress 1", "x": 2}', "\0"]
)
def test_a_broken_progress_file_is_set_aside_with_a_sentence(folder, capsys, content):
    (folder / ".pruning_lab").mkdir()
    path = folder / ".pruning_lab" / "progress.json"
    path.write_text(content)
    assert lab.exercises.check("02.keep", keep).sign == "✓"
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "progress-broken.json" in said
    assert path.with_name("progress-broken.json").read_text() == content
    assert json.loads(path.read_text())["students"][""]["02.keep"]["sign"] == "✓"


def test_where_no_file_can_be_written_progress_is_kept_in_memory(folder, capsys):
    (folder / ".pruning_lab").write_text("a file, where the folder should be")
    assert lab.exercises.guess("00.watts", 3).sign == "✓"
    assert lab.exercises.check("02.keep", keep).sign == "✓"
    assert lab.exercises.guessed("00.watts") == 3
    assert capsys.readouterr().out.count("in memory only") == 1
