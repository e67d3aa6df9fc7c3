"""BatchNorm statistics of a pruned network, against torch's own averaging of batches."""

import copy
import json
import threading
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn
from toys import CLASSES, lively

from pruning_lab import data, evaluation, masks, models, sensitivity
from pruning_lab.cli import main, page
from pruning_lab.data import Splits
from pruning_lab.studio import Studio


@pytest.fixture
def model():
    block = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
    network = nn.Sequential(*block, nn.Conv2d(4, 5, 2), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten())
    return lively(network.append(nn.Dropout(0.9)).append(nn.Linear(20, CLASSES)))


@pytest.fixture
def splits(split):
    train = replace(split, name="train", images=split.images.flip(0)[:40], labels=split.labels[:40])
    return Splits("toy", train, split, replace(split, name="test"), "made here")


def by_torch(model, images):
    copied = copy.deepcopy(model).eval()
    for module in copied.modules():  # update_bn trains all of it, dropout too
        if isinstance(module, nn.Dropout):
            module.p = 0
    update_bn([x for x, _ in images], copied)
    return copied.eval()


def same(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(torch.allclose(a.float(), b.float(), atol=1e-6) for (_, a), (_, b) in pairs)


def test_statistics_are_those_of_the_images_and_nothing_else_changes(model, splits):
    model.train()[1].eval()
    modes = [module.training for module in model.modules()]
    expected = by_torch(model, splits.train)
    assert evaluation.recalibrate(model, splits.train) == 2
    assert same(model, expected)
    assert [module.training for module in model.modules()] == modes
    assert model[1].momentum == 0.1


def test_without_images_the_statistics_stay(model):
    before = copy.deepcopy(model)
    with pytest.raises(
        ValueError, match="no images to recalibrate BatchNorm layers; give training images"
    ):
        evaluation.recalibrate(model, [])
    with pytest.raises(RuntimeError):
        evaluation.recalibrate(model, [(torch.randn(2, 1, 8, 8), 0), (torch.randn(2, 3, 8, 8), 0)])
    assert same(model, before)


def test_a_network_without_batchnorm_has_nothing_to_recalibrate(toy):
    assert evaluation.recalibrate(toy, []) == 0


def test_an_evaluator_renews_statistics_after_every_change(model, splits, everything_of):
    before = everything_of(model)
    evaluator = evaluation.Evaluator(model, splits.val, recalibrate=splits.train)
    cuts = masks.prune(model, density=0.3)
    base = {}
    for name in ("", "4", "0"):  # nothing at first
        if name:
            base[name] = masks.prunable(model)[name].weight.detach() * cuts[name]
            evaluator.commit({name: base[name]})
        real = copy.deepcopy(model)
        for layer, weight in base.items():
            real.get_submodule(layer).weight.data.copy_(weight)
        real = by_torch(real, splits.train)
        expected = torch.cat([real(x) for x, _ in splits.val])
        assert torch.allclose(evaluator.logits(), expected, atol=1e-5)
    assert everything_of(model) == before


class Uncopied(nn.Module):
    """It holds a lock, so that it cannot be copied."""

    def __init__(self, network):
        super().__init__()
        self.network, self.lock = network, threading.Lock()

    def forward(self, x):
        return self.network(x)


def test_a_network_that_cannot_be_copied_is_recalibrated_too(model, splits, everything_of):
    whole = Uncopied(model)
    before = everything_of(whole)
    evaluator = evaluation.Evaluator(whole, splits.val, recalibrate=splits.train)
    assert evaluator.how == "whole, 1 worker"
    expected = by_torch(model, splits.train)
    expected = torch.cat([expected(x) for x, _ in splits.val])
    assert torch.allclose(evaluator.logits(), expected, atol=1e-5)
    assert everything_of(whole) == before


@pytest.mark.parametrize("choice", [{"max_drop": 4}, {"density": 0.3, "method": "joint"}])
def test_a_search_with_the_scans_own_images_recalibrates(model, splits, choice):
    scan = sensitivity.scan(model, splits.val, [0.1, 0.3, 0.6], recalibrate=splits.train)
    plan = sensitivity.choose(scan, **choice, evaluations=10)
    assert plan.recalibrated
    assert plan.together.value <= choice.get("max_drop", 100) / 100


@pytest.mark.parametrize("method", ["single", "joint"])
def test_a_plan_is_measured_with_renewed_statistics_and_says_so(model, splits, method, tmp_path):
    scan = sensitivity.scan(model, splits.val, [0.1, 0.3, 0.6], recalibrate=splits.train)
    choice = {"density": 0.3, "method": method, "evaluations": 5}
    given = {"model": model, "images": splits.val}
    plan = sensitivity.choose(scan, **choice, **given, recalibrate=splits.train)
    assert "call evaluation.recalibrate after pruning" in str(plan)
    plan.save(tmp_path / "plan.json")
    assert sensitivity.Plan.load(tmp_path / "plan.json") == plan
    pruned = copy.deepcopy(model)
    plan.mask(model).apply_(pruned)
    before, after = (
        evaluation.evaluate(by_torch(network, splits.train), splits.val)
        for network in (model, pruned)
    )
    assert plan.together == evaluation.drop(before, after)
    with pytest.raises(ValueError, match="the scan was made with BatchNorm recalibrated; scan and"):
        sensitivity.choose(scan, **choice, **given)
    plain = sensitivity.scan(model, splits.val, [0.1, 0.3, 0.6])
    with pytest.raises(ValueError, match="the scan was not made with BatchNorm recalibrated"):
        sensitivity.choose(plain, **choice, **given, recalibrate=splits.train)


def test_a_studio_measures_and_hands_out_renewed_statistics(model, splits, tmp_path):
    studio = Studio(model, splits, recalibrate=splits.train)
    studio.set(0.8).settle()
    pruned = copy.deepcopy(model)
    studio.mask.apply_(pruned)
    expected = by_torch(pruned, splits.train)
    assert same(studio.network(), expected)
    assert studio.metrics().accuracy == evaluation.evaluate(expected, splits.val)
    assert studio.dense == evaluation.evaluate(by_torch(model, splits.train), splits.val)
    studio.test()
    assert studio.tested == evaluation.evaluate(expected, splits.test)
    studio.export(tmp_path / "plan.json")
    plan = sensitivity.Plan.load(tmp_path / "plan.json")
    assert plan.recalibrated
    assert plan.together == studio.metrics().drop
    studio.suggest(density=0.4)
    assert studio.scan.about["recalibrated"]
    studio.save(tmp_path / "studio.json")
    studio.close()
    with pytest.raises(ValueError, match="was measured with recalibrate=; open it alike"):
        Studio.load(tmp_path / "studio.json", model, splits)
    again = Studio.load(tmp_path / "studio.json", model, splits, recalibrate=splits.train)
    assert again.settle().metrics().accuracy == studio.metrics().accuracy
    again.close()


def normed():
    """For the command line: 28 x 28 images, ten classes."""
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 5, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(144, 10))


