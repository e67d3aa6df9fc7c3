"""Tasks of notebooks 03 and 04: answers, other right ways, known mistakes, and unknown ones."""

import copy
import math
from dataclasses import replace
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pruning_lab as lab
from pruning_lab.exercises import EXERCISES, judge

FUNCTIONS = ("03.step", "04.scan", "04.paired", "04.overlap")


# ------------------------------------------------------------------------------ other right ways


def learned(model, optimizer, x, y):
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def weight_of(model, name):
    return dict(model.named_modules())[name].weight


def through_data(model, mask, optimizer, x, y):
    loss = learned(model, optimizer, x, y)
    for name in mask:
        weight_of(model, name).data *= mask[name]
    return loss


def gradients_and_weights(model, mask, optimizer, x, y):
    loss = nn.CrossEntropyLoss()(model(x), y)
    optimizer.zero_grad(set_to_none=False)
    loss.backward()
    for name, kept in mask.items():
        weight_of(model, name).grad *= kept
    optimizer.step()
    with torch.no_grad():
        for name, kept in mask.items():
            weight = weight_of(model, name)
            weight.copy_(weight * kept)
    return loss  # a tensor without dimensions


def by_parameter_name(model, mask, optimizer, x, y):
    model.zero_grad()
    loss = -F.log_softmax(model(x), dim=1)[range(len(y)), y].mean()
    loss.backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        layer, _, kind = name.rpartition(".")
        if kind == "weight" and layer in mask:
            with torch.no_grad():
                parameter[~mask[layer]] = 0
    return float(loss)


def before_and_after(model, mask, optimizer, x, y):
    for name, kept in mask.items():
        weight_of(model, name).data.masked_fill_(~kept, 0)
    return through_data(model, mask, optimizer, x, y)


def momentum_masked(model, mask, optimizer, x, y):
    """Zeros stay without being set: neither the gradient nor what is remembered moves them."""
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    for name, kept in mask.items():
        weight = weight_of(model, name)
        weight.grad *= kept
        for key in ("momentum_buffer", "exp_avg"):
            if key in optimizer.state[weight]:
                optimizer.state[weight][key] *= kept
    optimizer.step()
    return loss.item()


def scan_of_copies(model, evaluate, densities):
    rows = []
    for name, _ in model.named_children():
        for density in densities:
            other = copy.deepcopy(model)
            lab.prune(other, density={name: density}).apply_(other)
            rows.append([name, density, evaluate(other)])
    return rows


def scan_with_masked(model, evaluate, densities):
    rows = []
    for name in lab.masks.prunable(model):
        for density in densities:
            with lab.masks.masked(model, lab.prune(model, density={name: density})):
                rows.append((name, density, torch.tensor(evaluate(model))))
    return tuple(rows)


def scan_by_threshold(model, evaluate, densities):
    rows = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        for density in densities:
            dense = module.weight.data
            cut = dense.abs().quantile(1 - density)
            module.weight.data = torch.where(dense.abs() >= cut, dense, torch.zeros(()))
            try:
                rows.append((name, density, evaluate(model)))
            finally:
                module.weight.data = dense
    return rows


def changes_by_loop(before, after):
    lost = sum(bool(b) and not bool(a) for b, a in zip(before, after, strict=True))
    return lost, sum(bool(a) and not bool(b) for b, a in zip(before, after, strict=True))


def changes_by_comparison(before, after):
    return [(before > after).sum(), (after > before).sum()]


def changes_by_numbers(before, after):
    step = after.int() - before.int()
    return (step == -1).sum().item(), (step == 1).sum().item()


def better_by_drop(first, second):
    drop = lab.evaluation.drop(*map(lab.evaluation.Accuracy.of, (first, second)))
    return "first" if drop.low > 0 else "second" if drop.high < 0 else "cannot tell"


def better_by_mcnemar(first, second):
    lost, won = (first & ~second).sum().item(), (~first & second).sum().item()
    z = (lost - won) / math.sqrt(max(lost + won, 1))
    return "first" if z > 1.96 else "second" if z < -1.96 else "cannot tell"


