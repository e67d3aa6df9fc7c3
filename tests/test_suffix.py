"""What is computed from a changed layer on is what the whole network would have answered."""

import copy
import random
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from toys import CLASSES, Branching, lively

from pruning_lab import criteria, data, evaluation, models
from pruning_lab.evaluation import (
    SuffixEvaluator,
    Thresholded,
    measuring,
    suffix,
    teams,
    thresholded,
)
from pruning_lab.masks import prunable

LEVELS = [0.0, 0.1, 0.3, 0.6, 1.0]


# --- networks, all for images of 1 x 8 x 8 -----------------------------------------------------


class Calling(nn.Module):
    """A module whose forward is a function of itself and the images."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.call = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.call(self, x)


class Minus(nn.Module):
    """Each image less the mean of its batch: images depend on each other."""

    def forward(self, x):
        return x - x.mean(0)


class Last(nn.Module):
    def forward(self, outputs):
        return outputs[0][:, -1]


class Twice(nn.Linear):
    """A layer that writes over what it is given."""

    def forward(self, x):
        return super().forward(x.mul_(2))


def grouped():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 8, 3, groups=2, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 2, groups=8),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )


def alexnet_like(flatten=lambda x: torch.flatten(x, 1)):
    """Nested as torchvision nests: features, avgpool, classifier, ReLUs in place, dropout."""
    features = nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
        nn.MaxPool2d(2),
    )
    classifier = nn.Sequential(
        *(nn.Dropout(), nn.Linear(8, 12), nn.ReLU(inplace=True), nn.Dropout()),
        nn.Linear(12, CLASSES),
    )

    def forward(self, x):
        return self.classifier(flatten(self.avgpool(self.features(x))))

    pool = nn.AdaptiveAvgPool2d(1)
    return Calling(forward, features=features, avgpool=pool, classifier=classifier)


def functional():
    """Layers whose weights are read and not called, with relus that are functions."""

    def forward(self, x):
        x = F.relu(F.linear(x.flatten(1), self.fc1.weight, self.fc1.bias))
        return F.linear(x, self.fc2.weight)

    return Calling(forward, fc1=nn.Linear(64, 9), fc2=nn.Linear(9, CLASSES))


def computed():
    """The weights come out of the parameters' list and are scaled, which a trace takes as given."""

    def forward(self, x):
        weights = dict(self.named_parameters())
        x = torch.relu(self.fc1(torch.flatten(x, 1)))
        return F.linear(x, weights["fc2.weight"] * 2)

    return Calling(forward, fc1=nn.Linear(64, 9), fc2=nn.Linear(9, CLASSES))


def layers_of_a_line(forward):
    return Calling(forward, fc1=nn.Linear(64, 9), fc2=nn.Linear(9, 9), fc3=nn.Linear(9, CLASSES))


def a_line(self, x):
    return self.fc3(F.relu(self.fc2(self.fc1(torch.flatten(x, 1)).relu())))


def one_twice(self, x):
    return self.fc3(self.fc2(self.fc2(self.fc1(torch.flatten(x, 1)).relu()).relu()).relu())


def one_never(self, x):
    return self.fc3(self.fc1(torch.flatten(x, 1)).relu())


def one_never_and_a_skip(self, x):
    x = self.fc1(torch.flatten(x, 1))
    return self.fc3(x.relu() + x)


def by_keyword(self, x):
    return self.fc3(input=self.fc2(self.fc1(input=torch.flatten(x, 1)).relu()).relu())


def doubling_a_skip(self, x):
    """What fc2 took is written over behind it."""
    x = self.fc1(torch.flatten(x, 1)).relu()
    y = self.fc2(x)
    return self.fc3((y + x.mul_(2)).relu())


def rarely_clamping_a_skip(self, x):
    """The same, but seldom does it change a number: not those of the first two images."""
    x = self.fc1(torch.flatten(x, 1)).relu()
    y = self.fc2(x)
    return self.fc3((y + x.clamp_(max=0.9)).relu())


def clamping_a_part(self, x):
    """The same through a view, of several that one node gave."""
    parts = self.fc1(torch.flatten(x, 1)).tensor_split(2, dim=1)
    y = self.fc2(torch.cat(parts, 1))
    parts[0].clamp_(max=0.4)
    return self.fc3(torch.cat(parts, 1) + y)


def deciding(self, x):
    x = self.fc1(torch.flatten(x, 1)).relu()
    return self.fc3(self.fc2(x) if x.sum() > 3 else -x)


def deciding_over_the_images(self, x):
    return deciding(self, x.mul_(2))


def a_skip_over_the_images(self, x):
    x = self.fc1(torch.flatten(x.mul_(2), 1))
    return self.fc3(x.relu() + x)


def over_the_images():
    return nn.Sequential(
        *(nn.ReLU(inplace=True), nn.Flatten(), nn.ReLU(inplace=True), nn.Linear(64, 9)),
        *(nn.ReLU(inplace=True), nn.Linear(9, CLASSES)),
    )


def tied():
    first, second = nn.Linear(64, 64), nn.Linear(64, 64)
    second.weight = first.weight
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), nn.Linear(64, CLASSES))


def tied_in_a_graph():
    model = layers_of_a_line(lambda self, x: a_line(self, x) + self.fc3(self.fc1(x.flatten(1))))
    model.fc3 = nn.Linear(9, 9)
    model.fc3.weight = model.fc2.weight
    return model


