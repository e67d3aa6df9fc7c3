"""Densities chosen from a scan: by hand where its curves are given, else by brute force."""

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from pruning_lab import criteria, data, evaluation, masks, models, sensitivity
from pruning_lab.evaluation import Accuracy, Drop
from pruning_lab.sensitivity import Plan, Scan, ScanPoint

SIZES = {"a": 100_000, "b": 1_000_000}


def made_scan(curves: dict[str, dict[float, float]], **about) -> Scan:
    """A scan of 1,000 images in which each layer loses what `curves` say at each density."""
    points = [
        ScanPoint(
            layer=layer,
            asked=f"density {density}",
            density=density,
            quality=10 * (1 - density),
            threshold=1 - density,
            accuracy=Accuracy.counted(round(1000 * (0.9 - drop)), 1000),
            drop=Drop.counted(max(0, round(1000 * drop)), max(0, -round(1000 * drop)), 1000),
        )
        for layer, curve in curves.items()
        for density, drop in curve.items()
    ]
    layers = {n: {"weights": SIZES[n], "kept": SIZES[n], "sigma": 0.1} for n in curves}
    plain = {"saliency": "magnitude", "layers": layers}
    about = {**plain, "other_layers": {"weights": 0, "kept": 0}, **about}
    return Scan(points, dense=Accuracy.counted(900, 1000), about=about)


CURVES = {"a": {0.5: 0.01, 0.25: 0.03, 0.1: 0.4}, "b": {0.5: 0.0, 0.25: 0.001, 0.1: 0.002}}


def test_a_layer_goes_down_to_where_its_own_curve_meets_the_allowed_drop():
    plan = sensitivity.choose(made_scan(CURVES), max_drop_per_layer=2)
    # Half way from 0.5 (1 point) to 0.25 (3 points), on a logarithmic axis.
    assert plan.densities["a"] == pytest.approx(math.sqrt(0.5 * 0.25), rel=1e-4)
    assert plan.densities["b"] == 0.1  # its sparsest level costs 0.2 points
    assert [row.drop for row in plan.rows] == pytest.approx([0.02, 0.002], rel=1e-3)
    assert [row.quality for row in plan.rows] == pytest.approx([6.25, 9], rel=1e-3)
    assert plan.predicted == pytest.approx(0.022, rel=1e-3)
    assert plan.density == pytest.approx((35_355 + 100_000) / 1_100_000)
    assert plan.together is None
    text = str(plan)
    assert "between 0.5 (-1.00 points) and 0.25 (-3.00 points)" in text
    assert "the sparsest level of the scan: 0.1 (-0.20 points, within noise)" in text
    assert (
        "Asked for max_drop_per_layer 2 points that each layer alone may lose; not measured" in text
    )
    assert "12.31% of the weights stay." in text
    assert "The changes of single layers sum to -2.20 points; they do not add" in text


def test_between_dense_and_the_first_level_the_curve_starts_at_no_drop():
    plan = sensitivity.choose(made_scan({"a": {0.8: 0.04}}), max_drop_per_layer=1)
    assert plan.densities == {"a": pytest.approx(0.8**0.25, rel=1e-4)}
    assert plan.rows[0].why == "between all of it and 0.8 (-4.00 points)"


def test_with_nothing_allowed_what_costs_something_stays():
    scan = made_scan({"a": {0.8: 0.04}, "b": {0.5: 0.0, 0.25: 0.1}})
    assert sensitivity.choose(scan, max_drop_per_layer=0).densities == {"a": 1.0, "b": 0.5}


def test_a_lucky_level_after_a_bad_one_is_not_believed():
    scan = made_scan({"a": {0.5: 0.03, 0.25: 0.0, 0.1: 0.5}})
    assert sensitivity.choose(scan, max_drop_per_layer=1).densities["a"] > 0.5


def test_a_gain_beyond_noise_is_not_called_noise():
    plan = sensitivity.choose(made_scan({"a": {0.5: -0.1}}), max_drop_per_layer=1)
    assert plan.rows[0].why == "the sparsest level of the scan: 0.5 (+10.00 points)"


def test_images_won_count_as_no_drop():
    plan = sensitivity.choose(made_scan({"a": {0.5: -0.02, 0.25: 0.02}}), max_drop_per_layer=1)
    assert plan.densities["a"] == pytest.approx(math.sqrt(0.5 * 0.25), rel=1e-4)