def better_by_binomial(first, second):
    lost, won = (first & ~second).sum().item(), (~first & second).sum().item()
    n, most = lost + won, max(lost, won)
    p = 2 * sum(math.comb(n, k) for k in range(most, n + 1)) / 2**n
    return "cannot tell" if p > 0.05 else "first" if lost > won else "second"


def better_by_paired_t(first, second):
    difference = first.float() - second.float()
    half = 1.96 * difference.std() / math.sqrt(len(difference))
    low, high = difference.mean() - half, difference.mean() + half
    return "first" if low > 0 else "second" if high < 0 else "cannot tell"


RIGHT = {
    "03.step": (
        through_data,
        gradients_and_weights,
        by_parameter_name,
        before_and_after,
        momentum_masked,
    ),
    "04.scan": (scan_of_copies, scan_with_masked, scan_by_threshold),
    "04.paired": (changes_by_loop, changes_by_comparison, changes_by_numbers),
    "04.overlap": (better_by_drop, better_by_mcnemar, better_by_binomial, better_by_paired_t),
}


@pytest.mark.parametrize("id_", FUNCTIONS)
def test_other_right_ways_are_right_without_a_note(id_):
    for function in RIGHT[id_]:
        for student in map(str, range(5)):
            verdict = judge(EXERCISES[id_], function, student)
            assert verdict.sign == "✓", (function.__name__, student, verdict)
            assert verdict.text.count(";") == 0, verdict  # a note follows a semicolon


# --------------------------------------------------------------------------- unknown mistakes


def step_of(after=lambda model, mask: None, *, loss=F.cross_entropy, steps=1, says=None):
    def step(model, mask, optimizer, x, y):
        value = loss(model(x), y)
        optimizer.zero_grad()
        value.backward()
        for _ in range(steps):
            optimizer.step()
        with torch.no_grad():
            after(model, mask)
        return value.item() if says is None else says(model, x, y, value)

    return step


def cut(model, mask, names=None):
    for name in names or mask:
        weight_of(model, name).mul_(mask[name])


def smallest_again(model, mask):
    """As many weights as the mask keeps stay, but always the largest of the moment."""
    for name, kept in mask.items():
        weight = weight_of(model, name)
        weight[weight.abs() < weight.abs().flatten().topk(int(kept.sum())).values[-1]] = 0


def rounded(model, mask):
    for name in mask:
        weight = weight_of(model, name)
        weight[weight.abs() < 0.1] = 0


def state_forgotten(model, mask, optimizer, x, y):
    optimizer.state.clear()
    return through_data(model, mask, optimizer, x, y)


def by_children(model, mask, optimizer, x, y):
    loss = learned(model, optimizer, x, y)
    for layer, kept in zip(model.children(), mask.values(), strict=True):
        layer.weight.data *= kept
    return loss


WRONG_STEPS = {
    "only the first layer": step_of(lambda model, mask: cut(model, mask, ["fc1"])),
    "only the second layer": step_of(lambda model, mask: cut(model, mask, ["fc2"])),
    "the smallest again": step_of(smallest_again),
    "all small ones": step_of(rounded),
    "loss summed": step_of(cut, loss=lambda z, y: F.cross_entropy(z, y, reduction="sum")),
    "two steps": step_of(cut, steps=2),
    "loss afterwards": step_of(cut, says=lambda model, x, y, _: F.cross_entropy(model(x), y)),
    "accuracy": step_of(cut, says=lambda model, x, y, _: (model(x).argmax(1) == y).float().mean()),
    "mean square": step_of(cut, loss=lambda z, y: (z - F.one_hot(y, 3)).square().mean()),
    "state forgotten": state_forgotten,
    "children do not fit": by_children,
}


def rows_of(change):
    def scan(model, evaluate, densities):
        return change(scan_with_masked(model, evaluate, densities), evaluate(model))

    return scan


def scan_otherwise(pruned):
    """`pruned(model, name, density)` is the mask."""

    def scan(model, evaluate, densities):
        rows = []
        for name, _ in model.named_children():
            for density in densities:
                with lab.masks.masked(model, pruned(model, name, density)):
                    rows.append((name, density, evaluate(model)))
        return rows

    return scan