def standing_twice():
    """One layer in two places of the list, so that its parameters have two names."""
    middle = nn.Linear(9, 9)
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(64, 9), nn.ReLU()),
        *(middle, nn.Tanh(), middle, nn.Tanh(), nn.Linear(9, CLASSES)),
    )


def parts_standing_twice(join=lambda parts, x: parts(x)):
    """The same within a part that is called with other weights, and deciding for itself."""
    part = nn.Sequential(nn.Linear(9, 9), nn.Tanh())

    def forward(self, x):
        return self.fc2(join(self.parts_, self.fc1(torch.flatten(x, 1))))

    layers = {"fc1": nn.Linear(64, 9), "parts_": nn.Sequential(part, part)}
    return Calling(forward, **layers, fc2=nn.Linear(9, CLASSES))


def mixing():
    """The levels of fc1 must not lie side by side in one batch; those of fc2 may."""
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(), fc1=nn.Linear(64, 9), minus=Minus(), fc2=nn.Linear(9, CLASSES)
        )
    )


def hooked():
    """A hook that mixes images, one that replaces an answer, and one that only looks."""
    model = alexnet_like()
    model.classifier[1].register_forward_hook(lambda layer, args, y: y - y.mean(0))
    model.features[2].register_forward_pre_hook(lambda layer, args: (args[0] * 2,))
    model.features[0].register_forward_hook(lambda *_: None)
    return model


def hooked_inside():
    model = alexnet_like()
    model.features.register_forward_hook(lambda block, args, y: y.flip(0))
    return model


def hooked_outside():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, CLASSES))
    model.register_forward_hook(lambda model, args, y: y.flip(1))
    model.register_forward_pre_hook(lambda model, args: (args[0] * 2,))
    return model


def one_after_the_other(self, x):
    for layer in self.children():
        x = layer(x)
    return x


