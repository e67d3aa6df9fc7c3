"""Table 6: sizes by hand, SVD against torch's, merging against a double loop, all rows."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from pruning_lab import data, experiments, models, paper
from pruning_lab.experiments import rivals
from pruning_lab.experiments.workspace import Workspace


def size(model):
    return sum(p.numel() for p in model.parameters())


def chain(*sizes, bias=True):
    """A multilayer perceptron: fc1, relu1, fc2, ..."""
    torch.manual_seed(3)
    made = nn.Sequential()
    for number, (columns, rows) in enumerate(itertools.pairwise(sizes), 1):
        made.add_module(f"fc{number}", nn.Linear(columns, rows, bias))
        made.add_module(f"relu{number}", nn.ReLU())
    return made[:-1]


@pytest.mark.parametrize(
    ("network", "parameters", "shape"),
    [
        ("lenet-300-100", 22_000, {}),
        ("lenet-5", 36_000, {"classes": 7}),
        ("alexnet", 6_700_000, {}),
        ("alexnet", 250_000, {"width": 0.25, "size": 64, "classes": 10}),
        ("alexnet-torchvision", 400_000, {"width": 0.5, "size": 96}),
        ("vgg-16", 10_300_000, {}),
        ("vgg-16", 170_000, {"width": 0.125, "size": 64, "classes": 10}),
    ],
)
def test_the_naive_cut_is_the_widest_network_that_fits(network, parameters, shape):
    cut = rivals.naive_cut(network, parameters, shape)
    assert {**cut, "width": None} == {**shape, "width": None}
    with torch.device("meta"):
        assert size(models.build({"network": network, **cut})) <= parameters
        wider = {"network": network, **cut, "width": cut["width"] + 1e-5}
        assert size(models.build(wider)) > parameters


def test_the_naive_cut_of_a_lenet_by_hand():
    def parameters(width):  # 784-a-b-10
        a, b = round(300 * width), round(100 * width)
        return 785 * a + (a + 1) * b + (b + 1) * 10

    width = rivals.naive_cut("lenet-300-100", 22_000)["width"]
    assert parameters(width) == max(
        n for n in (parameters(k / 10_000) for k in range(100, 10_000)) if n <= 22_000
    )


def test_a_cut_is_no_wider_than_the_network_and_one_that_cannot_fit_is_refused():
    assert rivals.naive_cut("lenet-5", 10**9, {"width": 0.5}) == {"width": 0.5}
    with pytest.raises(ValueError, match="the narrowest lenet-300-100 has 807 parameters"):
        rivals.naive_cut("lenet-300-100", 806)  # 784-1-1-10: 785 + 2 + 20
    assert rivals.naive_cut("lenet-300-100", 807)["width"] > 0


def test_factors_of_full_rank_answer_as_the_network_does():
    model, x = models.lenet_5(trained="mnist").eval(), torch.randn(20, 1, 28, 28)
    factored = rivals.svd(model, {"fc1": 500, "fc2": 10})
    assert torch.allclose(factored(x), model(x), atol=1e-5)
    assert not factored.training
    names = [name for name, _ in factored.named_children()]
    assert names[-5:] == ["fc1_in", "fc1_out", "relu3", "fc2_in", "fc2_out"]


@pytest.mark.parametrize("rank", [1, 7, 100])
def test_factors_are_torchs_truncation_and_lose_the_dropped_singular_values(rank):
    model = models.lenet_300_100(trained="mnist")
    before = {name: p.clone() for name, p in model.named_parameters()}
    factored = rivals.svd(model, {"fc1": rank})
    u, s, v = torch.linalg.svd(before["fc1.weight"].double(), full_matrices=False)
    product = (factored.fc1_out.weight @ factored.fc1_in.weight).double()
    assert torch.allclose(product, u[:, :rank] @ s[:rank].diag() @ v[:rank], atol=1e-6)
    lost = (product - before["fc1.weight"]).square().sum().item()
    assert lost == pytest.approx(s[rank:].square().sum().item(), rel=1e-5)
    assert size(factored) == 266_610 - 784 * 300 + rank * (784 + 300)
    assert torch.equal(factored.fc1_out.bias, before["fc1.bias"])
    with torch.no_grad():
        factored.fc2.weight.zero_()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_factors_of_a_layer_without_bias_and_in_double():
    model = chain(6, 5, 3, bias=False).double()
    factored = rivals.svd(model, {"fc1": 2})
    assert size(factored) == 2 * (6 + 5) + 15
    assert {p.dtype for p in factored.parameters()} == {torch.float64}


def energy(model, ranks):
    """The sum over layers of the fraction of the singular values' squares that is kept."""
    kept = 0.0
    for name, layer in model.named_children():
        if isinstance(layer, nn.Linear):
            squares = torch.linalg.svdvals(layer.weight.double()).square()
            kept += (squares[: ranks.get(name)].sum() / squares.sum()).item()
    return kept


