"""Prune, retrain, repeat: thresholds grow, zeros stay, dropout sinks, what is frozen stays."""

import copy
from collections import OrderedDict
from dataclasses import replace
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from torch import nn

from pruning_lab import masks, retraining, training

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
    assert cut.mask.fingerprint() == mask.fingerprint()


def test_survivors_keep_their_values_at_the_cut(toy, split):
    before = copy.deepcopy(toy)
    stage = next(retraining.once(toy, split, CONFIG, {"density": 0.4}))
    for name, layer in masks.prunable(toy).items():
        old = masks.prunable(before)[name].weight
        assert torch.equal(layer.weight, old * stage.mask[name])


def test_a_round_prunes_only_within_the_mask_it_is_given(toy, split):
    earlier = masks.prune(toy, density=0.3)
    *_, last = retraining.once(toy, split, CONFIG, {"density": 0.6}, within=earlier)
    assert last.mask.fingerprint() == earlier.fingerprint()


def test_every_round_may_have_its_own_settings(toy, split):
    seen = []
    configs = [CONFIG, replace(CONFIG, epochs=3)]
    rounds = [{"density": 0.5}, {"density": 0.3}]
    list(retraining.iterative(toy, split, configs, rounds, on_epoch=seen.append))
    assert [row.epoch for row in seen] == [1, 2, 1, 2, 3]
    with pytest.raises(ValueError, match="one config, or one for each of 2 rounds, not 3"):
        list(retraining.iterative(toy, split, [CONFIG] * 3, rounds))


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


def test_dropout_between_convolutions_stays_as_it_is():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout2d(0.3), nn.Conv2d(2, 2, 3))
    with retraining.dropout_adjusted(model, masks.prune(model, density=0.1)):
        assert model[1].p == 0.3


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_rates_and_frozen_layers_come_back_after_an_error(toy, split, error):
    seen = []

    def fail(epoch):
        seen.append((toy.drop2.p, toy.conv1.weight.requires_grad))
        raise error

    rounds = [{"density": 0.25}]
    with pytest.raises(error):
        list(retraining.iterative(toy, split, CONFIG, rounds, freeze=["conv1"], on_epoch=fail))
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


def test_an_unknown_layer_to_freeze_names_the_nearest(toy, split):
    with pytest.raises(KeyError, match="did you mean conv1"):
        list(retraining.once(toy, split, CONFIG, {"density": 0.5}, freeze=["conv_1"]))


# --- resuming ----------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [0, 1, 2, 3])
def test_an_interrupted_retraining_goes_on_to_the_same_end(toy, split, tmp_path, epochs):
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
    assert last.mask.fingerprint() == whole.mask.fingerprint()
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
