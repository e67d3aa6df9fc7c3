"""Tasks of notebooks 05 and 06: answers, other right ways, known mistakes, and unknown ones."""

import random
from dataclasses import replace
from itertools import accumulate, pairwise
from operator import mul

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune
from torch.utils.flop_counter import FlopCounterMode

import pruning_lab as lab
from pruning_lab import paper
from pruning_lab.exercises import EXERCISES, counting, iterate, judge

CHECKED = [e.id for table in (iterate, counting) for e in table.EXERCISES if e.answer is not None]
STUDENTS = [str(number) for number in range(200)]
PERCENTS = counting.COLUMNS


def at_random(like, draw):
    """A value of the same form as this one."""
    if isinstance(like, torch.Tensor):
        flat = [draw.random() for _ in range(like.numel())]
        return (torch.tensor(flat) > draw.random()).view(like.shape)
    if isinstance(like, list | tuple):
        return type(like)(at_random(each, draw) for each in like)
    return draw.randint(1, 2 * like) if isinstance(like, int) else like * draw.uniform(0.5, 1.5)


@pytest.mark.parametrize("id_", CHECKED)
def test_random_functions_are_neither_right_nor_named(id_):
    exercise = EXERCISES[id_]
    for number in range(100):
        draw = random.Random(number)  # of its own: a check seeds the global one

        def function(*case, draw=draw):
            return at_random(exercise.answer(*case), draw)

        verdict = judge(exercise, function, str(number % 7))
        assert verdict.sign == "✗", verdict
        assert not [message for message in exercise.twins if message in verdict.text]


def mask_of(count, weight):
    kept = torch.zeros(weight.numel(), dtype=torch.bool)
    kept[:count] = True
    return kept.view_as(weight)


UNLISTED = {
    "05.schedule": (
        lambda final, rounds: [final] * rounds,
        lambda final, rounds: [1 - (1 - final) * (r / rounds) ** 2 for r in range(1, rounds + 1)],
        lambda final, rounds: [final + (1 - final) * (1 - r / rounds) ** 3 for r in range(rounds)],
        lambda final, rounds: final ** (1 / rounds),
        lambda final, rounds: {r: final ** (r / rounds) for r in range(1, rounds + 1)},
        lambda final, rounds: [100 * final ** (r / rounds) for r in range(1, rounds + 1)],
        lambda final, rounds: [final * r / rounds for r in range(1, rounds + 1)],
    ),
    "05.compound": (
        lambda w, kept, d: kept,
        lambda w, kept, d: ~kept,
        lambda w, kept, d: kept & (w.abs() >= d),
        lambda w, kept, d: kept & mask_of(round(d * w.numel()), w),
        lambda w, kept, d: w * (kept & (w.abs() >= w.abs().quantile(1 - d))),
        lambda w, kept, d: round(d * w.numel()),
        lambda w, kept, d: kept & (w.abs() >= w[kept].std()),
    ),
    "05.dead": (
        lambda into, out: (into == 0).all(1) ^ (out == 0).all(0),
        lambda into, out: (into < 0).all(1) | (out < 0).all(0),
        lambda into, out: torch.zeros(len(into), dtype=torch.bool),
        lambda into, out: (into == 0).float().mean(1) > 0.5,
        lambda into, out: ((into == 0).all(1) | (out == 0).all(0)).float(),
        lambda into, out: (into == 0).all() | (out == 0).all(),
        lambda into, out: into @ out == 0,
    ),
    "06.conv": (
        lambda out, in_, k, h, w, groups=1: 2 * (out + in_) * k * k * h * w,
        lambda out, in_, k, h, w, groups=1: 4 * out * in_ * k * k * h * w // groups,
        lambda out, in_, k, h, w: 2 * out * in_ * k * k * h * w,
        lambda out, in_, k, h, w, groups=1: f"{2 * out * in_ // groups * k * k * h * w}",
        lambda out, in_, k, h, w, groups=1: 2 * out * in_ // groups * k * k * (h - k) * (w - k),
        lambda out, in_, k, h, w, groups=1: 2 * out * out // groups * k * k * h * w,
    ),
    "06.left": (
        lambda f, d, a: sum(d) / len(d) * sum(a) / len(a),
        lambda f, d, a: max(d),
        lambda f, d, a: sum(x * y for x, y in zip(f, a, strict=True)) / sum(f),
        lambda f, d, a: sum(x * y + z for x, y, z in zip(f, d, a, strict=True)) / sum(f),
        lambda f, d, a: [sum(f)],
        lambda f, d, a: min(a[-1], d[-1]),
    ),
    "06.sram": (
        lambda weights, sram, bits=5: 4 * weights / sram,
        lambda weights, sram, bits=5: (weights, sram, bits),
        lambda weights, sram, bits=5: (2 * weights * (32 + bits) / (8 * sram), 1.0, 1.0),
        lambda weights, sram, bits=5: {"ratio": weights * (32 + bits) / (8 * sram)},
        lambda weights, sram: (weights * 37 / (8 * sram), 1.0, 1.0),
        lambda weights, sram, bits=5: (
            weights * (32 + bits) / (8 * sram),
            lab.cost.read_energy(4 * weights),
            0.0,
        ),
    ),
}


