"""Techniques compared: arms alike in all but one thing, paired seed by seed; chances by |w|."""

import copy
from dataclasses import replace
from functools import partial
from itertools import permutations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from pruning_lab import criteria, data, evaluation, experiments, masks, models, plots, retraining
from pruning_lab.evaluation import Drop
from pruning_lab.experiments import Workspace
from pruning_lab.experiments.techniques import (
    ARMS,
    TechniqueRow,
    Techniques,
    technique_recipes,
    techniques,
)

# --- probabilistic pruning ---------------------------------------------------------------------


def chances(weights, count):
    """Of each weight to be among `count` drawn without replacement in proportion to |w|."""
    stays = np.zeros(len(weights))
    for order in permutations(range(len(weights)), count):
        chance, left = 1.0, sum(weights)
        for place in order:
            chance *= weights[place] / left
            left -= weights[place]
        stays[list(order)] += chance
    return stays


@pytest.mark.parametrize(("weights", "count"), [((3, 1), 1), ((4, 2, 1, 0.5), 2), ((1, 1, 9), 2)])
def test_a_weight_stays_with_the_chance_of_a_draw_by_magnitude(weights, count):
    """Of two weights a stays with a / (a + b); the rest by enumerating all orders."""
    w = torch.tensor(weights) * torch.tensor([1.0, -1.0]).repeat(2)[: len(weights)]
    density, kept = count / len(weights), torch.zeros(len(weights))
    for seed in range(4000):
        chosen = criteria.by_density(criteria.probabilistic(seed)(w), density)
        assert chosen.sum() == count
        kept += chosen
    if len(weights) == 2:
        assert chances(weights, 1).tolist() == [0.75, 0.25]
    # four standard deviations of a fraction of 4,000
    assert (kept / 4000).numpy() == pytest.approx(chances(weights, count), abs=0.032)


def test_a_density_is_met_exactly_and_zeros_stay_gone(toy):
    toy.fc1.weight.data[0] = 0
    mask = masks.prune(toy, density=0.3, saliency=criteria.probabilistic(3))
    assert {row.layer: row.kept for row in mask.receipt} == {
        name: round(0.3 * layer.weight.numel()) for name, layer in masks.prunable(toy).items()
    }
    assert not mask["fc1"][0].any()
    for across in ("network", "lamp"):
        together = masks.prune(toy, density=0.1, across=across, saliency=criteria.probabilistic(3))
        assert together.kept == round(0.1 * together.weights)


def test_probabilistic_pruning_is_a_saliency_that_scans_and_files_can_name():
    saliency = criteria.probabilistic(7)
    criteria.check(saliency)
    assert criteria.name_of(saliency) == "probabilistic(seed=7)"
    assert criteria.by_name("probabilistic(seed=7)") == saliency
    assert criteria.by_name("random(seed=7)") == criteria.random(7) != saliency
    w = torch.ones(50, 50)
    assert not torch.equal(saliency(w), criteria.probabilistic(8)(w))
    assert not torch.equal(saliency(w, "fc1"), saliency(w, "fc2"))


# --- arms --------------------------------------------------------------------------------------


def tiny(recipe):
    """One epoch wherever it has many, and a narrow network."""
    retrain = tuple(replace(config, epochs=1) for config in recipe.retrain)
    dense, shape = replace(recipe.dense, epochs=1), {**recipe.shape, "width": 0.1}
    return replace(recipe, dense=dense, retrain=retrain, shape=shape)


@pytest.fixture(scope="module")
def digits():
    splits = data.load("mnist-5k")
    return replace(splits, train=splits.train.head(600), val=splits.val.head(100))


@pytest.fixture(scope="module")
def recipes():
    return {name: tiny(recipe) for name, recipe in technique_recipes("mnist-5k", 2.0).items()}


@pytest.fixture(scope="module")
def tried(digits, recipes, tmp_path_factory):
    """Everything with two seeds: rows, the folder, and the notes of what was done."""
    notes, folder = [], tmp_path_factory.mktemp("workspace")
    workspace = Workspace(folder, notes.append)
    return techniques(digits, recipes=recipes, seeds=(0, 1), workspace=workspace), folder, notes