def scan_with_biases(model, evaluate, densities):
    rows = []
    for name, layer in model.named_children():
        old = layer.bias.data.clone()
        layer.bias.data *= 0
        rows += [row for row in scan_with_masked(model, evaluate, densities) if row[0] == name]
        layer.bias.data = old
    return rows


WRONG_SCANS = {
    "drops": rows_of(lambda rows, dense: [(n, d, dense - a) for n, d, a in rows]),
    "dense row first": rows_of(lambda rows, dense: [("", 1.0, dense), *rows]),
    "names of parameters": rows_of(lambda rows, _: [(f"{n}.weight", d, a) for n, d, a in rows]),
    "percent": rows_of(lambda rows, _: [(n, 100 * d, a) for n, d, a in rows]),
    "accuracy before density": rows_of(lambda rows, _: [(n, a, d) for n, d, a in rows]),
    "no density": rows_of(lambda rows, _: [(n, a) for n, _, a in rows]),
    "a dict": rows_of(lambda rows, _: {n: a for n, _, a in rows}),
    "last layer left out": rows_of(lambda rows, _: [r for r in rows if r[0] != rows[-1][0]]),
    "sorted by accuracy": rows_of(lambda rows, _: sorted(rows, key=lambda row: float(row[2]))),
    "dense accuracy": rows_of(lambda rows, dense: [(n, d, dense) for n, d, _ in rows]),
    "at random": scan_otherwise(
        lambda m, n, d: lab.prune(m, density={n: d}, saliency=lab.criteria.Random(1))
    ),
    "one more": scan_otherwise(
        lambda m, n, d: lab.prune(m, density={n: d + 1 / m.get_submodule(n).weight.numel()})
    ),
    "quality": scan_otherwise(lambda m, n, d: lab.prune(m, quality={n: d})),
    "biases too": scan_with_biases,
}

WRONG_CHANGES = {
    "both right": lambda b, a: (int((b & a).sum()), int((b & a).sum())),
    "lost alone": lambda b, a: int((b & ~a).sum()),
    "none but these": lambda b, a: (int((b & ~a).sum()), 0),
    "three": lambda b, a: (int((b & ~a).sum()), int((a & ~b).sum()), int((a == b).sum())),
    "unchanged": lambda b, a: (int((a == b).sum()), int((a != b).sum())),
    "masks": lambda b, a: (b & ~a, a & ~b),
    "percent": lambda b, a: (100 * (b & ~a).float().mean(), 100 * (a & ~b).float().mean()),
    "or": lambda b, a: (int((b | ~a).sum()), int((~b | a).sum())),
    "bools subtracted": lambda b, a: ((b - a).sum(), (a - b).sum()),
    "and of tensors": lambda b, a: ((b and not a), (a and not b)),
    "always": lambda b, a: (2, 1),
    "texts": lambda b, a: (str(int((b & ~a).sum())), str(int((a & ~b).sum()))),
}


def by_margin(least):
    def better(first, second):
        more = int(first.sum()) - int(second.sum())
        return "first" if more >= least else "second" if more <= -least else "cannot tell"

    return better


WRONG_BETTER = {
    "always first": lambda one, two: "first",
    "always second": lambda one, two: "second",
    "never": lambda one, two: "cannot tell",
    "a margin of 5 %": lambda one, two: by_margin(0.05 * len(one))(one, two),
    "a margin of 9": by_margin(9),
    "a margin of 30": by_margin(30),
    "True": lambda one, two: better_by_drop(one, two) == "cannot tell",
    "other words": lambda one, two: better_by_drop(one, two).title(),
    "a number": lambda one, two: int(one.sum()) - int(two.sum()),
    "bools subtracted": lambda one, two: "first" if (one - two).sum() > 0 else "second",
    "any change": lambda one, two: "cannot tell" if torch.equal(one, two) else "first",
    "only losses": lambda one, two: "first" if (one & ~two).sum() > 4 else "cannot tell",
    "a margin of 20": by_margin(20),
}
WRONG = dict(zip(FUNCTIONS, (WRONG_STEPS, WRONG_SCANS, WRONG_CHANGES, WRONG_BETTER), strict=True))