def hooked_outside_behind_two():
    """What two images do not show."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, CLASSES))
    model.register_forward_hook(lambda model, args, y: torch.cat([y[:2], y[2:].flip(1)]))
    return model


def transformer():
    """One step of a line that holds several layers."""
    return Calling(
        one_after_the_other,
        cut=nn.Flatten(1, 2),
        embed=nn.Linear(8, 8),
        encode=nn.TransformerEncoderLayer(8, 2, 12, batch_first=True),
        flatten=nn.Flatten(),
        head=nn.Linear(64, CLASSES),
    )


def writes_over_its_input():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), Twice(9, CLASSES))


def flattening_a_part():
    """A line with a flatten that is not the usual one."""

    def forward(self, x):
        return self.pool(self.fc1(torch.flatten(x, 1, end_dim=2))).flatten(1)

    return Calling(forward, fc1=nn.Linear(8, 8), pool=nn.AdaptiveAvgPool2d((1, CLASSES)))


# name -> (how it is evaluated, a function that makes one)
ZOO = {
    "grouped": ("chain", grouped),
    "no bias": (
        "chain",
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False),
            *(nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(36, CLASSES, bias=False)),
        ),
    ),
    "circular": (
        "chain",
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1, padding_mode="circular"),
            nn.ReLU(),
            nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
            *(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, CLASSES)),
        ),
    ),
    "dilated and strided": (
        "chain",
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3, dilation=2, padding="same"),
            nn.LocalResponseNorm(2),
            nn.Conv2d(4, 4, (1, 3), stride=(2, 1)),
            *(nn.GroupNorm(2, 4), nn.GELU(), nn.Flatten(), nn.Linear(96, CLASSES)),
        ),
    ),
    "linear on 3 dimensions": (
        "chain",
        lambda: nn.Sequential(
            nn.Flatten(1, 2),  # (N, 8, 8)
            *(nn.Linear(8, 6), nn.ReLU(), nn.LayerNorm(6), nn.Linear(6, 3), nn.Flatten()),
            nn.Linear(24, CLASSES),
        ),
    ),
    "linear on 4 dimensions": (
        "chain",
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.Linear(8, 5), nn.Flatten(), nn.Linear(120, CLASSES)
        ),
    ),
    "recurrent": (
        "chain",
        lambda: nn.Sequential(
            nn.Flatten(1, 2),
            *(nn.Linear(8, 6), nn.LSTM(6, 7, batch_first=True), Last(), nn.Linear(7, CLASSES)),
        ),
    ),
    "tied": ("chain", tied),
    "standing twice": ("chain", standing_twice),
    "parts standing twice": ("chain", parts_standing_twice),
    "parts standing twice, deciding": (
        "whole",
        lambda: parts_standing_twice(lambda parts, x: parts(x if x.sum() > 3 else -x)),
    ),
    "mixing": ("chain", mixing),
    "softmax over the batch": (
        "chain",
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.Softmax(0), nn.Linear(9, CLASSES)),
    ),
    "norm of the batch": (
        "chain",
        lambda: nn.Sequential(
            nn.Flatten(),
            *(nn.Linear(64, 9), nn.BatchNorm1d(9, track_running_stats=False)),
            nn.Linear(9, CLASSES),
        ),
    ),
    "over the images": ("chain", over_the_images),
    "like alexnet": ("chain", alexnet_like),
    "a line": ("chain", lambda: layers_of_a_line(a_line)),
    "a line, one twice": ("chain", lambda: layers_of_a_line(one_twice)),
    "hooked": ("chain", hooked),
    "transformer": ("chain", transformer),
    "like vgg": ("graph", lambda: alexnet_like(lambda x: x.view(x.size(0), -1))),
    "branching": ("graph", Branching),
    "functional": ("graph", functional),
    "writes over its input": ("graph", writes_over_its_input),
    "a skip over the images": ("graph", lambda: layers_of_a_line(a_skip_over_the_images)),
    "hooked inside": ("graph", hooked_inside),
    "flattening a part": ("graph", flattening_a_part),
    "by keyword": ("graph", lambda: layers_of_a_line(by_keyword)),
    "tied in a graph": ("graph", tied_in_a_graph),
    "one never and a skip": ("graph", lambda: layers_of_a_line(one_never_and_a_skip)),
    "a line, one never": ("whole", lambda: layers_of_a_line(one_never)),
    "deciding": ("whole", lambda: layers_of_a_line(deciding)),
    "deciding over the images": ("whole", lambda: layers_of_a_line(deciding_over_the_images)),
    "hooked outside": ("whole", hooked_outside),
    "hooked outside behind two": ("whole", hooked_outside_behind_two),
    "computed": ("whole", computed),
    "doubling a skip": ("whole", lambda: layers_of_a_line(doubling_a_skip)),
    "rarely clamping a skip": ("whole", lambda: layers_of_a_line(rarely_clamping_a_skip)),
    "clamping a part": ("whole", lambda: layers_of_a_line(clamping_a_part)),
}

# With a step that may not bear two workers, or that must see all images of a batch.
UNKNOWN = [
    *("mixing", "softmax over the batch", "norm of the batch", "recurrent", "hooked"),
    "transformer",
]
EASY = [
    *("grouped", "like alexnet", "mixing", "tied", "like vgg", "tied in a graph", "deciding"),
    *("standing twice", "parts standing twice, deciding"),
]


def make(name: str) -> nn.Module:
    """In double precision, so that no order of summing can turn an answer."""
    torch.manual_seed(3)
    model = lively(ZOO[name][1]()).double()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.1, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    return model


def answer(model, x, weights):
    """By a copy that has those weights."""
    copied = copy.deepcopy(model).eval()
    with torch.no_grad():
        for name, weight in weights.items():
            prunable(copied)[name].weight.copy_(weight)
        return copied(x.clone())


def pruned(model, name, density):
    weight = prunable(model)[name].weight.detach()
    return weight * criteria.by_density(criteria.magnitude(weight), density)


@pytest.fixture
def doubles(batches):
    """Images in batches of 16, 16, 16 and 2."""
    return [(x.double(), y) for x, y in batches]


@contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
        assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)


@pytest.fixture(params=["1 x 2 threads", "2 x 1 threads, channels last"])
def spread(request, monkeypatch):
    """Work spread over two threads of torch, or over two workers (where a network bears it)."""

    def chosen(works, paces, device):
        which = 0 if request.param == "1 x 2 threads" else -1
        return list(works)[which], paces[which]

    monkeypatch.setattr(suffix, "quickest", chosen)
    with threads(2):
        yield request.param


# --- the three ways ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ZOO)
def test_every_way_answers_as_the_network_with_other_weights_does(name, doubles, spread):
    model = make(name).eval()
    x = doubles[0][0]
    own = x.clone()
    with measuring(model):
        way = suffix.suffixes(model, x)
        assert way.how == ZOO[name][0]
        pace = way.prepare(x)
        dense, kept = way.start(x)
        assert torch.allclose(dense, answer(model, x, {}))
        assert sorted(way.layers) == sorted(prunable(model))
        for layer in [*reversed(way.layers), *way.layers]:  # each twice, as nothing may wear off
            weights = torch.stack([pruned(model, layer, level) for level in LEVELS])
            answers = way.answers(layer, kept[layer], weights)  # (N, K, classes)
            for k, weight in enumerate(weights):
                assert torch.allclose(answers[:, k], answer(model, x, {layer: weight})), layer
    assert torch.equal(x, own)
    several = way.how == "chain" and name not in UNKNOWN and "2 x 1" in spread
    assert pace.workers == (2 if several else 1)


@pytest.mark.parametrize("name", ZOO)
def test_every_way_goes_on_behind_other_changes(name, doubles, spread):
    """From each layer on, with all before it changed too: what a cumulative scan asks."""
    model = make(name).eval()
    x = doubles[0][0]
    with measuring(model):
        way = suffix.suffixes(model, x)
        way.prepare(x)
        weights = {layer: pruned(model, layer, 0.5) for layer in way.layers}
        _, kept = way.start(x, weights)
        for count, layer in enumerate(way.layers, start=1):
            changes = {name: weights[name] for name in way.layers[:count]}
            expected = answer(model, x, changes)
            assert torch.allclose(way.answer(layer, kept[layer], changes), expected)
            levels = torch.stack([weights[layer], torch.zeros_like(weights[layer])])
            several = way.answers(layer, kept[layer], levels, changes)
            assert torch.allclose(several[:, 0], expected)


def test_layers_are_in_the_order_in_which_they_run():
    last_first = layers_of_a_line(a_line)
    last_first._modules = dict(reversed(last_first._modules.items()))
    assert list(prunable(last_first)) == ["fc3", "fc2", "fc1"]
    with measuring(last_first):
        way = suffix.suffixes(last_first, torch.randn(3, 1, 8, 8))
    assert (way.how, way.layers) == ("chain", ["fc1", "fc2", "fc3"])


def test_a_residual_network_of_torchvision_goes_on_in_its_graph():
    from torchvision.models import resnet18  # slow to import

    torch.manual_seed(0)
    model = resnet18(num_classes=5)
    x = torch.randn(3, 3, 32, 32)
    with measuring(model):
        way = suffix.suffixes(model, x)
        assert way.how == "graph"
        _, kept = way.start(x)
        for layer in way.layers[::4]:
            weight = pruned(model, layer, 0.3)
            assert torch.equal(
                way.answer(layer, kept[layer], {layer: weight}), answer(model, x, {layer: weight})
            )


@pytest.mark.parametrize("name", ["grouped", "no bias", "circular", "linear on 3 dimensions"])
def test_levels_lie_side_by_side_where_images_go_one_by_one(name):
    with measuring(model := make(name)):
        way = suffix.suffixes(model, torch.randn(3, 1, 8, 8).double())
    assert all(way.stacks.values())


@pytest.mark.parametrize(
    ("name", "stacked"),
    [
        ("mixing", ["fc2"]),
        ("softmax over the batch", ["3"]),
        ("norm of the batch", ["3"]),
        ("recurrent", ["4"]),
        ("tied", ["5"]),
        ("hooked", ["classifier.4"]),
    ],
)
def test_levels_never_go_side_by_side_through_a_step_that_may_mix_them(name, stacked):
    with measuring(model := make(name)):
        way = suffix.suffixes(model, torch.randn(3, 1, 8, 8).double())
    assert [layer for layer, does in way.stacks.items() if does] == stacked


def test_a_batch_too_large_for_the_cache_goes_in_parts(doubles, monkeypatch):
    monkeypatch.setattr(suffix, "_CACHED_BYTES", 1)
    monkeypatch.setattr(suffix, "_TOGETHER", 5)
    model, x = make("grouped").eval(), doubles[0][0]
    sizes = []
    with measuring(model):
        way = suffix.suffixes(model, x)
        way.prepare(x)
        _, kept = way.start(x)
        weights = torch.stack([pruned(model, "0", level) for level in (0.2, 0.6)])
        hook = model[8].register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
        answers = way.answers("0", kept["0"], weights)
        hook.remove()
    assert sizes == 8 * [2 * 2]  # two images at two levels
    assert torch.allclose(answers[:, 1], answer(model, x, {"0": weights[1]}))


def test_workers_never_see_each_others_weights(doubles):
    """Many small jobs on the same layers, each with its own weights."""
    model, x = make("grouped").eval(), torch.cat([x for x, _ in doubles])
    before = dict(model.named_parameters())
    with measuring(model), threads(2), teams.Team(teams.Pace(2, 1)) as team:
        way = suffix.suffixes(model, x)
        way = way.laid_out(torch.channels_last)
        weights = [pruned(model, "2", k / 40) for k in range(40)]
        (_, kept), *_ = team.do([lambda: way.start(x)])
        jobs = [lambda w=w: way.answer("2", kept["2"], {"2": w}) for w in weights]
        for one, weight in zip(team.do(jobs), weights, strict=True):
            assert torch.allclose(one, answer(model, x, {"2": weight}))
    assert all(parameter is before[name] for name, parameter in model.named_parameters())


# --- the team ----------------------------------------------------------------------------------


PACES = [teams.Pace(1, 1), teams.Pace(1, 2), teams.Pace(2, 1)]


@pytest.mark.parametrize("pace", PACES, ids=str)
def test_a_team_does_its_jobs_in_order_at_its_pace(pace):
    def job(number):
        assert not torch.is_grad_enabled()
        assert torch.get_num_threads() == pace.threads
        return number

    with threads(2), torch.no_grad(), teams.Team(pace) as team:
        assert team.do([lambda n=n: job(n) for n in range(5)]) == [0, 1, 2, 3, 4]
        with pytest.raises(ZeroDivisionError):
            team.do([lambda: 1, lambda: 1 / 0, lambda: 1])
        assert torch.get_num_threads() == 2
        assert team.do([lambda: job(7)]) == [7]


def inherited_threads() -> int:
    """The number of torch's threads that a thread born now sees."""
    with ThreadPoolExecutor(1) as other:
        return other.submit(torch.get_num_threads).result()


