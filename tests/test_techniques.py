"""Techniques compared: arms alike in all but one thing, paired seed by seed; chances by |w|."""

import copy
import json
from dataclasses import replace
from functools import partial
from itertools import permutations

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from pruning_lab import criteria, data, masks, models, retraining
from pruning_lab.evaluation import Drop
from pruning_lab.experiments import Workspace
from pruning_lab.experiments.techniques import (
    ARMS,
    TechniqueRow,
    Techniques,
    technique_recipes,
    techniques,
)
from pruning_lab.plots.techniques import techniques as draw
from pruning_lab.rows import decode, plain

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
    """A narrow network, one epoch wherever it has many, and a penalty that changes answers."""
    short = {"epochs": 1, "batch_size": 16}
    retrain = tuple(replace(config, **short, weight_decay=0.05) for config in recipe.retrain)
    shape = {**recipe.shape, "width": 0.1}
    return replace(recipe, dense=replace(recipe.dense, **short), retrain=retrain, shape=shape)


@pytest.fixture(scope="module")
def digits():
    splits = data.load("mnist-5k")
    parts = {"train": splits.train.head(300), "val": splits.val.head(100)}
    return replace(splits, **parts, test=splits.test.head(500))


@pytest.fixture(scope="module")
def recipes():
    return {name: tiny(recipe) for name, recipe in technique_recipes("mnist-5k").items()}


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


def changed(before, after, splits):
    """(lost, won): images of test that only one of two networks answers correctly."""
    x, y = splits.test.normalise(splits.test.images), splits.test.labels
    with torch.no_grad():
        before, after = ((model.eval()(x).argmax(1) == y).numpy() for model in (before, after))
    return (before & ~after).sum(), (after & ~before).sum()


def as_strong(config, amounts, dense):
    """L1 that pulls the mean of the weights that stay as L2 does."""
    mask, layers = masks.prune(dense, **amounts), masks.prunable(dense)
    kept = np.concatenate([layers[n].weight.detach()[mask[n]].abs().numpy() for n in mask])
    return replace(config, weight_decay=0.0, l1=config.weight_decay * kept.mean(dtype=float))


def by_hand(arm, once, recipe, dense, images):
    """The dense network retrained as the arm says: in one round, but for iterative and freezing."""
    model, (config, *_), (amounts, *_) = copy.deepcopy(dense), once.retrain, once.rounds
    chances = {**amounts, "saliency": criteria.probabilistic(config.seed)}
    own = {
        "re-initialised": {"reinitialise": partial(models.build, once.about)},
        "iterative": {"config": recipe.retrain, "rounds": recipe.rounds},
        "L1": {"config": as_strong(config, amounts, dense)},
        "probabilistic": {"rounds": [chances]},
        "not adjusted": {"adjust_dropout": False},
        "none": {"freeze": ()},
    }
    options = {"config": once.retrain, "rounds": once.rounds, "freeze": once.freeze}
    if arm == "gradual":
        list(retraining.gradual(model, images, config, amounts["density"]))
    else:
        list(retraining.iterative(model, images, **{**options, **own.get(arm, {})}))
    return model


@pytest.mark.parametrize(("technique", "arm"), [(name, arm) for name in ARMS for arm in ARMS[name]])
def test_a_row_is_what_retraining_by_hand_gives(technique, arm, tried, digits, recipes):
    rows, folder, _ = tried
    recipe = once = recipes[technique]
    if technique != "freezing":
        whole = (replace(recipe.retrain[-1], epochs=3),)
        once = replace(recipe, rounds=recipe.rounds[-1:], retrain=whole)
    drops = np.zeros((2, 2), int)
    for seed in (0, 1):
        run = Workspace(folder).run(once, digits, seed=seed)
        settings = once.seeded(seed), recipe.seeded(seed), run.dense, digits.train
        own, first = by_hand(arm, *settings), by_hand(ARMS[technique][0], *settings)
        drops += [changed(other, own, digits) for other in (run.control, first)]
    row = next(row for row in rows if (row.technique, row.arm) == (technique, arm))
    n = 2 * digits.test.n
    assert row.drop == Drop.counted(*drops[0].tolist(), n)
    assert row.drop.value == pytest.approx(sum(row.drops) / 2)
    if arm == ARMS[technique][0]:
        assert row.difference is None
    else:
        assert row.difference == Drop.counted(*drops[1].tolist(), n)


def test_what_is_in_the_folder_is_not_trained_again(tried, digits, recipes):
    rows, folder, _ = tried
    steps = []
    hook = register_optimizer_step_pre_hook(lambda *_: steps.append(1))
    again = techniques(digits, recipes=recipes, seeds=(0, 1), workspace=Workspace(folder))
    hook.remove()
    assert steps == []
    assert again == rows


def test_rows_survive_json(tried):
    rows, _, _ = tried
    assert decode(list[TechniqueRow], json.loads(json.dumps(plain(rows))), "it") == list(rows)
    assert "survivors" in str(rows)


def test_without_a_folder_techniques_share_what_they_have_in_common(tried, digits, recipes):
    rows, _, _ = tried
    notes = []
    shared = {name: recipes[name] for name in ("survivors", "saliency")}
    own = techniques(digits, recipes=shared, seeds=(0, 1), workspace=Workspace(None, notes.append))
    assert list(own) == [row for row in rows if row.technique in shared]
    assert len([note for note in notes if note.phase == "train" and note.epoch]) == 2  # seeds


def test_what_cannot_be_tried_is_refused_before_anything_is_trained(digits, recipes):
    for wrong in (
        {"magic": recipes["survivors"]},
        {"survivors": replace(recipes["survivors"], rounds=())},
    ):
        with pytest.raises(ValueError, match="give a recipe with rounds for any of survivors, "):
            techniques(digits, recipes=wrong)


# --- what came out -----------------------------------------------------------------------------


def row(technique, arm, lost, won, first=False):
    drop = Drop.counted(lost, won, 1000)
    rest = drop, (drop.value,), None if first else drop
    return TechniqueRow(technique, arm, "lenet-5", 0.08, 1, 0.02, *rest)


def test_the_sentences_tell_every_outcome():
    rows = [row(name, arms[0], 0, 0, first=True) for name, arms in ARMS.items()]
    rows.insert(1, row("survivors", "re-initialised", 50, 10))
    rows.insert(5, row("penalty", "L1", 10, 50))
    rows.append(row("freezing", "none", 30, 32))
    assert Techniques(rows).conclusions == [
        "survivors at 8.0% kept: re-initialised is worse than kept, as in the paper; "
        "-4.00 points (-5.50 to -2.48).",
        "penalty at 8.0% kept: L1 is better than L2, unlike in the paper; "
        "+4.00 points (+2.48 to +5.50).",
        "freezing at 8.0% kept: none or in turn, these 1,000 images cannot tell the two apart; "
        "+0.20 points (-1.35 to +1.75).",
    ]


def test_the_picture_has_a_mark_per_arm_and_draws_a_loss_to_the_left():
    rows = [row("penalty", "L2", 10, 50, first=True), row("penalty", "L1", 50, 10)]
    ax = draw(rows)
    marks = [line for line in ax.lines if line.get_marker() == "o"]
    assert [mark.get_xdata()[0] for mark in marks] == pytest.approx([4.0, -4.0])
    assert [mark.get_markerfacecolor() == "white" for mark in marks] == [False, True]
    assert marks[0].get_ydata()[0] > marks[1].get_ydata()[0]
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["penalty, 8.0% kept:  L2", "L1"]
    with pytest.raises(ValueError, match="no rows to draw"):
        draw([])
