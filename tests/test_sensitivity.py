"""A scan says what pruning one layer for real would have said, and leaves no trace."""

import copy
import csv
import gc
import json
import pickle
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import test_evaluator as zoo
import torch
from distributed_worker import FINE, many
from distributed_worker import scannable as network
from test_processes import files_in
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from toys import CLASSES, lively

from pruning_lab import criteria, data, evaluation, masks, models, sensitivity
from pruning_lab.evaluation import Accuracy, Drop
from pruning_lab.sensitivity import Scan, ScanPoint

LEVELS = [0.0, 0.1, 0.3, 0.6, 1.0]
spread = zoo.spread  # a fixture: the calling thread, or two workers


def pruned_for_real(model, layer, kept, batches):
    """Every image's hit after a copy of the model lost the layer's other weights."""
    copied = copy.deepcopy(model).eval()
    with torch.no_grad():
        copied.get_submodule(layer).weight.mul_(kept)
        return torch.cat([copied(x).argmax(1) == y for x, y in batches])


def check_every_cell(model, batches, points, choose):
    dense = torch.cat([copy.deepcopy(model).eval()(x).argmax(1) == y for x, y in batches])
    seen = set()
    for point in points:
        weight = model.get_submodule(point.layer).weight.detach()
        hits = pruned_for_real(model, point.layer, choose(weight, point), batches)
        assert point.accuracy == evaluation.Accuracy.of(hits), point
        expected = evaluation.drop(evaluation.Accuracy.of(dense), evaluation.Accuracy.of(hits))
        assert point.drop == expected, point
        seen.add(tuple(hits.tolist()))
    assert len(seen) > 4  # the cells do differ, or nothing is shown here


def largest(weight, point):
    """By numpy's own sorting."""
    flat = weight.abs().flatten().numpy()
    kept = np.zeros(len(flat), dtype=bool)
    kept[np.argsort(-flat, kind="stable")[: round(point.density * len(flat))]] = True
    return torch.from_numpy(kept).reshape(weight.shape)


def above_sigma(weight, point):
    return weight.abs() >= point.quality * weight.numpy().std()


class OwnForward(nn.Sequential):
    """A list of layers and a shortcut around them: no chain, though it looks like one."""

    def forward(self, x):
        return super().forward(x) + 0.2 * x.flatten(1)[:, :4]


