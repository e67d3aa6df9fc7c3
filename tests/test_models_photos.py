"""AlexNet and VGG-16 answer as torchvision's classes and as their formulas do, at any size."""

import pickle
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from pruning_lab import files, masks, models, paper, retraining

PHOTOS = ("alexnet", "alexnet-torchvision", "vgg-16")
THEIRS = {"alexnet-torchvision": torchvision.models.alexnet, "vgg-16": torchvision.models.vgg16}
SIZES = (32, 64, 96, 127, 128, 160, 224, 227)


def photos(count, size, seed=0):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def on_meta(name, **about):
    with torch.device("meta"):
        return models.build({"network": name, **about})


def kinds(model, kind):
    return [layer for layer in model.modules() if isinstance(layer, kind)]


def torchvisions(name, classes=5, seed=0):
    """torchvision's own network with an eighth of the channels, and random weights and biases."""
    torch.manual_seed(seed)
    with torch.device("meta"):
        model = THEIRS[name](num_classes=8 * classes)
    for layer in kinds(model, nn.Conv2d | nn.Linear):
        out, inputs, *kernel = layer.weight.shape
        weight = torch.randn(out // 8, inputs if inputs == 3 else inputs // 8, *kernel)
        layer.weight = nn.Parameter(weight * (2 / weight[0].numel()) ** 0.5)
        layer.bias = nn.Parameter(torch.randn(out // 8) / 10)
    return model.eval()


@pytest.fixture(params=THEIRS)
def pair(request, tmp_path):
    """torchvision's network, and ours filled from the file that torch.save makes of it."""
    theirs = torchvisions(request.param)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    about = {"classes": 5, "width": 1 / 8}
    ours = models.BUILT_IN[request.param](**about, trained=tmp_path / "theirs.pth")
    return theirs, ours.eval()


def steps(model, x):
    """[(type of layer, what it gave)] of all layers in the order in which they run."""
    seen = []
    hooks = [
        layer.register_forward_hook(lambda layer, _, y: seen.append((type(layer), y.clone())))
        for layer in model.modules()
        if not list(layer.children()) and not isinstance(layer, nn.Flatten)  # theirs is a function
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return seen


# --- torchvision -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [224, 160, 256])  # theirs takes any size; so does ours, built once
def test_every_layer_gives_what_torchvisions_does(pair, size):
    theirs, ours = (steps(model.double(), photos(2, size).double()) for model in pair)
    assert [kind for kind, _ in ours] == [kind for kind, _ in theirs]
    for (_, ours_gave), (_, theirs_gave) in zip(ours, theirs, strict=True):
        torch.testing.assert_close(ours_gave, theirs_gave)
    assert ours[-1][1].std() > 0.1


@pytest.mark.parametrize("name", THEIRS)
def test_every_layer_is_torchvisions_at_full_width(name):
    with torch.device("meta"):
        theirs = THEIRS[name]()
    kind = nn.Conv2d | nn.Linear | nn.MaxPool2d | nn.Dropout
    assert list(map(str, kinds(on_meta(name), kind))) == list(map(str, kinds(theirs, kind)))


def test_the_first_weights_are_torchvisions_for_the_same_seed_and_so_is_the_answer():
    torch.manual_seed(3)
    theirs = torchvision.models.alexnet(num_classes=10).eval()
    torch.manual_seed(3)
    ours = models.alexnet_torchvision(classes=10).eval()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)
    torch.testing.assert_close(ours(photos(2, 224)), theirs(photos(2, 224)))


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("size", [128, 160, 192, 224, 256])
def test_fc_takes_the_map_as_it_is_where_averaging_would_only_copy(name, size):
    with torch.device("meta"):
        theirs = THEIRS[name]()
        maps = theirs.features(torch.zeros(1, 3, size, size))  # (1, C, H, W)
    first = next(layer for layer in theirs.classifier if isinstance(layer, nn.Linear))
    expected = min(first.in_features, maps.numel())
    assert kinds(on_meta(name, size=size), nn.Linear)[0].in_features == expected
    assert (expected == first.in_features) == (size >= 224)


# --- the paper's AlexNet -----------------------------------------------------------------------


def grouped(x, conv):
    """Two convolutions side by side, each of half of the channels."""
    weights, biases = conv.weight.chunk(2), conv.bias.chunk(2)
    parts = zip(x.chunk(2, dim=1), weights, biases, strict=True)
    return torch.cat([F.conv2d(x, w, b, padding=conv.padding) for x, w, b in parts], dim=1)


def response_norm(x):
    """b = a / (1 + 1e-4 / 5 * sum of a^2 over 5 channels)^0.75, channel by channel."""
    channels = range(x.shape[1])
    sums = [(x[:, max(0, c - 2) : c + 3] ** 2).sum(1) for c in channels]
    return torch.stack([x[:, c] / (1 + 1e-4 / 5 * sums[c]) ** 0.75 for c in channels], dim=1)


@pytest.mark.parametrize("size", [227, 224, 64])
def test_alexnet_answers_as_caffes_formula_does(size):
    torch.manual_seed(0)
    model = models.alexnet(classes=5, width=0.1, size=size).double().eval()
    images = 300 * photos(2, size).double()  # loud enough for the normalisation to matter

    def pool(x):
        return F.max_pool2d(x, 3, 2, ceil_mode=True)

    with torch.no_grad():
        if size == 64:
            x = F.conv2d(images, model.conv1.weight, model.conv1.bias, stride=2, padding=2)
        else:
            x = F.conv2d(images, model.conv1.weight, model.conv1.bias, stride=4)
        first = x.clamp(min=0)
        assert (response_norm(first) / first.clamp(min=1)).min() < 0.5
        x = pool(response_norm(first))
        x = pool(response_norm(grouped(x, model.conv2).clamp(min=0)))
        x = F.conv2d(x, model.conv3.weight, model.conv3.bias, padding=1).clamp(min=0)
        x = grouped(x, model.conv4).clamp(min=0)
        x = pool(grouped(x, model.conv5).clamp(min=0)).reshape(2, -1)
        x = (x @ model.fc1.weight.T + model.fc1.bias).clamp(min=0)
        x = (x @ model.fc2.weight.T + model.fc2.bias).clamp(min=0)
        torch.testing.assert_close(model(images), x @ model.fc3.weight.T + model.fc3.bias)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [1, 4, 24])
def test_response_normalisation_and_its_gradient_are_those_of_torch(layout, channels):
    ours, theirs = models.LocalResponseNorm(), nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)
    given = 300 * torch.randn(3, channels, 6, 5, dtype=torch.float64)
    one = given.clone(memory_format=layout).requires_grad_()
    other = given.clone().requires_grad_()
    towards = torch.randn_like(given)
    ours(one).backward(towards)
    theirs(other).backward(towards)
    torch.testing.assert_close(ours(one), theirs(other))
    torch.testing.assert_close(one.grad, other.grad)
    assert ours(one).is_contiguous(memory_format=layout)
    assert list(ours.state_dict()) == list(theirs.state_dict()) == []


def test_response_normalisation_in_half_precision_is_off_by_its_rounding():
    x = 1000 * torch.randn(2, 24, 6, 6)
    exact = models.LocalResponseNorm()(x)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = models.LocalResponseNorm()(x)
    torch.testing.assert_close(rounded.float(), exact, rtol=0.02, atol=1e-3)
    torch.testing.assert_close(
        models.LocalResponseNorm()(x.half()).float(), exact, rtol=1e-2, atol=1
    )


# --- width, size, classes, dropout -------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PHOTOS)
def test_any_size_and_width_gives_an_answer(name, size):
    for width in (1e-6, 0.1, 0.37, 1.0):
        model = on_meta(name, width=width, size=size, classes=7)
        assert model(torch.zeros(2, 3, size, size, device="meta")).shape == (2, 7)
        groups = [conv.groups for conv in kinds(model, nn.Conv2d)]
        assert groups == ([1, 2, 1, 2, 2] if name == "alexnet" else len(groups) * [1])


@pytest.mark.parametrize("size", [64, 227])
@pytest.mark.parametrize("name", PHOTOS)
def test_a_real_network_of_a_tenth_of_the_width_answers_too(name, size):
    model = models.build({"network": name, "width": 0.1, "size": size, "classes": 7})
    assert model(photos(2, size)).isfinite().all()


@pytest.mark.parametrize("name", ["alexnet", "alexnet-torchvision"])
def test_small_images_have_another_first_layer_and_a_map_worth_having(name):
    kernels = {size: on_meta(name, size=size).conv1.kernel_size for size in SIZES}
    assert kernels == {size: (5, 5) if size < 128 else (11, 11) for size in SIZES}
    for size in SIZES[1:]:
        model = on_meta(name, size=size)
        assert model.fc1.in_features >= 3 * 3 * model.conv5.out_channels
        says = models.describe({"network": name, "size": size})
        assert ("conv1 5 x 5" in says) == (model.conv1.kernel_size == (5, 5))


@pytest.mark.parametrize("name", PHOTOS)
def test_images_too_small_to_pool_are_refused(name):
    with pytest.raises(ValueError, match="size must be at least 32 px, got 31"):
        models.BUILT_IN[name](size=31, width=0.1)


@pytest.mark.parametrize("name", PHOTOS)
def test_width_scales_every_layer_but_the_answer(name):
    plain, half = (masks.prunable(on_meta(name, width=w, classes=10)) for w in (1.0, 0.5))
    for layer, next_layer in pairwise(plain):
        assert 2 * len(half[layer].weight) == len(plain[layer].weight)
        shapes = [list(layers[next_layer].weight.shape) for layers in (plain, half)]
        assert 2 * shapes[1][1] == shapes[0][1]
    assert len(half[next_layer].weight) == len(plain[next_layer].weight) == 10


@pytest.mark.parametrize("name", PHOTOS)
def test_dropout_stands_with_the_first_two_fully_connected_layers(name):
    model = on_meta(name, dropout=0.5)
    assert list(on_meta(name, dropout=0.0).state_dict()) == list(model.state_dict())
    assert not kinds(on_meta(name, dropout=0.0), nn.Dropout)
    small = models.build({"network": name, "width": 0.05, "size": 32, "classes": 3})
    share = paper.LAYER_TABLES.get(name, paper.ALEXNET)[-3].density  # of fc2, or of fc7
    mask = masks.prune(small, density=share)
    with retraining.dropout_adjusted(small, mask):
        rates = [layer.p for layer in kinds(small, nn.Dropout)]
    expected = 0.5 * share**0.5  # the paper's equation 2
    assert rates == pytest.approx(2 * [expected], abs=0.01)


@pytest.mark.parametrize("name", PHOTOS)
def test_it_is_a_chain_with_the_papers_names_in_channels_last(name):
    model = models.build({"network": name, "width": 0.1, "size": 64})
    assert type(model) is nn.Sequential
    *rows, _ = paper.LAYER_TABLES.get(name, paper.ALEXNET)
    assert list(masks.prunable(model)) == [row.layer for row in rows]
    for conv in kinds(model, nn.Conv2d):
        assert conv.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", PHOTOS)
def test_sizes_alone_draw_nothing_random(name):
    before = torch.get_rng_state()
    assert {p.device.type for p in on_meta(name).parameters()} == {"meta"}
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", PHOTOS)
def test_equal_seeds_give_equal_networks(name):
    def made(seed):
        torch.manual_seed(seed)
        return models.build({"network": name, "width": 0.05, "size": 32, "classes": 3})

    one, same, other = (made(seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not any(torch.equal(one[key], other[key]) for key in one if key.endswith("weight"))


@pytest.mark.parametrize("name", PHOTOS)
def test_a_few_steps_tell_bright_photos_from_dark_ones(name):
    torch.manual_seed(0)
    about = {"network": name, "width": 0.15, "size": 32, "classes": 2, "dropout": 0.0}
    model, y = models.build(about), torch.arange(8) % 2
    x = photos(8, 32) + (2 * y - 1)[:, None, None, None]
    lr = 0.05 if name == "alexnet-torchvision" else 0.01  # its first weights are torch's
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    for _ in range(25):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.35  # log 2 is chance


@pytest.mark.parametrize("name", ["alexnet", "vgg-16"])
def test_what_passes_the_first_convolutions_keeps_its_size(name):
    torch.manual_seed(0)
    model = models.build({"network": name, "width": 0.5, "size": 64}).eval()
    sizes = [y.std() for kind, y in steps(model, photos(2, 64)) if kind is nn.Conv2d]
    assert max(sizes) / min(sizes) < 4
    assert not any(conv.bias.any() for conv in kinds(model, nn.Conv2d))


# --- weights from files ------------------------------------------------------------------------


def same(one, other, without=()):
    return all(torch.equal(one[k], other[k]) for k in one if not k.startswith(without or " "))


def test_torchvisions_names_are_read_from_safetensors_and_ours_from_either(pair, tmp_path):
    theirs, ours = pair
    name = "vgg-16" if hasattr(ours, "fc8") else "alexnet-torchvision"
    files.save_tensors(tmp_path / "theirs.safetensors", theirs.state_dict())
    models.save(tmp_path / "ours.safetensors", ours)
    torch.save(ours.state_dict(), tmp_path / "ours.pt")
    for file in ("theirs.safetensors", "ours.safetensors", "ours.pt"):
        again = models.BUILT_IN[name](classes=5, width=1 / 8, trained=str(tmp_path / file))
        assert same(again.state_dict(), ours.state_dict())


def test_other_classes_keep_all_but_the_last_layer(pair, tmp_path):
    _, ours = pair
    name, last = ("vgg-16", "fc8") if hasattr(ours, "fc8") else ("alexnet-torchvision", "fc3")
    again = models.BUILT_IN[name](classes=9, width=1 / 8, trained=tmp_path / "theirs.pth")
    assert again(photos(1, 224)).shape == (1, 9)
    assert same(again.state_dict(), ours.state_dict(), without=last)
    torch.manual_seed(8)
    afresh = models.BUILT_IN[name](classes=9, width=1 / 8)
    torch.manual_seed(8)
    again = models.BUILT_IN[name](classes=9, width=1 / 8, trained=tmp_path / "theirs.pth")
    assert torch.equal(again[-1].weight, afresh[-1].weight)


def test_weights_of_another_network_width_or_size_are_refused(tmp_path):
    torch.save(torchvisions("vgg-16").state_dict(), tmp_path / "vgg.pth")
    path = models.save(tmp_path / "small", models.alexnet(width=0.05, size=64, classes=3))
    for make, about, says in [
        (
            models.alexnet_torchvision,
            {"trained": tmp_path / "vgg.pth"},
            r"vgg.pth: conv1.weight is .*is it of another network",
        ),
        (
            models.vgg_16,
            {"trained": tmp_path / "vgg.pth", "width": 0.1},
            "is it of another",
        ),
        (
            models.vgg_16,
            {"trained": tmp_path / "vgg.pth", "width": 1 / 8, "size": 64},
            r"fc6.weight is \(512, 3136\), this network expects \(512, 256\); is it",
        ),
        (models.alexnet, {"trained": path, "width": 0.05}, "small: conv1.weight is"),
        (
            models.alexnet,
            {"trained": "imagenet", "width": 0.05},
            "there are: imagenette, or give the",
        ),
        (models.vgg_16, {"trained": "vgg.pht", "width": 0.1}, "'vgg.pht'; there are: imagenet, or"),
    ]:
        with pytest.raises(ValueError, match=says):
            make(**about)


class Hostile:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


@pytest.mark.parametrize("suffix", ["pth", "pt", "safetensors"])
def test_a_broken_or_hostile_file_is_named_and_nothing_in_it_runs(suffix, tmp_path):
    path = tmp_path / f"weights.{suffix}"
    whole = {"conv1.weight": torch.ones(2)}
    torch.save(whole, tmp_path / "whole.pth")
    half = (tmp_path / "whole.pth").read_bytes()[:200]
    for content in (
        b"",
        b"nonsense",
        half,
        pickle.dumps(Hostile()),
        pickle.dumps({"a": Hostile()}),
    ):
        path.write_bytes(content)
        says = rf"weights.{suffix} (cannot be read|is not a whole|is a pickle of torch.save, which)"
        with pytest.raises(ValueError, match=says):
            models.alexnet_torchvision(width=0.05, trained=path)


@pytest.mark.parametrize("content", [[torch.ones(2)], {"epoch": 3}, {"model": {}}, {1: "a"}])
def test_more_than_a_state_dict_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"holds more than a state_dict; save model.state_dict"):
        models.vgg_16(width=0.05, trained=tmp_path / "weights.pth")


@pytest.mark.parametrize("name", THEIRS)
def test_imagenet_is_torchvisions_own_file(name, tmp_path, monkeypatch):
    """As torch.hub would leave it; all weights of a layer are one number here, to be quick."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = torchvision.models.get_model_weights(THEIRS[name].__name__).DEFAULT
    with torch.device("meta"):
        shapes = THEIRS[name]().state_dict()
    numbers = {key: float(place) for place, key in enumerate(shapes, start=1)}
    path = tmp_path / "hub" / "checkpoints" / weights.url.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    torch.save({k: torch.tensor(numbers[k]).expand(t.shape) for k, t in shapes.items()}, path)
    if name == "alexnet-torchvision":  # of VGG-16 it would take seconds
        ours = models.BUILT_IN[name](trained="imagenet", classes=10)
        found = [float(t.flatten()[0]) for t in ours.state_dict().values()]
        assert found[:-2] == list(numbers.values())[:-2]
        assert len(ours.fc3.weight) == 10
    else:
        with pytest.raises(ValueError, match=f"{path.name}: conv1_1.weight is"):
            models.BUILT_IN[name](trained="imagenet", width=0.05)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{path.name} cannot be read"):
        models.BUILT_IN[name](trained="imagenet", width=0.05)


def test_without_a_connection_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nobody listens
    with pytest.raises(
        ConnectionError, match=r"alexnet-owt-7be5be79.pth could not be fetched .*yourself"
    ):
        models.alexnet_torchvision(trained="imagenet", width=0.05)
    assert not list(tmp_path.rglob("*.pth"))