@pytest.mark.parametrize("pace", PACES, ids=str)
def test_a_team_leaves_the_number_of_threads_to_all_other_threads(pace):
    with threads(2):
        with teams.Team(pace) as team:
            assert inherited_threads() == torch.get_num_threads() == 2
            assert team.do([inherited_threads] * 3) == [2] * 3  # while it works, too
            assert team.do([torch.get_num_threads] * 3) == [pace.threads] * 3
        assert inherited_threads() == 2


def test_a_team_keeps_a_default_that_is_not_its_creators_number():
    def other():
        torch.set_num_threads(1)  # of this thread, and of those born later
        seen.append(inherited_threads())

    seen = []
    with threads(2):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        with teams.Team(teams.Pace(2, 3)):
            seen.append(inherited_threads())
        assert torch.get_num_threads() == 2
    assert seen == [1, 1]


def test_teams_that_start_at_once_keep_the_default_too():
    def start(pace):
        for _ in range(20):
            with teams.Team(pace):
                pass

    with threads(2), ThreadPoolExecutor(4) as others:
        list(others.map(start, [teams.Pace(3, 1)] * 4))
        assert inherited_threads() == 2


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_team_that_cannot_start_keeps_the_default_and_leaves_no_thread(monkeypatch, error):
    def set_once(count, set_num_threads=torch.set_num_threads):
        if count == 1 and not tried:
            tried.append(count)
            raise error
        set_num_threads(count)

    tried, before = [], threading.active_count()
    with threads(2), monkeypatch.context() as patch:
        patch.setattr(torch, "set_num_threads", set_once)
        with pytest.raises(error):
            teams.Team(teams.Pace(3, 1))
        assert inherited_threads() == 2
        assert threading.active_count() == before


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts Linux's threads")
@pytest.mark.parametrize(("own", "other"), [(1, 2), (2, 1)])
def test_a_worker_computes_with_the_threads_of_its_pace(own, other):
    """A thread that computes with two has the system start one more."""

    def started():
        before = len(list(Path("/proc/self/task").iterdir()))
        torch.randn(300, 300) @ torch.randn(300, 300)
        torch.randn(10**6).exp_()
        return len(list(Path("/proc/self/task").iterdir())) - before

    with threads(own), teams.Team(teams.Pace(1, other)) as team:
        assert team.do([started]) == [other - 1]