class Named(nn.Sequential):
    """A chain with a constructor of its own."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 4))


def reusing_one_relu():
    relu = nn.ReLU()
    layers = nn.Linear(64, 9), relu, nn.Linear(9, 9), relu, nn.Linear(9, 4)
    return nn.Sequential(nn.Flatten(), *layers)


def with_tied_layers():
    first, second = nn.Linear(64, 64), nn.Linear(64, 64)
    second.weight = first.weight
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), nn.Linear(64, 4))


MODELS = {
    "one relu": reusing_one_relu,
    "tied layers": with_tied_layers,
    "own forward": lambda: OwnForward(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 4)),
    "own constructor": Named,
    "nested": lambda: nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(64, 9)), nn.Linear(9, 4)),
}


@pytest.mark.parametrize("name", ["toy", "branching"])
def test_every_cell_is_what_pruning_that_layer_for_real_gives(name, request, split, batches):
    model = request.getfixturevalue(name).train()
    points = sensitivity.scan(model, split, LEVELS)
    layers = dict.fromkeys(point.layer for point in points)
    assert [(p.layer, p.density) for p in points] == [
        (layer, round(level * model.get_submodule(layer).weight.numel()) / n)
        for layer in layers
        for level in LEVELS
        for n in [model.get_submodule(layer).weight.numel()]
    ]
    check_every_cell(model, batches, points, largest)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_every_cell_is_right_for_chains_of_every_kind(make, batches):
    torch.manual_seed(1)
    model = lively(make())
    check_every_cell(model, batches, sensitivity.scan(model, batches, LEVELS), largest)


def test_qualities_are_scanned_as_multiples_of_sigma(toy, batches):
    points = sensitivity.scan(toy, batches, qualities=[0.5, 1.0, 1.5])
    assert [point.quality for point in points] == 3 * [0.5, 1.0, 1.5]
    assert points[0].threshold == pytest.approx(0.5 * toy.conv1.weight.detach().numpy().std())
    check_every_cell(toy, batches, points, above_sigma)


def test_an_unpruned_layer_drops_nothing(toy, split):
    points = sensitivity.scan(toy, split, [1.0])
    assert {point.drop.value for point in points} == {0}
    assert {point.accuracy for point in points} == {evaluation.evaluate(toy, split)}


def test_qualities_go_with_magnitude(toy, split):
    with pytest.raises(ValueError, match="goes with magnitude; scan another saliency by densit"):
        sensitivity.scan(toy, split, qualities=[1.0], saliency=criteria.random(0))


def test_an_infinite_weight_is_named_before_anything_is_measured(toy, split):
    with torch.no_grad():
        toy.fc1.weight[0, 0] = float("inf")
    with pytest.raises(ValueError, match="layer 'fc1' has a weight that is infinite"):
        sensitivity.scan(toy, split, [0.5])


def test_a_printed_scan_has_a_table_for_each_layer(toy, split):
    points = sensitivity.scan(toy, split, [0.5, 0.1])
    text = str(points)
    assert text.startswith(f"dense: {points.dense}")
    assert "fc1: 432 weights, sigma" in text
    assert all(str(point.drop) in text for point in points)


def test_the_test_split_is_not_for_choosing(toy, split):
    with pytest.raises(ValueError, match=r"not for choosing; give splits\.val"):
        sensitivity.scan(toy, replace(split, name="test"), LEVELS)


@pytest.mark.parametrize("levels", [{}, {"densities": [0.5], "qualities": [1.0]}])
def test_levels_are_densities_or_qualities(toy, split, levels):
    with pytest.raises(ValueError, match="give densities or qualities, one of the two"):
        sensitivity.scan(toy, split, **levels)


def test_a_level_that_is_no_density_is_refused_before_anything_is_computed(toy):
    def images():
        raise AssertionError("looked at an image")
        yield

    with pytest.raises(ValueError, match="for a percentage, divide by 100"):
        sensitivity.scan(toy, images(), [0.5, 50])


@pytest.mark.parametrize("name", ["toy", "branching"])
@pytest.mark.parametrize("saliency", [criteria.magnitude, criteria.random(0)])
def test_a_scan_leaves_every_byte_mode_and_random_state(
    name, saliency, request, split, everything_of
):
    model = request.getfixturevalue(name).train()
    before = everything_of(model)
    sensitivity.scan(model, split, LEVELS, saliency=saliency)
    assert everything_of(model) == before


@pytest.mark.parametrize("name", ["toy", "branching"])
def test_an_interrupt_in_the_middle_of_a_scan_leaves_no_trace(name, request, split, everything_of):
    """In the middle of a batch, while some layer is pruned."""
    model = request.getfixturevalue(name).train()
    layer = list(model.modules())[-1]
    calls = 0

    def interrupt(*_):
        nonlocal calls
        calls += 1
        if calls == 9:
            raise KeyboardInterrupt

    handle = layer.register_forward_hook(interrupt)
    before = everything_of(model)
    with pytest.raises(KeyboardInterrupt):
        sensitivity.scan(model, split, LEVELS)
    assert everything_of(model) == before
    handle.remove()


# --- networks of every kind --------------------------------------------------------------------


def rows_by_brute_force(model, batches, choose, levels, *, layers=None, order):
    """(layer, accuracy, drop) of every cell, from a copy that answers every image."""
    copied = copy.deepcopy(model).eval()
    own, changing = dict(model.named_parameters()), dict(copied.named_parameters())

    def named(layer):  # attention's "att.in_proj" is the parameter att.in_proj_weight
        return f"{layer}.weight" if f"{layer}.weight" in own else f"{layer}_weight"

    @torch.no_grad()
    def hits(changed):
        for layer, level in changed.items():
            weight = changing[named(layer)]
            weight.mul_(choose(weight.detach(), level))
        right = torch.cat([copied(x.clone()).argmax(1) == y for x, y in batches])
        for layer in changed:
            changing[named(layer)].copy_(own[named(layer)])
        return Accuracy.of(right)

    dense = hits({})
    for layer in order:
        for level in levels if layers is None or layer in layers else ():
            accuracy = hits({layer: level})
            yield layer, accuracy, evaluation.drop(dense, accuracy)


def largest_share(weight, density):
    """By numpy's own sorting."""
    flat = weight.abs().flatten().numpy()
    kept = np.zeros(len(flat), dtype=bool)
    kept[np.argsort(-flat, kind="stable")[: round(density * len(flat))]] = True
    return torch.from_numpy(kept).reshape(weight.shape)


