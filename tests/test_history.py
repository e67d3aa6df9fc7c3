"""The history is a value: laws of its transitions, with no thread and no network."""

import json
from dataclasses import replace
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning_lab.evaluation import Accuracy, Drop
from pruning_lab.rows import decode, plain
from pruning_lab.studio import ALL, Attempt, Comparison, History, Setting

LAYERS = ("conv1", "fc1", "quality")
START = History(LAYERS)
SETTINGS = st.one_of(
    st.builds(Setting, st.just("quality"), st.floats(0, 5)),
    st.builds(Setting, st.just("density"), st.floats(0, 1)),
)
ASKED = st.dictionaries(st.sampled_from(LAYERS), SETTINGS, min_size=1)
TEXT = st.text(max_size=5)


@st.composite
def journeys(draw) -> History:
    """A history after up to a dozen transitions of every kind."""
    history = START
    for _ in range(draw(st.integers(0, 12))):
        kind = draw(st.sampled_from(["step", "drag", "go", "undo", "redo", "branch", "other"]))
        if kind in ("step", "drag"):
            history = history.step(draw(ASKED), merge=kind == "drag")
        elif kind == "go":
            history = history.go(draw(st.integers(1, len(history.attempts))))
        elif kind == "branch":
            history = history.branch()
        elif kind == "other":
            history = draw(st.sampled_from(OTHERS))(history)
        elif kind == "undo" and history.attempt.parent is not None:
            history = history.undo()
        elif kind == "redo" and history.children[history.now - 1]:
            history = history.redo()
    return history


def measured(history: History, right: int = 40) -> History:
    lost = Drop.counted(50 - right, 0, 50)
    return history.measured(history.attempt.key, Accuracy.counted(right, 50), lost)


OTHERS = [
    measured,
    lambda history: history.rename("here"),
    lambda history: history.retrained("retrained 1 epoch from 10 % kept"),
    lambda history: history.update(density=0.5, bytes=100),
]


@given(journeys(), ASKED)
def test_undo_of_a_step_gives_back_and_redo_gives_it_again(history, asked):
    stepped = history.step(asked)
    assert stepped.undo().attempt == history.attempt
    assert stepped.undo().redo() == stepped
    assert stepped.undo().undo().attempt == history.undo().attempt if history.now > 1 else True
    assert stepped.attempts[:-1] == history.attempts  # nothing is ever lost


@given(journeys(), ASKED)
def test_a_step_sets_what_was_asked_and_nothing_else(history, asked):
    before, after = history.attempt, history.step(asked).attempt
    expected = {name: {**before.settings, **asked}.get(name, ALL) for name in LAYERS}
    assert {name: after.settings.get(name, ALL) for name in LAYERS} == expected
    assert ALL not in after.settings.values()
    assert (after.version, after.line, after.parent) == (before.version, before.line, history.now)
    assert (after.accuracy, after.drop, after.name) == (None, None, "")


ODD = ("a&b=d1", "50%", "features.0", "größe", " ", "+", "d")
ANY = st.dictionaries(st.sampled_from(ODD), SETTINGS, min_size=1)


@given(ANY, ANY, st.sets(st.sampled_from(ODD)))
def test_settings_come_back_from_their_text(settings, before, locks):
    sent = History(ODD).step(settings).lock(*locks)
    text = sent.to_string()
    assert text.isascii()
    assert not {*" #"} & {*text}
    assert dict(parse_qsl(text)).keys() == sent.attempt.settings.keys()  # as a browser reads it
    got = History(ODD).step(before).from_string(text)
    assert got.attempt.settings == sent.attempt.settings
    assert got.from_string(text) == got  # which is no step, if layers are locked
    assert sent.from_string(text) == sent
    assert got.from_string("").attempt.settings == {}


