"""A training ends the same however often it is interrupted, and resumes no other training."""

import copy
import inspect
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import islice

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from pruning_lab import checkpoints, files, masks, training
from pruning_lab.data import Split

CONFIG = training.TrainConfig(epochs=3, batch_size=16, lr=0.05, shift=1)


def same(model, other) -> bool:
    return all(torch.equal(p, q) for p, q in zip(state(model), state(other), strict=True))


def state(model):
    return list(model.state_dict().values())


def timeless(rows):
    """The rows, apart from how long it took."""
    return [replace(row, seconds=0) for row in rows]


# --- resuming ----------------------------------------------------------------------------------


def drawing(rows) -> list:
    """The rows, to someone who draws a random number at each."""
    return [row for row in rows if torch.rand(()) < 2]


@pytest.mark.parametrize("source", [lambda split: split, lambda split: loader(split, shuffle=True)])
@pytest.mark.parametrize("done", [0, 1, 2, 3])
@pytest.mark.parametrize("density", [None, 0.3])
def test_a_resumed_training_ends_where_an_uninterrupted_one_ends(
    toy, split, tmp_path, done, density, source
):
    """Bit for bit, with dropout, momentum and shifted images, and other draws between."""
    images = source(split)
    mask = None if density is None else masks.prune(toy, density=density)
    begun, resumed = copy.deepcopy(toy), copy.deepcopy(toy)
    torch.manual_seed(5)
    rows = list(training.train(toy, images, CONFIG, mask=mask))
    torch.manual_seed(5)
    options = {"mask": mask, "checkpoint": tmp_path / "c"}
    first = list(islice(training.train(begun, images, CONFIG, **options), done))
    torch.manual_seed(5 if done == 0 else 99)
    again = drawing(training.train(resumed, images, CONFIG, **options))
    assert again[:done] == first  # the seconds too: nothing was computed again
    assert timeless(again) == timeless(rows)
    assert same(resumed, toy)


def test_an_interrupt_in_the_middle_of_an_epoch_loses_that_epoch_alone(toy, split, tmp_path):
    begun, resumed = copy.deepcopy(toy), copy.deepcopy(toy)
    torch.manual_seed(5)
    rows = list(training.train(toy, split, CONFIG))
    calls = 0

    def interrupt(*_):
        nonlocal calls
        calls += 1
        if calls == 7:  # of 4 steps each
            raise KeyboardInterrupt

    begun.register_forward_pre_hook(interrupt)
    torch.manual_seed(5)
    with pytest.raises(KeyboardInterrupt):
        list(training.train(begun.eval(), split, CONFIG, checkpoint=tmp_path / "c"))
    assert not begun.training
    assert timeless(training.train(resumed, split, CONFIG, checkpoint=tmp_path / "c")) == timeless(
        rows
    )
    assert same(resumed, toy)


def test_a_finished_training_leaves_no_momentum_in_its_checkpoint(toy, split, tmp_path):
    sizes = []
    for _ in training.train(toy, split, CONFIG, checkpoint=tmp_path / "c"):
        sizes.append((tmp_path / "c").stat().st_size)
    weights = sum(tensor.nbytes for tensor in state(toy))
    assert sizes[1] - sizes[2] == pytest.approx(weights, abs=2000)  # of JSON


def train_in(folder, kill_at):
    """One training, for this process or another; it kills its process before step `kill_at`."""
    import os
    import signal

    import torch

    from pruning_lab import masks, models, training
    from pruning_lab.data import Split

    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8)
    split = Split("train", images, torch.randint(10, (40,)), 127.5, 74.0)
    layers = torch.nn.Linear(64, 12), torch.nn.ReLU(), torch.nn.Dropout(), torch.nn.Linear(12, 10)
    model = torch.nn.Sequential(torch.nn.Flatten(), *layers)
    steps = []

    def count(*_):
        steps.append(1)
        if len(steps) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    model.register_forward_pre_hook(count)
    config = training.TrainConfig(epochs=4, batch_size=10, shift=1)
    mask, path = masks.prune(model, density=0.4), f"{folder}/checkpoint"
    rows = [
        (row.epoch, row.loss, row.accuracy)
        for row in training.train(model, split, config, mask=mask, checkpoint=path)
    ]
    models.save(f"{folder}/model", model)
    return rows, len(steps)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_training_resumes_to_the_same_end(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    # In the third of four epochs of four steps:
    script = f"{inspect.getsource(train_in)}\ntrain_in({str(killed)!r}, kill_at=11)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    assert [path.name for path in killed.iterdir()] == ["checkpoint"]
    rows, steps = train_in(whole, kill_at=0)
    resumed_rows, resumed_steps = train_in(killed, kill_at=0)
    assert (steps, resumed_steps) == (16, 8)
    assert resumed_rows == rows
    assert (killed / "model").read_bytes() == (whole / "model").read_bytes()


def adamw(parameters, lr=3e-3):
    groups = [{"params": parameters[:2], "lr": 2e-3}, {"params": parameters[2:]}]
    return torch.optim.AdamW(groups, lr=lr)


def plain_sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05)  # whose momentum is None