def above_quality(weight, quality):
    return weight.abs() >= quality * weight.numpy().std()


def rows(points):
    return [(point.layer, point.accuracy, point.drop) for point in points]


@pytest.fixture
def doubles(batches):
    return [(x.double(), y) for x, y in batches]


@pytest.mark.parametrize("name", zoo.ZOO)
def test_every_cell_is_right_for_networks_of_every_kind(name, doubles, everything_of):
    model, levels = zoo.make(name).train(), [0.0, 0.3, 1.0]
    before = everything_of(model)
    points = sensitivity.scan(model, doubles, levels)
    assert everything_of(model) == before
    assert len(points) == len(levels) * len(masks.prunable(model))
    order = list(dict.fromkeys(point.layer for point in points))
    assert rows(points) == list(
        rows_by_brute_force(model, doubles, largest_share, levels, order=order)
    )


@pytest.mark.parametrize("name", [*zoo.EASY, "one never and a skip", "transformer", "computed"])
def test_every_cell_is_right_however_the_work_is_spread(name, doubles, spread, everything_of):
    model, levels = zoo.make(name).train(), [0.05, 0.3, 1.0]
    before = everything_of(model)
    told = []
    points = sensitivity.scan(model, doubles, levels, notify=told.append)
    assert everything_of(model) == before
    assert told[0].how.startswith(zoo.ZOO[name][0])
    expected = rows_by_brute_force(model, doubles, largest_share, levels, order=points.layers)
    assert rows(points) == list(expected)


@pytest.mark.parametrize("make", [models.lenet_300_100, models.lenet_5])
def test_every_cell_is_right_for_trained_networks_on_real_digits(make, spread):
    model, levels = make(trained="mnist"), [0.02, 0.1, 0.4]
    val = replace(data.load("mnist-5k").val.head(70), batch_size=40)
    points = sensitivity.scan(model, val, levels)
    expected = rows_by_brute_force(model, val, largest_share, levels, order=points.layers)
    assert rows(points) == list(expected)
    assert len({point.accuracy for point in points}) > 4


def of_torchvision(name):
    from torchvision import models as theirs  # slow to import

    torch.manual_seed(0)
    if name == "vit":
        sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 24}
        return theirs.VisionTransformer(image_size=32, patch_size=8, num_classes=5, **sizes)
    return getattr(theirs, name)(num_classes=5)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "vit", "squeezenet1_1"])
def test_every_cell_is_right_for_networks_of_torchvision(name, spread):
    model, levels = of_torchvision(name).train(), [0.1, 0.4]
    batches = [(torch.randn(n, 3, 32, 32), torch.randint(5, (n,))) for n in (5, 2)]
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.9  # which must not be seen
    layers = list(masks.prunable(model))[:: 7 if name == "mobilenet_v3_small" else 3]
    points = sensitivity.scan(model, batches, levels, layers=layers)
    expected = rows_by_brute_force(
        model, batches, largest_share, levels, layers=layers, order=points.layers
    )
    assert rows(points) == list(expected)


@pytest.mark.parametrize("kind", ["bf16", "channels last", "double"])
def test_every_cell_is_right_in_other_types_and_layouts(kind, toy, batches, spread):
    model, levels = toy.append(nn.Linear(CLASSES, CLASSES)), [0.05, 0.3, 0.6]
    dtype = {"bf16": torch.bfloat16, "double": torch.float64}.get(kind, torch.float32)
    layout = torch.channels_last if kind == "channels last" else torch.contiguous_format
    model = model.to(dtype).to(memory_format=layout)
    images = [(x.to(dtype).to(memory_format=layout), y) for x, y in batches]
    points = sensitivity.scan(model, images, levels)

    def largest_of(weight, density):
        return largest_share(weight.float(), density)

    assert rows(points) == list(
        rows_by_brute_force(model, images, largest_of, levels, order=points.layers)
    )


def test_every_cell_is_right_for_a_residual_network_of_torchvision():
    from torchvision.models.resnet import BasicBlock, ResNet  # slow to import

    torch.manual_seed(0)
    model, levels = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5), [0.3]
    batches = [(torch.randn(n, 3, 32, 32), torch.randint(5, (n,))) for n in (3, 1)]
    points = sensitivity.scan(model, batches, levels)
    assert len(points.layers) == 13
    expected = rows_by_brute_force(model, batches, largest_share, levels, order=points.layers)
    assert rows(points) == list(expected)


