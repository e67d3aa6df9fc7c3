"""Prune, retrain, repeat: thresholds grow, zeros stay, dropout sinks, what is frozen stays."""

import copy
from collections import OrderedDict
from dataclasses import replace
from functools import partial
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from pruning_lab import criteria, masks, models, retraining, training

CONFIG = training.TrainConfig(epochs=2, batch_size=16, lr=0.02)


def zeros_hold(model, mask) -> bool:
    layers = masks.prunable(model)
    return not any(layers[name].weight[~kept].any() for name, kept in mask.items())


def same(model, other) -> bool:
    state = other.state_dict()
    return all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


# --- rounds ------------------------------------------------------------------------------------


def test_thresholds_grow_and_zeros_stay_round_after_round(toy, split):
    stages, survivors = [], None
    for stage in retraining.iterative(toy, split, CONFIG, [{"quality": 0.7}] * 3):
        assert zeros_hold(toy, stage.mask)
        if stage.kind == "cut" and survivors is not None:
            for row in stage.mask.receipt:
                assert row.threshold == pytest.approx(0.7 * survivors[row.layer].std(), rel=1e-5)
        survivors = {
            name: layer.weight.detach()[stage.mask[name]].numpy()
            for name, layer in masks.prunable(toy).items()
        }
        stages.append(stage)
    assert [(s.kind, s.round, s.rounds, len(s.epochs)) for s in stages] == [
        (kind, number, 3, epochs)
        for number in (1, 2, 3)
        for kind, epochs in (("cut", 0), ("retrained", 2))
    ]
    cuts = [stage.mask for stage in stages[::2]]
    for earlier, later in pairwise(cuts):
        assert later.kept < earlier.kept
        assert not any((later[name] & ~earlier[name]).any() for name in later)
        for before, after in zip(earlier.receipt, later.receipt, strict=True):
            assert after.threshold > before.threshold


def test_densities_of_rounds_refer_to_the_whole_layer(toy, split):
    rounds = [{"density": 0.5}, {"density": 0.25}]
    *_, last = retraining.iterative(toy, split, CONFIG, rounds)
    for name, layer in masks.prunable(toy).items():
        assert int(layer.weight.count_nonzero()) == round(0.25 * layer.weight.numel())
        assert int(last.mask[name].sum()) == round(0.25 * layer.weight.numel())


@pytest.mark.parametrize("name", ["taylor", "gradient", "obd"])
def test_a_named_saliency_is_that_of_the_network_before_each_pruning(toy, split, name):
    rounds = [{"density": 0.5, "saliency": name}, {"density": 0.2, "saliency": name}]
    before, cuts = copy.deepcopy(toy), 0
    for stage in retraining.iterative(toy, split, CONFIG, rounds):
        if stage.kind == "cut":
            saliency = getattr(criteria, name)(before, split)
            density = rounds[stage.round - 1]["density"]
            expected = masks.prune(before, density=density, saliency=saliency)
            assert all(torch.equal(stage.mask[layer], expected[layer]) for layer in expected)
            cuts += 1
        before = copy.deepcopy(toy)
    assert cuts == 2


