"""The paper's networks have its layers, load what fits, and are chains."""

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pruning_lab import data, evaluation, files, masks, models, paper

IMAGES = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def counted(model):
    weights = sum(layer.weight.numel() for layer in masks.prunable(model).values())
    return weights, sum(p.numel() for p in model.parameters())


def test_the_networks_have_the_papers_weights_with_and_without_biases():
    assert counted(models.lenet_300_100()) == (266_200, 266_610)
    assert counted(models.lenet_5()) == (430_500, 431_080)


@pytest.mark.parametrize("name", models.BUILT_IN)
def test_layers_have_the_names_and_sizes_of_the_papers_tables(name):
    model = models.BUILT_IN[name]()
    *rows, total = paper.LAYER_TABLES[name]
    layers = masks.prunable(model)
    assert list(layers) == [row.layer for row in rows]
    for row in rows:
        assert layers[row.layer].weight.numel() == pytest.approx(row.weights, rel=0.03)
    assert counted(model)[0] == pytest.approx(total.weights, rel=0.002)
    assert counted(model)[1] == pytest.approx(paper.TABLE_1[name].dense_parameters, rel=0.002)


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


@pytest.mark.parametrize("make", models.BUILT_IN.values(), ids=models.BUILT_IN)
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


@pytest.mark.parametrize("make", models.BUILT_IN.values(), ids=models.BUILT_IN)
def test_a_built_in_network_is_a_chain(make):
    assert models.is_chain(make(dropout=0.5))


def test_what_is_not_a_plain_list_of_layers_is_no_chain(branching):
    class Own(nn.Sequential):
        def forward(self, x):
            return super().forward(x) + x

    class Named(nn.Sequential):
        pass

    assert not models.is_chain(branching)
    assert not models.is_chain(nn.Sequential(nn.Sequential(nn.ReLU())))
    assert not models.is_chain(Own(nn.ReLU()))
    assert not models.is_chain(nn.ReLU())
    assert models.is_chain(Named(nn.ReLU()))


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
        "lacks fc2.bias": {n: t for n, t in state.items() if n != "fc2.bias"},
        "also holds fc3.weight": {**state, "fc3.weight": torch.ones(1)},
        r"fc2.weight has shape \(4, 13\), this network expects \(4, 12\)": {
            **{name: torch.zeros_like(tensor) for name, tensor in state.items()},
            "fc2.weight": torch.ones(4, 13),
        },
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
    with pytest.raises(ValueError, match="no trained weights of lenet-5 on 'nosuch'; there are"):
        models.lenet_5(trained="nosuch")


@pytest.mark.parametrize("name", models.BUILT_IN)
def test_the_shipped_weights_are_about_as_good_as_the_papers(name, mnist_root):
    model = models.BUILT_IN[name](trained="mnist")
    test = data.load("mnist", root=mnist_root).test.head(2000)
    assert evaluation.evaluate(model, test).high > 1 - paper.TABLE_1[name].dense_error


def test_layers_are_named_in_the_state_dict_as_the_paper_names_them():
    assert list(models.lenet_300_100().state_dict())[:2] == ["fc1.weight", "fc1.bias"]
    chain = models.lenet_5(dropout=0.5)
    assert isinstance(chain._modules, OrderedDict | dict)
    assert list(chain._modules).index("drop3") == list(chain._modules).index("relu3") + 1