@pytest.mark.parametrize("name", ["grouped", "like vgg", "deciding"])
def test_qualities_and_a_part_of_the_layers(name, doubles):
    model, levels = zoo.make(name), [0.5, 1.0, 1.5]
    everything = sensitivity.scan(model, doubles, qualities=levels)
    order = everything.layers
    expected = rows_by_brute_force(model, doubles, above_quality, levels, order=order)
    assert rows(everything) == list(expected)
    for layers in ([order[-1], order[0]], order[1:]):
        part = sensitivity.scan(model, doubles, qualities=levels, layers=layers)
        assert part.layers == sorted(layers, key=order.index)
        assert list(part) == [point for point in everything if point.layer in layers]


def test_large_layers_are_cut_in_parts_and_ties_by_position(split, batches, monkeypatch):
    """Half of the weights are equal, so that no threshold tells them apart."""
    monkeypatch.setattr("pruning_lab.evaluation.thresholded.SMALL", 20)
    torch.manual_seed(1)
    model = lively(nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 4)))
    with torch.no_grad():
        model[1].weight[:, ::2] = model[1].weight.abs().median()
    check_every_cell(model, batches, sensitivity.scan(model, split, LEVELS), largest)


def test_a_scan_holds_no_tensor_for_each_level():
    """512 x 512 weights of 4 bytes: nine levels of bool tensors would take 2.4 MB."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 4))
    images = [(torch.randn(2, 1, 32, 32), torch.zeros(2, dtype=torch.int64))]
    weights = {p.data_ptr() for p in model.parameters()}

    def held(progress):
        gc.collect()
        tensors = (o for o in gc.get_objects() if type(o) in (torch.Tensor, nn.Parameter))
        storages = {t.data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        sizes.append(sum(size for at, size in storages.items() if at not in weights))

    sizes = []
    held(None)
    for saliency in (criteria.magnitude, criteria.random(0)):
        sensitivity.scan(
            model, images, [k / 10 for k in range(1, 10)], notify=held, saliency=saliency
        )
    before, *during = sizes
    assert max(during) - before < 1.5 * 2**20  # a byte for each weight, and activations


def test_a_criterion_is_asked_once_for_each_layer_so_that_levels_are_nested(toy, split):
    drawn = []

    def at_random(weight):
        drawn.append((weight, torch.rand_like(weight)))
        return drawn[-1][1]

    points = sensitivity.scan(toy, split, LEVELS, saliency=at_random)
    own = [(w, s) for w, s in drawn if w.shape in {p.shape for p in toy.parameters()}]
    assert [len(weight) for weight, _ in own] == [4, 12, CLASSES]
    saliencies = {tuple(weight.shape): saliency for weight, saliency in own}

    def choose(weight, density):
        return largest_share(saliencies[tuple(weight.shape)], density)

    assert rows(points) == list(
        rows_by_brute_force(toy, list(split), choose, LEVELS, order=points.layers)
    )
    assert {point.quality for point in points} == {None}
    assert ".at_random " in points.about["saliency"]


def test_one_number_in_the_place_of_levels_is_told_what_to_type(toy, split):
    with pytest.raises(TypeError, match=r"give a list of levels, such as \[0\.5, .*got 0\.5"):
        sensitivity.scan(toy, split, 0.5)


def test_rows_say_what_came_out_of_what_was_asked(toy, split):
    points = sensitivity.scan(toy, split, [0.0, 0.1, 1.0])
    for point in points:
        magnitudes = toy.get_submodule(point.layer).weight.detach().abs()
        kept = magnitudes[largest_share(magnitudes, point.density)]
        sigma = toy.get_submodule(point.layer).weight.detach().numpy().std()
        assert point.threshold == (kept.min().item() if len(kept) else None)
        if len(kept):
            assert point.quality == pytest.approx(kept.min().item() / sigma)
        else:
            assert point.quality is None
        sizes = points.about["layers"][point.layer]
        assert sizes == {
            "weights": magnitudes.numel(),
            "kept": magnitudes.numel(),
            "shape": list(magnitudes.shape),
            "sigma": pytest.approx(sigma),
        }
    assert [p.asked for p in points.of("fc1")] == ["density 1", "density 0.1", "density 0"]
    assert points.dense == evaluation.evaluate(toy, split)


# --- images ------------------------------------------------------------------------------------


def test_images_come_as_a_split_a_list_a_loader_or_once_and_in_any_batches(toy, split, batches):
    expected = sensitivity.scan(toy, split, LEVELS)
    images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    dataset = TensorDataset(images, labels)
    for other in (batches, iter(batches), DataLoader(dataset, 7), DataLoader(dataset, 1)):
        assert sensitivity.scan(toy, other, LEVELS) == expected


@pytest.mark.parametrize("name", ["grouped", "like vgg", "deciding"])
def test_a_single_image_is_enough(name, doubles, spread):
    model, ((x, y), *_) = zoo.make(name), doubles
    points = sensitivity.scan(model, [(x[:1], y[:1])], [0.0, 1.0])
    assert {point.accuracy.n for point in points} == {1}
    order = points.layers
    expected = rows_by_brute_force(model, [(x[:1], y[:1])], largest_share, [0.0, 1.0], order=order)
    assert rows(points) == list(expected)


def test_no_images_no_levels_and_no_layers_are_said_to_be_missing(toy, split):
    with pytest.raises(ValueError, match="no images to measure"):
        sensitivity.scan(toy, [], LEVELS)
    for missing in ({"densities": []}, {"densities": LEVELS, "layers": []}):
        with pytest.raises(ValueError, match="nothing to scan"):
            sensitivity.scan(toy, split, **missing)
    with pytest.raises(KeyError, match=r"no layer 'fc3' to prune; did you mean"):
        sensitivity.scan(toy, split, LEVELS, layers=["fc3"])


def test_levels_may_be_numpys(toy, split, tmp_path):
    levels = np.linspace(0, 1, 3, dtype=np.float32)
    points = sensitivity.scan(toy, split, levels, out=tmp_path / "scan.csv")
    assert points == sensitivity.scan(toy, split, [0, 0.5, 1])
    assert Scan.load(tmp_path / "scan.csv") == points


def test_progress_says_images_strategy_and_the_scan_so_far(toy, split, batches):
    told = []
    points = sensitivity.scan(
        toy, split, LEVELS, notify=lambda p: told.append((p, p.images and p.scan()))
    )
    assert [progress.images for progress, _ in told] == [0, 16, 32, 48, 50]
    assert {progress.total for progress, _ in told} == {50}
    assert {progress.how for progress, _ in told} == {"graph, 1 worker"}
    left = [progress.seconds_left for progress, _ in told]
    assert left[0] is None  # nothing has been measured
    assert left[1] > 0
    assert left[-1] == 0
    assert told[2][1] == sensitivity.scan(toy, split.head(32), LEVELS)
    assert told[-1][1] == points


class Reading:
    """Batches that can be counted, and say no more."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)


