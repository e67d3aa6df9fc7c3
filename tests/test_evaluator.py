"""What is computed from a changed layer on is what the whole network would have answered."""

import copy
import random
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset
from toys import CLASSES, Branching, lively

from pruning_lab import criteria, data, evaluation, models
from pruning_lab.evaluation import Evaluator, Thresholded, thresholded, workers
from pruning_lab.masks import prunable

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


def hooked_inside_after_two():
    """What two images do not show, within."""
    model = alexnet_like()
    hook = lambda layer, args, y: torch.cat([y[:2], y[2:].flip(1)])  # noqa: E731
    model.classifier[1].register_forward_hook(hook)
    return model


def one_after_the_other(self, x):
    for layer in self.children():
        x = layer(x)
    return x


def hooked_outside_after_two():
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
    "grouped": ("graph", grouped),
    "no bias": (
        "graph",
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False),
            *(nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(36, CLASSES, bias=False)),
        ),
    ),
    "circular": (
        "graph",
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1, padding_mode="circular"),
            nn.ReLU(),
            nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
            *(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, CLASSES)),
        ),
    ),
    "dilated and strided": (
        "graph",
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3, dilation=2, padding="same"),
            nn.LocalResponseNorm(2),
            nn.Conv2d(4, 4, (1, 3), stride=(2, 1)),
            *(nn.GroupNorm(2, 4), nn.GELU(), nn.Flatten(), nn.Linear(96, CLASSES)),
        ),
    ),
    "linear on 3 dimensions": (
        "graph",
        lambda: nn.Sequential(
            nn.Flatten(1, 2),  # (N, 8, 8)
            *(nn.Linear(8, 6), nn.ReLU(), nn.LayerNorm(6), nn.Linear(6, 3), nn.Flatten()),
            nn.Linear(24, CLASSES),
        ),
    ),
    "linear on 4 dimensions": (
        "graph",
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.Linear(8, 5), nn.Flatten(), nn.Linear(120, CLASSES)
        ),
    ),
    "recurrent": (
        "graph",
        lambda: nn.Sequential(
            nn.Flatten(1, 2),
            *(nn.Linear(8, 6), nn.LSTM(6, 7, batch_first=True), Last(), nn.Linear(7, CLASSES)),
        ),
    ),
    "tied": ("graph", tied),
    "standing twice": ("graph", standing_twice),
    "parts standing twice": ("graph", parts_standing_twice),
    "parts standing twice, deciding": (
        "whole",
        lambda: parts_standing_twice(lambda parts, x: parts(x if x.sum() > 3 else -x)),
    ),
    "mixing": ("graph", mixing),
    "softmax over the batch": (
        "graph",
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.Softmax(0), nn.Linear(9, CLASSES)),
    ),
    "norm of the batch": (
        "graph",
        lambda: nn.Sequential(
            nn.Flatten(),
            *(nn.Linear(64, 9), nn.BatchNorm1d(9, track_running_stats=False)),
            nn.Linear(9, CLASSES),
        ),
    ),
    "over the images": ("graph", over_the_images),
    "like alexnet": ("graph", alexnet_like),
    "a line": ("graph", lambda: layers_of_a_line(a_line)),
    "a line, one twice": ("graph", lambda: layers_of_a_line(one_twice)),
    "hooked": ("graph", hooked),
    "transformer": ("graph", transformer),
    "like vgg": ("graph", lambda: alexnet_like(lambda x: x.view(x.size(0), -1))),
    "branching": ("graph", Branching),
    "functional": ("graph", functional),
    "writes over its input": ("graph", writes_over_its_input),
    "a skip over the images": ("graph", lambda: layers_of_a_line(a_skip_over_the_images)),
    "hooked inside": ("graph", hooked_inside),
    "hooked inside after two": ("graph", hooked_inside_after_two),
    "flattening a part": ("graph", flattening_a_part),
    "by keyword": ("graph", lambda: layers_of_a_line(by_keyword)),
    "tied in a graph": ("graph", tied_in_a_graph),
    "one never and a skip": ("graph", lambda: layers_of_a_line(one_never_and_a_skip)),
    "a line, one never": ("graph", lambda: layers_of_a_line(one_never)),
    "deciding": ("whole", lambda: layers_of_a_line(deciding)),
    "deciding over the images": ("whole", lambda: layers_of_a_line(deciding_over_the_images)),
    "hooked outside": ("whole", hooked_outside),
    "hooked outside after two": ("whole", hooked_outside_after_two),
    "computed": ("whole", computed),
    "doubling a skip": ("whole", lambda: layers_of_a_line(doubling_a_skip)),
    "rarely clamping a skip": ("whole", lambda: layers_of_a_line(rarely_clamping_a_skip)),
    "clamping a part": ("whole", lambda: layers_of_a_line(clamping_a_part)),
}

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