@pytest.mark.parametrize(
    ("threads_take", "workers_take", "expected"),
    [
        ([9], [10], "workers"),
        ([7], [10], "threads"),
        ([12], [10], "workers"),
        ([90, 9, 90], [10, 90], "workers"),
        ([90, 7], [90, 10, 90], "threads"),
    ],
)
def test_torchs_threads_have_to_be_clearly_quicker(
    threads_take, workers_take, expected, monkeypatch
):
    """The least of some trials counts; the first of each is for warming up."""
    takes = {1: [1, *threads_take * 9], 2: [1, *workers_take * 9]}
    monkeypatch.setattr(teams.Team, "seconds", lambda team, _: takes[team.pace.workers].pop(0))
    with threads(2):
        candidates = teams.paces(alone=False)
        _, pace = teams.quickest({"": lambda: None}, candidates, torch.device("cpu"))
    assert (pace.workers, pace.threads) == {"threads": (1, 2), "workers": (2, 1)}[expected]
    assert pace.seconds == min({"threads": threads_take, "workers": workers_take}[expected])


def test_the_quickest_way_is_found_though_the_machine_is_busy_for_a_round(monkeypatch):
    takes = {("one", 1): 9, ("one", 2): 8, ("two", 1): 6, ("two", 2): 7}
    order = []

    def seconds(team, work):
        order.append((work(), team.pace.workers))
        busy = 100 if 9 < len(order) <= 13 else 0  # the third round of four trials
        return takes[order[-1]] + busy

    monkeypatch.setattr(teams.Team, "seconds", seconds)
    works = {name: lambda name=name: name for name in ("one", "two")}
    with threads(2):
        way, pace = teams.quickest(works, teams.paces(alone=False), torch.device("cpu"))
    assert (way, pace) == ("two", teams.Pace(2, 1, 7))  # threads are not clearly quicker
    assert order == [*takes] * (1 + teams.ROUNDS)


def test_no_worker_is_left_working_after_an_interrupt():
    begun, ended = [], []

    def job(number):
        begun.append(number)
        if number == 1:
            raise KeyboardInterrupt
        torch.randn(300, 300) @ torch.randn(300, 300)
        ended.append(number)

    with threads(2), teams.Team(teams.Pace(2, 1)) as team:
        with pytest.raises(KeyboardInterrupt):
            team.do([lambda n=n: job(n) for n in range(200)])
        assert sorted(begun) == sorted([*ended, 1])


# --- the evaluator -----------------------------------------------------------------------------


def answers_of(model, batches, weights):
    return torch.cat([answer(model, x, weights) for x, _ in batches])


@pytest.mark.parametrize("name", EASY)
def test_an_evaluator_says_what_the_whole_network_would(name, doubles, spread):
    model = make(name).train()
    session = SuffixEvaluator(model, doubles)
    assert (session.n, session.how) == (50, ZOO[name][0])
    labels = torch.cat([y for _, y in doubles])
    layers = list(prunable(model))
    for changed in [[], layers[:1], layers[-1:], layers[::-1], layers[1:3]]:
        changes = {layer: pruned(model, layer, 0.4) for layer in changed}
        expected = answers_of(model, doubles, changes)
        assert torch.allclose(session.logits(changes), expected)
        assert session.hits(changes).tolist() == (expected.argmax(1) == labels).tolist()
        accuracy = session.accuracy(changes)
        assert accuracy == evaluation.Accuracy.of(expected.argmax(1) == labels)
        loss = F.nll_loss(expected.log_softmax(1), labels).item()
        assert session.loss(changes) == pytest.approx(loss)
        for first in (1, 16, 17, 49, 50, 1000):
            assert torch.allclose(session.logits(changes, first=first), expected[:first])
            part = expected[:first].argmax(1) == labels[:first]
            assert session.accuracy(changes, first=first) == evaluation.Accuracy.of(part)
        loss = F.nll_loss(expected[:20].log_softmax(1), labels[:20]).item()
        assert session.loss(changes, first=20) == pytest.approx(loss)


@pytest.mark.parametrize("name", EASY)
def test_what_is_committed_stays_until_it_is_changed_again(name, doubles, spread):
    model = make(name)
    session = SuffixEvaluator(model, doubles)
    layers = list(prunable(model))
    base, size = {}, session.bytes
    for layer in [layers[-1], layers[0], layers[-1]]:
        base[layer] = pruned(model, layer, random.Random(layer + str(len(base))).random())
        session.commit({layer: base[layer]})
        assert torch.allclose(session.logits(), answers_of(model, doubles, base))
        for other in layers:
            changes = {other: pruned(model, other, 0.3)}
            expected = answers_of(model, doubles, {**base, **changes})
            assert torch.allclose(session.logits(changes), expected)
    assert session.bytes == size