def test_a_total_is_told_where_the_images_say_their_number(toy, batches):
    images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    loader = DataLoader(TensorDataset(images, labels), batch_size=20)
    for given_, total in [
        (batches, 50),
        (loader, 50),
        (iter(batches), None),
        (Reading(batches), None),
    ]:
        told = []
        sensitivity.scan(toy, given_, [0.5], notify=told.append)
        assert {progress.total for progress in told} == {total}
        assert (told[1].seconds_left is None) == (total is None)


# --- BatchNorm ---------------------------------------------------------------------------------


def with_norms(seed=0):
    torch.manual_seed(seed)
    block = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
    model = nn.Sequential(*block, nn.Conv2d(4, 5, 2), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten())
    return lively(model.append(nn.Linear(20, CLASSES))).double()


def test_every_cell_is_right_with_batchnorm_recalibrated(doubles, spread, everything_of):
    """By torch's own averaging of batch statistics, on a copy that lost the weights."""
    model, levels, train = with_norms().train(), [0.2, 0.5], doubles[2:0:-1]
    before = everything_of(model)
    points = sensitivity.scan(model, doubles, levels, recalibrate=train)
    assert everything_of(model) == before

    @torch.no_grad()
    def hits(layers, level):
        copied = copy.deepcopy(model)
        for layer in layers:
            weight = copied.get_submodule(layer).weight
            weight.mul_(largest_share(weight, level))
        torch.optim.swa_utils.update_bn([x for x, _ in train], copied)
        return Accuracy.of(torch.cat([copied.eval()(x).argmax(1) == y for x, y in doubles]))

    dense = hits([], 1)
    assert points.dense == dense
    for layer in points.layers:
        for point, level in zip(points.of(layer), sorted(levels, reverse=True), strict=True):
            after = hits([layer], level)
            assert point.accuracy == after
            assert point.drop == evaluation.drop(dense, after)
    assert points.about["recalibrated"]
    assert "BatchNorm" in str(points)
    without = sensitivity.scan(model, doubles, levels)
    assert [p.accuracy for p in without] != [p.accuracy for p in points]
    assert "BatchNorm" not in str(without)