@pytest.fixture(params=[1, 2])
def spread(request):
    """Work in the calling thread, or spread over two workers."""
    with threads(request.param):
        yield request.param


@contextmanager
def watched(kind, watch):
    """`watch` hears of every call of a module of that kind, in whatever copy of a network."""

    def hear(module, args, y):
        if isinstance(module, kind):
            watch(module, args, y)

    hook = torch.nn.modules.module.register_module_forward_hook(hear)
    try:
        yield
    finally:
        hook.remove()


def answers_of(model, batches, weights):
    return torch.cat([answer(model, x, weights) for x, _ in batches])


def close(one, other):
    return torch.allclose(one, other, rtol=0, atol=1e-10)


# --- networks of every kind --------------------------------------------------------------------


@pytest.mark.parametrize("name", ZOO)
def test_every_network_answers_as_with_other_weights_for_real(name, doubles):
    with threads(2):
        model = make(name).train()
        evaluator = Evaluator(model, doubles)
        assert evaluator.how.startswith(ZOO[name][0])
        assert close(evaluator.logits(), answers_of(model, doubles, {}))
        layers = list(prunable(model))
        for layer in [*reversed(layers), layers[-1]]:  # one twice, as nothing may wear off
            for level in (0.0, 0.3):
                changes = {layer: pruned(model, layer, level)}
                assert close(evaluator.logits(changes), answers_of(model, doubles, changes)), layer
        halved = {layer: pruned(model, layer, 0.5) for layer in layers}
        for count in range(1, len(layers)):
            changes = {layer: halved[layer] for layer in layers[: count + 1]}
            assert close(evaluator.logits(changes), answers_of(model, doubles, changes))


@pytest.mark.parametrize("name", ["grouped", "like alexnet", "branching"])
def test_a_busy_machine_changes_no_bit_of_an_answer(name):
    """No stop-watch decides how anything is computed."""
    model = make(name).float()
    x, y = torch.randn(300, 1, 8, 8), torch.zeros(300, dtype=torch.int64)
    images = list(zip(x.split(70), y.split(70), strict=True))
    changes = {layer: pruned(model, layer, 0.4) for layer in prunable(model)}

    def logits():
        evaluator = Evaluator(model, images)
        changed = [evaluator.logits({layer: weight}) for layer, weight in changes.items()]
        evaluator.commit(changes)
        return [*changed, evaluator.logits()]

    with threads(2):
        idle, stop = logits(), threading.Event()

        def compute():
            while not stop.is_set():
                torch.randn(200, 200) @ torch.randn(200, 200)

        others = [threading.Thread(target=compute) for _ in range(4)]
        for other in others:
            other.start()
        try:
            busy = [logits() for _ in range(3)]
        finally:
            stop.set()
            for other in others:
                other.join()
    assert all(torch.equal(a, b) for again in busy for a, b in zip(idle, again, strict=True))