@pytest.mark.parametrize("name", EASY)
def test_random_commits_end_as_a_fresh_evaluator_with_all_of_them(name, doubles, spread):
    model, dice = make(name), random.Random(name)
    session = SuffixEvaluator(model, doubles)
    layers, base = list(prunable(model)), {}
    labels = torch.cat([y for _, y in doubles])
    for _ in range(5):
        some = dice.sample(layers, dice.randint(0, len(layers)))
        changes = {layer: pruned(model, layer, dice.random()) for layer in some}
        before = session.logits(), dict(session.base)
        steps = session.advance(changes)
        for _ in range(dice.randint(0, 3)):  # of 4 batches
            next(steps)
        steps.close()
        assert torch.equal(session.logits(), before[0])
        assert session.base == before[1]
        base |= changes
        hits = list(session.advance(changes))
        fresh = SuffixEvaluator(model, doubles)
        fresh.commit(base)
        assert torch.allclose(session.logits(), fresh.logits(), rtol=0, atol=1e-10)
        expected = answers_of(model, doubles, base)
        assert torch.allclose(session.logits(), expected, rtol=0, atol=1e-10)
        assert torch.cat(hits).tolist() == (expected.argmax(1) == labels).tolist()
        assert [len(some) for some in hits] == [16, 16, 16, 2]
        assert session.base.keys() == base.keys()


def test_an_advance_left_half_way_computes_no_more_than_was_asked_for(toy, split):
    session = SuffixEvaluator(toy, split)
    seen = []
    hook = toy.fc2.register_forward_hook(lambda layer, args, y: seen.append(len(y)))
    steps = session.advance({"fc1": pruned(toy, "fc1", 0.2)})
    assert seen == []
    next(steps), next(steps)
    assert seen == [16] * 2
    del steps
    assert session.base == {}
    hook.remove()


@pytest.mark.parametrize("name", ["grouped", "like vgg", "deciding"])
def test_between_two_batches_of_an_advance_nothing_shows(name, doubles, spread, everything_of):
    model = make(name).train()
    session = SuffixEvaluator(model, doubles)
    layer = next(iter(prunable(model)))
    weight = pruned(model, layer, 0.3)
    before = everything_of(model)
    for _ in session.advance({layer: weight}):
        assert everything_of(model) == before
        assert torch.is_grad_enabled()
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize("name", ["grouped", "like alexnet", "like vgg"])
def test_a_network_in_training_mode_is_measured_in_evaluation_mode(name, doubles, spread):
    """Also the batches that workers have begun while somebody looks at the one before."""
    model = make(name).train()
    session = SuffixEvaluator(model, doubles)
    for layer in prunable(model):
        weight = pruned(model, layer, 0.5)
        list(session.advance({layer: weight}))
        expected = answers_of(model, doubles, session.base)
        assert torch.allclose(session.logits(), expected, rtol=0, atol=1e-10)
        assert model.training


def test_whoever_stops_asking_leaves_no_worker_working(doubles, monkeypatch):
    model, begun = make("grouped"), []
    with threads(2):
        session = SuffixEvaluator(model, [(x[:1], y[:1]) for x, y in doubles] * 50)
        session.pace = teams.Pace(2, 1)
        resume = session._way.resume
        monkeypatch.setattr(session._way, "resume", lambda *a: begun.append(0) or resume(*a))
        steps = session.advance({"0": pruned(model, "0", 0.2)})
        next(steps)
        steps.close()
        count = len(begun)
        assert 1 <= count <= 2 + 2 * teams.AHEAD
        assert not [thread for thread in threading.enumerate() if "Pool" in thread.name]
        assert session.base == {}


def test_small_batches_are_answered_together_where_no_convolution_follows(monkeypatch):
    x, y = torch.randn(60, 1, 8, 8), torch.zeros(60, dtype=torch.long)
    model = nn.Sequential(
        OrderedDict(conv=nn.Conv2d(1, 2, 3), flat=nn.Flatten(), fc=nn.Linear(72, CLASSES))
    )
    session = SuffixEvaluator(model, list(zip(x.split(7), y.split(7), strict=True)))
    sizes, resume = [], session._way.resume

    def counted(layer, state, changes):
        sizes.append(len(state))
        return resume(layer, state, changes)

    monkeypatch.setattr(session._way, "resume", counted)
    for workers, most in ((1, 512), (1, 20), (2, 512)):
        session.pace = teams.Pace(workers, 1)
        monkeypatch.setattr(suffix, "_LIGHT", most)
        for layer in ("conv", "fc"):
            weight = pruned(model, layer, 0.5)
            hits = list(session.advance({layer: weight}))
            assert [len(some) for some in hits] == [7] * 8 + [4]
            expected = answer(model, x, session.base)
            assert torch.allclose(session.logits(), expected, rtol=0, atol=1e-5)
            assert torch.cat(hits).tolist() == (expected.argmax(1) == y).tolist()
            together = {(1, 512): [60], (1, 20): [18, 14, 14, 14], (2, 512): [28, 28, 4]}
            as_given = [7] * 8 + [4]
            assert sorted(sizes)[::-1] == (together[workers, most] if layer == "fc" else as_given)
            sizes.clear()


# --- weights cut at a threshold ------------------------------------------------------------------