@pytest.mark.parametrize("id_", FUNCTIONS)
def test_unknown_mistakes_are_wrong_and_get_no_other_mistakes_name(id_):
    exercise = EXERCISES[id_]
    assert len(WRONG[id_]) >= 10
    for name, function in WRONG[id_].items():
        for student in map(str, range(5)):
            verdict = judge(exercise, function, student)
            assert verdict.sign == "✗", (name, student, verdict)
            named = [message for message in exercise.twins if message in verdict.text]
            assert named == [], (name, student, verdict)
            assert verdict.lines, name


def scan_restoring(keep, restore):
    """The scan that keeps something before each cut, and restores the weights from it."""

    def scan(model, evaluate, densities):
        rows = []
        for name, layer in model.named_children():
            for density in densities:
                kept, mask = keep(model, layer), lab.prune(model, density={name: density})
                with torch.no_grad():
                    layer.weight.mul_(mask[name])
                    rows.append((name, density, evaluate(model)))
                    restore(model, layer, kept)
        return rows

    return scan


def test_a_copy_that_is_none_gets_the_sentence_about_clone():
    as_weight = (lambda model, layer, old: layer.weight.copy_(old),)
    for keep, restore in (
        (lambda model, layer: layer.weight, *as_weight),
        (lambda model, layer: layer.weight.data, *as_weight),
        (lambda model, layer: layer.weight.detach(), *as_weight),
        (lambda model, layer: model.state_dict(), lambda model, _, old: model.load_state_dict(old)),
        (lambda model, layer: copy.copy(model), lambda model, _, old: None),
    ):
        verdict = judge(EXERCISES["04.scan"], scan_restoring(keep, restore))
        assert verdict.sign == "✗"
        assert "needs .clone()" in verdict.text
    cloned = scan_restoring(lambda model, layer: layer.weight.clone(), *as_weight)
    assert "try: ... finally:" in judge(EXERCISES["04.scan"], cloned).text


def test_stubs_and_given_code_are_not_yet_answers():
    def nothing(*_): ...

    def better(first, second):
        one, two = lab.evaluation.Accuracy.of(first), lab.evaluation.Accuracy.of(second)
        if one.low > two.high:
            return "first"
        if two.low > one.high:
            return "second"
        return "cannot tell"

    def prints(*_):
        print("to do")

    for id_ in FUNCTIONS:
        for stub in (nothing, prints, None):
            assert judge(EXERCISES[id_], stub).sign == "○", id_
    assert judge(EXERCISES["03.control"], nothing).sign == "○"
    assert "as it was given" in judge(EXERCISES["04.overlap"], better).text


def test_what_the_library_does_is_blocked_where_it_is_the_task():
    def held(model, mask, optimizer, x, y):
        with mask.hold(model):
            return learned(model, optimizer, x, y)

    def applied(model, mask, optimizer, x, y):
        loss = learned(model, optimizer, x, y)
        mask.apply_(model)
        return loss

    def scanned(model, evaluate, densities):
        return lab.scan(model, evaluate, densities)

    for id_, function in ("03.step", held), ("03.step", applied), ("04.scan", scanned):
        verdict = judge(EXERCISES[id_], function)
        assert verdict.sign == "✗"
        assert verdict.text.startswith("blocked"), verdict


# ---------------------------------------------------------------------------------- optimizers

TRUE = {"SGD": False, "SGD + decay": False, "momentum": True}
TRUE |= {"RMSprop": False, "Adagrad": False, "Adam": True}