def test_a_residual_network_of_torchvision_resumes_in_its_graph():
    from torchvision.models import resnet18  # slow to import

    torch.manual_seed(0)
    model = resnet18(num_classes=5).eval()
    x, y = torch.randn(3, 3, 32, 32), torch.randint(5, (3,))
    evaluator = Evaluator(model, [(x, y)])
    assert evaluator.how.startswith("graph")
    for layer in list(prunable(model))[::4]:
        weights = {layer: pruned(model, layer, 0.3)}
        expected = answer(model, x, weights)
        assert torch.allclose(evaluator.logits(weights), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    ["mixing", "softmax over the batch", "norm of the batch", "hooked inside after two"],
)
def test_images_that_depend_on_each_other_stay_together(name, doubles, spread):
    model = make(name)
    evaluator = Evaluator(model, doubles)
    for layer in prunable(model):
        changes = {layer: pruned(model, layer, 0.3)}
        assert close(evaluator.logits(changes), answers_of(model, doubles, changes))


def test_workers_never_see_each_others_weights(doubles):
    """Many small jobs on the same layers, and the model keeps its own weights."""
    model = make("grouped").eval()
    before = dict(model.named_parameters())
    with threads(2):
        evaluator = Evaluator(model, [(x[:1], y[:1]) for x, y in doubles] * 10)
        for k in range(10):
            changes = {"2": pruned(model, "2", k / 10)}
            expected = answers_of(model, [(x[:1], y) for x, y in doubles] * 10, changes)
            assert close(evaluator.logits(changes), expected)
    assert all(parameter is before[name] for name, parameter in model.named_parameters())


class Waiting(nn.Module):
    """While it is traced it waits, until the test has done something in another thread."""

    traced, done = ((threading.Event(), threading.Event()) for _ in range(2))

    def __init__(self, number):
        super().__init__()
        self.fc, self.number = nn.Linear(64, CLASSES), number

    def forward(self, x):
        if isinstance(x, fx.Proxy):
            self.traced[self.number].set()
            self.done[self.number].wait(20)
        return self.fc(x.flatten(1))


def test_a_network_called_while_another_is_traced_answers_as_ever(split):
    """torch.fx changes nn.Module for all threads while it traces."""
    call, read = nn.Module.__call__, nn.Module.__getattr__
    other, x = make("branching").float(), torch.randn(2, 1, 8, 8)
    networks = Waiting(0), Waiting(1)
    linear = networks[0].fc
    expected = other(x), linear(x.flatten(1))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(Evaluator, networks[0], split)
        try:
            assert Waiting.traced[0].wait(20)
            assert torch.equal(other(x), expected[0])
            assert torch.equal(linear(x.flatten(1)), expected[1])
            assert linear.weight is dict(linear.named_parameters())["weight"]
            second = pool.submit(Evaluator, networks[1], split)
            Waiting.traced[1].wait(0.3)  # it should not be, before the first one has been
        finally:
            Waiting.done[0].set()
            assert first.result().how.startswith("graph")
            Waiting.done[1].set()
        assert second.result().how.startswith("graph")
    assert (nn.Module.__call__, nn.Module.__getattr__) == (call, read)


