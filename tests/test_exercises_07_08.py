"""Tasks of notebooks 07 and 08: answers, other right ways, known mistakes, and unknown ones."""

import math
import statistics
from random import Random

import pytest
import torch
from torch import nn

import pruning_lab as lab
from pruning_lab import storage
from pruning_lab.exercises import EXERCISES, judge, storing

FUNCTIONS = ("07.bytes", "07.encode", "07.bench", "07.channels", "08.dropout", "08.freeze")


def at_random(like, draw):
    """A value of the same form as this one."""
    if isinstance(like, int):
        return draw.randint(1, 2 * like)
    if isinstance(like, float):
        return like * draw.uniform(0.2, 1.8)
    if isinstance(like, list | tuple):
        return type(like)(at_random(entry, draw) for entry in like)
    layer = nn.Linear(draw.randint(1, like.in_features), draw.randint(1, like.out_features))
    layer.weight.data.uniform_()
    return layer


@pytest.mark.parametrize("id_", FUNCTIONS)
def test_random_functions_are_neither_right_nor_named(id_):
    exercise = EXERCISES[id_]
    for number in range(100):
        draw = Random(number)

        def function(*case, draw=draw):
            return at_random(exercise.answer(*case), draw)

        if id_ == "07.bench":  # of which hardly anything but too high and too low is observed
            found = [draw.uniform(0.2, 5) for _ in range(4)]

            def function(f, g, clock, found=found):
                f(), g()
                return found[int(1e6 * clock()) % 4]

        if id_ == "08.freeze":

            def function(before, after, draw=draw):
                return [name for name in ("conv1", "norm1", "conv2", "fc1") if draw.random() < 0.5]

        verdict = judge(exercise, function, str(number % 7))
        assert verdict.sign == "✗", verdict
        assert not [m for m in exercise.twins if m in verdict.text], verdict


# ------------------------------------------------------------------------------ other right ways


def size_by_ceil(kept, weights, value_bits, index_bits, fillers=0):
    return math.ceil((kept + fillers) * (value_bits + index_bits) / 8)


def size_as_tensor(kept, weights, value_bits, index_bits, fillers=0):
    bits = torch.full((kept + fillers,), value_bits + index_bits).sum()
    return (bits + 7) // 8


def encode_by_counting(row, bits):
    entries, zeros = [], 0
    for value in row:
        if value == 0:
            zeros += 1
            continue
        while zeros >= 2**bits:
            entries.append((2**bits - 1, 0.0))
            zeros -= 2**bits
        entries.append((zeros, value))
        zeros = 0
    return entries