def test_settings_as_text():
    history = START.set({"fc1": 1.4}, density={"conv1": 0.05})
    assert history.to_string() == "conv1=d0.05&fc1=1.4"
    assert history.set({"fc1": 2}).to_string() == "conv1=d0.05&fc1=2"
    assert START.to_string() == ""
    assert START.lock("conv1").from_string("fc1=1&quality=1").attempt.what == (
        "fc1: quality 1, quality: quality 1"
    )


@given(journeys(), st.data())
def test_going_anywhere_and_back_changes_no_attempt(history, data):
    number = data.draw(st.integers(1, len(history.attempts)))
    there = history.go(number)
    assert there.attempt == history.attempts[number - 1]
    assert (there.attempts, there.locks) == (history.attempts, history.locks)
    assert there.go(number) == there
    if there.attempt.parent is not None:
        assert there.undo().redo() == there
    assert there.go(history.now).attempt == history.attempt


@given(journeys())
def test_a_branch_is_the_same_network_on_a_line_of_its_own(history):
    branched = history.branch()
    assert branched.attempt.key == history.attempt.key
    assert branched.attempt.accuracy == history.attempt.accuracy
    assert branched.attempt.line not in history.lines
    assert branched.lines == (*history.lines, branched.attempt.line)
    assert branched.attempts[:-1] == history.attempts
    with pytest.raises(ValueError, match="there is a line 'main' already; it has main"):
        history.branch("main")


@given(journeys(), st.data())
def test_a_drag_is_one_step_with_the_last_settings(history, data):
    layers = data.draw(st.sets(st.sampled_from(LAYERS), min_size=1))
    drags = st.lists(st.fixed_dictionaries(dict.fromkeys(layers, SETTINGS)), min_size=1, max_size=5)
    steps = data.draw(drags)
    dragged = replace(history, drag=frozenset())
    for asked in steps:
        dragged = dragged.step(asked, merge=True)
    assert dragged == history.step(steps[-1])


@given(journeys(), ASKED, ASKED)
def test_a_drag_goes_on_only_where_nothing_came_between(history, asked, other):
    first = history.step(asked, merge=True)
    between = [lambda h: h.rename("kept"), lambda h: h.undo().redo(), History.branch]
    if other.keys() != asked.keys():
        between.append(lambda h: h.step(other, merge=True))
    for happened in between:
        then = happened(first)
        assert len(then.step(asked, merge=True).attempts) == len(then.attempts) + 1
    assert len(first.step(asked).attempts) == len(first.attempts) + 1  # no drag
    moved = measured(first).step(asked, merge=True)  # what was measured on the way is replaced
    assert moved.attempt == first.attempt
    assert len(moved.attempts) == len(first.attempts)


@given(journeys())
def test_json_gives_the_same_history_back(history):
    text = json.dumps(plain(history), allow_nan=False)
    assert decode(History, json.loads(text), "here") == history


@given(journeys(), st.data())
def test_locked_layers_are_passed_by_and_refused_by_name(history, data):
    layers = data.draw(st.sets(st.sampled_from(LAYERS), min_size=1))
    locked = history.lock(*layers)
    assert locked.lock(*layers) == locked
    assert locked.unlock(*layers) == history.unlock(*layers)
    stepped = locked.set(1.5)
    for name in LAYERS:
        before, setting = history.attempt.settings.get(name), stepped.attempt.settings.get(name)
        assert setting == (before if name in layers else Setting("quality", 1.5))
    with pytest.raises(ValueError, match="is locked; unlock it first"):
        locked.set({min(layers): 1.0})


@given(journeys(), TEXT, st.data())
def test_a_name_changes_one_attempt_and_nothing_else(history, name, data):
    number = data.draw(st.integers(1, len(history.attempts)))
    renamed = history.rename(name, number)
    assert renamed.attempts[number - 1].name == name
    assert renamed.rename(history.attempts[number - 1].name, number) == history