def test_optimizers_are_run_and_every_wrong_entry_gets_its_sentence():
    exercise, said = EXERCISES["03.optimizers"], {}
    assert judge(exercise, TRUE).sign == "✓"
    assert judge(exercise, {name: int(moved) for name, moved in TRUE.items()}).sign == "✓"
    for name in TRUE:
        verdict = judge(exercise, {**TRUE, name: not TRUE[name]})
        said[name] = verdict.text.removeprefix("wrong: ").removesuffix(".")
        assert verdict.sign == "✗"
        assert said[name].startswith(f"{name}: ")
    for names in combinations(TRUE, 3):
        verdict = judge(exercise, {n: moved != (n in names) for n, moved in TRUE.items()})
        assert verdict.text == f"wrong: {'; '.join(said[name] for name in names)}."
    assert judge(exercise, dict.fromkeys(TRUE)).sign == "○"
    assert "RMSprop" in judge(exercise, {"SGD": False}).text
    assert "'no'" in judge(exercise, {**TRUE, "SGD": "no"}).text
    assert judge(exercise, list(TRUE)).sign == "✗"


# -------------------------------------------------------------------------------------- control


def test_a_control_differs_in_the_mask_alone_and_each_other_difference_is_named():
    exercise = EXERCISES["03.control"]
    given = {
        "retraining": lab.TrainConfig(epochs=8, lr=0.02),
        "dense": lab.TrainConfig(epochs=4, lr=0.03),
    }
    right = {"start": "dense", "epochs": 8, "lr": 0.02, "mask": None}

    def verdict(**entries):
        return judge(exercise, lambda: {**right, **entries}, **given)

    for mask in (None, False):
        assert verdict(mask=mask).sign == "✓"
    assert judge(exercise, {**right, "mask": False}, **given).sign == "✓"  # the dict itself
    wrong = [
        ({"start": "new"}, "new network"),
        ({"epochs": 4}, "fewer epochs"),
        ({"epochs": 12}, "more epochs"),
        ({"mask": True}, "the mask is held"),
        ({"mask": lab.Mask({"fc1": torch.ones(2)})}, "the mask is held"),
        ({"lr": 0.03}, "that of the first training"),
        ({"lr": 0.1}, "another"),
    ]
    for entries, words in wrong:
        found = [other for _, other in wrong if other in verdict(**entries).text]
        assert verdict(**entries).sign == "✗"
        assert set(found) == {words}
    both = verdict(start="new", mask=True).text
    assert "new network" in both
    assert "the mask is held" in both
    for entries, words in (
        ({"start": "pruned"}, "start is"),
        ({"lr": "low"}, "lr is a number"),
        ({"epochs": True}, "epochs is a number"),
        ({"mask": "no"}, "mask is True"),
        ({"seed": 1}, "keys start, epochs, lr, mask"),
    ):
        assert words in verdict(**entries).text
        assert verdict(**entries).sign == "✗"
    assert verdict(epochs=None).sign == "○"
    assert judge(exercise, lambda: [1], **given).sign == "✗"
    # Without the notebook's configs: those of its quick size on MNIST.
    assert judge(exercise, lambda: right | {"epochs": 6, "lr": 0.1}).sign == "✓"


# ----------------------------------------------------------------------------------------- plan


class Named(list):
    """Images with a split's name."""

    name = "val"