@pytest.mark.parametrize("parameters", [150, 220, 255, 325, 395])
def test_chosen_ranks_fit_and_hardly_any_others_that_fit_keep_more_energy(parameters):
    model = chain(16, 12, 9, 5)
    with torch.no_grad():  # a spectrum that falls, as that of trained layers
        for layer in (model.fc1, model.fc2, model.fc3):
            u, s, v = torch.linalg.svd(layer.weight, full_matrices=False)
            layer.weight.copy_(u @ (s * 0.7 ** torch.arange(len(s))).diag() @ v)
    ranks = rivals.choose_ranks(model, parameters)
    assert size(rivals.svd(model, ranks)) <= parameters
    assert size(rivals.svd(model, parameters=parameters)) == size(rivals.svd(model, ranks))
    every = itertools.product(*(range(1 + min(n, m)) for n, m in [(16, 12), (12, 9), (9, 5)]))
    fitting = (dict(zip(("fc1", "fc2", "fc3"), each, strict=True)) for each in every)
    fitting = [{name: rank for name, rank in each.items() if rank} for each in fitting]
    best = max(
        energy(model, each) for each in fitting if size(rivals.svd(model, each)) <= parameters
    )
    assert best - energy(model, ranks) < 0.03  # of 3
    one_more = [{**ranks, name: rank + 1} for name, rank in ranks.items()]
    assert all(size(rivals.svd(model, each)) > parameters for each in one_more)


def test_ranks_stop_at_one_and_layers_that_factors_would_not_make_smaller_stay_dense():
    model = chain(16, 12, 9, 5)
    assert rivals.choose_ranks(model, 0) == {"fc1": 1, "fc2": 1, "fc3": 1}
    assert rivals.choose_ranks(model, size(model)) == {}
    assert rivals.choose_ranks(chain(8, 1, 8), 0) == {}


def test_impossible_ranks_and_other_networks_are_refused():
    model = chain(6, 5, 3)
    with pytest.raises(ValueError, match="the rank of fc1 must be 1 to 5, got 6"):
        rivals.svd(model, {"fc1": 6})
    with pytest.raises(KeyError, match="no layer 'fc9'"):
        rivals.svd(model, {"fc9": 1})
    with pytest.raises(ValueError, match=r"needs a chain.*got Linear"):
        rivals.merge_neurons(nn.Linear(3, 3), 1)


def test_merging_equal_neurons_changes_no_answer():
    model, x = chain(6, 5, 4, 3), torch.randn(50, 6)
    with torch.no_grad():
        for layer, (i, j) in ((model.fc1, (1, 3)), (model.fc2, (0, 2))):
            layer.weight[j], layer.bias[j] = layer.weight[i], layer.bias[i]
    merged = rivals.merge_neurons(model, 2)
    assert [layer.out_features for layer in merged if isinstance(layer, nn.Linear)] == [4, 3, 3]
    assert torch.allclose(merged(x), model(x), atol=1e-6)
    assert not torch.allclose(rivals.merge_neurons(model, 4)(x), model(x), atol=1e-3)