@pytest.mark.parametrize("density", [0.11, 0.2, 0.3, 0.6, 1.0])
def test_a_density_is_met_to_the_weight(density):
    plan = sensitivity.choose(made_scan(CURVES), density=density)
    kept = sum(round(SIZES[layer] * d) for layer, d in plan.densities.items())
    assert abs(kept - density * 1_100_000) <= 1
    assert plan.density == pytest.approx(density, abs=0.002)


def test_at_a_density_all_layers_lose_the_same():
    scan = made_scan({"a": {0.5: 0.02, 0.1: 0.1}, "b": {0.5: 0.05, 0.1: 0.5}})
    rows = sensitivity.choose(scan, density=0.6).rows
    assert rows[0].drop == pytest.approx(rows[1].drop, rel=1e-3)


def test_where_two_levels_lose_the_same_a_density_between_them_is_met():
    plan = sensitivity.choose(made_scan({"a": {0.5: 0.02, 0.25: 0.02}}), density=0.4)
    assert plan.densities["a"] == pytest.approx(0.4)


def test_a_density_below_the_scan_is_refused():
    with pytest.raises(
        ValueError, match=r"keep 110,000 weights, and density 0\.05 leaves 55,000 for"
    ):
        sensitivity.choose(made_scan(CURVES), density=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give max_drop, max_drop_per_layer or density, one of the three"),
        ({"max_drop": 1, "density": 0.5}, "one of the three"),
        ({"max_drop": 1, "max_drop_per_layer": 1}, "one of the three"),
        ({"max_drop": -1}, "0 to 100 percentage points"),
        ({"max_drop_per_layer": 101}, "0 to 100 percentage points"),
        ({"density": 8}, "for a percentage, divide by 100"),
        ({"density": 0.5, "method": "best"}, "single or joint for density, got 'best'"),
        ({"max_drop": 1, "method": "single"}, "single for max_drop_per_layer, .* got 'single'"),
        ({"max_drop_per_layer": 1, "method": "joint"}, "must be joint for max_drop .*got 'joint'"),
        ({"max_drop": 1}, "give both model= and images=splits.val"),
        ({"density": 0.5, "method": "joint"}, "give both model= and images=splits.val"),
        ({"density": 0.5, "images": []}, "give both model= and images=splits.val"),
        ({"density": 0.5, "evaluations": 0}, "evaluations must be 1 or more, got 0"),
        (
            {"max_drop_per_layer": 1, "saliency": criteria.random(3)},
            r"was 'magnitude', got 'random\(seed=3\)'",
        ),
        ({"density": 0.5, "saliency": criteria.random}, r"was 'magnitude', got 'Random \w+'"),
    ],
)
def test_what_cannot_be_chosen_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        sensitivity.choose(made_scan(CURVES), **options)


# ------------------------------------------------------------------------------- real networks


@pytest.fixture(scope="module")
def lenet():
    return models.lenet_300_100(trained="mnist").eval()


@pytest.fixture(scope="module")
def digits():
    """Digits of another hand than the network learned: it errs on some, which is what we need."""
    return data.load("mnist-5k").train.head(600)


@pytest.fixture(scope="module")
def scanned(lenet, digits):
    return sensitivity.scan(lenet, digits, [0.02, 0.05, 0.1, 0.2, 0.4, 0.7])


def logits_of(model, plan, images):
    """By a copy that is really pruned, with torch's own ranking."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for layer, density in plan.densities.items():
            weight = copied.get_submodule(layer).weight
            kept = round(density * weight.numel())
            order = weight.abs().flatten().argsort(descending=True, stable=True)
            weight.view(-1)[order[kept:]] = 0
        return torch.cat([copied(x) for x, _ in images])


def test_the_drop_of_all_layers_together_is_that_of_a_pruned_network(lenet, digits, scanned):
    plan = sensitivity.choose(scanned, density=0.15, model=lenet, images=digits)
    labels = torch.cat([y for _, y in digits])
    hits = logits_of(lenet, plan, digits).argmax(1) == labels
    dense = torch.cat([lenet(x) for x, _ in digits]).argmax(1) == labels
    assert plan.together == evaluation.drop(Accuracy.of(dense), Accuracy.of(hits))
    assert "measured together" in str(plan)


@pytest.mark.parametrize("density", [0.3, 0.15])
def test_layers_that_exchange_weights_lose_less_at_the_same_density(
    lenet, digits, scanned, density, everything_of
):
    before = everything_of(lenet)
    at_hand = {"model": lenet, "images": digits, "density": density}
    single = sensitivity.choose(scanned, **at_hand)
    joint = sensitivity.choose(scanned, **at_hand, method="joint")
    assert everything_of(lenet) == before
    weights = sum(row.weights for row in single.rows)
    assert abs(joint.density - single.density) * weights <= 1
    labels = torch.cat([y for _, y in digits])
    losses = [F.cross_entropy(logits_of(lenet, plan, digits), labels) for plan in (single, joint)]
    assert losses[1] < losses[0]
    assert any("other layers" in row.why for row in joint.rows)


def applied(model, plan, images):
    """The drop of a copy that the plan's mask has pruned, image by image."""
    copied, dense = copy.deepcopy(model).eval(), copy.deepcopy(model).eval()
    plan.mask(model).apply_(copied)
    with torch.no_grad():
        pairs = [(dense(x).argmax(1) == y, copied(x).argmax(1) == y) for x, y in images]
    before, after = (torch.cat(hits) for hits in zip(*pairs, strict=True))
    return Drop.counted(int((before & ~after).sum()), int((after & ~before).sum()), len(before))