# --- interrupted and resumed -------------------------------------------------------------------


class Stop:
    """Interrupts a scan as soon as so many images are done and noted."""

    def __init__(self, images):
        self.images = images

    def __call__(self, progress):
        if progress.images >= self.images:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    points = sensitivity.scan(network(), many(), FINE, out=folder / "scan.csv")
    assert Scan.load(folder / "scan.csv") == points
    assert sorted(files_in(folder)) == ["scan.csv", "scan.json"]
    return files_in(folder)


@pytest.mark.parametrize("images", [0, 300, 900, 1200, 1500])
@pytest.mark.parametrize("spread_over_workers", [False, True])
def test_a_scan_resumes_where_it_was_interrupted(
    images, spread_over_workers, tmp_path, uninterrupted
):
    out = tmp_path / "scan.csv"
    scan = partial(sensitivity.scan, network(), many(), FINE, out=out)
    with zoo.threads(1 + spread_over_workers):
        with pytest.raises(KeyboardInterrupt):
            scan(notify=Stop(images))
        assert list(files_in(tmp_path)) == ["scan.csv.part0"]
        if images < 1500:
            with pytest.raises(KeyboardInterrupt):
                scan(notify=Stop(images + 1), resume=True)
            noted = (tmp_path / "scan.csv.part0").read_text().splitlines()[1:]
            assert [json.loads(line)[0] for line in noted] == [*range(images // 300 + 1)]
        with (tmp_path / "scan.csv.part0").open("a") as torn:
            torn.write("[4, [[300, 27")
        done = []
        scan(resume=True, notify=lambda progress: done.append(progress.images))
    assert files_in(tmp_path) == uninterrupted
    assert done[-1] == 1500


def test_what_is_noted_is_not_computed_again(tmp_path):
    split, out = many(), tmp_path / "scan.csv"
    with pytest.raises(KeyboardInterrupt):
        sensitivity.scan(network(), split, FINE, out=out, notify=Stop(900))
    (part,) = tmp_path.iterdir()
    *others, last = part.read_text().splitlines()
    index, counts = json.loads(last)
    counts[0][1] = 0  # no dense answer of that batch was right
    part.write_text("\n".join([*others, json.dumps([index, counts]), ""]))
    points = sensitivity.scan(network(), split, FINE, out=out, resume=True)
    whole = evaluation.evaluate(network(), split).hits
    assert round(points.dense.value * 1500) == whole[:600].sum() + whole[900:].sum()
    assert index == 2


def test_a_network_that_differs_in_a_bias_alone_is_another(toy, split, tmp_path):
    scan = partial(sensitivity.scan, toy, split, [0.5], out=tmp_path / "scan.csv")
    with pytest.raises(KeyboardInterrupt):
        scan(notify=Stop(16))
    with torch.no_grad():
        toy.fc2.bias[0] += 1
    with pytest.raises(ValueError, match="is of another scan"):
        scan(resume=True)


def test_a_scan_at_random_resumes_with_its_seed_and_no_other(tmp_path):
    split, out = many(40, 10), tmp_path / "scan.csv"
    scan = partial(sensitivity.scan, network(), split, [0.5])
    with pytest.raises(KeyboardInterrupt):
        scan(out=out, notify=Stop(20), saliency=criteria.random(1))
    with pytest.raises(ValueError, match="is of another scan"):
        scan(out=out, resume=True, saliency=criteria.random(2))
    resumed = scan(out=out, resume=True, saliency=criteria.random(1))
    assert resumed == scan(saliency=criteria.random(1))


def test_a_scan_with_levels_by_quality_of_a_network_in_channels_last_is_noted_too(tmp_path):
    val = replace(data.load("mnist-5k").val.head(6), batch_size=3)
    model, out = models.lenet_5(trained="mnist"), tmp_path / "scan.csv"
    with pytest.raises(KeyboardInterrupt):
        sensitivity.scan(model, val, qualities=[1.0], out=out, notify=Stop(3))
    points = sensitivity.scan(model, val, qualities=[1.0], out=out, resume=True)
    assert points == sensitivity.scan(model, val, qualities=[1.0])


@pytest.mark.parametrize("name", ["scan.csv", "scan [1] *.csv", "no suffix"])
def test_what_is_left_of_a_scan_is_neither_overwritten_nor_mixed_up(name, tmp_path):
    split, out = many(count=40, batch_size=10), tmp_path / "new folder" / name
    scan = partial(sensitivity.scan, network(), split, [0.5], out=out)
    with pytest.raises(KeyboardInterrupt):
        scan(notify=Stop(10))
    before = files_in(out.parent)
    with pytest.raises(
        FileExistsError, match=r"is left of an interrupted scan; resume it by --resume"
    ):
        scan()
    others = {
        "weights": {"model": nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))},
        "images": {"images": replace(split, labels=split.labels.flip(0))},
        "batches": {"images": replace(split, batch_size=20)},
        "mean": {"images": replace(split, mean=100.0)},
        "levels": {"densities": [0.6]},
        "layers": {"layers": ["1"]},
        "masks": {"saliency": criteria.random(0)},
    }
    for other in others.values():
        given_ = {"model": network(), "images": split, "densities": [0.5], **other}
        with pytest.raises(ValueError, match=r"\.part0 is of another scan: other weights, images"):
            sensitivity.scan(**given_, out=out, resume=True)
    assert files_in(out.parent) == before
    assert scan(resume=True) == sensitivity.scan(network(), split, [0.5])
    assert not list(out.parent.glob("*.part*"))