TINY = torch.finfo(torch.float32).smallest_normal


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("threshold", [0.0, TINY, 0.1, 0.3, 1 / 3, 1.5, 3e38, float("inf")])
def test_a_thresholded_weight_keeps_what_is_not_nearer_to_zero(dtype, threshold):
    if dtype is torch.float16 and 1e5 < threshold < float("inf"):
        pytest.skip("no such number")
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(12, 5, generator=generator).to(dtype)
    cut = torch.tensor(threshold, dtype=dtype)
    near = torch.stack([cut, -cut, cut * 1.01, -cut * 0.99, cut * 0])
    weight = torch.cat([weight, near.nan_to_num(posinf=1, neginf=-1)[None]])
    expected = weight * (weight.abs() >= threshold)
    assert torch.equal(Thresholded(weight, threshold).whole(), expected)
    for row, other in zip(weight.tolist(), expected.tolist(), strict=True):
        assert other == [w if abs(w) >= cut.item() else 0 for w in row]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_thresholded_weight_answers_part_by_part_as_the_whole_does(dtype, monkeypatch):
    weight, bias = torch.randn(11, 9, dtype=dtype), torch.randn(11, dtype=dtype)
    x = torch.randn(4, 3, 9, dtype=dtype)
    for part in (1, 20, 1000):  # weights: less than a row, two rows, all
        monkeypatch.setattr(thresholded, "_PART", part)
        for some in (bias, None):
            expected = F.linear(x, weight * (weight.abs() >= 0.7), some)
            assert torch.allclose(Thresholded(weight, 0.7).linear(x, some), expected)


@pytest.mark.parametrize("name", EASY)
def test_an_evaluator_takes_thresholds_for_weights(name, doubles, spread, monkeypatch):
    monkeypatch.setattr(thresholded, "_PART", 30)
    model = make(name)
    session, base = SuffixEvaluator(model, doubles), {}
    for layer, module in reversed(prunable(model).items()):
        weight = module.weight.detach()
        threshold = weight.abs().median().item()
        base[layer] = weight * (weight.abs() >= threshold)
        expected = answers_of(model, doubles, base)
        changes = {layer: Thresholded(weight, threshold)}
        assert torch.allclose(session.logits(changes), expected, rtol=0, atol=1e-10)
        session.commit(changes)
        assert torch.allclose(session.logits(), expected, rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="shape"):
        session.commit({layer: Thresholded(weight[:1, :1], 0.1)})


def test_small_weights_are_cut_once_for_all_batches_and_large_ones_never_kept(doubles, monkeypatch):
    model = make("grouped")
    session = SuffixEvaluator(model, doubles)
    cuts, cut = [], thresholded._cut
    monkeypatch.setattr(thresholded, "_cut", lambda *a: cuts.append(a) or cut(*a))
    changes = {"8": Thresholded(model[8].weight.detach(), 0.1)}
    assert isinstance(model[8], nn.Linear)
    assert len(doubles) > 1
    session.commit(changes)
    assert len(cuts) == 1
    assert isinstance(session.base["8"], torch.Tensor)
    monkeypatch.setattr(thresholded, "_PART", 1)
    session.commit(changes)
    assert isinstance(session.base["8"], Thresholded)


def test_a_layer_that_somebody_listens_to_takes_a_threshold_too(doubles):
    model = make("grouped")
    seen = []
    model[8].register_forward_hook(lambda layer, args, y: seen.append(layer.weight.clone()))
    session = SuffixEvaluator(model, doubles)
    weight = model[8].weight.detach()
    session.commit({"8": Thresholded(weight, 0.2)})
    expected = weight * (weight.abs() >= 0.2)
    assert session.how == "chain"
    assert torch.equal(seen[-1], expected)
    assert torch.allclose(session.logits(), answers_of(model, doubles, {"8": expected}))


def test_the_first_image_is_the_first_image(doubles):
    session = SuffixEvaluator(make("grouped"), doubles)
    assert torch.equal(session.image, doubles[0][0][:1])


def test_a_drop_from_two_accuracies_of_an_evaluator_is_paired(toy, split):
    session = SuffixEvaluator(toy, split)
    weight = pruned(toy, "fc1", 0.2)
    drop = evaluation.drop(session.accuracy(), session.accuracy({"fc1": weight}))
    real = copy.deepcopy(toy)
    with torch.no_grad():
        real.fc1.weight.copy_(weight)
    expected = evaluation.drop(evaluation.evaluate(toy, split), evaluation.evaluate(real, split))
    assert drop == expected
    assert drop.value != 0


def test_only_the_images_asked_for_are_computed(toy, split):
    session = SuffixEvaluator(toy, split)
    seen = []
    hook = toy.fc2.register_forward_hook(lambda layer, args, y: seen.append(len(y)))
    weight = pruned(toy, "fc1", 0.2)
    for first, expected in [(1, [16]), (16, [16]), (17, [16, 16]), (None, [16, 16, 16, 2])]:
        seen.clear()
        session.logits({"fc1": weight}, first=first)
        assert seen == expected
    seen.clear()
    session.logits()
    assert seen == []  # known from the start
    hook.remove()


def test_what_lies_before_a_change_is_not_computed(toy, split):
    session = SuffixEvaluator(toy, split)
    hook = toy.conv1.register_forward_hook(lambda *_: pytest.fail("conv1 ran"))
    session.logits({"fc1": pruned(toy, "fc1", 0.2), "fc2": pruned(toy, "fc2", 0.2)})
    hook.remove()