class Hoarder(nn.Module):
    """Caches a tensor, counts its calls in a buffer, and cannot be copied."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(64, 9), nn.Linear(9, CLASSES)
        self.register_buffer("calls", torch.zeros(()))
        self.lock = threading.Lock()
        self.cached = None

    def forward(self, x):
        with self.lock:
            self.calls += 1
            if self.cached is None:
                self.cached = torch.linspace(0.5, 1, 9, dtype=x.dtype)
            return self.fc2(self.fc1(x.flatten(1)).relu() * self.cached)


def test_a_network_that_cannot_be_copied_is_left_as_it_was(doubles, spread, everything_of):
    torch.manual_seed(0)
    model = lively(Hoarder()).double().train()
    before = everything_of(model)
    evaluator = Evaluator(model, doubles)
    assert evaluator.how == "whole, 1 worker"
    changes = {"fc1": pruned(model, "fc1", 0.4)}
    logits = evaluator.logits(changes)
    assert everything_of(model) == before
    for _ in evaluator.advance(changes):
        assert everything_of(model) == before
    evaluation.evaluate(model, doubles)
    assert everything_of(model) == before
    with torch.no_grad():
        model.fc1.weight.copy_(changes["fc1"])
        assert close(logits, torch.cat([model.eval()(x) for x, _ in doubles]))
    model.train()(doubles[0][0]).sum().backward()  # what it caches is no inference tensor


def test_a_network_after_torch_compile_is_measured_without_it(doubles):
    model = make("like alexnet")
    compiled = torch.compile(model, backend="eager")
    changes = {"features.0": pruned(model, "features.0", 0.3)}
    evaluator = Evaluator(compiled, doubles)
    assert evaluator.how.startswith("graph")
    assert close(evaluator.logits(changes), answers_of(model, doubles, changes))


def test_autocast_holds_in_workers_too(batches, spread):
    torch.manual_seed(0)
    model = lively(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, CLASSES))
    )
    changes = {"1": pruned(model, "1", 0.5)}
    with torch.autocast("cpu", torch.bfloat16):
        logits = Evaluator(model, batches).logits(changes)
        assert logits.dtype == torch.bfloat16
        assert torch.allclose(logits, answers_of(model, batches, changes), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("forward", "says"),
    [
        (lambda self, x: (self.fc1(x.flatten(1)),), "got a tuple; wrap it in a module"),
        (lambda self, x: {"logits": self.fc1(x.flatten(1))}, "got a dict; wrap it"),
        (lambda self, x: None, "got a NoneType"),
        (lambda self, x: [self.fc1(x.flatten(1))], "got a list"),
        (lambda self, x: self.fc1(x.flatten(1))[:, None], r"got a Tensor of shape \(2, 1, 4\)"),
    ],
)
def test_an_answer_that_is_no_logits_gets_a_sentence(forward, says, doubles):
    model = Calling(forward, fc1=nn.Linear(64, CLASSES)).double()
    with pytest.raises(ValueError, match=f"must answer with a tensor of shape .*{says}"):
        Evaluator(model, doubles)


# --- workers -----------------------------------------------------------------------------------


def test_jobs_are_done_in_order_by_one_tool_each_in_one_thread():
    def job(tool, number):
        assert not torch.is_grad_enabled()
        assert torch.get_num_threads() == 1
        in_use.append(tool)
        assert len({*in_use}) == len(in_use)
        in_use.remove(tool)
        return number

    in_use = []
    with threads(2):
        results = workers.each(["one", "two"], [partial(job, number=n) for n in range(50)])
        assert list(results) == list(range(50))
        with pytest.raises(ZeroDivisionError):
            list(workers.each([1, 2], [lambda tool: 1, lambda tool: 1 / 0, lambda tool: 1]))
        assert torch.is_grad_enabled()


def inherited_threads() -> int:
    """The number of torch's threads that a thread born now sees."""
    with ThreadPoolExecutor(1) as other:
        return other.submit(torch.get_num_threads).result()


def test_workers_leave_the_number_of_threads_to_all_other_threads():
    with threads(2):
        seen = workers.each([1, 2], [lambda tool: inherited_threads()] * 5)
        assert next(seen) == 2
        assert inherited_threads() == torch.get_num_threads() == 2  # while they work, too
        assert list(seen) == [2] * 4
        assert inherited_threads() == 2


def test_workers_that_start_at_once_keep_the_default_too():
    def start(_):
        for _ in range(20):
            list(workers.each([1, 2, 3], [lambda tool: None]))

    with threads(2), ThreadPoolExecutor(4) as others:
        list(others.map(start, range(4)))
        assert inherited_threads() == 2


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_workers_that_cannot_start_keep_the_default_and_leave_no_thread(monkeypatch, error):
    def set_once(count, set_num_threads=torch.set_num_threads):
        if count == 1 and not tried:
            tried.append(count)
            raise error
        set_num_threads(count)

    tried, before = [], threading.active_count()
    with threads(2), monkeypatch.context() as patch:
        patch.setattr(torch, "set_num_threads", set_once)
        with pytest.raises(error):
            list(workers.each([1, 2, 3], [lambda tool: None]))
        assert inherited_threads() == 2
        assert threading.active_count() == before