@pytest.mark.parametrize("id_", CHECKED)
def test_wrong_answers_that_no_table_knows_are_never_right_and_never_misnamed(id_):
    exercise = EXERCISES[id_]
    for student in STUDENTS[:20]:
        for number, function in enumerate(UNLISTED[id_]):
            verdict = judge(exercise, function, student)
            named = [message for message in exercise.twins if message in verdict.text]
            assert (verdict.sign, named) == ("✗", []), (number, student, verdict)


def by_torch(weight, kept, density):
    """torch's own pruning, by a number of weights."""
    layer = nn.Linear(1, weight.numel(), bias=False)
    layer.weight.data = weight.abs().masked_fill(~kept, 0).view(-1, 1)
    stay = min(round(density * weight.numel()), int(kept.sum()))
    torch_prune.l1_unstructured(layer, "weight", amount=weight.numel() - stay)
    return layer.weight_mask.bool().view_as(weight)


def by_the_library(weight, kept, density):
    layer = nn.Sequential(nn.Linear(1, weight.numel(), bias=False))
    layer[0].weight.data = (weight * kept).view(-1, 1)
    return lab.prune(layer, density=density)["0"].view_as(weight)


def dead_by_the_library(into, out):
    """Neurons that the library's chain of two layers, without biases, does not keep."""
    chain = nn.Sequential(nn.Linear(*into.shape[::-1], False), nn.Linear(*out.shape[::-1], False))
    for layer, weight in zip(chain, (into, out), strict=True):
        layer.weight.data = torch.stack([*weight])
    dead = []
    for neuron in range(len(into)):
        alone = [n for n in range(len(into)) if n != neuron]
        x = torch.randn(20, into.shape[1], generator=torch.Generator().manual_seed(0))
        same = torch.allclose(chain(x), x @ into[alone].T @ out[:, alone].T, atol=1e-6)
        dead.append(same)
    return torch.tensor(dead)