def test_every_arm_has_the_density_and_the_epochs_of_the_others(tried, recipes):
    rows, _, notes = tried
    assert [(row.technique, row.arm) for row in rows] == [
        (technique, arm) for technique, arms in ARMS.items() for arm in arms
    ]
    for technique in ARMS:
        alike = [row for row in rows if row.technique == technique]
        assert len({row.density for row in alike}) == 1
        final = {}
        for amounts in recipes[technique].rounds:
            final |= amounts["density"]
        with torch.device("meta"):
            model = models.build(recipes[technique].about)
        sizes = {name: layer.weight.numel() for name, layer in masks.prunable(model).items()}
        kept = sum(round(final[name] * size) for name, size in sizes.items())
        assert alike[0].density == pytest.approx(kept / sum(sizes.values()))
    epochs = {}
    for note in notes:
        if ": " in note.phase and note.epoch:
            epochs[note.phase] = epochs.get(note.phase, 0) + 1
    assert epochs.pop("freezing: none") == 2 * 2  # seeds x epochs
    assert set(epochs.values()) == {2 * 3}
    assert len(epochs) == 6


def by_hand(model, dense, splits):
    """(lost, won) on test from `dense` to `model`."""
    x, y = splits.test.normalise(splits.test.images), splits.test.labels
    with torch.no_grad():
        before, after = ((net.eval()(x).argmax(1) == y).numpy() for net in (dense, model))
    return (before & ~after).sum(), (after & ~before).sum()


@pytest.mark.parametrize("technique", ["survivors", "dropout", "freezing"])
def test_a_row_is_what_training_the_arms_by_hand_gives(technique, tried, digits, recipes):
    rows, _, _ = tried
    first, second = (row for row in rows if row.technique == technique)
    lost, won = np.zeros(2, int), np.zeros(2, int)  # from the control, and from the first arm
    recipe = recipes[technique]
    if technique != "freezing":
        once = (replace(recipe.retrain[-1], epochs=3),)
        recipe = replace(recipe, rounds=recipe.rounds[-1:], retrain=once)
    for seed in (0, 1):
        run, seeded = experiments.run(recipe, digits, seed=seed), recipe.seeded(seed)
        options = {
            "survivors": {"reinitialise": partial(models.build, recipe.about)},
            "dropout": {"adjust_dropout": False},
            "freezing": {},
        }[technique]
        model = copy.deepcopy(run.dense)
        list(retraining.iterative(model, digits.train, seeded.retrain, seeded.rounds, **options))
        pairs = [by_hand(model, other, digits) for other in (run.control, run.model)]
        lost, won = lost + [pair[0] for pair in pairs], won + [pair[1] for pair in pairs]
    n = 2 * digits.test.n
    assert second.drop == Drop.counted(lost[0], won[0], n)
    assert second.difference == Drop.counted(lost[1], won[1], n)
    assert first.difference is None
    assert second.seeds == 2


def test_what_is_in_the_folder_is_not_trained_again(tried, digits, recipes):
    rows, folder, _ = tried
    steps = []
    hook = register_optimizer_step_pre_hook(lambda *_: steps.append(1))
    again = techniques(digits, recipes=recipes, seeds=(0, 1), workspace=Workspace(folder))
    hook.remove()
    assert steps == []
    assert again == rows


def test_an_arm_varies_one_thing(tried, digits, recipes, monkeypatch):
    """What reaches the retraining differs from the recipe in one round in the arm's own keywords."""
    seen = {}
    for name in ("iterative", "gradual"):
        real = getattr(retraining, name)

        def watched(model, images, *args, name=name, real=real, **options):
            seen.setdefault(name, []).append((copy.deepcopy(model), args, options))
            return real(model, images, *args, **options)

        monkeypatch.setattr(retraining, name, watched)
    chosen = {name: recipes[name] for name in ("schedule", "penalty", "saliency")}
    techniques(digits, recipes=chosen, seeds=(4,))
    ((model, _, gradual),) = seen["gradual"]
    # The run's own and its control; then the arms in order.
    one_shot, _, iterative, l1, probabilistic = seen["iterative"]
    (config,), (amounts,) = one_shot[1][0], one_shot[1][1]
    assert config.epochs == 3
    assert {gradual["config"], l1[2]["config"]} == {
        config,
        replace(config, weight_decay=0.0, l1=l1[2]["config"].l1),
    }
    assert gradual["density"] == amounts["density"]
    assert sum(each.epochs for each in iterative[2]["config"]) == 3
    assert iterative[2]["rounds"][-1] == amounts
    assert {replace(c, epochs=3, seed=config.seed) for c in iterative[2]["config"]} == {config}
    for _, _, options in seen["iterative"][2:]:
        assert options["freeze"] == ()
    assert probabilistic[2]["config"] == (config,)
    assert isinstance(probabilistic[2]["rounds"][0].pop("saliency"), criteria.Probabilistic)
    assert probabilistic[2]["rounds"] == [amounts]
    layers = masks.prunable(model)
    mask = masks.prune(model, **amounts)
    pulls = [layers[n].weight[kept].abs() for n, kept in mask.items()]
    assert l1[2]["config"].l1 == pytest.approx(config.weight_decay * torch.cat(pulls).mean().item())
