"""Training takes the steps that a plain loop takes, with any optimizer, loss and images."""

import copy
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from pruning_lab import evaluation, masks, training

CONFIG = training.TrainConfig(epochs=3, batch_size=16, lr=0.05, shift=1)


def same(model, other) -> bool:
    return all(torch.equal(p, q) for p, q in zip(state(model), state(other), strict=True))


def state(model):
    return list(model.state_dict().values())


@contextmanager
def rates_of_steps():
    """The learning rates of every group, at every step of any optimizer inside."""
    seen = []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: seen.append([group["lr"] for group in optimizer.param_groups])
    )
    try:
        yield seen
    finally:
        hook.remove()


# --- steps -------------------------------------------------------------------------------------


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_training_is_torchs_own_sgd_on_the_same_batches(toy, split, nesterov, momentum):
    config = replace(CONFIG, nesterov=nesterov, momentum=momentum, weight_decay=0.01)
    toy.drop2.p = 0.0  # which is drawn step by step from the config's seed
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


def test_a_mask_holds_during_its_training_alone(toy, split):
    """The model is the user's until the first epoch, and again after the last or a `close`."""
    mask, before = masks.prune(toy, density=0.3), copy.deepcopy(toy)
    rows = training.train(toy, split, CONFIG, mask=mask)
    assert same(toy, before)
    next(rows)
    assert not toy.fc1.weight[~mask["fc1"]].any()
    rows.close()
    step(toy, split)
    assert toy.fc1.weight[~mask["fc1"]].any()
    list(training.train(toy, split, CONFIG, mask=mask))
    step(toy, split)
    assert toy.fc1.weight[~mask["fc1"]].any()


def test_a_mask_that_the_user_holds_keeps_holding(toy, split):
    mask = masks.prune(toy, density=0.3)
    with mask.hold(toy):
        list(training.train(toy, split, CONFIG))
        smaller = masks.prune(toy, density=0.2)
        list(training.train(toy, split, CONFIG, mask=smaller))
        step(toy, split)
        assert not toy.fc1.weight[~mask["fc1"]].any()
        assert toy.fc1.weight[~smaller["fc1"]].any()


def step(model, split):
    """One step of a plain loop."""
    x, y = next(iter(split))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


def test_with_all_masked_layers_frozen_the_others_train(branching, split):
    mask = masks.prune(branching, density=0.5)
    branching.requires_grad_(False)
    branching.norm.requires_grad_(True)
    before = branching.norm.weight.detach().clone()
    list(training.train(branching, split, CONFIG, mask=mask))
    assert not torch.equal(branching.norm.weight, before)
    assert not any(layer.weight[~mask[n]].any() for n, layer in masks.prunable(branching).items())


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


def test_a_compiled_training_is_the_plain_one_with_the_same_names(monkeypatch):
    """Traced, and its gradients too, but run by torch: what C++ is made of it is not ours."""
    asked, traced = [], partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", lambda module: asked.append(module) or traced(module))
    plain, batches = line()
    model, names = copy.deepcopy(plain), list(plain.state_dict())
    mask, calls = masks.prune(plain, density=0.5), []
    model[0].register_forward_hook(lambda module, inputs, answer: calls.append(len(answer)))
    rows = list(training.train(model, batches, replace(LEARNING, compile=True), mask=mask))
    expected = list(training.train(plain, batches, LEARNING, mask=mask))
    for row, other in zip(rows, expected, strict=True):
        assert (row.loss, row.accuracy) == pytest.approx((other.loss, other.accuracy), rel=1e-5)
    assert asked == [model]
    assert calls == 40 * [200]
    assert list(model.state_dict()) == names
    torch.testing.assert_close(model[0].weight, plain[0].weight)
    assert not model[0].weight[~mask["0"]].any()


def test_augmentation_is_asked_of_whatever_shuffles(toy, split):
    """Of a set that streams, too; what has its default is not mentioned."""
    asked = []

    class Stream:
        name, n = "train", split.n

        def shuffled(self, batch_size, generator, **options):
            asked.append((batch_size, options))
            return split.shuffled(batch_size, generator)

    options = {"flip": True, "crop": 0.5, "colour": 0.1}
    list(training.train(toy, Stream(), replace(CONFIG, epochs=1, **options)))
    list(training.train(toy, Stream(), replace(CONFIG, epochs=1, shift=0)))
    assert asked == [(16, {"shift": 1, **options}), (16, {})]


