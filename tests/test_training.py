"""Training takes the steps that a plain loop takes, and ends the same however often it stops."""

import copy
import inspect
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import islice

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from pruning_lab import files, masks, training

CONFIG = training.TrainConfig(epochs=3, batch_size=16, lr=0.05, shift=1)


def same(model, other) -> bool:
    return all(torch.equal(p, q) for p, q in zip(state(model), state(other), strict=True))


def state(model):
    return list(model.state_dict().values())


def told(rows):
    """What the rows say, apart from how long it took."""
    return [replace(row, seconds=0) for row in rows]


# --- steps -------------------------------------------------------------------------------------


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_training_is_torchs_own_sgd_on_the_same_batches(toy, split, nesterov, momentum):
    config = replace(CONFIG, nesterov=nesterov, momentum=momentum, weight_decay=0.01)
    plain = copy.deepcopy(toy)
    optimizer = torch.optim.SGD(
        plain.parameters(),
        lr=1.0,
        momentum=momentum,
        nesterov=nesterov and momentum > 0,
        weight_decay=0.01,
        foreach=False,
    )
    generator, step, expected = torch.Generator().manual_seed(config.seed), 0, []
    torch.manual_seed(7)
    for _ in range(3):
        losses, right = [], 0
        for x, y in split.shuffled(16, generator, shift=1):
            optimizer.param_groups[0]["lr"] = lr = config.learning_rate(step / 12)  # 3 x 4 steps
            logits = plain(x)
            loss = F.cross_entropy(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            losses += [loss.item()] * len(y)
            right += int((logits.argmax(1) == y).sum())
        expected.append((sum(losses) / 50, right / 50, lr))
    torch.manual_seed(7)
    rows = list(training.train(toy, split, config))
    for row, (loss, accuracy, lr) in zip(rows, expected, strict=True):
        assert (row.loss, row.accuracy, row.lr) == pytest.approx((loss, accuracy, lr), rel=1e-5)
    assert [(row.epoch, row.epochs) for row in rows] == [(1, 3), (2, 3), (3, 3)]
    for ours, theirs in zip(state(toy), state(plain), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("warmup", [0.2, 0.5])
def test_the_learning_rate_is_torchs_one_cycle_to_a_hundredth_of_its_peak(warmup):
    """Torch counts its last step as the end, we the moment after it: 1 in 1,000 apart."""
    config = training.TrainConfig(lr=0.1, warmup=warmup)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.1, total_steps=1000, pct_start=warmup, cycle_momentum=False
    )
    for step in range(1000):
        ours, theirs = config.learning_rate(step / 1000), schedule.get_last_lr()[0]
        assert ours == pytest.approx(theirs, abs=0.001), step
        optimizer.step()
        schedule.step()


def test_the_learning_rate_climbs_to_its_peak_and_falls_to_nothing():
    config = training.TrainConfig(lr=0.1, warmup=0.2)
    assert config.learning_rate(0) == pytest.approx(0.1 / 25)
    assert config.learning_rate(0.2) == pytest.approx(0.1)
    assert config.learning_rate(1) == pytest.approx(0, abs=1e-12)
    assert replace(config, warmup=0).learning_rate(0) == pytest.approx(0.1)
    assert replace(config, warmup=1).learning_rate(1) == 0


LEARNING = training.TrainConfig(epochs=2, lr=0.5)


def line():
    torch.manual_seed(0)
    x = torch.randn(200, 5)
    return torch.nn.Sequential(torch.nn.Linear(5, 2)), [(x, (x[:, 0] > 0).long())] * 20


def test_training_learns():
    """A line that a network of one layer can draw."""
    model, separable = line()
    rows = list(training.train(model, separable, LEARNING))
    assert rows[-1].accuracy > 0.95
    assert rows[-1].loss < rows[0].loss


def test_a_loader_and_a_list_of_batches_serve(toy, split, batches):
    images = torch.cat([x for x, _ in batches])
    loader = DataLoader(TensorDataset(images, split.labels), batch_size=16)
    models = toy, copy.deepcopy(toy)
    for model, source in zip(models, (loader, batches), strict=True):
        model.drop2.p = 0.0  # for the loader draws from the same generator as dropout
        assert len(list(training.train(model, source, CONFIG))) == 3
    assert same(*models)


def test_no_epochs_change_nothing(toy, split):
    before = copy.deepcopy(toy)
    assert list(training.train(toy, split, replace(CONFIG, epochs=0))) == []
    assert same(toy, before)


def test_each_epoch_is_done_when_its_row_is_there(toy, split):
    rows = training.train(toy, split, CONFIG)
    before = copy.deepcopy(toy)
    next(rows)
    assert not same(toy, before)
    after = copy.deepcopy(toy)
    rows.close()
    assert same(toy, after)


def test_frozen_parameters_stay_and_the_others_do_not(toy, split):
    toy.fc1.requires_grad_(False)
    before = copy.deepcopy(toy)
    list(training.train(toy, split, CONFIG))
    assert torch.equal(toy.fc1.weight, before.fc1.weight)
    assert torch.equal(toy.fc1.bias, before.fc1.bias)
    assert not torch.equal(toy.conv1.weight, before.conv1.weight)


def test_pruned_weights_stay_zero_and_the_others_learn(toy, split):
    mask = masks.prune(toy, density=0.3)
    before = toy.fc1.weight.detach().clone()
    for _ in training.train(toy, split, CONFIG, mask=mask):
        for name, layer in masks.prunable(toy).items():
            assert not layer.weight[~mask[name]].any()
    assert (toy.fc1.weight != before)[mask["fc1"]].all()


def test_bf16_autocast_trains_weights_that_stay_float32(toy, split):
    before, seen = copy.deepcopy(toy), set()
    toy.register_forward_hook(lambda module, inputs, answer: seen.add(answer.dtype))
    list(training.train(toy, split, replace(CONFIG, bf16=True)))
    assert seen == {torch.bfloat16}
    assert {tensor.dtype for tensor in state(toy)} == {torch.float32}
    assert not same(toy, before)


def test_training_learns_in_bf16_too():
    model, separable = line()
    rows = list(training.train(model, separable, replace(LEARNING, bf16=True)))
    assert rows[-1].accuracy > 0.95
    assert rows[-1].loss < rows[0].loss


@pytest.mark.parametrize("accumulate", [2, 3])
def test_accumulated_batches_step_as_one_large_batch_does(toy, split, accumulate):
    """50 images in batches of 8: the last group is short, and its last batch shorter."""
    toy.drop2.p = 0.0  # drawn for each batch
    large, seen = copy.deepcopy(toy), []
    toy.register_forward_hook(lambda module, inputs, answer: seen.append(len(answer)))
    config = replace(CONFIG, batch_size=8, accumulate=accumulate)
    rows = list(training.train(toy, split, config))
    expected = list(training.train(large, split, replace(CONFIG, batch_size=8 * accumulate)))
    assert seen == 3 * [8, 8, 8, 8, 8, 8, 2]
    for row, other in zip(rows, expected, strict=True):
        assert (row.loss, row.accuracy) == pytest.approx((other.loss, other.accuracy), rel=1e-5)
        assert row.lr == other.lr
    for ours, theirs in zip(state(toy), state(large), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_list_of_batches_accumulates_too(toy, batches):
    toy.drop2.p = 0.0
    large = copy.deepcopy(toy)
    pairs = [
        tuple(map(torch.cat, zip(*batches[k : k + 2], strict=True)))
        for k in range(0, len(batches), 2)
    ]
    list(training.train(toy, batches, replace(CONFIG, accumulate=2)))
    list(training.train(large, pairs, CONFIG))
    for ours, theirs in zip(state(toy), state(large), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="needs a C++ compiler")
def test_a_compiled_training_is_the_plain_one_with_the_same_names():
    """Of as little as there is to compile: one layer, and batches of one size."""
    plain, batches = line()
    model, names = copy.deepcopy(plain), list(plain.state_dict())
    mask, calls = masks.prune(plain, density=0.5), []
    model[0].register_forward_hook(lambda module, inputs, answer: calls.append(len(answer)))
    rows = list(training.train(model, batches, replace(LEARNING, compile=True), mask=mask))
    expected = list(training.train(plain, batches, LEARNING, mask=mask))
    for row, other in zip(rows, expected, strict=True):
        assert (row.loss, row.accuracy) == pytest.approx((other.loss, other.accuracy), rel=1e-5)
    assert calls == 40 * [200]
    assert list(model.state_dict()) == names
    torch.testing.assert_close(model[0].weight, plain[0].weight)
    assert not model[0].weight[~mask["0"]].any()


def test_augmentation_is_asked_of_whatever_shuffles(toy, split):
    """Of a set that streams, too; what has its default is not mentioned."""
    asked = []

    class Stream:
        name, __len__ = "train", lambda self: len(split)

        def shuffled(self, batch_size, generator, **options):
            asked.append((batch_size, options))
            return split.shuffled(batch_size, generator)

    options = {"flip": True, "crop": 0.5, "colour": 0.1}
    list(training.train(toy, Stream(), replace(CONFIG, epochs=1, **options)))
    list(training.train(toy, Stream(), replace(CONFIG, epochs=1, shift=0)))
    assert asked == [(16, {"shift": 1, **options}), (16, {})]


def test_rows_say_how_fast_it_went_and_how_much_memory_it_took(toy, split):
    rows = list(training.train(toy, split, CONFIG))
    for row in rows:
        assert row.images == 50
        assert row.images_per_second == 50 / row.seconds
        assert row.seconds_left == (3 - row.epoch) * row.seconds
        assert row.peak_bytes > 50e6  # torch alone takes more
    older = {"epoch": 1, "epochs": 3, "loss": 1.0, "accuracy": 0.5, "lr": 0.1, "seconds": 2.0}
    assert training.Epoch(**older).images_per_second is None


def test_the_mode_of_every_module_comes_back_with_every_row(toy, split):
    toy.train()
    toy.relu2.eval()
    before = [module.training for module in toy.modules()]
    for _ in training.train(toy, split, CONFIG):
        assert [module.training for module in toy.modules()] == before


# --- refusals ----------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_is_an_error_that_says_what_to_try(toy, split, tmp_path):
    before = [module.training for module in toy.eval().modules()]
    with pytest.raises(FloatingPointError, match=r"in epoch 1; try a lower lr than 1e\+30"):
        list(training.train(toy, split, replace(CONFIG, lr=1e30), checkpoint=tmp_path / "c"))
    assert not (tmp_path / "c").exists()
    assert [module.training for module in toy.modules()] == before


def test_the_test_split_is_not_for_training(toy, split):
    before = copy.deepcopy(toy)
    with pytest.raises(ValueError, match=r"not for training; give splits\.train"):
        list(training.train(toy, replace(split, name="test"), CONFIG))
    assert same(toy, before)


def test_what_gives_its_images_once_or_none_is_refused(toy, split, batches):
    with pytest.raises(ValueError, match="an iterator serves one pass only; give a list"):
        list(training.train(toy, iter(batches), CONFIG))
    for nothing in ([], split.head(0)):
        with pytest.raises(ValueError, match="no images to train on"):
            list(training.train(toy, nothing, CONFIG))


def test_a_network_with_nothing_to_train_is_refused(toy, split):
    toy.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter requires a gradient"):
        training.train(toy, split, CONFIG)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": -1},
        {"batch_size": 0},
        {"lr": 0},
        {"lr": float("nan")},
        {"momentum": 1},
        {"weight_decay": -1},
        {"accumulate": 0},
        {"shift": -1},
        {"crop": 0},
        {"crop": 1.5},
        {"colour": -0.1},
    ],
)
def test_impossible_settings_are_refused_with_what_came(wrong):
    with pytest.raises(ValueError, match=f"got.* {next(iter(wrong.values()))}"):
        training.TrainConfig(**wrong)