def test_no_worker_is_left_working_after_an_interrupt():
    begun, ended = [], []

    def job(tool, number):
        begun.append(number)
        if number == 1:
            raise KeyboardInterrupt
        torch.randn(300, 300) @ torch.randn(300, 300)
        ended.append(number)

    with threads(2):
        with pytest.raises(KeyboardInterrupt):
            list(workers.each([1, 2], [partial(job, number=n) for n in range(200)]))
        assert sorted(begun) == sorted([*ended, 1])


def test_a_caller_who_stops_asking_leaves_no_worker_working(doubles):
    model, begun = make("grouped"), []
    with threads(2):
        evaluator = Evaluator(model, [(x[:1], y[:1]) for x, y in doubles] * 50)
        with watched(nn.Flatten, lambda *_: begun.append(0)):
            steps = evaluator.advance({"0": pruned(model, "0", 0.2)})
            next(steps)
            steps.close()
        assert 1 <= len(begun) <= 5
        assert not [thread for thread in threading.enumerate() if "Pool" in thread.name]
        assert evaluator.base == {}


@pytest.mark.parametrize("name", EASY)
def test_an_evaluator_says_what_the_whole_network_would(name, doubles, spread):
    model = make(name).train()
    evaluator = Evaluator(model, doubles)
    assert evaluator.n == 50
    labels = torch.cat([y for _, y in doubles])
    layers = list(prunable(model))
    for changed in [[], layers[:1], layers[-1:], layers[::-1], layers[1:3]]:
        changes = {layer: pruned(model, layer, 0.4) for layer in changed}
        expected = answers_of(model, doubles, changes)
        assert torch.allclose(evaluator.logits(changes), expected)
        assert evaluator.accuracy(changes).hits.tolist() == (expected.argmax(1) == labels).tolist()
        accuracy = evaluator.accuracy(changes)
        assert accuracy == evaluation.Accuracy.of(expected.argmax(1) == labels)
        loss = F.nll_loss(expected.log_softmax(1), labels).item()
        assert evaluator.loss(changes) == pytest.approx(loss)
        for first in (1, 16, 17, 49, 50, 1000):
            assert torch.allclose(evaluator.logits(changes, first=first), expected[:first])
            part = expected[:first].argmax(1) == labels[:first]
            assert evaluator.accuracy(changes, first=first) == evaluation.Accuracy.of(part)
        loss = F.nll_loss(expected[:20].log_softmax(1), labels[:20]).item()
        assert evaluator.loss(changes, first=20) == pytest.approx(loss)


@pytest.mark.parametrize("name", EASY)
def test_what_is_committed_stays_until_it_is_changed_again(name, doubles, spread):
    model = make(name)
    evaluator = Evaluator(model, doubles)
    layers = list(prunable(model))
    base, size = {}, evaluator.bytes
    for layer in [layers[-1], layers[0], layers[-1]]:
        base[layer] = pruned(model, layer, random.Random(layer + str(len(base))).random())
        evaluator.commit({layer: base[layer]})
        assert torch.allclose(evaluator.logits(), answers_of(model, doubles, base))
        for other in layers:
            changes = {other: pruned(model, other, 0.3)}
            expected = answers_of(model, doubles, {**base, **changes})
            assert torch.allclose(evaluator.logits(changes), expected)
    assert evaluator.bytes == size


@pytest.mark.parametrize("name", EASY)
def test_random_commits_end_as_a_fresh_evaluator_with_all_of_them(name, doubles, spread):
    model, dice = make(name), random.Random(name)
    evaluator = Evaluator(model, doubles)
    layers, base = list(prunable(model)), {}
    for _ in range(5):
        some = dice.sample(layers, dice.randint(0, len(layers)))
        changes = {layer: pruned(model, layer, dice.random()) for layer in some}
        before = evaluator.logits(), dict(evaluator.base)
        steps = evaluator.advance(changes)
        for _ in range(dice.randint(0, 3)):  # of 4 batches
            next(steps)
        steps.close()
        assert torch.equal(evaluator.logits(), before[0])
        assert evaluator.base == before[1]
        base |= changes
        logits = torch.cat(list(evaluator.advance(changes)))
        assert torch.equal(logits, evaluator.logits())
        fresh = Evaluator(model, doubles)
        fresh.commit(base)
        assert torch.allclose(evaluator.logits(), fresh.logits(), rtol=0, atol=1e-10)
        expected = answers_of(model, doubles, base)
        assert torch.allclose(evaluator.logits(), expected, rtol=0, atol=1e-10)
        assert evaluator.base.keys() == base.keys()