@pytest.mark.parametrize(
    "line", ["{", "[]", "[0]", "[0, 1]", '[0, [["a"]]]', "[0, [[1, 2, 3]]]", "\x00", "null", ""]
)
def test_a_broken_line_in_the_middle_is_measured_again(line, tmp_path):
    scan = partial(sensitivity.scan, network(), many(40, 10), [0.5])
    with pytest.raises(KeyboardInterrupt):
        scan(out=tmp_path / "scan.csv", notify=Stop(20))
    (part,) = tmp_path.iterdir()
    header, _, second = part.read_text().splitlines()
    part.write_text("\n".join([header, line, second, ""]))
    assert scan(out=tmp_path / "scan.csv", resume=True) == scan()


def test_only_a_split_resumes(toy, batches, tmp_path):
    with pytest.raises(ValueError, match=r"give a Split, such as splits\.val"):
        sensitivity.scan(toy, batches, LEVELS, out=tmp_path / "scan.csv", resume=True)


def test_resuming_what_never_began_begins(tmp_path, uninterrupted):
    sensitivity.scan(network(), many(), FINE, out=tmp_path / "scan.csv", resume=True)
    assert files_in(tmp_path) == uninterrupted


@pytest.mark.parametrize("name", ["grouped", "like vgg", "deciding"])
def test_an_interrupt_leaves_no_trace_however_the_work_is_spread(
    name, doubles, spread, everything_of
):
    model = zoo.make(name).train()
    inside = next((m for m in model.modules() if isinstance(m, nn.BatchNorm2d)), None) or model.fc1
    images = iter(doubles)
    armed = False

    def interrupt(*_):
        if armed:
            raise KeyboardInterrupt

    def arm(progress):
        nonlocal armed
        armed = progress.images > 0

    inside.register_forward_hook(interrupt)
    before = everything_of(model)
    with pytest.raises(KeyboardInterrupt):
        sensitivity.scan(model, images, [0.2, 0.7], notify=arm)
    assert everything_of(model) == before
    assert len(list(images)) <= 2  # in the second batch, which a worker may have begun early


# --- rows on disk ------------------------------------------------------------------------------


@pytest.fixture
def saved(toy, split, tmp_path):
    path = tmp_path / "scan.csv"
    sensitivity.scan(toy, split, [0.5, 1.0]).save(path)
    return path


def test_rows_are_plain_csv_with_names_on_top(saved):
    table = list(csv.DictReader(saved.open()))
    points = Scan.load(saved)
    assert [(row["layer"], float(row["accuracy"])) for row in table] == [
        (point.layer, point.accuracy.value) for point in points
    ]
    assert {row["accuracy_n"] for row in table} == {row["drop_n"] for row in table} == {"50"}