def test_equal_neurons_of_a_wide_layer_merge_before_all_others():
    model, x = models.lenet_300_100(trained="mnist")[:4], torch.randn(9, 1, 28, 28)
    with torch.no_grad():
        model.fc1.weight[200:], model.fc1.bias[200:] = model.fc1.weight[:100], model.fc1.bias[:100]
    merged = rivals.merge_neurons(model, 100)
    assert merged.fc1.out_features == 200
    assert torch.allclose(merged(x), model(x), atol=1e-5)


def merged_by_loops(weight, bias, outgoing, count):
    """Of all pairs of neurons, each time the one of least mean(a_j^2) * ||w_i - w_j||^2."""
    alive, outgoing = list(range(len(weight))), outgoing.clone()
    for _ in range(count):
        saliency = {}
        for i, j in itertools.permutations(alive, 2):
            apart = (weight[i] - weight[j]).square().sum() + (bias[i] - bias[j]) ** 2
            saliency[i, j] = (outgoing[:, j].square().mean() * apart).item()
        i, j = min(saliency, key=saliency.get)
        outgoing[:, i] += outgoing[:, j]
        alive.remove(j)
    return weight[alive], bias[alive], outgoing[:, alive]


@pytest.mark.parametrize("count", [1, 5, 10])
def test_the_pair_of_least_saliency_merges_each_time(count):
    model = chain(4, 11, 3).double()
    with torch.no_grad():
        model.fc2.weight[:, 6] = 0  # an output that nobody hears goes first
    merged = rivals.merge_neurons(model, count)
    expected = merged_by_loops(model.fc1.weight, model.fc1.bias, model.fc2.weight, count)
    found = merged.fc1.weight, merged.fc1.bias, merged.fc2.weight
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert torch.equal(merged.fc2.bias, model.fc2.bias)


