"""The paper's networks have its layers, load what fits, and are chains."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pruning_lab import data, evaluation, files, masks, models, paper

IMAGES = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
LENETS = {name: models.BUILT_IN[name] for name in ("lenet-300-100", "lenet-5")}


def counted(model):
    weights = sum(layer.weight.numel() for layer in masks.prunable(model).values())
    return weights, sum(p.numel() for p in model.parameters())


def on_meta(name, **about):
    with torch.device("meta"):
        return models.build({"network": name, **about})


def test_the_networks_have_the_papers_weights_with_and_without_biases():
    assert {name: counted(on_meta(name)) for name in models.BUILT_IN} == {
        "lenet-300-100": (266_200, 266_610),
        "lenet-5": (430_500, 431_080),
        "alexnet": (60_954_656, 60_965_224),
        "alexnet-torchvision": (61_090_496, 61_100_840),
        "vgg-16": (138_344_128, 138_357_544),
    }


@pytest.mark.parametrize("name", paper.LAYER_TABLES)
def test_layers_have_the_names_and_sizes_of_the_papers_tables(name):
    model = on_meta(name)
    *rows, total = paper.LAYER_TABLES[name]
    assert list(masks.prunable(model)) == [row.layer for row in rows]
    assert counted(model)[0] == pytest.approx(total.weights, rel=0.003)
    assert counted(model)[1] == pytest.approx(paper.TABLE_1[name].dense_parameters, rel=0.003)


def test_lenet_300_100_answers_as_its_formula_does():
    model = models.lenet_300_100()
    w = {name: p.detach().double() for name, p in model.named_parameters()}
    x = IMAGES.flatten(1).double()
    x = (x @ w["fc1.weight"].T + w["fc1.bias"]).clamp(min=0)
    x = (x @ w["fc2.weight"].T + w["fc2.bias"]).clamp(min=0)
    torch.testing.assert_close(model(IMAGES).double(), x @ w["fc3.weight"].T + w["fc3.bias"])


def test_lenet_5_answers_as_with_relu_before_the_pooling():
    model = models.lenet_5()
    x = F.max_pool2d(F.relu(model.conv1(IMAGES)), 2)
    x = F.max_pool2d(F.relu(model.conv2(x)), 2)
    x = model.fc2(F.relu(model.fc1(x.flatten(1))))
    assert torch.equal(model(IMAGES), x)


@pytest.mark.parametrize("make", LENETS.values(), ids=LENETS)
def test_width_dropout_and_classes_shape_the_network(make):
    plain, wide = make(), make(width=0.5, classes=7)
    assert wide(IMAGES).shape == (3, 7)
    assert counted(wide)[0] < counted(plain)[0] / 2
    rates = [m.p for m in make(dropout=0.3).modules() if isinstance(m, nn.Dropout)]
    assert set(rates) == {0.3}
    assert list(make(dropout=0.3).state_dict()) == list(plain.state_dict())
    assert not any(isinstance(m, nn.Dropout) for m in plain.modules())
    assert make(width=1e-6)(IMAGES).shape == (3, 10)
    with pytest.raises(ValueError, match=r"width must be above 0.*1\.0 is the paper's"):
        make(width=0)


@pytest.mark.parametrize("make", LENETS.values(), ids=LENETS)
def test_a_built_in_network_is_a_chain(make):
    chain = make(dropout=0.5)
    assert type(chain) is nn.Sequential
    assert not any(list(layer.children()) for layer in chain)


def test_a_saved_network_comes_back_byte_for_byte(tmp_path):
    model, other = models.lenet_5(width=0.2), models.lenet_5(width=0.2)
    path = models.save(tmp_path / "net.safetensors", model, about={"epochs": 3})
    assert models.load_(other, path) == {"epochs": 3}
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
    # Which training the layout in memory makes about 1.5 times as fast:
    assert other.conv2.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_file_of_another_network_is_refused_and_changes_nothing(toy, tmp_path):
    state = toy.state_dict()
    wrong = {
        r"fc2.bias is missing, this": {n: t for n, t in state.items() if n != "fc2.bias"},
        r"fc3.weight is \(1,\), .* expects no such tensor": {
            **state,
            "fc3.weight": torch.ones(1),
        },
        r"fc2.weight is \(4, 13\), this network expects \(4, 12\)": {
            **{name: torch.zeros_like(tensor) for name, tensor in state.items()},
            "fc2.weight": torch.ones(4, 13),
        },
        "'module.', which DataParallel adds; save the state_dict of model.module$": (
            nn.DataParallel(toy).state_dict()
        ),
        "'_orig_mod.', which torch.compile adds; save the state_dict of model._orig_mod$": (
            torch.compile(toy).state_dict()
        ),
    }
    before = {name: tensor.clone() for name, tensor in state.items()}
    for says, tensors in wrong.items():
        path = files.save_tensors(tmp_path / "net", tensors)
        with pytest.raises(ValueError, match=says) as caught:
            models.load_(toy, path)
        assert str(path) in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in toy.state_dict().items())


def test_buffers_are_saved_too(branching, tmp_path):
    branching.train()(torch.randn(4, 1, 8, 8))
    path = models.save(tmp_path / "net", branching)
    other = type(branching)()
    models.load_(other, path)
    assert torch.equal(other.norm.running_mean, branching.norm.running_mean)
    assert other.norm.num_batches_tracked == 1


def test_trained_weights_that_do_not_exist_are_said_not_to():
    says = "no trained weights of lenet-5 on 'nosuch'; there are: mnist, or give the path of a file"
    with pytest.raises(ValueError, match=says):
        models.lenet_5(trained="nosuch")


@pytest.mark.parametrize("name", LENETS)
def test_trained_weights_may_come_from_a_file_and_other_classes_start_afresh(name, tmp_path):
    path = models.save(tmp_path / "net.safetensors", LENETS[name](width=0.3))
    whole, seven = (LENETS[name](width=0.3, trained=path, classes=n) for n in (10, 7))
    theirs, _ = files.load_tensors(path)
    for key, tensor in whole.state_dict().items():
        assert torch.equal(tensor, theirs[key])
    *same, weight, bias = seven.state_dict().items()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in same)
    assert (len(weight[1]), len(bias[1])) == (7, 7)
    with pytest.raises(ValueError, match=r"this network expects .*; is it of another"):
        LENETS[name](width=0.2, trained=path)


# --- what a file says of its network -----------------------------------------------------------


@pytest.mark.parametrize("name", models.BUILT_IN)
def test_a_network_is_rebuilt_from_what_its_file_says(name, tmp_path):
    about = {"network": name, "classes": 3, "width": 0.05, "dropout": 0.25, "data": "imagenette"}
    shape = (1, 28, 28) if name in LENETS else (3, 64, 64)
    if name not in LENETS:
        about["size"] = 64
    model = models.build(about)
    assert {layer.p for layer in model if isinstance(layer, nn.Dropout)} == {0.25}
    path = models.save(tmp_path / "net.safetensors", model, about=about)
    before = torch.get_rng_state()
    again, said = models.load(path)
    assert torch.equal(torch.get_rng_state(), before)
    assert said == about
    assert list(map(str, again)) == list(map(str, model))
    x = torch.randn(2, *shape)
    assert torch.equal(again.eval()(x), model.eval()(x))
    again.train()(x).sum().backward()  # it is a network like any other, to be trained further
    for (_, one), (_, other) in zip(
        again.named_parameters(), model.named_parameters(), strict=True
    ):
        assert one.grad is not None
        assert one.stride() == other.stride()


def test_a_file_that_says_little_or_nothing_is_of_the_papers_network(tmp_path):
    model = models.lenet_300_100()
    path = models.save(tmp_path / "net", model, about={"network": "lenet-300-100", "seed": 3})
    again, said = models.load(path)
    assert torch.equal(again.fc1.weight, model.fc1.weight)
    assert said == {"network": "lenet-300-100", "seed": 3}
    path = models.save(tmp_path / "net", model)
    assert models.load(path, "lenet-300-100")[1] == {"network": "lenet-300-100"}
    with pytest.raises(ValueError, match=r"net: no built-in network None; there are lenet-300-100"):
        models.load(path)
    with pytest.raises(ValueError, match=r"net: conv1.weight is missing.*is it of another network"):
        models.load(path, "lenet-5")


def test_half_precision_and_whole_numbers_become_floats(tmp_path):
    state = {name: tensor.half() for name, tensor in models.lenet_300_100().state_dict().items()}
    state["fc3.bias"] = torch.arange(10)
    path = files.save_tensors(tmp_path / "net", state, about={"network": "lenet-300-100"})
    model, _ = models.load(path)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.fc3.bias.tolist() == list(range(10))


@pytest.mark.parametrize(
    "about",
    [
        {"network": "lenet-6"},
        {"network": ["lenet-5"]},
        {"network": "lenet-5", "classes": "ten"},
        {"network": "lenet-5", "classes": 10.0},
        {"network": "lenet-5", "width": None},
        {"network": "lenet-5", "width": 1e300},
        {"network": "lenet-5", "width": -1},
        {"network": "lenet-5", "classes": True},
        {"network": "alexnet", "size": 10**12},
        {"network": "vgg-16", "size": 3},
        {"network": "lenet-5", "width": 100, "classes": 1_000_000},
        "lenet-5",
        [],
    ],
    ids=str,
)
def test_what_a_file_wrongly_says_is_refused_by_name_before_memory_is_taken(about, tmp_path):
    path = models.save(tmp_path / "net", models.lenet_5(width=0.1), about=about)
    with pytest.raises(ValueError, match=r"^[^:]*net: "):
        models.load(path)


def test_settings_are_what_is_said_and_the_papers_where_nothing_is():
    dense = {"classes": 1000, "width": 1.0, "dropout": 0.5}
    assert models.settings({"network": "alexnet"}) == {"network": "alexnet", "size": 227, **dense}
    said = {"network": "vgg-16", "width": 0.25, "size": 64, "classes": 10, "dropout": 0}
    assert models.settings({**said, "seed": 1}) == said
    assert "size" not in models.settings({"network": "lenet-5", "size": 28})


def test_a_network_in_words():
    about = {"network": "alexnet", "width": 0.25, "size": 64, "classes": 10}
    assert models.describe(about) == "alexnet, width 0.25, 64 px (conv1 5 x 5), 10 classes"
    assert models.describe({"network": "alexnet"}) == "alexnet, 227 px, 1,000 classes"
    about["network"] = "vgg-16"
    assert models.describe(about) == "vgg-16, width 0.25, 64 px, 10 classes"
    assert models.describe({"network": "lenet-5"}) == "lenet-5, 10 classes"


@pytest.mark.parametrize("name", LENETS)
def test_the_shipped_weights_are_about_as_good_as_the_papers(name, mnist_root):
    model = models.BUILT_IN[name](trained="mnist")
    test = data.load("mnist", root=mnist_root).test.head(2000)
    assert evaluation.evaluate(model, test).high > 1 - paper.TABLE_1[name].dense_error


def test_layers_are_named_in_the_state_dict_as_the_paper_names_them():
    assert list(models.lenet_300_100().state_dict())[:2] == ["fc1.weight", "fc1.bias"]
    chain = models.lenet_5(dropout=0.5)
    names = [name for name, _ in chain.named_children()]
    assert names.index("drop3") == names.index("relu3") + 1