def test_the_seed_decides_dropout_and_a_loaders_order_and_the_global_state_stays(split):
    rows = TensorDataset(torch.arange(1.0, 49)[:, None].expand(48, 64), split.labels[:48])
    loader, seen = DataLoader(rows, batch_size=16, shuffle=True), []

    def drawn(seed, global_seed):
        model = nn.Sequential(nn.Dropout(), nn.Linear(64, 4))
        model[0].register_forward_hook(
            lambda module, x, answer: seen.append((x[0][:, 0].tolist(), (answer != 0).tolist()))
        )
        seen.clear()
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        list(training.train(model, loader, replace(CONFIG, seed=seed)))
        assert torch.equal(torch.get_rng_state(), before)
        return list(zip(*seen, strict=True))

    orders, dropped = drawn(seed=1, global_seed=5)
    assert drawn(seed=1, global_seed=6) == [orders, dropped]
    others = drawn(seed=2, global_seed=5)
    assert len({str(batch) for batch in orders + others[0]}) == 2 * 3 * 3
    assert len({str(kept) for kept in dropped + others[1]}) == 2 * 3 * 3


def test_an_epoch_prints_as_one_line_with_the_time_left():
    accuracy = evaluation.Accuracy(0.978, 0.97, 0.98, 1000)
    row = training.Epoch(3, 20, 0.2134, 0.9512, 0.01, 4.13, 50, None, val=accuracy)
    expected = "epoch  3/20  loss 0.213  train 95.12%  val 97.80%  4.1 s/epoch, 1 min 10 s left"
    assert str(row) == expected
    last = replace(row, epoch=20, seconds=75.2, val=None)
    assert str(last) == "epoch 20/20  loss 0.213  train 95.12%  1 min 15 s/epoch"


def test_val_is_measured_after_each_epoch_and_changes_nothing(toy, split):
    plain, val = copy.deepcopy(toy), split.head(40)
    expected = list(training.train(plain, split, CONFIG))
    rows = []
    for row in training.train(toy, split, CONFIG, val=val):
        assert row.val == evaluation.evaluate(toy, val)
        rows.append(replace(row, val=None, seconds=0))
    assert rows == [replace(row, seconds=0) for row in expected]
    assert same(toy, plain)
    with pytest.raises(ValueError, match="the test split is not for choosing"):
        training.train(toy, split, CONFIG, val=replace(split, name="test"))


def test_rows_say_how_fast_it_went_and_how_much_memory_it_took(toy, split):
    rows = list(training.train(toy, split, CONFIG))
    for row in rows:
        assert row.images == 50
        assert row.images_per_second == 50 / row.seconds
        assert row.seconds_left == (3 - row.epoch) * row.seconds
        assert row.peak_bytes > 50e6  # torch alone takes more


def test_the_mode_of_every_module_comes_back_with_every_row(toy, split):
    toy.train()
    toy.relu2.eval()
    before = [module.training for module in toy.modules()]
    for _ in training.train(toy, split, CONFIG):
        assert [module.training for module in toy.modules()] == before


# --- any optimizer, schedule and loss ----------------------------------------------------------


def test_the_default_schedule_is_the_configs_learning_rate_bit_for_bit(toy, split):
    with rates_of_steps() as seen:
        list(training.train(toy, split, CONFIG))
    assert seen == [[CONFIG.learning_rate((n + k / 4) / 3)] for n in range(3) for k in range(4)]


def adamw(parameters):
    groups = [{"params": parameters[:2], "lr": 3e-3}, {"params": parameters[2:]}]
    return torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.1)


def muon(parameters):
    return torch.optim.Muon([p for p in parameters if p.dim() == 2], lr=1e-2)


def lbfgs(parameters):
    return torch.optim.LBFGS(parameters, lr=1.0, max_iter=4, line_search_fn="strong_wolfe")