@pytest.mark.parametrize("name", ["grouped", "like vgg", "deciding"])
def test_between_two_batches_of_an_advance_nothing_shows(name, doubles, spread, everything_of):
    model = make(name).train()
    evaluator = Evaluator(model, doubles)
    layer = next(iter(prunable(model)))
    weight = pruned(model, layer, 0.3)
    before = everything_of(model)
    for _ in evaluator.advance({layer: weight}):
        assert everything_of(model) == before
        assert torch.is_grad_enabled()
        assert torch.get_num_threads() == spread


@pytest.mark.parametrize("name", ["grouped", "like alexnet", "like vgg"])
def test_a_network_in_training_mode_is_measured_in_evaluation_mode(name, doubles, spread):
    """Also the batches that workers have begun while somebody looks at the one before."""
    model = make(name).train()
    evaluator = Evaluator(model, doubles)
    for layer in prunable(model):
        weight = pruned(model, layer, 0.5)
        list(evaluator.advance({layer: weight}))
        expected = answers_of(model, doubles, evaluator.base)
        assert torch.allclose(evaluator.logits(), expected, rtol=0, atol=1e-10)
        assert model.training


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
        monkeypatch.setattr(thresholded, "SMALL", part)
        for some in (bias, None):
            expected = F.linear(x, weight * (weight.abs() >= 0.7), some)
            assert torch.allclose(F.linear(x, Thresholded(weight, 0.7), some), expected, atol=1e-5)


@pytest.mark.parametrize("name", [*EASY, "computed", "functional", "transformer"])
def test_an_evaluator_takes_thresholds_for_weights(name, doubles, spread, monkeypatch):
    monkeypatch.setattr(thresholded, "SMALL", 30)
    model = make(name)
    evaluator, base = Evaluator(model, doubles), {}
    for layer, module in reversed(prunable(model).items()):
        weight = module.weight.detach()
        threshold = weight.abs().median().item()
        base[layer] = weight * (weight.abs() >= threshold)
        expected = answers_of(model, doubles, base)
        changes = {layer: Thresholded(weight, threshold)}
        assert torch.allclose(evaluator.logits(changes), expected, rtol=0, atol=1e-10)
        evaluator.commit(changes)
        assert torch.allclose(evaluator.logits(), expected, rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="shape"):
        evaluator.commit({layer: Thresholded(weight[:1, :1], 0.1)})


def test_small_weights_are_cut_once_for_all_batches_and_large_ones_never_kept(doubles, monkeypatch):
    model = make("grouped")
    evaluator = Evaluator(model, doubles)
    cuts, cut = [], Thresholded.whole
    monkeypatch.setattr(Thresholded, "whole", lambda own, *at: cuts.append(own) or cut(own, *at))
    changes = {"8": Thresholded(model[8].weight.detach(), 0.1)}
    assert isinstance(model[8], nn.Linear)
    assert len(doubles) > 1
    evaluator.commit(changes)
    assert len(cuts) == 1
    assert isinstance(evaluator.base["8"], torch.Tensor)
    monkeypatch.setattr(thresholded, "SMALL", 1)
    evaluator.commit(changes)
    assert isinstance(evaluator.base["8"], Thresholded)


class Largest(TorchDispatchMode):
    """Notes how many bytes the largest tensor made in it has."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and not function.is_view:
            self.bytes = max(self.bytes, made.untyped_storage().nbytes())
        return made


def test_no_large_weight_is_copied(split):
    """Neither when a network is tried out, nor when its weights are cut."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2**15), nn.ReLU(), nn.Linear(2**15, CLASSES))
    changes = {"1": Thresholded(model[1].weight.detach(), 0.05)}
    with threads(1), Largest() as largest:
        evaluator = Evaluator(model, split)
        evaluator.logits(changes)
    assert largest.bytes <= 4 * thresholded.SMALL
    expected = answers_of(model, split, {"1": changes["1"].whole()})
    assert torch.allclose(evaluator.logits(changes), expected, atol=1e-5)