def test_what_was_measured_is_of_all_attempts_that_are_the_same_network():
    history = START.set({"fc1": 1.0}).branch().set({"fc1": 2.0}).set({"fc1": 1.0})
    done = measured(history)
    assert [a.accuracy is not None for a in done.attempts] == [False, True, True, False, True]


def test_amounts_are_a_number_for_all_or_a_dict_by_layer():
    assert START.set(1.0).attempt.settings == dict.fromkeys(LAYERS, Setting("quality", 1.0))
    both = START.set({"quality": 1.5}, density={"fc1": 0.5}).attempt
    assert both.settings == {"quality": Setting("quality", 1.5), "fc1": Setting("density", 0.5)}
    assert both.what == "quality: quality 1.5, fc1: density 0.5"
    assert START.set({}) == START.set() == START
    assert START.set(1.0).set(0).attempt.settings == {}


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (lambda h: h.set(-1.0), ValueError, "quality must be a finite number >= 0, got -1"),
        (lambda h: h.lock(*LAYERS).set(-1.0), ValueError, "quality must be a finite number >= 0"),
        (
            lambda h: h.set(float("nan")),
            ValueError,
            "quality must be a finite number >= 0, got nan",
        ),
        (
            lambda h: h.set({"fc1": float("inf")}),
            ValueError,
            "must be a finite number >= 0, got inf",
        ),
        (
            lambda h: h.set(density=float("nan")),
            ValueError,
            r"density must lie in \[0, 1\], got nan",
        ),
        (lambda h: h.set(density={"fc1": 8}), ValueError, r"density must lie in \[0, 1\], got 8"),
        (lambda h: h.set({"fc1": "much"}), TypeError, "quality must be a number, got 'much'"),
        (lambda h: h.set({"fc2": 1.0}), KeyError, "no layer 'fc2' to prune; did you mean fc1"),
        (
            lambda h: h.set({"fc1": 1.0}, density={"fc1": 0.5}),
            ValueError,
            "asked for a quality and",
        ),
        (lambda h: h.from_string("fc1"), ValueError, "'fc1' is no setting of a layer; write fc1=1"),
        (lambda h: h.from_string("fc1=1&"), ValueError, "'' is no setting of a layer; write"),
        (lambda h: h.from_string("fc1=dd1"), ValueError, "'fc1=dd1' is no setting of a layer"),
        (lambda h: h.from_string("fc1=1&fc1=2"), ValueError, "layer 'fc1' stands twice in"),
        (lambda h: h.from_string("fc1=1e999"), ValueError, "quality must be a finite number"),
        (lambda h: h.from_string("fc1=d2"), ValueError, r"density must lie in \[0, 1\], got 2"),
        (lambda h: h.from_string("fc2=1"), KeyError, "no layer 'fc2' to prune; did you mean fc1"),
        (lambda h: h.set(1).lock("fc1").from_string(""), ValueError, "layer 'fc1' is locked; unl"),
        (lambda h: h.lock("fc2"), KeyError, "no layer 'fc2' to prune"),
        (lambda h: h.unlock("fc2"), KeyError, "no layer 'fc2' to prune"),
        (lambda h: h.undo(), ValueError, "there is nothing to undo"),
        (lambda h: h.redo(), ValueError, "there is nothing to redo"),
        (lambda h: h.go(2), ValueError, "attempts go from 1 to 1, got 2"),
        (lambda h: h.go(0), ValueError, "attempts go from 1 to 1, got 0"),
        (lambda h: h.rename("x", 3), ValueError, "attempts go from 1 to 1, got 3"),
        (
            lambda h: Setting("sparsity", 0.5),
            ValueError,
            "a setting is a quality or a density",
        ),
    ],
)
def test_a_wrong_transition_gets_one_sentence(wrong, error, words):
    with pytest.raises(error, match=words):
        wrong(START)