def encode_by_tensors(row, bits):
    row = torch.tensor(row)
    places, entries, before = row.nonzero()[:, 0].tolist(), [], -1
    for place in places:
        gap = place - before - 1
        entries += [[2**bits - 1, torch.tensor(0.0)]] * (gap // 2**bits)
        entries.append([torch.tensor(gap % 2**bits), row[place]])
        before = place
    return tuple(entries)


def encode_with_fillers_last(row, bits):
    """The short step first: as many entries, other ones."""
    entries = []
    for gap, value in encode_by_counting(row, 30):
        steps = [2**bits - 1] * (gap // 2**bits)
        entries += [(step, 0.0) for step in ([gap % 2**bits, *steps] if steps else [])[:-1]]
        entries.append((steps[-1] if steps else gap, value))
    return entries


def ratio_of_minima(f, g, clock):
    f(), g()
    times = {f: [], g: []}
    for _ in range(30):
        for work, own in times.items():
            began = clock()
            work()
            own.append(clock() - began)
    return min(times[f]) / min(times[g])


def median_of_ratios(f, g, clock):
    ratios = []
    for turn in range(101):
        first = clock()
        f()
        middle = clock()
        g()
        if turn > 2:
            ratios.append((middle - first) / (clock() - middle))
    return statistics.median(ratios)


def ratio_with_torch(f, g, clock):
    times = torch.zeros(2, 12, dtype=torch.double)
    for turn in range(12):
        for side, work in enumerate((g, f)):
            began = clock()
            work()
            times[side, turn] = clock() - began
    return times[1, 1:].median() / times[0, 1:].median()


def drop_into_new(first, second, keep):
    count = int(keep.sum())
    small = nn.Linear(first.in_features, count), nn.Linear(count, second.out_features)
    with torch.no_grad():
        small[0].weight.copy_(first.weight[keep])
        small[0].bias.copy_(first.bias[keep])
        small[1].weight.copy_(second.weight[:, keep])
        small[1].bias.copy_(second.bias)
    return list(small)


def drop_by_index(first, second, keep):
    at = keep.nonzero().squeeze(1)
    small = nn.Linear(len(first.weight[0]), len(at)), nn.Linear(len(at), len(second.weight))
    small[0].load_state_dict({"weight": first.weight[at], "bias": first.bias.index_select(0, at)})
    small[1].load_state_dict({"weight": second.weight.index_select(1, at), "bias": second.bias})
    return small


def rate_by_power(original, density):
    return original * density**0.5


def rate_by_units(original, density):
    units = torch.tensor(density).sqrt()
    return torch.tensor(original) * units


def moved_by_layer(before, after):
    layers = {}
    for name, tensor in before.items():
        layer = name.rsplit(".", 1)[0]
        layers[layer] = layers.get(layer, False) or bool((tensor != after[name]).any())
    return [layer for layer, has_moved in layers.items() if has_moved]


RIGHT = {
    "08.dropout": (rate_by_power, rate_by_units),
    "08.freeze": (moved_by_layer, lambda before, after: tuple(moved_by_layer(before, after))),
    "07.bytes": (size_by_ceil, size_as_tensor),
    "07.encode": (encode_by_counting, encode_by_tensors, encode_with_fillers_last),
    "07.bench": (ratio_of_minima, median_of_ratios, ratio_with_torch),
    "07.channels": (drop_into_new, drop_by_index),
}


@pytest.mark.parametrize("id_", FUNCTIONS)
def test_other_right_ways_are_right_without_a_note(id_):
    for function in RIGHT[id_]:
        for student in map(str, range(5)):
            verdict = judge(EXERCISES[id_], function, student)
            assert verdict.sign == "✓", (function.__name__, student, verdict)
            assert verdict.text.count(";") == 0, verdict


# --------------------------------------------------------------------------- unknown mistakes

WRONG = {
    "08.dropout": (
        lambda original, density: original,
        lambda original, density: density,
        lambda original, density: original * density ** (1 / 3),
        lambda original, density: 1 - original,
        lambda original, density: str(rate_by_power(original, density)),
        lambda original, density: 100 * rate_by_power(original, density),
    ),
    "08.freeze": (
        lambda before, after: [],
        lambda before, after: list(before),
        lambda before, after: moved_by_layer(before, after)[::-1],
        lambda before, after: len(moved_by_layer(before, after)),
        lambda before, after: [n for n in before if (before[n] == after[n])],
        lambda before, after: moved_by_layer(before, after)[:1],
    ),
    "07.bytes": (
        lambda kept, weights, value, index, fillers=0: size_by_ceil(kept, 0, value, index) + 1,
        lambda kept, weights, value, index, fillers=0: kept * value * index // 8,
        lambda kept, weights, value, index, fillers=0: str(size_by_ceil(kept, 0, value, index)),
        lambda kept, weights, value, index: size_by_ceil(kept, 0, value, index),
        lambda *_: -1,
    ),
    "07.encode": (
        lambda row, bits: encode_by_counting(row[::-1], bits),
        lambda row, bits: encode_by_counting(row, bits)[:-1],
        lambda row, bits: encode_by_counting([abs(v) for v in row], bits),
        lambda row, bits: encode_by_counting(row, bits + 1),
        lambda row, bits: [],
        lambda row, bits: row,
        lambda row, bits: "entries",
        lambda row, bits: [(-1, value) for value in row],
    ),
    "07.bench": (
        lambda f, g, clock: 1.0,
        lambda f, g, clock: clock(),
        lambda f, g, clock: f() / g(),
        lambda f, g, clock: "f",
        lambda f, g, clock: 0.0,
    ),
    "07.channels": (
        lambda first, second, keep: (first, second),
        lambda first, second, keep: (second, first),
        lambda first, second, keep: first,
        lambda first, second, keep: drop_into_new(first, second, keep.flip(0)),
        lambda first, second, keep: nn.Sequential(first, second),
        lambda first, second, keep: drop_into_new(first, second, torch.ones_like(keep)),
        lambda first, second, keep: (first.weight[keep], second.weight[:, keep]),
    ),
}


@pytest.mark.parametrize("id_", FUNCTIONS)
def test_unknown_mistakes_are_wrong_and_get_no_other_mistakes_name(id_):
    exercise = EXERCISES[id_]
    for number, function in enumerate(WRONG[id_]):
        for student in map(str, range(3)):
            verdict = judge(exercise, function, student)
            assert verdict.sign == "✗", (number, student, verdict)
            named = [message for message in exercise.twins if message in verdict.text]
            assert named == [], (number, student, verdict)


def test_stubs_and_given_code_are_not_yet_answers():
    def nothing(*_): ...

    def ratio(f, g, clock):
        def seconds(work):
            began = clock()
            for _ in range(20):
                work()
            return (clock() - began) / 20

        return seconds(f) / seconds(g)

    for id_ in FUNCTIONS:
        assert judge(EXERCISES[id_], nothing).sign == "○", id_
        assert judge(EXERCISES[id_], lambda *_: print("to do")).sign == "○", id_

    def moved(before, after):
        moved = []
        for name in before:
            if "weight" in name and not torch.allclose(before[name], after[name]):
                moved.append(name)
        return moved

    assert "as it was given" in judge(EXERCISES["07.bench"], ratio).text
    assert "as it was given" in judge(EXERCISES["08.freeze"], moved).text


def test_given_code_is_known_in_a_cell_that_imports_nothing():
    cell = """def moved(before, after):
    moved = []
    for name in before:
        if "weight" in name and not {}(before[name], after[name]):
            moved.append(name)
    return moved"""
    for function, sign in ("torch.allclose", "○"), ("torch.equal", "✗"):
        names = {"torch": torch}
        exec(cell.format(function), names)
        assert judge(EXERCISES["08.freeze"], names["moved"]).sign == sign


def test_every_headline_that_is_judged_wrongly_gets_its_sentence():
    exercise, right = EXERCISES["08.claims"], {"A": False, "B": False, "C": False, "D": True}
    assert judge(exercise, right).sign == "✓"
    words = {"A": "confound", "B": "ten classes", "C": "one seed", "D": "looked at once"}
    for wrong in (("A",), ("B",), ("C",), ("D",), ("A", "D"), ("A", "B", "C", "D")):
        verdict = judge(exercise, {name: is_so != (name in wrong) for name, is_so in right.items()})
        assert verdict.sign == "✗"
        assert [n for n, said in words.items() if said in verdict.text] == [*wrong]
    assert judge(exercise, dict.fromkeys(right)).sign == "○"
    assert "'maybe'" in judge(exercise, {**right, "C": "maybe"}).text


def test_guesses_of_08_are_scored_and_slips_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layers = [row.layer for row in lab.paper.ALEXNET if row.layer != "total"]
    lab.exercises.guess("08.rank", layers)
    assert "all 28" in str(lab.exercises.reveal("08.rank", layers)).replace("28 of 28", "all 28")
    lab.exercises.guess("08.threshold", "conv1")
    assert "quality times sigma" in str(lab.exercises.reveal("08.threshold", "fc2"))
    assert lab.exercises.explain("08.threshold", "sigma differs").sign == "✓"


# --------------------------------------------------------------------------------- one by one


def test_an_encoded_row_takes_what_the_library_says_of_the_papers_scheme():
    """The bytes of 07.bytes and the entries of 07.encode, beside `storage.paper_bytes`."""
    drawn = Random(3)
    for density in 0.5, 0.1, 0.01:
        row = [drawn.gauss(0, 1) if drawn.random() < density else 0.0 for _ in range(3_000)]
        entries = EXERCISES["07.encode"].answer(row, 5)
        assert storing.decode(entries, len(row)) == row
        kept = sum(value != 0 for value in row)
        size = EXERCISES["07.bytes"].answer(kept, len(row), 32, 5, len(entries) - kept)
        assert size == storage.paper_bytes(torch.tensor(row)[None])


@pytest.mark.parametrize("repeats", [6, 11, 50, 200])
def test_mistakes_of_a_measurement_are_named_for_any_number_of_repeats(repeats):
    def in_turns(f, g, clock):
        f_times, g_times = [], []
        for _ in range(repeats):
            for work, own in (f, f_times), (g, g_times):
                began = clock()
                work()
                own.append(clock() - began)
        return f_times, g_times

    def mean(f, g, clock):
        f_times, g_times = in_turns(f, g, clock)
        return sum(f_times) / sum(g_times)

    def later(f, g, clock):
        (f_times, _), (_, g_times) = in_turns(f, f, clock), in_turns(g, g, clock)
        return statistics.median(f_times) / statistics.median(g_times)

    said = {"mean": judge(EXERCISES["07.bench"], mean).text}
    said["later"] = judge(EXERCISES["07.bench"], later).text
    assert "a mean follows every outlier" in said["mean"]
    assert ("the first calls are timed too" in said["mean"], "all calls" in said["mean"]) == (1, 0)
    assert "all calls of one function" in said["later"]
    assert "outlier" not in said["later"]


def test_smaller_layers_answer_as_the_network_without_these_units():
    first, second, keep = nn.Linear(5, 4), nn.Linear(4, 3), torch.tensor([True, False, True, True])
    small = EXERCISES["07.channels"].answer(first, second, keep)
    x = torch.randn(7, 5)
    expected = second(first(x).relu() * keep)
    assert torch.allclose(small[1](small[0](x).relu()), expected, atol=1e-6)


def test_the_break_even_is_where_the_drawn_curve_crosses_the_dense_time():
    assert storing.break_even([400, 300, 200, 150, 120, 101]) is None
    assert storing.break_even([90, 80, 70, 60, 50, 40]) == 0.8
    found = storing.break_even([400, 300, 200, 50, 30, 20])
    assert found == pytest.approx(math.sqrt(0.1 * 0.2))
    near = EXERCISES["07.even"].guess.nearness
    assert near([90, 80, 70, 60, 50, 40], [90, 80, 70, 60, 50, 40]).score == 1
    words = near([80, 50, 20, 10, 5, 2], [400, 300, 200, 150, 120, 101]).words
    assert "faster below 80%, here it is never" in words
    assert near([0] * 6, [100] * 6).score < 0.1


def test_a_curve_that_is_proportional_to_the_density_is_told_what_it_believes(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    lab.exercises.guess("07.even", [80, 50, 20, 10, 5, 2])
    assert "proportional" in str(lab.exercises.reveal("07.even", [300, 250, 180, 120, 80, 60]))