def test_missing_files_and_wrong_endings_are_named(saved):
    with pytest.raises(ValueError, match=r"the rows go to a \.csv"):
        Scan.load(saved.with_suffix(".json"))
    saved.unlink()
    with pytest.raises(FileNotFoundError, match=r"scan\.csv"):
        Scan.load(saved)
    saved.with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError, match=r"scan\.json"):
        Scan.load(saved)


def test_a_scan_is_copied_and_sent_elsewhere_whole(toy, split):
    scan = sensitivity.scan(toy, split, [0.5])
    for other in (copy.deepcopy(scan), pickle.loads(pickle.dumps(scan))):
        assert (other, other.about, other.dense) == (scan, scan.about, scan.dense)
        assert other.origin is None


def test_a_scan_remembers_what_it_measured_in_memory_and_never_on_disk(toy, split, batches):
    scan = sensitivity.scan(toy, split, [0.5], recalibrate=batches)
    for other in (scan, scan[:1], scan.of("fc1"), copy.copy(scan)):
        assert (other.origin.model, other.origin.images) == (toy, split)
        assert other.origin.recalibrate is batches
    assert b"_rebuild_tensor" in pickle.dumps(split.images)
    assert b"_rebuild_tensor" not in pickle.dumps(scan)
    assert sensitivity.scan(toy, iter(batches), [0.5]).origin is None  # they are gone


def test_a_slice_of_a_scan_is_a_scan(toy, split):
    scan = sensitivity.scan(toy, split, [0.5, 0.1])
    part = scan[2:5]
    assert isinstance(part, Scan)
    assert part.layers == scan.layers[1:]
    assert str(part).count("weights, sigma") == 2
    assert [p.density for p in scan.of("fc1")] == [0.5, pytest.approx(0.1, abs=0.002)]
    table = scan.to_pandas()
    assert list(table.accuracy_low) == [point.accuracy.low for point in scan]
    assert str(scan[:0]).endswith("No points.")


# --- in a sentence -----------------------------------------------------------------------------


def made_scan(lost):
    """Layer -> {density: images of 1,000 that are lost}."""
    points = [
        ScanPoint(
            layer=layer,
            density=density,
            quality=None,
            threshold=None,
            accuracy=Accuracy.counted(990 - images, 1000),
            drop=Drop.counted(images, 0, 1000),
        )
        for layer, levels in lost.items()
        for density, images in levels.items()
    ]
    about = {"layers": {n: {"weights": 100, "kept": 100, "sigma": 0.1} for n in lost}}
    return Scan(points, dense=Accuracy.counted(990, 1000), about=about)


@pytest.mark.parametrize(
    ("lost", "says"),
    [
        (
            {"conv1": {0.5: 0, 0.2: 5, 0.1: 6}, "fc3": {0.5: 5, 0.2: 9, 0.1: 100}},
            "fc3 is the most sensitive layer; conv1 can go down to density 20 % at a loss of at "
            "most 0.5 points.",
        ),
        (
            {"a": {0.5: 6, 0.2: 0}, "b": {0.5: 0, 0.2: 40}},  # a lucky level after a bad one
            "a is the most sensitive layer; b can go down to density 50 % at a loss of at most 0.5 "
            "points.",
        ),
        (
            {"a": {0.5: 0, 0.025: 4}, "b": {0.5: 0, 0.025: 5}},
            "Every layer can go down to its sparsest level at a loss of at most 0.5 points.",
        ),
        (
            {"a": {0.5: 60}, "b": {0.5: 70}},
            "b is the most sensitive layer; no layer can be pruned to any level at a loss of at "
            "most 0.5 points.",
        ),
        (
            {"a": {0.5: 0, 0.1: 60}},
            "a can go down to density 50 % at a loss of at most 0.5 points.",
        ),
    ],
)
def test_a_scan_ends_with_its_finding(lost, says):
    scan = made_scan(lost)
    assert scan.summary == says
    assert str(scan).endswith(f"\n\n{says}")


def test_a_loss_is_shown_with_a_minus():
    text = str(made_scan({"a": {0.5: 7, 0.2: 0}}))
    assert "-0.70 points (" in text
    assert "+0.00 points (" in text
    assert "-0.00" not in text