def test_an_evaluator_keeps_as_many_batches_as_its_budget_holds(toy, split, batches):
    everything = SuffixEvaluator(toy, split)
    # Of an image: what enters conv1, fc1 and fc2, and the answer; four bytes each.
    each = 4 * (64 + 36 + 12 + CLASSES)
    assert everything.bytes == 50 * each
    for budget, n in [(50 * each, 50), (50 * each - 1, 48), (32 * each, 32), (16 * each, 16)]:
        session = SuffixEvaluator(toy, split, budget=budget)
        assert (session.n, session.bytes) == (n, n * each)
        expected = answers_of(toy, batches, {})[:n]
        assert torch.allclose(session.logits(), expected, atol=1e-6)
        assert session.accuracy() == evaluation.evaluate(toy, split.head(n))
    with pytest.raises(ValueError, match=r"no batch of images fits into 7,423 bytes; give small"):
        SuffixEvaluator(toy, split, budget=16 * each - 1)


def test_a_batch_that_does_not_fit_ends_the_reading(toy, batches):
    def images():
        yield from batches[:2]
        pytest.fail("read on")

    session = SuffixEvaluator(toy, images(), budget=17 * 464)
    assert session.n == 16


def test_no_images_fit_no_budget(toy):
    with pytest.raises(ValueError, match="no batch of images"):
        SuffixEvaluator(toy, [])


def test_the_bytes_of_a_graph_count_each_tensor_once_however_deep_it_lies(doubles):
    def forward(self, x):
        parts = torch.flatten(x, 1).tensor_split(2, dim=1)  # two views of one storage
        return self.fc2(self.fc1(parts[0]).relu()) + self.fc2(parts[1][:, :9])

    model = Calling(forward, fc1=nn.Linear(32, 9), fc2=nn.Linear(9, CLASSES)).double()
    session = SuffixEvaluator(model, doubles)
    assert session.how == "graph"
    assert session.bytes == 50 * 8 * (64 + 9 + CLASSES)


def test_an_unknown_layer_and_a_weight_of_another_shape_get_one_sentence(toy, split):
    session = SuffixEvaluator(toy, split)
    for ask in (session.logits, session.hits, session.accuracy, session.loss, session.commit):
        with pytest.raises(KeyError, match=r"no layer 'fc3' to prune; did you mean fc2 or fc1\?"):
            ask({"fc3": torch.zeros(12, 36)})
        with pytest.raises(ValueError, match=r"'fc1' has a weight of shape \(12, 36\), got one of"):
            ask({"fc1": torch.zeros(36, 12)})
    with pytest.raises(ValueError, match="first must be 1 or more, got 0"):
        session.logits(first=0)
    assert session.base == {}


def test_answers_given_out_are_not_the_evaluators_own(toy, split):
    session = SuffixEvaluator(toy, split.head(16))  # a single batch
    before = session.logits().clone()
    session.logits().zero_()
    session.logits(first=3).zero_()
    assert torch.equal(session.logits(), before)


def test_an_evaluator_says_in_a_line_what_it_is(toy, split):
    assert repr(SuffixEvaluator(toy, split)) == "SuffixEvaluator(chain, 50 images, 0 MB)"


@pytest.mark.parametrize("name", EASY)
def test_an_evaluator_leaves_no_trace(name, doubles, spread, everything_of):
    model = make(name).train()
    list(model.modules())[1].eval()
    images, labels = (torch.cat(part) for part in zip(*doubles, strict=True))
    loader = DataLoader(TensorDataset(images, labels), batch_size=20, shuffle=True)
    own = images.clone()
    before = everything_of(model)
    session = SuffixEvaluator(model, loader)
    changes = {layer: pruned(model, layer, 0.4) for layer in prunable(model)}
    session.accuracy(changes)
    session.commit(changes)
    session.loss()
    assert everything_of(model) == before
    assert torch.equal(images, own)


@pytest.mark.parametrize("name", ["grouped", "like vgg", "deciding"])
def test_an_interrupt_of_an_evaluator_leaves_no_trace(name, doubles, spread, everything_of):
    model = make(name).train()
    session = SuffixEvaluator(model, doubles)
    layers = list(prunable(model))
    changes = {layer: pruned(model, layer, 0.4) for layer in layers}
    logits = session.logits()

    def interrupt(*_):
        raise KeyboardInterrupt

    inside = next((m for m in model.modules() if isinstance(m, nn.BatchNorm2d)), None) or model.fc1
    hook = inside.register_forward_hook(interrupt)
    before = everything_of(model)
    for ask in (session.logits, session.commit):
        with pytest.raises(KeyboardInterrupt):
            ask({layer: changes[layer] for layer in layers})
    assert everything_of(model) == before
    hook.remove()
    assert session.base == {}
    assert torch.equal(session.logits(), logits)


def test_shipped_networks_on_real_digits_are_evaluated_as_they_are(spread):
    val = data.load("digits").val.head(60)
    for model in (models.lenet_300_100(trained="mnist"), models.lenet_5(trained="mnist")):
        session = SuffixEvaluator(model, val)
        dense = evaluation.evaluate(model, val)
        assert (session.how, session.accuracy()) == ("chain", dense)
        assert dense.value > 0.4  # of hands that MNIST has not seen
        for layer in prunable(model):
            weight = pruned(model, layer, 0.1)
            expected = answers_of(model, val, {layer: weight})
            assert torch.allclose(session.logits({layer: weight}), expected, atol=1e-4)
