"""Saliencies compared: against networks pruned, measured and retrained by other means."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pruning_lab import criteria, data, evaluation, experiments, files, masks, rows
from pruning_lab.experiments import Workspace
from pruning_lab.training import TrainConfig

NAMES = ("magnitude", "random", "OBD", "gradient", "LAMP", "Taylor")


@pytest.fixture(scope="module")
def digits():
    splits = data.load("mnist-5k")
    return replace(splits, **{p: getattr(splits, p).head(300) for p in ("train", "val", "test")})


class Watched(Workspace):
    """Keeps the networks that an experiment trains."""

    def network(self, what, model, training):
        trained.append(super().network(what, model, training))
        return model


trained: list[nn.Module] = []


def accuracy(model, images) -> list[bool]:
    x, y = (torch.cat(parts) for parts in zip(*images, strict=True))
    return (model.eval()(x).argmax(1) == y).tolist()


@pytest.fixture(scope="module")
def compared(digits, tmp_path_factory):
    """Six saliencies with two seeds, and again from what the first call left."""
    recipe = experiments.paper_recipe("lenet-300-100", shape={"width": 0.3})
    one = replace(recipe.dense, epochs=1)
    recipe = replace(recipe, dense=replace(one, epochs=4), retrain=(one, one, one), scan=(0.5,))
    folder, options = (
        tmp_path_factory.mktemp("workspace"),
        {"seeds": (0, 1), "densities": (1, 0.05)},
    )
    told: list = [[], []]
    first, repeated = (
        experiments.saliencies(digits, recipe, **options, workspace=Workspace(folder, notes.append))
        for notes in told
    )
    return first, repeated, told


def test_a_row_for_each_saliency_and_density_pooled_over_the_seeds(compared, tmp_path):
    first, repeated, told = compared
    assert [(row.saliency, row.density) for row in first] == [
        (name, density) for name in NAMES for density in (1, 0.05)
    ]
    assert all(len(row.losses) == 2 and row.cut.n == row.cost.n == 600 for row in first)
    assert repeated == first
    assert told[1] == told[0]  # the same epochs, which took as long: nothing is trained again
    path = files.save_json(tmp_path / "rows.json", rows.plain(first))
    kind = list[experiments.SaliencyRow]
    assert rows.decode(kind, files.load_json(path), path) == list(first)
    assert "OBD" in str(first)


def test_what_prunes_nothing_changes_nothing_and_ends_where_the_control_does(compared):
    whole = [row for row in compared[0] if row.density == 1]
    assert all(drop.value == 0 for row in whole for drop in (row.cut, row.rival, row.cost))
    assert len({row.losses for row in whole}) == 1


def test_each_saliency_cuts_in_its_own_way_and_random_worst(compared):
    few = {row.saliency: row for row in compared[0] if row.density < 1}
    assert all(few["random"].cut.value > row.cut.value for n, row in few.items() if n != "random")
    assert few["magnitude"].rival.value == 0
    assert len({row.losses for row in few.values()}) == len(NAMES)


def raw(split):
    """Pixels from 0 to 1, in one batch."""
    yield split.images.float() / 255, split.labels


def squares(logits, y):
    each = (row - (2 * F.one_hot(label, 10) - 1) for row, label in zip(logits, y, strict=True))
    return sum(difference.square().sum() for difference in each) / len(y)


@pytest.fixture(scope="module")
def deleted(digits):
    trained.clear()
    table = experiments.obd_against_magnitude(
        digits,
        TrainConfig(epochs=5, lr=0.02, batch_size=32, weight_decay=0),
        seeds=(0, 1),
        densities=(0.6, 0.2),
        workspace=Watched(),
    )
    return table, list(trained)


@pytest.mark.parametrize("name", ["magnitude", "OBD"])
def test_deletions_are_those_of_sorting_all_weights(name, deleted, digits):
    """Against sorting the saliencies of the trained networks, and one batch of all images."""
    table, networks = deleted
    assert [sum(w.numel() for w in m.parameters() if w.dim() > 1) for m in networks] == [8840] * 2
    plain = {p: [(x, y) for x, y in raw(getattr(digits, p))] for p in ("train", "val")}
    ((x, y),) = plain["train"]
    targets = torch.where(torch.arange(10) == y[:, None], 1.0, -1.0)
    for row in (row for row in table if row.saliency == name):
        losses, lost = [], 0
        for model in networks:
            before = accuracy(model, plain["val"])
            layers = {n: layer.weight for n, layer in masks.prunable(model).items()}
            computed = criteria.obd(model, plain["train"], loss=squares)
            values = {
                n: w.detach().abs() if name == "magnitude" else computed[n]
                for n, w in layers.items()
            }
            cut = torch.cat([v.flatten() for v in values.values()]).sort().values
            cut = cut[-round(row.density * len(cut))]
            with masks.masked(model, masks.Mask({n: v >= cut for n, v in values.items()})):
                losses.append((model(x) - targets).square().sum(1).mean().item())
                lost += sum(before) - sum(accuracy(model, plain["val"]))
        assert row.losses == pytest.approx(losses, rel=1e-5)
        assert row.cut.value == pytest.approx(lost / 600)
        theirs = next(r for r in table if (r.saliency, r.density) == ("magnitude", row.density))
        assert row.rival.value == pytest.approx(row.cut.value - theirs.cut.value)
        assert row.cost is None


def row_of(saliency: str, density: float, losses: tuple, lost: int) -> experiments.SaliencyRow:
    rival = evaluation.Drop.counted(lost, 20, 1000)
    return experiments.SaliencyRow(saliency, density, losses, rival, rival, None)


def test_the_conclusion_counts_seeds_that_agree_and_intervals_without_zero():
    table = experiments.Saliencies(
        [
            *(row_of("magnitude", density, (1.0, 2.0), 20) for density in (0.1, 0.2, 0.3, 0.4)),
            row_of("OBD", 0.1, (0.9, 1.9), 2),
            row_of("OBD", 0.2, (0.9, 1.8), 21),
            row_of("OBD", 0.3, (0.9, 2.1), 60),
            row_of("OBD", 0.4, (1.1, 2.1), 70),
        ]
    )
    assert table.conclusion == (
        "OBD beside magnitude at 4 densities, nothing retrained: training loss lower with every "
        "seed at 2, higher at 1; accuracy on val better at 1, worse at 2."
    )