def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def test_the_command_line_scans_and_chooses_with_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(page, "serve", lambda *_, **__: pytest.fail("there is a server"))
    own = ["--model", "test_recalibration:normed", "--data", "mnist-5k"]
    scan = ["scan", *own, "--densities", "0.5", "0.2", "--recalibrate", "64"]
    assert main([*scan, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recalibrated"] is True
    choose = ["choose", "scan.csv", *own, "--density", "0.4", "--out", "plan.json"]
    assert main([*choose, "--recalibrate", "64", "--json"]) == 0
    assert json.loads((tmp_path / "plan.json").read_text())["recalibrated"] is True
    capsys.readouterr()
    for words in ([*choose, "--force"], ["studio", *own, "--scan", "scan.csv", "--no-browser"]):
        assert main(words) == 2
        expected = "scan.csv was made with BatchNorm recalibrated; add --recalibrate N, as for"
        assert expected in capsys.readouterr().err
    assert main(["choose", "scan.csv", "--density", "0.4", "--out", "alone.json"]) == 0
    assert "--density 0.4 --recalibrate 1000\n" in capsys.readouterr().out
    assert main(["scan", *own, "--densities", "0.5", "0.2", "--out", "without.csv"]) == 0
    choose[1] = "without.csv"
    studio = ["studio", *own, "--scan", "without.csv", "--no-browser"]
    for words in ([*choose, "--force"], studio):
        assert main([*words, "--recalibrate", "64"]) == 2
        expected = "without.csv was not made with BatchNorm recalibrated; leave --recalibrate out"
        assert expected in capsys.readouterr().err
    plain = ["scan", "--model", "test_recalibration:plain", "--data", "mnist-5k", "--out", "a.csv"]
    assert main([*plain, "--recalibrate", "9"]) == 2
    assert "no BatchNorm layer; leave --recalibrate out" in capsys.readouterr().err


def test_the_network_that_prune_saves_is_the_one_that_choose_has_measured(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    own = ["--model", "test_recalibration:normed", "--data", "mnist-5k"]
    assert main(["scan", *own, "--densities", "0.5", "0.2", "--recalibrate", "64"]) == 0
    assert main(["choose", "scan.csv", *own, "--density", "0.4", "--recalibrate", "64"]) == 0
    typed = capsys.readouterr().out.splitlines()[-1].split()
    assert typed[:4] == ["next:", "pruning-lab", "prune", "--model"]
    splits, plan = data.load("mnist-5k"), sensitivity.Plan.load("plan.json")
    expected = by_torch(plan.mask(normed()).apply_(normed()), splits.train.head(64))
    assert main(typed[2:]) == 0
    saved = typed[typed.index("--save-model") + 1]
    pruned = normed()
    models.load_(pruned, saved)
    assert same(pruned, expected)
    before = evaluation.evaluate(by_torch(normed(), splits.train.head(64)), splits.val)
    assert plan.together == evaluation.drop(before, evaluation.evaluate(pruned, splits.val))
    assert capsys.readouterr().err == ""

    plain = ["prune", *own[:2], "--plan", "plan.json", "--force"]
    assert main([*plain, "--save-model", saved]) == 0
    assert f"and {saved} is not; add --recalibrate N" in capsys.readouterr().err
    assert main(plain) == 0
    assert capsys.readouterr().err == ""
    assert main([*plain, "--recalibrate", "64"]) == 2
    assert "add --save-model FILE" in capsys.readouterr().err
    assert main([*plain, "--data", "mnist-5k"]) == 2
    assert "reads images for --recalibrate only" in capsys.readouterr().err
    plain[2] = "test_recalibration:plain"
    words = ["--density", "0.5", "--out", "no.safetensors", "--save-model", "no-model.safetensors"]
    assert main([*plain[:3], *words, "--recalibrate", "9", *own[2:]]) == 2
    assert "no BatchNorm layer; leave --recalibrate out" in capsys.readouterr().err
    assert not list(tmp_path.glob("no*"))