@pytest.fixture(scope="module")
def toy():
    """A network that is right on all of its images, its scan, and a budget of half its weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    x = torch.randn(400, 8)
    images = Named([(x, model(x).argmax(1))])
    scan = lab.scan(model, images, [0.8, 0.6, 0.4, 0.2, 0.1])
    exercise = replace(EXERCISES["04.plan"], cases=lambda random: [(96,)])
    return exercise, {"model": model, "images": images, "scan": scan}


def hits(model, images, counts):
    """Which images are right with so many weights of each layer, computed by hand."""
    (x, y), (one, two) = images[0], (model[0], model[2])
    first, second = (
        layer.weight.detach()
        * (layer.weight.abs() >= layer.weight.abs().flatten().sort().values[-n])
        for layer, n in zip((one, two), counts, strict=True)
    )
    return ((x @ first.T + one.bias).relu() @ second.T + two.bias).argmax(1) == y


def plan_of(counts):
    return {"0": counts[0] / 128, "2": counts[1] / 64}


def test_a_plan_keeps_its_budget_and_beats_the_single_choice(toy):
    exercise, given = toy
    model, images, scan = given.values()
    single = lab.choose(scan, density=0.5)
    theirs = hits(model, images, [round(row.density * row.weights) for row in single.rows])
    right = {n: hits(model, images, (96 - n, n)) for n in range(10, 64)}
    best = max(right, key=lambda n: int(right[n].sum()))
    worst = min(right, key=lambda n: int(right[n].sum()))
    assert right[worst].sum() < theirs.sum() < right[best].sum()

    verdict = judge(exercise, plan_of((96 - best, best)), **given)
    points = 100 * (right[best].float().mean() - theirs.float().mean())
    assert verdict.sign == "✓"
    assert f"{points:.2f} points less" in verdict.text
    lost, won = int((theirs & ~right[best]).sum()), int((right[best] & ~theirs).sum())
    assert str(lab.evaluation.Drop.counted(lost, won, 400)) in dict(verdict.lines).values()
    verdict = judge(exercise, plan_of((96 - worst, worst)), **given)
    assert verdict.sign == "✗"
    assert "more than the single choice" in verdict.text
    for off, words in (1, "97 weights, 1 too many"), (-1, "95 weights, 1 too few"):
        verdict = judge(exercise, plan_of((96 - best + off, best)), **given)
        assert verdict.sign == "✗"
        assert words in verdict.text


def test_a_plan_is_refused_on_the_test_split_and_asks_for_what_is_missing(toy):
    exercise, given = toy
    plan, test = plan_of((60, 36)), Named(given["images"])
    test.name = "test"
    for answer, changed, words in (
        (plan, {"images": test}, "the test split is not for choosing"),
        (plan, {"scan": None}, "scan=scan"),
        ({"0": 46.9, "2": 0.5}, {}, "divide by 100"),
        ({"fc1": 0.5}, {}, "fc1"),
        ([0.5, 0.5], {}, "dict of layer -> density"),
        (0.5, {}, "dict of layer -> density"),
    ):
        verdict = judge(exercise, answer, **{**given, **changed})
        assert verdict.sign == "✗"
        assert words in verdict.text, verdict
    assert judge(exercise, dict.fromkeys(plan), **given).sign == "○"
    assert judge(exercise, lab.choose(given["scan"], density=0.5), **given).sign == "✗"


def test_every_student_has_a_budget_of_their_own_and_the_demo_the_papers():
    exercise = EXERCISES["04.plan"]
    assert exercise.cases_of("") == [(36_280,)]
    budgets = {exercise.cases_of(student)[0][0] for student in map(str, range(200))}
    assert len(budgets) > 60
    assert all(abs(budget - 36_280) <= 1_200 for budget in budgets)


# ------------------------------------------------------------------------------ guesses, sentences


def test_guesses_are_compared_and_known_slips_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for id_, guess, truth, words in (
        ("03.back", 0, 99.9, "zero is a value like any other"),
        ("03.humps", [40, 100, 45], [90, 3, 100], "those that were pruned"),
        ("04.rank", ["fc1", "conv2", "fc2", "conv1"], ["conv1", "fc2", "conv2", "fc1"], "largest"),
        ("04.together", 2, 5.2, "single losses do not add"),
        ("04.together", 0.5, 5.2, "one layer alone"),
    ):
        lab.exercises.student(f"{id_} {guess}")
        assert lab.exercises.reveal(id_, truth).sign == "○"
        assert lab.exercises.guess(id_, guess).sign == "✓"
        assert words in lab.exercises.reveal(id_, truth).text
        lab.exercises.student(f"{id_} {guess}, rightly")
        lab.exercises.guess(id_, truth)
        assert words not in lab.exercises.reveal(id_, truth).text


def test_the_sentence_about_two_drops_has_a_rubric_of_three_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert lab.exercises.explain("03.print", "").sign == "○"
    verdict = lab.exercises.explain("03.print", "The one against the control.")
    assert len(verdict.lines) == 3
    assert "control" in verdict.lines[0][1]