# --- resuming ----------------------------------------------------------------------------------


@pytest.mark.parametrize("done", [0, 1, 2, 3])
@pytest.mark.parametrize("density", [None, 0.3])
def test_a_resumed_training_ends_where_an_uninterrupted_one_ends(
    toy, split, tmp_path, done, density
):
    """Bit for bit, with dropout, momentum and shifted images, in a process with other luck."""
    mask = None if density is None else masks.prune(toy, density=density)
    begun, resumed = copy.deepcopy(toy), copy.deepcopy(toy)
    torch.manual_seed(5)
    rows = list(training.train(toy, split, CONFIG, mask=mask))
    torch.manual_seed(5)
    options = {"mask": mask, "checkpoint": tmp_path / "c"}
    first = list(islice(training.train(begun, split, CONFIG, **options), done))
    torch.manual_seed(5 if done == 0 else 99)
    again = list(training.train(resumed, split, CONFIG, **options))
    assert again[:done] == first  # the seconds too: nothing was computed again
    assert told(again) == told(rows)
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
    assert told(training.train(resumed, split, CONFIG, checkpoint=tmp_path / "c")) == told(rows)
    assert same(resumed, toy)


def drawing(rows) -> list:
    """The rows, to someone who draws a random number at each."""
    return [row for row in rows if torch.rand(()) < 2]