def test_a_layer_that_somebody_listens_to_takes_a_threshold_too(doubles):
    model = make("grouped")
    seen = []
    model[8].register_forward_hook(lambda layer, args, y: seen.append(layer.weight.clone()))
    evaluator = Evaluator(model, doubles)
    weight = model[8].weight.detach()
    evaluator.commit({"8": Thresholded(weight, 0.2)})
    expected = weight * (weight.abs() >= 0.2)
    assert evaluator.how.startswith("graph")
    assert torch.equal(seen[-1], expected)
    assert torch.allclose(evaluator.logits(), answers_of(model, doubles, {"8": expected}))


def test_the_first_image_is_the_first_image(doubles):
    evaluator = Evaluator(make("grouped"), doubles)
    assert torch.equal(evaluator.image, doubles[0][0][:1])


def test_a_drop_from_two_accuracies_of_an_evaluator_is_paired(toy, split):
    evaluator = Evaluator(toy, split)
    weight = pruned(toy, "fc1", 0.2)
    drop = evaluation.drop(evaluator.accuracy(), evaluator.accuracy({"fc1": weight}))
    real = copy.deepcopy(toy)
    with torch.no_grad():
        real.fc1.weight.copy_(weight)
    expected = evaluation.drop(evaluation.evaluate(toy, split), evaluation.evaluate(real, split))
    assert drop == expected
    assert drop.value != 0


def test_only_the_images_asked_for_are_computed(toy, split):
    evaluator = Evaluator(toy, split)
    seen = []
    weight = pruned(toy, "fc1", 0.2)
    with watched(nn.Dropout, lambda layer, args, y: seen.append(len(y))):
        for first, expected in [(1, [16]), (16, [16]), (17, [16, 16]), (None, [16, 16, 16, 2])]:
            seen.clear()
            evaluator.logits({"fc1": weight}, first=first)
            assert seen == expected
        seen.clear()
        evaluator.logits()
        assert seen == []  # known from the start


def test_what_lies_before_a_change_is_not_computed(toy, split):
    evaluator = Evaluator(toy, split)
    with watched(nn.Conv2d, lambda *_: pytest.fail("conv1 ran")):
        evaluator.logits({"fc1": pruned(toy, "fc1", 0.2), "fc2": pruned(toy, "fc2", 0.2)})


def test_an_evaluator_keeps_as_many_batches_as_its_budget_holds(toy, split, batches):
    everything = Evaluator(toy, split)
    # Of an image: what enters conv1, fc1 and fc2, and the answer; four bytes each.
    each = 4 * (64 + 36 + 12 + CLASSES)
    assert everything.bytes == 50 * each
    for budget, n in [(50 * each, 50), (50 * each - 1, 48), (32 * each, 32), (16 * each, 16)]:
        evaluator = Evaluator(toy, split, budget=budget)
        assert (evaluator.n, evaluator.bytes) == (n, n * each)
        expected = answers_of(toy, batches, {})[:n]
        assert torch.allclose(evaluator.logits(), expected, atol=1e-6)
        assert evaluator.accuracy() == evaluation.evaluate(toy, split.head(n))
    with pytest.raises(ValueError, match=r"no batch of images fits into 7,423 bytes; give small"):
        Evaluator(toy, split, budget=16 * each - 1)


def test_a_batch_that_does_not_fit_ends_the_reading(toy, batches):
    def images():
        yield from batches[:2]
        pytest.fail("read on")

    evaluator = Evaluator(toy, images(), budget=17 * 464)
    assert evaluator.n == 16


def test_no_images_fit_no_budget(toy):
    with pytest.raises(ValueError, match="no images to measure"):
        Evaluator(toy, [])