def test_neurons_merge_down_to_the_parameters_asked_for():
    model = models.lenet_300_100(trained="mnist")
    merged = rivals.merge_neurons(model, parameters=22_000)
    a, b = merged.fc1.out_features, merged.fc2.out_features
    assert a / 300 == pytest.approx(b / 100, abs=0.011)
    assert size(merged) == 785 * a + (a + 1) * b + (b + 1) * 10
    assert 22_000 - 800 < size(merged) <= 22_000
    assert merged(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert size(rivals.merge_neurons(model, parameters=0)) == 785 + 2 + 20
    assert size(rivals.merge_neurons(model, parameters=10**6)) == size(model) == 266_610


def test_neurons_merge_only_where_each_is_treated_alone():
    model = nn.Sequential(nn.Linear(4, 6), nn.Softmax(1), nn.Linear(6, 3))
    assert size(rivals.merge_neurons(model, 3)) == size(model)
    convolutions = models.lenet_5()
    merged = rivals.merge_neurons(convolutions, parameters=36_000)
    assert torch.equal(merged.conv2.weight, convolutions.conv2.weight)
    assert merged.fc1.in_features == 800


@pytest.fixture(scope="module")
def tiny():
    """mnist-5k with few images, and a recipe of three epochs."""
    splits = data.load("mnist-5k")
    few = {part: getattr(splits, part).head(300) for part in ("train", "val", "test")}
    recipe = experiments.paper_recipe("lenet-300-100", "mnist-5k")
    one = replace(recipe.dense, epochs=1)
    recipe = replace(recipe, dense=one, scan=(0.1,), rounds=recipe.rounds[1:], retrain=(one, one))
    return replace(splits, **few), recipe


def test_table_6_has_all_rows_measured_at_one_size_and_quoted(tiny, tmp_path):
    splits, recipe = tiny
    notes = []
    workspace = Workspace(tmp_path, notes.append)
    table = rivals.table_6(splits, recipe, seeds=(0, 1), workspace=workspace)
    measured, quoted = table[:7], table[7:]
    assert [row.method for row in measured] == [
        *("Baseline", "Control", "Naive cut", "SVD", "Data-free pruning"),
        *("Data-free, retrained", "Network pruning"),
    ]
    reported = {row.method: row for row in paper.TABLE_6}
    assert {row.method: (row.error, row.parameters, row.compression) for row in quoted} == {
        name: (r.top1_error, round(r.parameters), r.compression) for name, r in reported.items()
    }
    assert all(row.accuracy is None and row.note == "quoted" for row in quoted)
    ours = measured[-1]
    assert [row.parameters for row in measured[:2]] == [266_610] * 2
    for row in measured[2:]:
        assert 0.96 * ours.parameters < row.parameters <= ours.parameters
        assert row.compression == pytest.approx(266_610 / row.parameters, rel=1e-3)
    assert [row.method for row in measured if row.drop is None] == ["Control"]
    assert {row.accuracy.n for row in measured} == {600}
    assert measured[4].accuracy != measured[5].accuracy  # the same network before and after
    for row in measured:
        assert row.error == row.accuracy.error
        if row.drop:
            assert row.drop.value == pytest.approx(row.error - measured[1].error)
        if row.to_pruned:
            assert row.to_pruned.value == pytest.approx(ours.error - row.error)
    assert [row.method for row in measured if row.to_pruned is None] == ["Network pruning"]
    caption = "lenet-300-100, 10 classes, mnist-5k, seeds 0, 1; quoted: AlexNet, ImageNet"
    assert caption in table.caption
    assert "quoted" in str(table)
    epochs = [(note.phase, note.epoch.epoch) for note in notes if note.epoch]
    assert epochs.count(("naive cut", 3)) == 2  # of two seeds
    assert epochs.count(("SVD", 1)) == epochs.count(("data-free", 1)) == 4  # in two rounds each

    notes.clear()
    again = rivals.table_6(splits, recipe, seeds=(0, 1), workspace=workspace)
    assert again == table
    assert again.caption == table.caption
    assert notes == []


def test_an_interrupted_table_resumes_to_the_same_rows(tiny, tmp_path):
    splits, recipe = tiny

    def interrupt(note):
        if note.phase == "SVD":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rivals.table_6(splits, recipe, seeds=(0,), workspace=Workspace(tmp_path, interrupt))
    resumed = rivals.table_6(splits, recipe, seeds=(0,), workspace=Workspace(tmp_path))
    assert resumed == rivals.table_6(splits, recipe, seeds=(0,))


def test_a_method_that_cannot_become_so_small_says_so(tiny):
    splits, recipe = tiny
    recipe = replace(recipe, rounds=({"density": 0.003},) * 2)
    table = {row.method: row for row in rivals.table_6(splits, recipe, seeds=(0,))[:7]}
    ranks_of_one = 784 + 300 + 300 + 300 + 100 + 100 + 100 + 10 + 10
    assert table["SVD"].parameters == ranks_of_one > table["Network pruning"].parameters
    assert table["SVD"].note == "as small as it gets"
    assert table["Baseline"].note == table["Data-free pruning"].note == ""


def test_photos_take_the_reduced_alexnet_by_default(monkeypatch):
    asked = []

    class Asked(Workspace):
        def measured(self, what, kind, measure):
            asked.append(what["recipe"])
            return [rivals.Rival("Control", 0.0, 1, 1.0, rivals.Accuracy.counted(1, 1))]

    splits = data.load("shapes", size=64)
    table = rivals.table_6(splits, seeds=(0,), workspace=Asked())
    classes = 1 + int(splits.train.labels.max())
    shape = {**experiments.REDUCED["alexnet"], "classes": classes}
    assert asked == [experiments.paper_recipe("alexnet", "shapes", shape)]
    assert table.caption.startswith(f"alexnet, width 0.25, 64 px (conv1 5 x 5), {classes} classes")