def test_many_layers_in_a_few_words():
    history = History(tuple("abcdef"))
    assert history.set(1.25).attempt.what == "all layers: quality 1.25"
    assert history.set(dict.fromkeys("abcd", 1.0)).attempt.what == "4 layers: quality 1"
    asked = {name: place for place, name in enumerate("abcde", start=1)}
    assert history.set(asked).attempt.what == "a: quality 1 and 4 more"


def test_what_made_the_weights_is_said_of_every_attempt_on_them():
    history = START.set(1.0).retrained("retrained 2 epochs from 26 % kept").set({"fc1": 0.5})
    assert (history.attempt.what, history.made) == ("fc1: quality 0.5", history.attempts[2].what)
    assert history.go(2).made == "as it came"


def attempt(number: int, density: float, right: int | None) -> Attempt:
    accuracy = None if right is None else Accuracy.counted(right, 100)
    return Attempt(number, None, 0, "", density=density, accuracy=accuracy)


def test_of_equal_attempts_the_first_is_the_one_that_no_other_beats():
    rows = [(1.0, 90), (0.5, 90), (0.5, 90), (0.5, 80), (0.2, None), (0.1, 50), (0.9, 95)]
    table = Comparison(attempt(n, *row) for n, row in enumerate(rows, start=1))
    assert [a.number for a in table.pareto] == [6, 2, 7]
    lines = enumerate(str(table).splitlines()[2:9], start=1)
    assert [number for number, line in lines if line[0] == "*"] == [2, 6, 7]


def test_an_attempt_at_chance_is_no_pareto_point():
    rows = [(1.0, 90), (0.5, 80), (0.1, 14), (0.0, 10)]
    table = Comparison((attempt(n, *row) for n, row in enumerate(rows, start=1)), chance=0.1)
    assert Accuracy.counted(14, 100).low < 0.1 < 0.14  # not above chance, by its interval
    assert [a.number for a in table.pareto] == [2, 1]
    assert [a.number for a in table[2:].pareto] == []  # a slice knows the chance too


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.update(attempts=[]),
        lambda h: h.update(now=9),
        lambda h: h.update(now=0),
        lambda h: h["attempts"].reverse(),
        lambda h: h["attempts"].pop(1),
        lambda h: h["attempts"][1].update(parent=9),
        lambda h: h["attempts"][1].update(parent=None),
        lambda h: h["attempts"][1].update(parent=2),
        lambda h: h["attempts"][0].update(parent=1),
        lambda h: h["attempts"][0].update(version=1),
        lambda h: h["attempts"][2].update(version=7),
        lambda h: h["attempts"][2].update(version=2**62),
        lambda h: h["attempts"][2].update(version=-1),
        lambda h: h["attempts"][1].update(density=1.5),
        lambda h: h["attempts"][1].update(bytes=-1),
        lambda h: h["attempts"][1]["accuracy"].update(value=0.123),
        lambda h: h["attempts"][1]["drop"].update(value=0.9),
        lambda h: h["attempts"][1]["settings"]["fc1"].update(kind="size"),
        lambda h: h["attempts"][1]["settings"]["fc1"].update(amount=-1.0),
        lambda h: h["attempts"][1]["settings"].update(fc9={"kind": "quality", "amount": 1.0}),
        lambda h: h.update(children=[2, 3]),
        lambda h: h.update(children=[2, 3, 1]),
        lambda h: h.update(children=[3, 3, 0]),
        lambda h: h.update(children=[9, 3, 0]),
        lambda h: h.update(locks=["fc9"]),
        lambda h: h.update(drag=["fc1"]),
        lambda h: h.pop("locks"),
    ],
)
def test_a_damaged_history_is_refused(change):
    history = plain(measured(START.set({"fc1": 1.0})).retrained("retrained 1 epoch").lock("fc1"))
    assert decode(History, json.loads(json.dumps(history)), "here").now == 3
    broken = json.loads(json.dumps(history))
    change(broken)
    with pytest.raises(ValueError, match="here is broken: "):
        decode(History, broken, "here")