def counted(out, in_, k, h_out, w_out, groups=1):
    """torch's own count, of a convolution that runs."""
    conv = nn.Conv2d(in_, out, k, groups=groups, bias=False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        conv(torch.zeros(1, in_, h_out + k - 1, w_out + k - 1))
    return counter.get_total_flops()


def most_that_fit(weights, sram, index_bits=5):
    """By bisection."""
    low, high = 0, weights + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle * (32 + index_bits) <= 8 * sram else (low, middle)
    pj = paper.ENERGY_PJ
    before, words = weights * pj["32 bit DRAM memory"], low * (32 + index_bits) / 32
    return weights / low, 1e-12 * before, 1e-12 * words * pj["32 bit SRAM cache"]


RIGHT = {
    "05.schedule": (
        lambda final, n: list(accumulate([final ** (1 / n)] * n, mul)),
        lambda final, n: [
            s["density"]["a"] for s in lab.experiments.recipes.down_to({"a": final}, n)
        ],
        lambda final, n: (torch.tensor(final).double() ** (torch.arange(1, n + 1) / n)).tolist(),
    ),
    "05.compound": (by_torch, by_the_library),
    "05.dead": (
        dead_by_the_library,
        lambda into, out: ~(into.abs().sum(1).bool() & out.abs().sum(0).bool()),
        lambda into, out: (into.norm(dim=1) * out.norm(dim=0)) == 0,
    ),
    "06.conv": (
        counted,
        lambda out, in_, k, h, w, groups=1: 2 * out * in_ * k**2 * h * w / groups,
    ),
    "06.left": (
        lambda f, d, a: float(
            (torch.tensor(f).double() * torch.tensor(d) * torch.tensor([1.0, *a[:-1]])).sum()
            / sum(f)
        ),
    ),
    "06.sram": (most_that_fit,),
}


@pytest.mark.parametrize("id_", RIGHT)
def test_other_ways_to_the_same_answer_are_right(id_):
    exercise = replace(EXERCISES[id_], blocked=(), seconds=60)
    for student in STUDENTS[:20]:
        for number, function in enumerate(RIGHT[id_]):
            verdict = judge(exercise, function, student)
            assert verdict.sign == "✓", (number, student, verdict)
            assert ";" not in verdict.text


def test_given_code_is_not_yet():
    def round_(weight, kept, density):
        sizes = weight.abs() * kept
        count = round(density * int(kept.sum()))
        new = kept.new_zeros(kept.shape)
        new.view(-1)[sizes.flatten().topk(count).indices] = True
        return new

    assert "as it was given" in judge(EXERCISES["05.compound"], round_).text
    for id_ in CHECKED:
        assert judge(EXERCISES[id_], lambda *_: None).sign == "○"


def test_what_the_library_does_is_blocked_where_it_is_the_task():
    for id_, function in (
        ("05.compound", lambda w, kept, d: lab.criteria.by_density(w.abs(), d, kept)),
        ("05.dead", lambda into, out: lab.neurons.find(nn.Sequential())),
    ):
        assert judge(EXERCISES[id_], function).text.startswith("blocked")


# ---------------------------------------------------------------------------- the paper as oracle


def test_flops_of_alexnet_are_those_of_the_papers_table():
    flops, table = EXERCISES["06.conv"].answer, {row.layer: row.flops for row in paper.ALEXNET}
    ours = {
        "conv1": flops(96, 3, 11, 55, 55),
        "conv2": flops(256, 96, 5, 27, 27, 2),
        "conv3": flops(384, 256, 3, 13, 13),
        "conv4": flops(384, 384, 3, 13, 13, 2),
        "conv5": flops(256, 384, 3, 13, 13, 2),
        "fc1": flops(4096, 9216, 1, 1, 1),
        "fc3": flops(1000, 4096, 1, 1, 1),
    }
    for layer, count in ours.items():
        assert count == pytest.approx(table[layer], rel=0.03 if layer == "fc3" else 0.01), layer


def test_all_31_rows_of_the_paper_follow_from_the_rule():
    left, rows = EXERCISES["06.left"].answer, 0
    for *layers, total in paper.LAYER_TABLES.values():
        for before, row in pairwise([None, *layers]):
            active = before.activation_density if before else 1.0
            flops = left([0, 1], [1.0, row.density], [active, 1.0])
            # Half a percent of each of the three numbers may be rounding.
            assert flops == pytest.approx(row.flop_density, abs=0.0151)
            rows += 1
        columns = ("flops", "density", "activation_density")
        found = left(*[[getattr(row, column) for row in layers] for column in columns])
        assert found == pytest.approx(total.flop_density, abs=0.006)
    assert rows == 31


def test_every_student_has_a_misprint_of_one_digit_that_only_its_own_place_explains():
    exercise, kinds = EXERCISES["06.typo"], set()
    for student in STUDENTS:
        ((typo,),) = exercise.cases_of(student)
        printed = {3: paper.LENET_5, 4: paper.ALEXNET}[typo.table]
        pairs = list(zip(printed, typo.rows, strict=False))
        wrong = [
            (
                old.layer,
                name,
                f"{100 * getattr(old, name):03.0f}",
                f"{100 * getattr(new, name):03.0f}",
            )
            for old, new in pairs
            for name in (*PERCENTS, "weights", "flops")
            if getattr(old, name) != getattr(new, name)
        ]
        ((layer, column, before, after),) = wrong
        assert len(before) == len(after)
        assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
        kinds.add((typo.table, layer, column))
        places = [(row.layer, name) for row in typo.rows for name in PERCENTS]
        for place in ((layer, column), *places[int(student) % 5 :: 5] * (int(student) < 20)):
            sign = "✓" if place == (layer, column) else "✗"
            assert judge(exercise, place, student).sign == sign, (student, place)
    assert len(kinds) > 15
    assert {column for *_, column in kinds} == set(PERCENTS)


def test_a_wrong_place_is_told_whether_its_row_fits():
    rows = list(paper.ALEXNET[:-1])
    rows[3] = replace(rows[3], flop_density=0.54)  # conv4; it was 14 %
    exercise = replace(
        EXERCISES["06.typo"], cases=lambda random: [(counting.Typo(4, tuple(rows)),)]
    )
    for where, sign, words in (
        (("conv4", "flop_density"), "✓", "Table 4"),
        (["conv4", "flop_density"], "✓", "Table 4"),
        (("conv4", "density"), "✗", "conv4 breaks the rule"),
        (("conv3", "activation_density"), "✗", "conv4 breaks the rule"),
        (("conv2", "density"), "✗", "conv2, which uses this number (38 %), fits"),
        (("fc3", "activation_density"), "✗", "last layer"),
        (("conv9", "density"), "✗", "the layers are conv1"),
        (("conv1", "weights"), "✗", "the columns are"),
        ("conv4", "✗", "a layer and a column"),
        (None, "○", "not yet"),
    ):
        verdict = judge(exercise, where)
        assert verdict.sign == sign, where
        assert words in verdict.text, verdict


# ---------------------------------------------------------------------------------------- the race


@pytest.fixture(scope="module")
def race():
    """A network that has learnt a rule of four inputs of eight; half of its weights are enough."""
    torch.manual_seed(0)
    x = torch.randn(600, 8)
    y = (x[:, :4] @ torch.randn(4, 3)).argmax(1)
    images = [(x[i : i + 60], y[i : i + 60]) for i in range(0, 600, 60)]
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    config = lab.TrainConfig(epochs=12, lr=0.2)
    list(lab.train(model, images, replace(config, epochs=20)))
    exercise = replace(EXERCISES["05.race"], cases=lambda random: [(0.5,)])
    given = {"model": model, "train": images, "val": images, "config": config}
    return exercise, {**given, "control": lab.evaluate(model, images)}


def test_a_race_trains_as_the_rounds_say_and_compares_with_the_control(race):
    exercise, given = race
    before = [parameter.clone() for parameter in given["model"].parameters()]
    rounds = [{"density": 0.7, "epochs": 4}, {"density": 0.5, "epochs": 8}]
    verdict = judge(exercise, rounds, **given)
    assert verdict.sign == "✓", verdict
    assert [label for label, _ in verdict.lines] == ["round 1", "round 2"]
    assert verdict.lines[1][1].startswith("50.0% left")
    assert all(map(torch.equal, before, given["model"].parameters()))
    for answer, words in (
        ([{"density": 0.5, "epochs": 13}], "13 epochs in all; there are 12"),
        ([{"density": 0.6, "epochs": 12}], "60.23% is left; at most 50.0%"),
        ([], "100% is left"),
        ([{"density": 0.02, "epochs": 0}], "more than 0.5 points are lost"),
        ([{"density": 0.5}], "round 1 needs its epochs"),
        ([{"density": 0.5, "epochs": True}], "round 1 needs its epochs"),
        ([0.5], "a list of dicts"),
        ({"density": 0.5, "epochs": 1}, "a list of dicts"),
        ([{"density": 50, "epochs": 1}], "divide by 100"),
        ([{"densities": 0.5, "epochs": 1}], "densities"),
    ):
        verdict = judge(exercise, answer, **given)
        assert verdict.sign == "✗", answer
        assert words in verdict.text, verdict
    assert judge(exercise, None, **given).sign == "○"
    assert judge(exercise, [{"density": None, "epochs": 2}], **given).sign == "○"
    assert "give what measures it" in judge(exercise, rounds).text


def test_a_race_is_not_run_on_the_test_split(race):
    exercise, given = race
    test = type("Test", (list,), {"name": "test"})(given["val"])
    verdict = judge(exercise, [{"density": 0.5, "epochs": 1}], **{**given, "val": test})
    assert "test split is not for choosing" in verdict.text


def test_the_race_asks_the_demo_for_3_percent_and_others_for_about_as_many():
    exercise = EXERCISES["05.race"]
    assert exercise.cases_of("") == [(0.03,)]
    asked = {exercise.cases_of(student)[0][0] for student in STUDENTS}
    assert len(asked) == 5
    assert max(asked) - min(asked) == pytest.approx(0.008)
    assert min(asked) >= 0.022
    assert max(asked) <= 0.038


# ------------------------------------------------------------------------------ guesses, sentences


def test_guesses_are_compared_and_known_slips_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    left = [20.7, 5.8, 1.8]  # of a layer, by quality 1
    for id_, guess, truth, words in (
        ("05.sigma", [32, 32, 32], left, "not the same threshold"),
        ("05.sigma", [32, 10, 3], [32, 16, 9], "same fraction"),
        ("05.sigma", [80, 93, 98], left, "fractions that are gone"),
        ("06.where", [96, 95], [96.2, 8.1], "not the same thing"),
        ("06.where", [10, 90], [96.2, 8.1], "other way round"),
    ):
        lab.exercises.student(f"{id_} {guess}")
        assert lab.exercises.guess(id_, guess).sign == "✓"
        assert words in lab.exercises.reveal(id_, truth).text
        lab.exercises.student(f"{id_} {guess}, rightly")
        lab.exercises.guess(id_, truth)
        assert words not in lab.exercises.reveal(id_, truth).text


def test_new_values_are_guessed_and_then_told_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert lab.exercises.guess("05.reinit", -1).sign == "✓"
    assert "0.2 percentage points too low" in lab.exercises.reveal("05.reinit", -0.84).text
    (row,) = lab.exercises.progress("05.reinit")
    assert row.points == 0  # its points are those of the sentence
    verdict = lab.exercises.explain("05.reinit", "Worse, by 0.84 points.")
    assert len(verdict.lines) == 3
    assert lab.exercises.progress("05.reinit")[0].points == row.most