def small_cnn():
    """Trained for a moment, so that it has something to lose."""
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(1, 8, 5, stride=2), torch.nn.ReLU(), torch.nn.Flatten()
    model = torch.nn.Sequential(*layers, torch.nn.Linear(8 * 12 * 12, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for x, y in list(replace(data.load("mnist-5k").train.head(600), batch_size=100)) * 4:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


NETWORKS = {
    "lenet_300_100": lambda: models.lenet_300_100(trained="mnist"),
    "lenet_5": lambda: models.lenet_5(trained="mnist"),
    "small CNN": small_cnn,
}


@pytest.mark.parametrize("max_drop", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_the_whole_network_keeps_within_the_allowed_drop(make, max_drop, everything_of):
    model, images = make(), data.load("mnist-5k").train.head(400)
    scan = sensitivity.scan(model, images, [0.02, 0.05, 0.1, 0.2, 0.4, 0.7])
    before, told = everything_of(model), []
    plan = sensitivity.choose(
        scan, max_drop=max_drop, evaluations=60, notify=lambda *done: told.append(done)
    )
    assert told[0] == (0, 60)
    assert [done for done, _ in told] == list(range(len(told)))
    assert len(told) <= 61
    assert everything_of(model) == before
    assert plan.together == applied(model, plan, images)
    assert plan.together.value <= max_drop / 100
    assert plan.together.n == 400
    assert (plan.method, plan.asked) == ("joint", f"max_drop {max_drop:g}")
    assert plan.density < (1 if max_drop < 3 else 0.5)
    text = str(plan)
    assert "points that the whole network may lose; measured together: " in text
    assert f"{plan.together} on 400 images" in text


@pytest.mark.parametrize("choice", [{"max_drop": 3.0}, {"density": 0.3}], ids=["drop", "density"])
@pytest.mark.parametrize("recalibrated", [False, True])
def test_fixed_layers_are_pruned_in_all_that_is_measured(choice, recalibrated, everything_of):
    images = data.load("mnist-5k").train.head(400)
    model = small_cnn()
    model.insert(1, torch.nn.BatchNorm2d(8))
    fixed = {"0": masks.prune(model, density={"0": 0.45})["0"]}
    options = {"recalibrate": images.head(200)} if recalibrated else {}
    scan = sensitivity.scan(model, images, [0.02, 0.05, 0.1, 0.2, 0.4, 0.7], **options)
    before, at_hand = everything_of(model), {"model": model, "images": images, **options}
    plan = sensitivity.choose(scan, **choice, fixed=fixed, evaluations=60, **at_hand)
    assert everything_of(model) == before
    assert list(plan.densities) == ["4"]
    dense, copied = copy.deepcopy(model), copy.deepcopy(model)
    plan.mask(model).apply_(copied)
    with torch.no_grad():
        copied[0].weight[~fixed["0"]] = 0
    if recalibrated:
        for network in (dense, copied):
            evaluation.recalibrate(network, images.head(200))
    hits = [evaluation.evaluate(network, images) for network in (dense, copied)]
    assert plan.together == evaluation.drop(*hits)
    weights = torch.cat([copied[n].weight.flatten() for n in (0, 4)])
    assert plan.density == pytest.approx(int(weights.count_nonzero()) / weights.numel())
    if "density" in choice:
        assert plan.density == pytest.approx(0.3, abs=1e-4)
        return
    assert plan.together.value <= 0.03
    assert plan.densities["4"] < 1
    alone = sensitivity.choose(scan, **choice, evaluations=60, **at_hand)
    assert plan.densities["4"] != alone.densities["4"]


def test_fixed_layers_that_lose_too_much_leave_nothing_to_choose(lenet, digits, scanned):
    at_hand = {"max_drop": 1, "model": lenet, "images": digits}
    mask = masks.prune(lenet, density=0.01)
    with pytest.raises(ValueError, match=r"the fixed layers alone change the accuracy by -\d+"):
        sensitivity.choose(scanned, **at_hand, fixed={"fc1": mask["fc1"]})
    with pytest.raises(ValueError, match="all scanned layers are fixed"):
        sensitivity.choose(scanned, **at_hand, fixed=mask)
    with pytest.raises(ValueError, match="give both model= and images="):
        sensitivity.choose(scanned, density=0.5, fixed=mask)


def test_a_search_is_not_timid(lenet, digits, scanned):
    plan = sensitivity.choose(scanned, max_drop=2.0)
    assert plan.together.value <= 0.02
    sparser = {layer: 0.6 * density for layer, density in plan.densities.items()}
    with masks.masked(lenet, masks.prune(lenet, density=sparser)):
        after = evaluation.evaluate(lenet, digits)
    assert evaluation.drop(evaluation.evaluate(lenet, digits), after).value > 0.02


def test_with_no_evaluation_left_nothing_is_believed(lenet, digits, scanned):
    plan = sensitivity.choose(scanned, max_drop=0.5, evaluations=1)
    assert plan.together == applied(lenet, plan, digits)
    assert plan.together.value <= 0.005


def test_layers_that_stand_in_for_each_other_are_not_both_taken_away(digits):
    """Each of two equal branches can go alone at no loss; both cannot."""

    class Twins(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = (models.lenet_300_100(trained="mnist") for _ in range(2))

        def forward(self, x):
            return self.one(x) + self.other(x)

    model = Twins().eval()
    layers = ["one.fc1", "other.fc1"]
    scan = sensitivity.scan(model, digits, [0.5, 0.0], layers=layers)
    assert max(point.drop.value for point in scan) <= 0.04
    plan = sensitivity.choose(scan, max_drop=4.0, evaluations=60)
    assert plan.together == applied(model, plan, digits)
    assert plan.together.value <= 0.04
    assert max(plan.densities.values()) > 0
    assert sum(plan.densities.values()) < 1


def test_ties_are_searched_as_they_are_pruned(split):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4)).eval()
    with torch.no_grad():
        model[1].weight.sign_()
    scan = sensitivity.scan(model, split, [0.5, 0.2, 0.05])
    told = []
    plan = sensitivity.choose(
        scan, max_drop=0.0, evaluations=60, notify=lambda done, most: told.append(done)
    )
    assert plan.together == applied(model, plan, split)
    assert plan.together.value <= 0
    assert told[-1] < 60


def test_what_the_search_has_not_seen_is_verified(digits, monkeypatch):
    """A search in so little memory that it sees twenty images, of one class."""
    few = lambda *given, **more: evaluation.Evaluator(*given, budget=250_000, **more)  # noqa: E731
    monkeypatch.setattr("pruning_lab.sensitivity.choosing.Evaluator", few)
    order = digits.labels.argsort()
    images = replace(
        digits, images=digits.images[order], labels=digits.labels[order], batch_size=10
    )
    model = small_cnn()
    scan = sensitivity.scan(model, images, [0.02, 0.05, 0.1, 0.2, 0.4, 0.7])
    plan = sensitivity.choose(scan, max_drop=0.5, evaluations=200)
    assert plan.together == applied(model, plan, images)
    assert plan.together.value <= 0.005


def test_a_scan_from_a_file_has_no_network_to_search_with(lenet, digits, scanned, tmp_path):
    read = Scan.load(scanned.save(tmp_path / "scan.csv"))
    with pytest.raises(ValueError, match=r"give both model= and images=splits\.val"):
        sensitivity.choose(read, max_drop=1)
    given = {"max_drop": 1, "evaluations": 20}
    plan = sensitivity.choose(read, **given, model=lenet, images=digits)
    assert plan == sensitivity.choose(scanned, **given)


def test_a_computed_saliency_is_remembered_with_the_network(toy, split, batches):
    taylor = criteria.taylor(toy, batches)
    scan = sensitivity.scan(toy, split, [0.7, 0.5, 0.1], saliency=taylor)
    plan = sensitivity.choose(scan, max_drop=10, evaluations=20)
    pruned = copy.deepcopy(toy)
    plan.mask(toy, saliency=taylor).apply_(pruned)
    before, after = (evaluation.evaluate(network, split) for network in (toy, pruned))
    assert plan.together == evaluation.drop(before, after)
    assert plan.together.value <= 0.1


def test_a_search_stops_at_its_budget_of_evaluations_and_says_how_far_it_is(lenet, digits, scanned):
    found, told = {}, []
    for most in (1, 20, 1000):
        plan = sensitivity.choose(
            scanned,
            density=0.08,
            method="joint",
            model=lenet,
            images=digits,
            evaluations=most,
            notify=lambda done, most: told.append((done, most)),
        )
        assert plan.density == pytest.approx(0.08, abs=1e-3)
        found[most] = plan.together.value
    assert [done for done, most in told if most == 20] == list(range(21))
    assert max(done for done, most in told if most == 1000) < 1000  # it ended by itself
    assert found[1000] < found[1]


@pytest.mark.parametrize("choice", [{"max_drop": 2.0}, {"density": 0.08, "method": "joint"}])
def test_every_network_that_is_tried_is_told(lenet, digits, scanned, choice):
    told, begun = [], []
    plan = sensitivity.choose(
        scanned,
        **choice,
        model=lenet,
        images=digits,
        evaluations=60,
        notify=lambda done, most: begun.append(done),
        tried=lambda density, accuracy: told.append((density, accuracy)),
    )
    assert len(told) == begun[-1] > 5
    with masks.masked(lenet, plan.mask(lenet)):
        assert (plan.density, evaluation.evaluate(lenet, digits)) in told


def test_the_test_split_is_not_for_choosing(lenet, digits, scanned):
    images = replace(digits, name="test")
    with pytest.raises(ValueError, match=r"a plan chooses, .* not for choosing; give splits\.val$"):
        sensitivity.choose(scanned, density=0.1, model=lenet, images=images)


def test_another_network_than_the_one_scanned_is_refused(lenet, digits, scanned):
    other = copy.deepcopy(lenet)
    with torch.no_grad():
        other.fc3.bias[0] += 1
    with pytest.raises(ValueError, match="is for a network with other weights; scan this one"):
        sensitivity.choose(scanned, density=0.1, model=other, images=digits)


@pytest.mark.parametrize("method", ["single", "joint"])
def test_a_plan_from_a_file_makes_the_same_mask(method, lenet, digits, scanned, tmp_path):
    plan = sensitivity.choose(scanned, density=0.15, method=method, model=lenet, images=digits)
    scanned.save(tmp_path / "scan.csv")
    again = sensitivity.choose(
        Scan.load(tmp_path / "scan.csv"), density=0.15, method=method, model=lenet, images=digits
    )
    assert again == plan
    read = Plan.load(plan.save(tmp_path / "plan.json"))
    assert read == plan
    assert read.mask(lenet).fingerprint() == plan.mask(lenet).fingerprint()
    qualities = {row.layer: row.quality for row in plan.rows}
    sigmas = {layer: lenet.get_submodule(layer).weight.std(correction=0) for layer in qualities}
    for layer, kept in plan.mask(lenet).items():  # the quality says the same as the density
        expected = (
            lenet.get_submodule(layer).weight.abs() >= 0.999999 * qualities[layer] * sigmas[layer]
        )
        assert torch.equal(kept, expected)


def test_a_plan_for_another_saliency_makes_no_mask(lenet):
    plan = sensitivity.choose(made_scan(CURVES), max_drop_per_layer=1)
    with pytest.raises(ValueError, match=r"was 'magnitude', got 'random\(seed=0\)'"):
        plan.mask(lenet, saliency=criteria.random(0))


def test_a_random_plan_replays_to_the_same_mask_from_its_name_alone(toy, split, tmp_path):
    scan = sensitivity.scan(toy, split, [0.5, 0.1], saliency=criteria.random(5))
    scan.save(tmp_path / "scan.csv")
    plan = sensitivity.choose(Scan.load(tmp_path / "scan.csv"), density=0.2)
    again = Plan.load(plan.save(tmp_path / "plan.json"))
    torch.manual_seed(1)  # what others draw in the meantime does not matter
    assert again.mask(toy) == plan.mask(toy)
    assert plan.mask(toy) == masks.prune(toy, density=plan.densities, saliency=criteria.random(5))


def test_a_computed_saliency_has_to_be_given_again_and_to_be_the_same(toy, split, batches):
    taylor, gradient = criteria.taylor(toy, batches), criteria.gradient(toy, batches)
    scan = sensitivity.scan(toy, split, [0.5, 0.1], saliency=taylor)
    plan = sensitivity.choose(scan, density=0.2)
    assert plan.mask(toy, saliency=taylor) == masks.prune(
        toy, density=plan.densities, saliency=taylor
    )
    with pytest.raises(ValueError, match="which its name alone does not make; give it"):
        plan.mask(toy)
    for other in (gradient, {**taylor, "fc1": taylor["fc1"] + 1}, criteria.magnitude):
        with pytest.raises(ValueError, match=r"the scan's saliency was 'taylor \w+', got"):
            plan.mask(toy, saliency=other)
        with pytest.raises(ValueError, match=r"the scan's saliency was 'taylor \w+', got"):
            sensitivity.choose(scan, density=0.2, saliency=other)


def test_two_functions_without_a_name_are_told_apart(toy, split):
    scan = sensitivity.scan(toy, split, [0.5, 0.1], saliency=lambda w: w.abs())
    with pytest.raises(ValueError, match="the scan's saliency was"):
        sensitivity.choose(scan, density=0.2, saliency=lambda w: 1 - w.abs())
    plan = sensitivity.choose(scan, density=0.2, saliency=lambda w: w.abs())
    assert plan.mask(toy, saliency=lambda w: w.abs()).density == pytest.approx(0.2, abs=0.01)


def test_a_plan_for_some_layers_counts_the_others_as_they_are(toy, split):
    scan = sensitivity.scan(toy, split, [0.5, 0.1, 0.02], layers=["fc1"])
    plan = sensitivity.choose(scan, density=0.4)
    assert plan.densities.keys() == {"fc1"}
    assert plan.density == pytest.approx(0.4, abs=0.002)  # of all 516 weights
    assert plan.mask(toy).density == pytest.approx(plan.density, abs=1e-9)
    assert f"{plan.density:.2%} of the weights stay" in str(plan)
    assert "84 weights of other layers stay as they are" in str(plan)
    with pytest.raises(ValueError, match="or more layers"):
        sensitivity.choose(scan, density=0.1)  # less than the other layers have
    masks.prune(toy, density={"fc2": 0.5}).apply_(toy)
    plan = sensitivity.choose(
        sensitivity.scan(toy, split, [0.5, 0.1, 0.02], layers=["fc1"]), max_drop_per_layer=100
    )
    assert plan.mask(toy).density == pytest.approx(plan.density, abs=1e-9)


def test_a_network_that_was_pruned_before_is_scanned_and_chosen_by_what_is_left(toy, split):
    masks.prune(toy, density=0.5).apply_(toy)
    scan = sensitivity.scan(toy, split, [0.9, 0.5, 0.25, 0.1])
    for layer in scan.layers:
        first, second, *_ = scan.of(layer)
        assert (first.density, first.drop.value) == (second.density, 0.0)
    plan = sensitivity.choose(scan, density=0.5, method="joint", model=toy, images=split)
    assert plan.mask(toy) == masks.Mask.of(toy)
    plan = sensitivity.choose(scan, density=0.3)
    assert plan.density == pytest.approx(0.3, abs=0.002)
    assert plan.mask(toy).density == pytest.approx(plan.density, abs=1e-9)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "is not a plan"),
        ('{"format": "pruning_lab run 1"}', "is not a plan"),
        ('{"format": "pruning_lab plan 3"}', "is a plan of another version"),
        ('{"format": "pruning_lab plan 4"}', "is broken: the field"),
        ('{"format": "pruning_lab plan 4", "rows": [3]}', r"is broken: rows\[0\] must be object"),
        ("{", "is not JSON"),
    ],
)
def test_a_file_that_is_no_plan_is_named(content, message, tmp_path):
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(ValueError, match=rf"plan\.json {message}"):
        Plan.load(tmp_path / "plan.json")


def test_a_plan_with_an_impossible_density_is_refused(tmp_path):
    path = sensitivity.choose(made_scan(CURVES), density=0.2).save(tmp_path / "plan.json")
    about = json.loads(path.read_text())
    about["rows"][0]["density"] = 7
    path.write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"rows\[0\]\.density must be number <= 1"):
        Plan.load(path)