def lbfgs(parameters):
    return torch.optim.LBFGS(parameters, lr=0.5, max_iter=3, history_size=2)


class Averaging(torch.optim.Optimizer):
    """Its state is of other types than the parameters, and a number of its group changes."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.05, "steps": 0, "own": print})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            group["steps"] += 1
            for parameter in (p for p in group["params"] if p.grad is not None):
                state = self.state[parameter]
                state["seen"] = state.get("seen", torch.tensor(2**25)) + 1  # odd: no float32
                mean = state.get("mean", torch.zeros_like(parameter, dtype=torch.float64))
                state["mean"] = mean + (parameter.grad - mean) / (state["seen"] - 2**25)
                rate = group["lr"] / group["steps"]
                parameter.sub_((rate * state["mean"]).to(parameter.dtype))


@pytest.mark.parametrize("optimizer", [adamw, plain_sgd, lbfgs, Averaging])
@pytest.mark.parametrize("stop", [2, 4, 6])
def test_any_optimizer_resumes_to_the_same_end(toy, split, tmp_path, optimizer, stop):
    """Bit for bit, with its whole state; LBFGS asks for several gradients in each step."""
    options = {"optimizer": optimizer, "mask": masks.prune(toy, density=0.5)}
    begun, resumed = copy.deepcopy(toy), copy.deepcopy(toy)
    torch.manual_seed(5)
    rows = list(training.train(toy, split, CONFIG, **options))
    saving = {**options, "checkpoint": tmp_path / "c"}
    steps = []

    def interrupt(progress):
        steps.append(progress)
        if len(steps) == stop + 1:  # of 4 an epoch
            raise KeyboardInterrupt

    torch.manual_seed(5)
    with pytest.raises(KeyboardInterrupt):
        list(training.train(begun, split, CONFIG, before_step=interrupt, **saving))
    steps.clear()
    torch.manual_seed(99)
    again = list(training.train(resumed, split, CONFIG, before_step=steps.append, **saving))
    assert len(steps) == 12 - stop // 4 * 4  # whole epochs
    assert timeless(again) == timeless(rows)
    assert same(resumed, toy)


def test_an_optimizer_state_that_no_file_can_hold_is_refused_in_one_sentence(toy, split, tmp_path):
    class Odd(torch.optim.SGD):
        def step(self):
            super().step()
            self.state[self.param_groups[0]["params"][0]]["seen"] = {1, 2}

    rows = training.train(toy, split, CONFIG, optimizer=Odd, checkpoint=tmp_path / "c")
    with pytest.raises(ValueError, match=r"optimizer's state: set .* without checkpoint="):
        next(rows)


def test_momentum_comes_back_in_the_layout_of_its_parameter(branching, split, tmp_path):
    """Fused SGD reads both in the order of their bytes."""
    branching.to(memory_format=torch.channels_last)
    resumed = copy.deepcopy(branching)
    options = {"checkpoint": tmp_path / "c"}
    next(training.train(copy.deepcopy(branching), split, CONFIG, **options))
    list(training.train(resumed, split, CONFIG, **options))
    list(training.train(branching, split, CONFIG))
    assert same(resumed, branching)


class Reader(IterableDataset):
    def __init__(self, split):
        self.split = split

    def __iter__(self):
        return ((x, y) for batch in self.split for x, y in zip(*batch, strict=True))


@pytest.mark.parametrize("stop", [3, 4, 6])
def test_images_without_a_length_resume_to_the_same_end(toy, split, tmp_path, stop):
    """The steps counted in the first epoch are in the checkpoint: learning rates go by them."""
    images = DataLoader(Reader(split), batch_size=16)
    begun, resumed = copy.deepcopy(toy), copy.deepcopy(toy)
    torch.manual_seed(5)
    rows = list(training.train(toy, images, CONFIG))
    saving = {"checkpoint": tmp_path / "c"}
    steps = []

    def interrupt(progress):
        steps.append(progress)
        if len(steps) == stop + 1:
            raise KeyboardInterrupt

    torch.manual_seed(5)
    with pytest.raises(KeyboardInterrupt):
        list(training.train(begun, images, CONFIG, before_step=interrupt, **saving))
    torch.manual_seed(99)
    assert timeless(training.train(resumed, images, CONFIG, **saving)) == timeless(rows)
    assert same(resumed, toy)


OTHER = Split("val", torch.zeros(50, 1, 8, 8, dtype=torch.uint8), torch.zeros(50).long(), 127.5, 74)


def loader(split, **options):
    rows = TensorDataset(split.normalise(split.images), split.labels)
    return DataLoader(rows, **{"batch_size": 16, **options})


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (lambda split: split, list),
        (list, lambda split: split),
        (list, lambda split: list(split)[:-1]),
        (list, lambda split: [(x, y.flip(0)) for x, y in split]),
        (list, lambda split: [(x + 1e-3, y) for x, y in split]),
        (loader, lambda split: loader(OTHER)),
        (loader, lambda split: loader(split, shuffle=True)),
        (loader, lambda split: loader(split, batch_size=10)),
        (loader, list),
        (
            lambda split: DataLoader(Reader(split), batch_size=16),
            lambda split: loader(split),
        ),
        (
            lambda split: Sized(list(split)),
            lambda split: Sized([*split, *split]),
        ),
    ],
)
def test_a_training_on_other_images_is_refused(toy, split, tmp_path, first, then):
    path = tmp_path / "c"
    next(training.train(copy.deepcopy(toy), first(split), CONFIG, checkpoint=path))
    before = copy.deepcopy(toy)
    with pytest.raises(ValueError, match="with another images;"):
        next(training.train(toy, then(split), CONFIG, checkpoint=path))
    assert same(toy, before)
    next(training.train(toy, first(split), CONFIG, checkpoint=path))  # the same again


class Sized:
    """Images whose content stays unread: type and length stand for them."""

    def __init__(self, batches):
        self.batches, self.reads = batches, 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        self.reads += len(self.batches)
        return iter(self.batches)


def smoothed(smoothing):
    def loss(logits, y):
        return F.cross_entropy(logits, y, label_smoothing=smoothing)

    return loss


class Power:
    def __init__(self, exponent):
        self.exponent = exponent

    def __call__(self, progress):
        return (1 - progress) ** self.exponent


@pytest.mark.parametrize(
    ("first", "then", "says"),
    [
        ({}, {"loss": partial(F.cross_entropy, label_smoothing=0.1)}, "loss"),
        ({"loss": smoothed(0.1)}, {"loss": smoothed(0.2)}, "loss"),
        (
            {"loss": nn.CrossEntropyLoss(weight=torch.ones(4))},
            {"loss": nn.CrossEntropyLoss(weight=2 * torch.ones(4))},
            "loss",
        ),
        ({"loss": nn.CrossEntropyLoss()}, {"loss": nn.CrossEntropyLoss(label_smoothing=1)}, "loss"),
        ({}, {"optimizer": plain_sgd}, "optimizer"),
        ({"optimizer": adamw}, {"optimizer": plain_sgd}, "optimizer"),
        ({"optimizer": adamw}, {"optimizer": partial(adamw, lr=1e-3)}, "optimizer"),
        ({}, {"schedule": lambda progress: 1.0}, "schedule"),
        ({"schedule": lambda p: 1.0}, {"schedule": lambda p: 0.5}, "schedule"),
        ({"schedule": lambda p: p * 0.5}, {"schedule": lambda p: p + 0.5}, "schedule"),
        ({"schedule": Power(1)}, {"schedule": Power(2)}, "schedule"),
    ],
)
def test_another_loss_optimizer_or_schedule_is_refused(toy, split, tmp_path, first, then, says):
    path = tmp_path / "c"
    next(training.train(copy.deepcopy(toy), split, CONFIG, checkpoint=path, **first))
    with pytest.raises(ValueError, match=f"with another {says};"):
        next(training.train(toy, split, CONFIG, checkpoint=path, **then))
    next(training.train(toy, split, CONFIG, checkpoint=path, **first))  # the same again


def test_equal_settings_have_equal_fingerprints_and_functions_may_call_themselves():
    def again(progress):
        return again(1) if progress < 1 else 1.0

    pairs = [
        (smoothed(0.1), smoothed(0.1)),
        (partial(adamw, lr=1.0), partial(adamw, lr=1.0)),
        (CONFIG.learning_rate, replace(CONFIG).learning_rate),
        (nn.CrossEntropyLoss(), nn.CrossEntropyLoss()),
        (again, again),
    ]
    prints = [tuple(map(checkpoints.fingerprint, pair)) for pair in pairs]
    assert all(one == other for one, other in prints)
    assert len({one for one, _ in prints}) == len(prints)
    assert checkpoints.fingerprint(CONFIG.learning_rate) != checkpoints.fingerprint(
        replace(CONFIG, warmup=0.1).learning_rate
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda model: {"config": replace(CONFIG, lr=0.01)}, "with another lr;"),
        (lambda model: {"config": replace(CONFIG, seed=1, shift=2)}, "with another shift, seed;"),
        (lambda model: {"config": replace(CONFIG, l1=0.01)}, "with another l1;"),
        (lambda model: {"mask": masks.prune(model, density=0.2)}, "with another mask;"),
        (lambda model: model.fc1.requires_grad_(False) and {}, "with another trained;"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(toy, split, tmp_path, change, says):
    path = tmp_path / "c"
    list(training.train(copy.deepcopy(toy), split, CONFIG, checkpoint=path))
    before, content = copy.deepcopy(toy), path.read_bytes()
    options = {"config": CONFIG, "checkpoint": path, **change(toy)}
    with pytest.raises(ValueError, match=says):
        list(training.train(toy, split, **options))
    assert path.read_bytes() == content
    assert same(toy, before)


def test_a_checkpoint_of_another_network_is_refused(toy, split, tmp_path):
    path = tmp_path / "c"
    list(training.train(copy.deepcopy(toy), split, CONFIG, checkpoint=path))
    toy.fc2 = torch.nn.Linear(12, 5)
    before = copy.deepcopy(toy)
    with pytest.raises(ValueError, match=r"fc2.* is \(4"):
        list(training.train(toy, split, CONFIG, checkpoint=path))
    assert same(toy, before)


def stretched(tensors, about):
    """Momentum with strides that no tensor of its size has."""
    about["optimizer"]["state"]["0"]["momentum_buffer"]["strides"] = [-1] * 4
    return tensors, about


def without(tensors, about, name):
    return {n: t for n, t in tensors.items() if n != name}, about


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensors, about: (tensors, None),
        lambda tensors, about: (tensors, {**about, "format": "something else"}),
        lambda tensors, about: (tensors, {**about, "rows": [{"epoch": 1}]}),
        lambda tensors, about: (tensors, {**about, "settings": {}}),
        lambda tensors, about: (tensors, {**about, "settings": None}),
        lambda tensors, about: ({**tensors, "os.system": torch.ones(1)}, about),
        lambda tensors, about: ({**tensors, "epoch.order": torch.ones(3)}, about),
        lambda tensors, about: (tensors, {**about, "optimizer": 3}),
        lambda tensors, about: (tensors, {**about, "optimizer": {"state": []}}),
        lambda tensors, about: (tensors, {**about, "optimizer": {"os.system": ["ls"]}}),
        lambda tensors, about: stretched(tensors, about),
        lambda tensors, about: without(tensors, about, max(tensors)),  # an optimizer's
        lambda tensors, about: without(tensors, about, "epoch.order"),
        lambda tensors, about: without(tensors, about, "model.fc1.bias"),
    ],
)
def test_a_broken_checkpoint_is_refused_by_name(toy, split, tmp_path, damage):
    path = tmp_path / "broken.checkpoint"
    list(islice(training.train(copy.deepcopy(toy), split, CONFIG, checkpoint=path), 2))
    tensors, about = damage(*files.load_tensors(path))
    files.save_tensors(path, tensors, about=about)
    with pytest.raises(ValueError, match=r"broken\.checkpoint"):
        list(training.train(toy, split, CONFIG, checkpoint=path))


def test_a_checkpoint_of_an_older_version_is_refused_with_what_to_do(toy, split, tmp_path):
    path = tmp_path / "c"
    list(training.train(toy, split, CONFIG, checkpoint=path))
    tensors, about = files.load_tensors(path)
    files.save_tensors(path, tensors, about={**about, "format": "pruning_lab checkpoint 2"})
    with pytest.raises(ValueError, match=r"of another version .* or delete it and make it again"):
        list(training.train(toy, split, CONFIG, checkpoint=path))


def test_a_checkpoint_that_was_cut_short_is_refused_by_name(toy, split, tmp_path):
    path = tmp_path / "cut.checkpoint"
    list(training.train(copy.deepcopy(toy), split, CONFIG, checkpoint=path))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"cut\.checkpoint is not a whole safetensors file"):
        list(training.train(toy, split, CONFIG, checkpoint=path))


def test_a_checkpoint_of_other_images_is_refused(toy, split, tmp_path):
    config, path = CONFIG, tmp_path / "checkpoint.safetensors"
    next(training.train(toy, split, config, checkpoint=path))
    fewer = split.head(split.n - 1)
    with pytest.raises(ValueError, match="images"):
        list(training.train(toy, fewer, config, checkpoint=path))