def test_a_named_saliency_is_computed_on_the_first_10000_images(toy, split):
    seen, pair = [], next(iter(split))

    class Many:
        def __iter__(self):
            for number in range(2000):
                seen.append(number)
                yield pair

    rounds = [{"density": 0.5, "saliency": "taylor"}]
    next(retraining.iterative(toy, Many(), CONFIG, rounds))
    assert len(seen) == min(2000, -(-10_000 // len(pair[1])))


def test_an_unknown_saliency_is_refused_with_the_names_there_are(toy, split):
    rounds = [{"density": 0.5, "saliency": "hessian"}]
    with pytest.raises(ValueError, match="no saliency 'hessian'; there are magnitude, obd"):
        next(retraining.iterative(toy, split, CONFIG, rounds))


def test_once_is_a_cut_and_a_training_with_the_mask(toy, split):
    toy.drop2.p = 0.0
    plain = copy.deepcopy(toy)
    mask = masks.prune(plain, density=0.4)
    rows = list(training.train(plain, split, CONFIG, mask=mask))
    cut, retrained = retraining.once(toy, split, CONFIG, {"density": 0.4})
    assert same(toy, plain)
    assert [replace(row, seconds=0) for row in retrained.epochs] == [
        replace(row, seconds=0) for row in rows
    ]
    assert cut.mask == mask


def test_survivors_keep_their_values_at_the_cut(toy, split):
    before = copy.deepcopy(toy)
    stage = next(retraining.once(toy, split, CONFIG, {"density": 0.4}))
    for name, layer in masks.prunable(toy).items():
        old = masks.prunable(before)[name].weight
        assert torch.equal(layer.weight, old * stage.mask[name])


def test_what_is_gone_before_the_first_round_stays_gone(toy, split):
    earlier = masks.prune(toy, density=0.3)
    earlier.apply_(toy)
    *_, last = retraining.once(toy, split, CONFIG, {"density": 0.6})
    assert last.mask == earlier
    assert zeros_hold(toy, earlier)


def test_the_options_of_training_reach_it(toy, split):
    toy.drop2.p = 0.0
    plain = copy.deepcopy(toy)
    options = {
        "optimizer": partial(torch.optim.AdamW, lr=1e-3),
        "schedule": lambda progress: 1.0,
        "loss": partial(nn.functional.cross_entropy, label_smoothing=0.1),
    }
    list(training.train(plain, split, CONFIG, mask=masks.prune(plain, density=0.4), **options))
    list(retraining.once(toy, split, CONFIG, {"density": 0.4}, **options))
    assert same(toy, plain)


def test_every_round_may_have_its_own_settings(toy, split):
    seen = []
    configs = [CONFIG, replace(CONFIG, epochs=3)]
    rounds = [{"density": 0.5}, {"density": 0.3}]
    list(retraining.iterative(toy, split, configs, rounds, on_epoch=seen.append))
    assert [row.epoch for row in seen] == [1, 2, 1, 2, 3]
    with pytest.raises(ValueError, match="one config for all rounds, or one for each: 3 for 2"):
        list(retraining.iterative(toy, split, [CONFIG] * 3, rounds))


@pytest.mark.parametrize(("l1", "l2"), [(0.01, 0.0), (0.0, 0.1), (0.02, 0.05)])
def test_penalties_are_what_a_calculation_by_hand_says(toy, batches, l1, l2):
    """v = 0.9 v + g + l2 w + l1 sign(w), w = w - lr v; of what is pruned nothing; biases too."""
    toy.drop2.p = 0.0
    x, y = batches[0]
    config = replace(CONFIG, epochs=3, nesterov=False, l1=l1, weight_decay=l2)
    stages = retraining.once(toy, [(x, y)], config, {"density": 0.4}, schedule=lambda _: 1.0)
    mask = next(stages).mask
    plain = copy.deepcopy(toy)
    parameters = dict(plain.named_parameters())
    velocity = dict.fromkeys(parameters, 0.0)
    for _ in range(3):
        loss = nn.functional.cross_entropy(plain(x), y)
        gradients = torch.autograd.grad(loss, [*parameters.values()])
        for (name, w), g in zip(parameters.items(), gradients, strict=True):
            kept = mask.get(name.removesuffix(".weight"), torch.tensor(True))
            pull = kept * (g + l2 * w.detach() + l1 * w.detach().sign())
            velocity[name] = 0.9 * velocity[name] + pull
            w.data -= 0.02 * velocity[name]
    next(stages)
    assert zeros_hold(toy, mask)
    for ours, theirs in zip(toy.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


# --- new initial values ------------------------------------------------------------------------


def new_toy(seen):
    """A function that makes the network of the toy, and notes a copy."""

    def make():
        layers = {"conv1": nn.Conv2d(1, 4, kernel_size=3), "pool1": nn.MaxPool2d(2)}
        layers |= {"relu1": nn.ReLU(), "flatten": nn.Flatten(), "fc1": nn.Linear(36, 12)}
        layers |= {"relu2": nn.ReLU(), "drop2": nn.Dropout(0.5), "fc2": nn.Linear(12, 4)}
        seen.append(nn.Sequential(OrderedDict(layers)))
        return copy.deepcopy(seen[-1])

    return make


def test_survivors_and_biases_start_from_the_values_of_a_new_network(toy, split):
    made, before = [], torch.get_rng_state()
    none = replace(CONFIG, epochs=0)
    options = {"reinitialise": new_toy(made)}
    stages = retraining.iterative(toy, split, none, [{"density": 0.4}, {"density": 0.2}], **options)
    trained = copy.deepcopy(toy)
    for number, (cut, retrained) in enumerate(zip(stages, stages, strict=True)):
        mask = cut.mask
        assert mask == retrained.mask
        if number == 0:  # chosen by the trained weights
            assert mask == masks.prune(trained, density=0.4)
        for name, value in toy.named_parameters():
            new = made[number].get_parameter(name)
            kept = mask.get(name.removesuffix(".weight"), torch.ones_like(new))
            assert torch.equal(value, new * kept)
    assert not same(made[0], made[1])  # each round has its own
    assert torch.equal(torch.get_rng_state(), before)


def test_a_cut_is_measured_before_the_survivors_get_new_values(toy, split):
    before = copy.deepcopy(toy)
    stages = retraining.once(toy, split, CONFIG, {"density": 0.4}, reinitialise=new_toy([]))
    mask = next(stages).mask
    assert torch.equal(toy.fc1.weight, before.fc1.weight * mask["fc1"])


def test_new_values_are_the_seeds_and_not_those_of_the_dense_network(toy, split):
    made = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        made.append(new_toy([])())  # as a dense network before its training
        config = replace(CONFIG, epochs=0, seed=seed)
        list(retraining.once(toy, split, config, {"density": 0.4}, reinitialise=new_toy(made)))
    dense, values = made[::2], made[1::2]
    assert same(dense[0], dense[1])
    assert same(values[0], values[1])
    assert not same(values[1], values[2])
    assert not same(values[0], dense[0])


def test_what_is_frozen_keeps_its_values_when_others_get_new_ones(toy, split):
    before = copy.deepcopy(toy)
    options = {"freeze": ["conv1"], "reinitialise": new_toy([])}
    list(retraining.once(toy, split, CONFIG, {"density": {"fc1": 0.4}}, **options))
    assert same(toy.conv1, before.conv1)
    assert not torch.equal(toy.fc2.weight, before.fc2.weight)


def test_new_values_of_another_network_are_refused_in_one_sentence(toy, split):
    make = partial(nn.Linear, 2, 2)
    with pytest.raises(ValueError, match=r"reinitialise: conv1\.weight is missing") as caught:
        list(retraining.once(toy, split, CONFIG, {"density": 0.4}, reinitialise=make))
    assert "\n" not in str(caught.value)


def test_a_retraining_from_new_values_resumes_to_the_same_end(toy, split, tmp_path):
    rounds, resumed = [{"density": 0.5}, {"density": 0.3}], copy.deepcopy(toy)
    options = {"reinitialise": new_toy([])}
    list(retraining.iterative(toy, split, CONFIG, rounds, **options))
    for stop in (2, 4):  # after the first round, and to the end
        again = copy.deepcopy(resumed)
        stages = retraining.iterative(again, split, CONFIG, rounds, **options, checkpoints=tmp_path)
        list(islice(stages, stop))
        stages.close()
    assert same(again, toy)


# --- gradual pruning ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("initial", "final", "done", "density"),
    [
        (1.0, 0.1, 0.0, 1.0),
        # s_i = 0, s_f = 0.9, (t - t_0) / (n dt) = 1/4: s = 0.9 - 0.9 * 27/64 = 0.5203125
        (1.0, 0.1, 0.25, 0.4796875),
        # 1/2: s = 0.9 - 0.9 / 8 = 0.7875
        (1.0, 0.1, 0.5, 0.2125),
        # from s_i = 0.5 to s_f = 0.875, 1/2: s = 0.875 - 0.375 / 8 = 0.828125
        (0.5, 0.125, 0.5, 0.171875),
        (0.5, 0.125, 1.0, 0.125),
    ],
)
def test_the_density_falls_along_the_papers_cubic(initial, final, done, density):
    assert retraining.cubic(initial, final, done) == pytest.approx(density, abs=1e-15)


def densities_of_steps(model, seen):
    """Before every step, how much of each layer is there."""

    def look(*_):
        layers = masks.prunable(model).items()
        seen.append({n: la.weight.count_nonzero().item() for n, la in layers})

    return model.register_forward_pre_hook(look)


def test_gradual_pruning_follows_the_cubic_step_by_step_and_keeps_what_is_gone(toy, split):
    """8 epochs of 4 steps: updates before steps 4, 8, 12 and 16 of 32."""
    seen, stages = [], []
    densities_of_steps(toy, seen)
    config = replace(CONFIG, epochs=8)
    options = {"begin": 0.0, "end": 0.5, "updates": 4}
    for stage in retraining.gradual(toy, split, config, 0.1, **options):
        assert stage.mask == masks.Mask.of(toy)
        stages.append(stage)
    assert [(s.kind, s.round, s.rounds, len(s.epochs)) for s in stages] == [
        ("gradual", number, 8, 1) for number in range(1, 9)
    ]
    for earlier, later in pairwise(stages):
        assert not any((later.mask[name] & ~earlier.mask[name]).any() for name in later.mask)
    # 1 - 0.9 (1 - (1 - i / 4)^3) for i = 0 ... 4
    expected = [1.0, 0.4796875, 0.2125, 0.1140625, 0.1]
    for step, left in enumerate(seen):
        for name, layer in masks.prunable(toy).items():
            assert left[name] == round(expected[min(step // 4, 4)] * layer.weight.numel()), step


@pytest.mark.parametrize(
    ("epochs", "options", "steps"),
    [
        (3, {"begin": 0.25, "end": 0.75, "updates": 3}, [5, 7, 9]),  # of 12 steps, 3 to 9
        (5, {"begin": 0.0, "end": 0.75, "updates": 5}, [3, 6, 9, 12, 15]),  # of 20, 0 to 15
    ],
)
def test_updates_are_spread_between_the_fractions_begin_and_end(toy, split, epochs, options, steps):
    seen = []
    densities_of_steps(toy, seen)
    list(retraining.gradual(toy, split, replace(CONFIG, epochs=epochs), 0.1, **options))
    left = [counts["fc1"] for counts in seen]
    assert [step for step in range(1, len(left)) if left[step] != left[step - 1]] == steps
    assert left[0] == 432


def test_gradual_pruning_starts_from_the_density_that_is_there(toy, split):
    """Named layers alone; fc2 stays dense."""
    earlier = masks.prune(toy, density={"fc1": 0.5})
    earlier.apply_(toy)
    seen = []
    densities_of_steps(toy, seen)
    target = {"fc1": 0.125, "conv1": 0.25}
    *_, last = retraining.gradual(toy, split, replace(CONFIG, epochs=4), target, end=0.5, updates=2)
    assert [counts["fc1"] for counts in seen[:9:4]] == [216, round(0.171875 * 432), 54]
    assert [counts["conv1"] for counts in seen[:9:4]] == [36, round((0.25 + 0.75 / 8) * 36), 9]
    assert last.mask["fc2"].all()
    assert not (last.mask["fc1"] & ~earlier["fc1"]).any()


@pytest.mark.parametrize("across", ["network", "lamp"])
def test_gradual_pruning_across_all_layers_meets_their_density_together(toy, split, across):
    options = {"across": across, "end": 0.5, "updates": 3}
    stages = list(retraining.gradual(toy, split, CONFIG, 0.2, **options))
    assert stages[-1].mask.kept == round(0.2 * stages[-1].mask.weights)
    assert len({round(row.density, 2) for row in stages[-1].mask.receipt}) > 1


@pytest.mark.parametrize("end", [0.75, 1.0])
def test_a_training_of_few_steps_ends_at_the_density_asked_for(toy, batches, end):
    config = replace(CONFIG, epochs=1)
    *_, last = retraining.gradual(toy, batches[:2], config, 0.1, end=end)
    assert last.mask == masks.Mask.of(toy)
    assert int(toy.fc1.weight.count_nonzero()) == round(0.1 * 432)


def test_dropout_follows_the_density_of_gradual_pruning_and_comes_back(toy, split):
    rates = []
    toy.register_forward_pre_hook(lambda *_: rates.append(toy.drop2.p))
    list(retraining.gradual(toy, split, CONFIG, 0.25, end=0.5, updates=1))
    assert rates == [0.5] * 4 + [pytest.approx(0.25)] * 4
    assert toy.drop2.p == 0.5


@pytest.mark.parametrize(
    "wrong",
    [{"begin": 0.5, "end": 0.5}, {"begin": -0.1}, {"end": 1.1}, {"updates": 0}],
)
def test_gradual_pruning_needs_fractions_in_order(toy, split, wrong):
    with pytest.raises(ValueError, match="0 <= begin < end <= 1, updates >= 1, got"):
        next(retraining.gradual(toy, split, CONFIG, 0.1, **wrong))
    with pytest.raises(ValueError, match="for a percentage, divide by 100"):
        next(retraining.gradual(toy, split, CONFIG, 10))
    with pytest.raises(KeyError, match="did you mean fc1"):
        next(retraining.gradual(toy, split, CONFIG, {"fc_1": 0.1}))


@pytest.mark.parametrize("stop", [1, 3, 5, 7, 9])
@pytest.mark.parametrize("across", ["layer", "network"])
def test_an_interrupted_gradual_pruning_resumes_to_the_same_end(toy, split, tmp_path, stop, across):
    """Bit for bit, from a checkpoint after each epoch; with frozen layers and momentum."""
    config, steps = replace(CONFIG, epochs=3), []
    options = {"updates": 5, "across": across, "freeze": ["conv1"]}
    begun, resumed = copy.deepcopy(toy), copy.deepcopy(toy)
    torch.manual_seed(5)
    *_, whole = retraining.gradual(toy, split, config, 0.2, **options)
    saving = {**options, "checkpoints": tmp_path}

    def interrupt(*_):
        steps.append(1)
        if len(steps) == stop + 1:
            raise KeyboardInterrupt

    begun.register_forward_pre_hook(interrupt)
    torch.manual_seed(5)
    with pytest.raises(KeyboardInterrupt):
        list(retraining.gradual(begun, split, config, 0.2, **saving))
    torch.manual_seed(99)
    stages = list(retraining.gradual(resumed, split, config, 0.2, **saving))
    assert [stage.round for stage in stages] == [1, 2, 3]
    assert same(resumed, toy)
    assert stages[-1].mask == whole.mask
    assert replace(stages[-1].epochs[0], seconds=0) == replace(whole.epochs[0], seconds=0)


def test_a_checkpoint_of_another_gradual_pruning_is_refused(toy, split, tmp_path):
    begun = copy.deepcopy(toy)
    next(retraining.gradual(begun, split, CONFIG, 0.2, checkpoints=tmp_path))
    for other in ({"density": 0.1}, {"density": 0.2, "updates": 3}):
        with pytest.raises(ValueError, match="with another before_step;"):
            next(retraining.gradual(toy, split, CONFIG, **other, checkpoints=tmp_path))
    with pytest.raises(ValueError, match="with another before_step;"):
        next(retraining.gradual(begun, split, CONFIG, 0.2, checkpoints=tmp_path))


# --- rewinding ---------------------------------------------------------------------------------


ORIGINAL = training.TrainConfig(epochs=5, batch_size=16, lr=0.08)


def rates_of_steps(seen):
    return register_optimizer_step_pre_hook(
        lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"])
    )


@pytest.mark.parametrize("epochs", [2, 5])
@pytest.mark.parametrize("schedule", [None, lambda progress: 1 - progress**2])
def test_rewound_learning_rates_are_those_of_the_dense_trainings_last_epochs(
    toy, split, epochs, schedule
):
    dense, rates = [], []
    own = {"schedule": schedule}
    hook = rates_of_steps(dense)
    list(training.train(toy, split, ORIGINAL, **own))
    hook.remove()
    hook = rates_of_steps(rates)
    rounds, config = [{"density": 0.5}, {"density": 0.3}], replace(CONFIG, epochs=epochs)
    list(retraining.iterative(toy, split, config, rounds, rewind=ORIGINAL, **own))
    hook.remove()
    assert len(rates) == 2 * 4 * epochs
    assert rates == pytest.approx(2 * dense[-4 * epochs :], rel=1e-12)


def test_rewinding_further_back_than_the_dense_training_went_is_refused(toy, split):
    short = replace(ORIGINAL, epochs=1)
    with pytest.raises(ValueError, match="has only 1, not 2; give config"):
        next(retraining.once(toy, split, CONFIG, {"density": 0.5}, rewind=short))


# --- dropout -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("density", "rate"), [(0.09, 0.15), (0.04, 0.10), (0.08, 0.141), (1, 0.5)])
def test_dropout_sinks_with_the_root_of_the_density(density, rate):
    """AlexNet's fc1 and fc2, VGG's fc6 and fc7, LeNet's fc1, and a dense layer."""
    assert retraining.dropout_rate(0.5, density) == pytest.approx(rate, abs=0.0005)


def alexnet_in_caffes_order():
    layers = {
        "conv5": nn.Conv2d(1, 2, 3),
        "relu5": nn.ReLU(),
        "flatten": nn.Flatten(),
        "fc1": nn.Linear(72, 40),
        "relu6": nn.ReLU(),
        "drop6": nn.Dropout(0.5),
        "fc2": nn.Linear(40, 30),
        "relu7": nn.ReLU(),
        "drop7": nn.Dropout(0.4),
        "fc3": nn.Linear(30, 4),
    }
    return nn.Sequential(OrderedDict(layers))


def alexnet_in_torchvisions_order():
    model = nn.Module()
    model.features = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    model.classifier = nn.Sequential(
        *(nn.Dropout(0.5), nn.Linear(72, 40), nn.ReLU()),
        *(nn.Dropout(0.4), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 4)),
    )
    return model


def rates(model):
    return [module.p for module in model.modules() if isinstance(module, nn.Dropout)]


def test_in_caffes_order_a_rate_follows_the_layer_before_it():
    model = alexnet_in_caffes_order()
    mask = masks.prune(model, density={"conv5": 0.5, "fc1": 0.09, "fc2": 0.04, "fc3": 0.25})
    with retraining.dropout_adjusted(model, mask):
        assert rates(model) == pytest.approx([0.5 * 0.3, 0.4 * 0.2], abs=0.002)
    assert rates(model) == [0.5, 0.4]


def test_in_torchvisions_order_the_first_rate_follows_the_layer_it_feeds():
    model = alexnet_in_torchvisions_order()
    mask = masks.prune(model, density={"classifier.1": 0.09, "classifier.4": 0.04})
    with retraining.dropout_adjusted(model, mask):
        assert rates(model) == pytest.approx([0.5 * 0.3, 0.4 * 0.3], abs=0.002)
    assert rates(model) == [0.5, 0.4]


@pytest.mark.parametrize(
    ("network", "densities", "expected"),
    [
        ("lenet-300-100", {"fc1": 0.08, "fc2": 0.09}, {"drop1": 0.141, "drop2": 0.15}),
        ("lenet-5", {"conv2": 0.5, "fc1": 0.08}, {"drop3": 0.141}),
        ("alexnet", {"conv5": 0.5, "fc1": 0.09, "fc2": 0.08}, {"drop6": 0.15, "drop7": 0.141}),
        ("alexnet-torchvision", {"fc1": 0.09, "fc2": 0.5}, {"drop5": 0.15, "drop6": 0.15}),
        ("vgg-16", {"fc6": 0.04, "fc7": 0.09}, {"drop6": 0.10, "drop7": 0.15}),
    ],
)
def test_in_every_network_a_rate_follows_the_right_layer(network, densities, expected):
    """Rates by the paper's equation 2, worked out: 9 % kept, 0.15; 4 %, 0.10; 8 %, 0.141."""
    photos = {} if network.startswith("lenet") else {"width": 0.05, "size": 32}
    model = models.build({"network": network, "dropout": 0.5, **photos})
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Dropout)}
    with retraining.dropout_adjusted(model, masks.prune(model, density=densities)):
        found = {name: dropout.p for name, dropout in layers.items()}
    assert found == {name: pytest.approx(rate, abs=0.001) for name, rate in expected.items()}


@pytest.mark.parametrize(("adjust", "rate"), [(True, 0.25), (False, 0.5)])
def test_dropout_is_adjusted_unless_told_not_to(toy, split, adjust, rate):
    seen = []
    toy.register_forward_pre_hook(lambda *_: seen.append(toy.drop2.p))
    options = {"adjust_dropout": adjust}
    list(retraining.once(toy, split, CONFIG, {"density": 0.25}, **options))
    list(retraining.iterative(toy, split, CONFIG, [{"density": 0.25}], **options))
    list(retraining.gradual(toy, split, CONFIG, 0.25, **options))
    assert len(seen) == 3 * 8
    assert set(seen) == {rate}
    assert toy.drop2.p == 0.5


def test_dropout_between_convolutions_stays_as_it_is():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout2d(0.3), nn.Conv2d(2, 2, 3))
    with retraining.dropout_adjusted(model, masks.prune(model, density=0.1)):
        assert model[1].p == 0.3


def assert_nothing_holds(model):
    with torch.no_grad():
        model.fc1.weight.fill_(1.0)
    model.fc1.weight.grad = torch.zeros_like(model.fc1.weight)
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert model.fc1.weight.all()


def test_gradual_pruning_that_ends_or_fails_leaves_nothing_held(toy, split):
    def fail(epoch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:  # which keeps the frames alive
        list(retraining.gradual(toy, split, CONFIG, 0.25, freeze=["conv1"], on_epoch=fail))
    assert caught.value is not None
    assert_nothing_holds(toy)
    assert (toy.drop2.p, toy.conv1.weight.requires_grad) == (0.5, True)
    stages = retraining.gradual(toy, split, CONFIG, 0.25)
    next(stages)
    stages.close()
    assert_nothing_holds(toy)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_rates_and_frozen_layers_come_back_after_an_error(toy, split, error):
    seen = []

    def fail(epoch):
        seen.append((toy.drop2.p, toy.conv1.weight.requires_grad))
        raise error

    rounds = [{"density": 0.25}]
    with pytest.raises(error) as caught:  # which keeps the frames alive
        list(retraining.iterative(toy, split, CONFIG, rounds, freeze=["conv1"], on_epoch=fail))
    assert caught.value is not None
    assert_nothing_holds(toy)
    assert seen == [(0.25, False)]
    assert toy.drop2.p == 0.5
    assert toy.conv1.weight.requires_grad


def test_rates_sink_from_the_original_in_every_round(toy, split):
    seen = []
    rounds = [{"density": 0.25}, {"density": 0.0625}]
    for _ in retraining.iterative(
        toy, split, CONFIG, rounds, on_epoch=lambda epoch: seen.append(toy.drop2.p)
    ):
        assert toy.drop2.p == 0.5  # whoever measures between two stages finds the old rate
    assert seen == [0.25, 0.25, 0.125, 0.125]


# --- freezing ----------------------------------------------------------------------------------


def test_frozen_layers_stay_bit_for_bit_and_can_learn_again(toy, split):
    toy.fc2.bias.requires_grad_(False)  # the user's own, and not to be thawed
    stages = retraining.once(toy, split, CONFIG, {"density": 0.5}, freeze=["conv1", "fc2"])
    next(stages)
    before = copy.deepcopy(toy)
    next(stages)
    for name in ("conv1", "fc2"):
        assert same(toy.get_submodule(name), before.get_submodule(name))
    assert not same(toy.fc1, before.fc1)
    flags = {name for name, p in toy.named_parameters() if not p.requires_grad}
    assert flags == {"fc2.bias"}


def test_convolutions_and_fully_connected_layers_are_frozen_in_turn(toy, split):
    """The paper's section 3.3: bit for bit, whatever weight decay, L1 and momentum."""
    config = replace(CONFIG, weight_decay=0.1, l1=0.01)
    conv, fc = ["conv1"], ["fc1", "fc2"]
    rounds = [{"density": dict.fromkeys(fc, 0.5)}, {"density": {"conv1": 0.5}}] * 2
    stages = retraining.iterative(toy, split, config, rounds, freeze=[conv, fc] * 2)
    for number, _ in enumerate(stages):
        if number % 2 == 0:
            before = copy.deepcopy(toy)
            continue
        kept, moved = (conv, fc) if number in (1, 5) else (fc, conv)
        assert all(same(toy.get_submodule(name), before.get_submodule(name)) for name in kept)
        for name in moved:
            assert not torch.equal(toy.get_submodule(name).bias, before.get_submodule(name).bias)
            survivors = toy.get_submodule(name).weight != 0
            assert (toy.get_submodule(name).weight != before.get_submodule(name).weight)[
                survivors
            ].all()


def test_a_frozen_batch_norm_is_the_same_function_and_another_one_learns(branching, split):
    branching.norm.running_mean.uniform_(-1, 1)
    for names, moves in ((["stem", "norm"], False), (["stem"], True)):
        model, seen = copy.deepcopy(branching), []
        model.norm.register_forward_hook(lambda norm, x, y, seen=seen: seen.append((x[0], y)))
        list(retraining.once(model, split, CONFIG, {"density": {"head": 0.5}}, freeze=names))
        assert same(model.stem, branching.stem)
        assert same(model.norm, branching.norm) == (not moves)
        fixed = copy.deepcopy(branching.norm).eval()
        assert all(torch.equal(fixed(x), y) for x, y in seen) == (not moves)
        assert not same(model.head, branching.head)
        assert all(module.training for module in model.modules())  # the mode of before
        before = model.norm.num_batches_tracked.item()
        list(training.train(model, split, CONFIG))
        assert model.norm.num_batches_tracked == before + 8  # learns again


def test_an_unknown_layer_to_freeze_names_the_nearest(toy, split):
    with pytest.raises(KeyError, match="did you mean conv1"):
        list(retraining.once(toy, split, CONFIG, {"density": 0.5}, freeze=["conv_1"]))


# --- resuming ----------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [0, 1, 2, 3])
def test_an_interrupted_retraining_resumes_to_the_same_end(toy, split, tmp_path, epochs):
    rounds, done = [{"quality": 0.6}] * 2, []
    begun, resumed = copy.deepcopy(toy), copy.deepcopy(toy)
    torch.manual_seed(5)
    *_, whole = retraining.iterative(toy, split, CONFIG, rounds)

    def interrupt(epoch):
        done.append(epoch)
        if len(done) > epochs:
            raise KeyboardInterrupt

    torch.manual_seed(5)
    with pytest.raises(KeyboardInterrupt):
        list(
            retraining.iterative(
                begun, split, CONFIG, rounds, checkpoints=tmp_path, on_epoch=interrupt
            )
        )
    torch.manual_seed(99)
    *_, last = retraining.iterative(resumed, split, CONFIG, rounds, checkpoints=tmp_path)
    assert same(resumed, toy)
    assert last.mask == whole.mask
    assert [replace(e, seconds=0) for e in last.epochs] == [
        replace(e, seconds=0) for e in whole.epochs
    ]


def test_checkpoints_of_other_rounds_are_refused(toy, split, tmp_path):
    """Else the weights of the one would come with the mask of the other."""
    begun = copy.deepcopy(toy)
    list(retraining.once(begun, split, CONFIG, {"density": 0.5}, checkpoints=tmp_path))
    with pytest.raises(ValueError, match=r"round-1\.safetensors .* with another mask"):
        list(retraining.once(toy, split, CONFIG, {"density": 0.2}, checkpoints=tmp_path))


def test_a_retraining_that_stops_leaves_a_network_that_can_be_measured(toy, split):
    stages = retraining.iterative(toy, split, CONFIG, [{"density": 0.5}] * 3)
    *_, stage = islice(stages, 3)
    stages.close()
    assert zeros_hold(toy, stage.mask)
    assert all(np.isfinite(p.detach().numpy()).all() for p in toy.parameters())