@pytest.mark.parametrize("optimizer", [adamw, lbfgs, *([muon] * hasattr(torch.optim, "Muon"))])
def test_any_optimizer_schedule_and_loss_take_the_steps_of_a_loop_by_hand(toy, batches, optimizer):
    toy.drop2.p = 0.0
    plain, expected = copy.deepcopy(toy), []
    loss_of, schedule = partial(F.cross_entropy, label_smoothing=0.1), lambda done: 1 - done / 2
    own = optimizer(list(plain.parameters()))
    rates = [group["lr"] for group in own.param_groups]
    for step in range(8):
        x, y = batches[step % 4]
        for group, lr in zip(own.param_groups, rates, strict=True):
            group["lr"] = lr * (1 - step / 8 / 2)

        def closure(x=x, y=y):
            plain.zero_grad()
            loss = loss_of(plain(x), y)
            loss.backward()
            return loss

        expected.append((loss_of(plain(x), y).item(), group["lr"], len(y)))
        own.step(closure)
    options = {"optimizer": optimizer, "loss": loss_of, "schedule": schedule}
    rows = list(training.train(toy, batches, replace(CONFIG, epochs=2), **options))
    assert same(toy, plain)
    for row, epoch in zip(rows, (expected[:4], expected[4:]), strict=True):
        assert row.loss == pytest.approx(sum(loss * n for loss, _, n in epoch) / 50, rel=1e-5)
        assert row.lr == pytest.approx(own.param_groups[0]["lr"]) or row.epoch < 2


def test_an_optimizer_of_ones_own_follows_the_warm_up_and_the_cosine(toy, split):
    with rates_of_steps() as seen:
        list(training.train(toy, split, CONFIG, optimizer=adamw))
    factors = [
        replace(CONFIG, lr=1).learning_rate((n + k / 4) / 3) for n in range(3) for k in range(4)
    ]
    assert seen == [[3e-3 * factor, 1e-3 * factor] for factor in factors]


def test_lbfgs_learns_under_a_mask():
    model, separable = line()
    config = replace(LEARNING, epochs=1)
    mask = masks.prune(model, density=0.5)
    whole = [(separable[0][0], separable[0][1])] * 5
    rows = list(
        training.train(model, whole, config, mask=mask, optimizer=lbfgs, schedule=lambda _: 1.0)
    )
    last = F.cross_entropy(model(separable[0][0]), separable[0][1]).item()
    assert last < 0.8 * rows[0].loss
    assert not model[0].weight[~mask["0"]].any()