@pytest.mark.parametrize("source", ["split", "loader"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_checkpoint_within_an_epoch_loses_the_step_under_way_alone(
    toy, split, tmp_path, source, accumulate
):
    """Bit for bit again; a loader's order comes from the state that dropout draws from."""
    images = split
    if source == "loader":
        rows = TensorDataset(split.normalise(split.images), split.labels)
        images = DataLoader(rows, batch_size=16, shuffle=True)
    config, path = replace(CONFIG, accumulate=accumulate), tmp_path / "c"
    begun, resumed, calls = copy.deepcopy(toy), copy.deepcopy(toy), []
    mask = masks.prune(toy, density=0.5)
    torch.manual_seed(5)
    rows = drawing(training.train(toy, images, config, mask=mask))

    def interrupt(*_):
        calls.append(1)
        if len(calls) == 8:  # of 4 batches an epoch, so in the last of the second
            raise KeyboardInterrupt

    begun.register_forward_pre_hook(interrupt)
    options = {"mask": mask, "checkpoint": path, "checkpoint_minutes": 0}
    torch.manual_seed(5)
    with pytest.raises(KeyboardInterrupt):
        drawing(training.train(begun, images, config, **options))
    resumed.register_forward_pre_hook(lambda *_: calls.append(1))
    torch.manual_seed(99)
    again = drawing(training.train(resumed, images, config, **options))
    assert len(calls) == 8 + (5 if accumulate == 1 else 6)  # whole steps
    assert told(again) == told(rows)
    assert same(resumed, toy)


def test_a_slow_epoch_leaves_checkpoints_and_a_quick_one_does_not(toy, split, tmp_path):
    writes = []

    def look(*_):
        writes.append((tmp_path / "c").exists())

    toy.register_forward_pre_hook(look)
    config = replace(CONFIG, epochs=1)
    list(training.train(toy, split, config, checkpoint=tmp_path / "c"))
    assert writes == [False] * 4
    (tmp_path / "c").unlink()
    list(training.train(toy, split, config, checkpoint=tmp_path / "c", checkpoint_minutes=0))
    assert writes[4:] == [False, True, True, True]


def test_a_finished_training_leaves_no_momentum_behind(toy, split, tmp_path):
    sizes = []
    for _ in training.train(toy, split, CONFIG, checkpoint=tmp_path / "c"):
        sizes.append((tmp_path / "c").stat().st_size)
    weights = sum(tensor.nbytes for tensor in state(toy))
    assert sizes[1] - sizes[2] == pytest.approx(weights, abs=1000)


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
def test_a_killed_training_goes_on_to_the_same_end(tmp_path):
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


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda model: {"config": replace(CONFIG, lr=0.01)}, "with another lr;"),
        (lambda model: {"config": replace(CONFIG, seed=1, shift=2)}, "with another shift, seed;"),
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
    assert options.get("mask") or same(toy, before)


def test_a_checkpoint_of_another_network_is_refused(toy, split, tmp_path):
    path = tmp_path / "c"
    list(training.train(copy.deepcopy(toy), split, CONFIG, checkpoint=path))
    toy.fc2 = torch.nn.Linear(12, 5)
    before = copy.deepcopy(toy)
    with pytest.raises(ValueError, match=r"fc2.* has shape \(4"):
        list(training.train(toy, split, CONFIG, checkpoint=path))
    assert same(toy, before)


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
        lambda tensors, about: (tensors, {**about, "step": 2}),
        lambda tensors, about: without(tensors, about, "random.cpu"),
        lambda tensors, about: ({**tensors, "os.system": torch.ones(1)}, about),
        lambda tensors, about: ({**tensors, "random.order": torch.ones(3)}, about),
        lambda tensors, about: ({**tensors, "random.cpu": torch.ones(3)}, about),
        lambda tensors, about: ({**tensors, "optimizer.no.layer": torch.ones(3)}, about),
        lambda tensors, about: without(tensors, about, "random.order"),
        lambda tensors, about: without(tensors, about, "model.fc1.bias"),
    ],
)
def test_a_broken_checkpoint_is_refused_by_name(toy, split, tmp_path, damage):
    path = tmp_path / "broken.checkpoint"
    list(training.train(copy.deepcopy(toy), split, CONFIG, checkpoint=path))
    tensors, about = damage(*files.load_tensors(path))
    files.save_tensors(path, tensors, about=about)
    with pytest.raises(ValueError, match=r"broken\.checkpoint"):
        list(training.train(toy, split, CONFIG, checkpoint=path))


def test_a_checkpoint_of_an_older_version_is_refused_with_what_to_do(toy, split, tmp_path):
    path = tmp_path / "c"
    list(training.train(toy, split, CONFIG, checkpoint=path))
    tensors, about = files.load_tensors(path)
    files.save_tensors(path, tensors, about={**about, "format": "pruning_lab checkpoint 2"})
    with pytest.raises(ValueError, match=r"of another version .* or delete it and train anew"):
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
    fewer = split.head(len(split) - 1)
    with pytest.raises(ValueError, match="images"):
        list(training.train(toy, fewer, config, checkpoint=path))