def test_the_bytes_of_a_graph_count_each_tensor_once_however_deep_it_lies(doubles):
    def forward(self, x):
        parts = torch.flatten(x, 1).tensor_split(2, dim=1)  # two views of one storage
        return self.fc2(self.fc1(parts[0]).relu()) + self.fc2(parts[1][:, :9])

    model = Calling(forward, fc1=nn.Linear(32, 9), fc2=nn.Linear(9, CLASSES)).double()
    evaluator = Evaluator(model, doubles)
    assert evaluator.how.startswith("graph")
    assert evaluator.bytes == 50 * 8 * (64 + 9 + CLASSES)


def test_an_unknown_layer_and_a_weight_of_another_shape_get_one_sentence(toy, split):
    evaluator = Evaluator(toy, split)
    for ask in (
        evaluator.logits,
        evaluator.accuracy,
        evaluator.loss,
        evaluator.commit,
    ):
        with pytest.raises(KeyError, match=r"no layer 'fc3' to prune; did you mean fc2 or fc1\?"):
            ask({"fc3": torch.zeros(12, 36)})
        with pytest.raises(ValueError, match=r"'fc1' has a weight of shape \(12, 36\), got one of"):
            ask({"fc1": torch.zeros(36, 12)})
    with pytest.raises(ValueError, match="first must be 1 or more, got 0"):
        evaluator.logits(first=0)
    assert evaluator.base == {}


def test_answers_given_out_are_not_the_evaluators_own(toy, split):
    evaluator = Evaluator(toy, split.head(16))  # a single batch
    before = evaluator.logits().clone()
    evaluator.logits().zero_()
    evaluator.logits(first=3).zero_()
    for logits in evaluator.advance({}):
        logits.zero_()
    assert torch.equal(evaluator.logits(), before)


def test_an_evaluator_says_in_a_line_what_it_is(toy, split):
    assert repr(Evaluator(toy, split)) == "Evaluator(graph, 1 worker, 50 images, 0 MB)"


@pytest.mark.parametrize("name", EASY)
def test_an_evaluator_leaves_no_trace(name, doubles, spread, everything_of):
    model = make(name).train()
    list(model.modules())[1].eval()
    images, labels = (torch.cat(part) for part in zip(*doubles, strict=True))
    loader = DataLoader(TensorDataset(images, labels), batch_size=20, shuffle=True)
    own = images.clone()
    before = everything_of(model)
    evaluator = Evaluator(model, loader)
    changes = {layer: pruned(model, layer, 0.4) for layer in prunable(model)}
    evaluator.accuracy(changes)
    evaluator.commit(changes)
    evaluator.loss()
    assert everything_of(model) == before
    assert torch.equal(images, own)


@pytest.mark.parametrize("name", ["grouped", "like vgg", "deciding"])
def test_an_interrupt_of_an_evaluator_leaves_no_trace(name, doubles, spread, everything_of):
    model = make(name).train()
    evaluator = Evaluator(model, doubles)
    layers = list(prunable(model))
    changes = {layer: pruned(model, layer, 0.4) for layer in layers}
    logits = evaluator.logits()

    def interrupt(*_):
        raise KeyboardInterrupt

    before = everything_of(model)
    with watched(nn.Linear, interrupt):
        for ask in (evaluator.logits, evaluator.commit):
            with pytest.raises(KeyboardInterrupt):
                ask({layer: changes[layer] for layer in layers})
    assert everything_of(model) == before
    assert evaluator.base == {}
    assert torch.equal(evaluator.logits(), logits)


def test_shipped_networks_on_real_digits_are_evaluated_as_they_are(spread):
    val = data.load("mnist-5k").val.head(60)
    for model in (models.lenet_300_100(trained="mnist"), models.lenet_5(trained="mnist")):
        evaluator = Evaluator(model, val)
        dense = evaluation.evaluate(model, val)
        assert evaluator.accuracy() == dense
        assert dense.value > 0.4  # of hands that MNIST has not seen
        for layer in prunable(model):
            weight = pruned(model, layer, 0.1)
            expected = answers_of(model, val, {layer: weight})
            assert torch.allclose(evaluator.logits({layer: weight}), expected, atol=1e-4)