@pytest.mark.parametrize("optimizer", [adamw, lbfgs])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_l1_steps_as_its_penalty_in_the_loss_does(toy, batches, optimizer, accumulate):
    """autograd's derivative of |w| at 0 is 0, too; the row tells the loss without the penalty."""
    toy.double().drop2.p = 0.0
    batches = [(x.double(), y) for x, y in batches]
    mask = masks.prune(toy, density=0.5)
    plain, unpenalised = copy.deepcopy(toy), []
    pairs = [batches[k : k + accumulate] for k in range(0, 4, accumulate)]
    own = optimizer(list(plain.parameters()))
    with mask.hold(plain):
        for pair in pairs:
            x, y = map(torch.cat, zip(*pair, strict=True))

            def closure(x=x, y=y):
                plain.zero_grad()
                loss = F.cross_entropy(plain(x), y)
                loss = loss + 0.01 * sum(p.abs().sum() for p in plain.parameters())
                loss.backward()
                return loss

            unpenalised.append(F.cross_entropy(plain(x), y).item() * len(y))
            own.step(closure)
    config = replace(CONFIG, epochs=1, l1=0.01, accumulate=accumulate)
    options = {"mask": mask, "optimizer": optimizer, "schedule": lambda _: 1.0}
    [row] = training.train(toy, batches, config, **options)
    assert row.loss == pytest.approx(sum(unpenalised) / 50, rel=1e-5)
    for ours, theirs in zip(state(toy), state(plain), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_before_step_is_called_with_the_progress_of_every_step(toy, split):
    seen = []
    list(training.train(toy, split, CONFIG, before_step=seen.append))
    assert seen == [(n + k / 4) / 3 for n in range(3) for k in range(4)]


@pytest.mark.parametrize("shape", [lambda y: y[:, None], lambda y: y.float()])
def test_labels_of_another_shape_or_type_are_refused_in_one_sentence(toy, batches, shape):
    with pytest.raises(ValueError, match="label"):
        list(training.train(toy, [(x, shape(y)) for x, y in batches], CONFIG))


# --- images without a length -------------------------------------------------------------------


class Unsized:
    """Batches that can be read again and again, but not counted; counts how often they are."""

    def __init__(self, batches):
        self.batches, self.reads = batches, 0

    def __iter__(self):
        for batch in self.batches:
            self.reads += 1
            yield batch


class Endless(IterableDataset):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


def test_images_without_a_length_are_read_once_an_epoch_and_counted_in_the_first(toy, batches):
    unsized = Unsized(batches)
    config = replace(CONFIG, warmup=0.0)
    with rates_of_steps() as seen:
        rows = list(training.train(toy, unsized, config))
    assert unsized.reads == 3 * 4
    assert [row.images for row in rows] == [50] * 3
    progress = [0.5 / 3] * 4 + [(n + k / 4) / 3 for n in (1, 2) for k in range(4)]
    assert seen == [[config.learning_rate(done)] for done in progress]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loader_of_an_iterable_data_set_trains_as_its_batches_do(toy, batches, accumulate):
    toy.drop2.p = 0.0
    listed = copy.deepcopy(toy)
    rows = [(x, y) for images, labels in batches for x, y in zip(images, labels, strict=True)]
    config, constant = replace(CONFIG, accumulate=accumulate), {"schedule": lambda _: 1.0}
    loader = DataLoader(Endless(rows), batch_size=16)
    ours = list(training.train(toy, loader, config, **constant))
    theirs = list(training.train(listed, batches, config, **constant))
    assert same(toy, listed)
    assert [(row.loss, row.images) for row in ours] == [(row.loss, row.images) for row in theirs]


# --- refusals ----------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_is_an_error_that_says_what_to_try(toy, split, tmp_path):
    before = [module.training for module in toy.eval().modules()]
    with pytest.raises(FloatingPointError, match=r"in epoch 1; try a lower lr than 1e\+30"):
        list(training.train(toy, split, replace(CONFIG, lr=1e30), checkpoint=tmp_path / "c"))
    assert not (tmp_path / "c").exists()
    assert [module.training for module in toy.modules()] == before


def test_the_test_split_is_not_for_training(toy, split):
    before = copy.deepcopy(toy)
    with pytest.raises(ValueError, match=r"^training chooses, .*; give splits\.train$"):
        training.train(toy, replace(split, name="test"), CONFIG)
    assert same(toy, before)


def test_what_gives_its_images_once_or_none_is_refused(toy, split, batches):
    with pytest.raises(ValueError, match="an iterator serves one pass only; give a list"):
        training.train(toy, iter(batches), CONFIG)
    for nothing in ([], split.head(0)):
        with pytest.raises(ValueError, match="no images to train on"):
            training.train(toy, nothing, CONFIG)
    with pytest.raises(ValueError, match="no images to train on"):
        list(training.train(toy, Unsized([]), CONFIG))
    read_out = Unsized([])
    read_out.batches = iter(batches)
    rows = training.train(toy, read_out, CONFIG)
    assert next(rows).images == 50
    with pytest.raises(ValueError, match="an iterator serves one pass only; give a list"):
        next(rows)


@pytest.mark.parametrize(
    ("optimizer", "says"),
    [
        (lambda parameters: parameters, "must be a function .*; got list"),
        (torch.optim.SGD([nn.Parameter(torch.zeros(1))]), "must be a function .*; got SGD"),
        (
            lambda _: torch.optim.SGD([nn.Parameter(torch.zeros(1))]),
            "parameters that are frozen or of another model",
        ),
    ],
)
def test_an_optimizer_that_cannot_train_this_model_is_refused(toy, split, optimizer, says):
    with pytest.raises(ValueError, match=says):
        training.train(toy, split, CONFIG, optimizer=optimizer)


def test_a_mask_of_another_network_is_refused_at_the_call(toy, split):
    with pytest.raises(KeyError, match="fc9"):
        training.train(toy, split, CONFIG, mask=masks.Mask({"fc9": torch.ones(2, 2)}))
    with pytest.raises(ValueError, match=r"'fc1' has shape \(2, 2\)"):
        training.train(toy, split, CONFIG, mask=masks.Mask({"fc1": torch.ones(2, 2)}))


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
        {"l1": -1},
        {"accumulate": 0},
        {"shift": -1},
        {"warmup": 1.5},
        {"crop": 0},
        {"crop": 1.5},
        {"colour": -0.1},
    ],
)
def test_impossible_settings_are_refused_with_what_came(wrong):
    with pytest.raises(ValueError, match=f"got.* {next(iter(wrong.values()))}"):
        training.TrainConfig(**wrong)
