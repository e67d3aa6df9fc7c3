"""The main job: recipes that end where they say, runs that use the test images at the end only."""

import copy
import json
from dataclasses import asdict, replace

import pytest
import torch

from pruning_lab import (
    data,
    evaluation,
    experiments,
    masks,
    models,
    paper,
    sensitivity,
    training,
)
from pruning_lab.rows import decode

NETWORKS = ("lenet-300-100", "lenet-5")


@pytest.fixture(scope="module")
def digits():
    return data.load("mnist-5k")


def quick(recipe):
    """The recipe with one epoch wherever it has many."""
    one = [replace(config, epochs=1) for config in recipe.retrain]
    return replace(recipe, dense=replace(recipe.dense, epochs=1), retrain=tuple(one), scan=(0.1,))


def parameters_left(model, recipe):
    kept = masks.prune(model, **recipe.rounds[-1]).kept
    return kept + sum(p.numel() for name, p in model.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize("network", NETWORKS)
def test_the_papers_recipe_ends_within_the_papers_parameters(network):
    recipe = experiments.paper_recipe(network)
    left = parameters_left(models.BUILT_IN[network](), recipe)
    reported = paper.TABLE_1[network].parameters
    assert 0.95 * reported < left <= reported


@pytest.mark.parametrize("network", NETWORKS)
def test_the_papers_recipe_keeps_of_each_layer_what_the_paper_kept(network):
    final = experiments.paper_recipe(network).rounds[-1]["density"]
    reported = {row.layer: row.density for row in paper.LAYER_TABLES[network]}
    assert all(abs(density - reported[layer]) <= 0.005 for layer, density in final.items())


@pytest.mark.parametrize(("network", "compression"), [("lenet-300-100", 56), ("lenet-5", 108)])
def test_a_compression_counts_biases_and_is_met(network, compression):
    recipe = experiments.compressed_recipe(network, compression)
    model = models.BUILT_IN[network]()
    total = sum(p.numel() for p in model.parameters())
    assert total / parameters_left(model, recipe) == pytest.approx(compression, rel=1e-3)
    densities = [amounts["density"] for amounts in recipe.rounds]
    assert densities == sorted(densities, reverse=True)


@pytest.mark.parametrize("compression", [0.5, 651, -3])
def test_an_impossible_compression_is_refused(compression):
    with pytest.raises(ValueError, match="at least 1 and below 650"):
        experiments.compressed_recipe("lenet-300-100", compression)


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        ({"density": 8}, "divide by 100"),
        ({"density": 0.1, "max_drop": 1}, "one of the three"),
        ({"density": 0.001}, "keep 0.002 of the weights at least"),
    ],
)
def test_what_cannot_be_chosen_is_refused_before_anything_is_trained(choose, message):
    with pytest.raises(ValueError, match=message):
        experiments.chosen_recipe("lenet-300-100", choose)


@pytest.mark.parametrize("method", ["single", "joint"])
def test_a_run_goes_down_to_the_densities_of_its_own_plan(method, digits, tmp_path):
    recipe = experiments.chosen_recipe("lenet-300-100", {"density": 0.1, "method": method})
    epochs = tuple(replace(config, epochs=1) for config in recipe.retrain)
    recipe = replace(recipe, dense=replace(recipe.dense, epochs=3), retrain=epochs)
    run = experiments.run(recipe, digits, folder=tmp_path / "run")
    assert run.mask.density == pytest.approx(0.1, abs=1e-4)
    plan = sensitivity.Plan.load(tmp_path / "run" / "plan.json")
    assert plan.method == method
    assert run.record["plan"]["rows"][0]["density"] == plan.densities["fc1"]
    for layer, kept in run.mask.items():
        assert kept.float().mean().item() == pytest.approx(plan.densities[layer], abs=1e-3)
    shares = [stage["kept"] / stage["weights"] for stage in run.record["stages"][::2]]
    assert shares == sorted(shares, reverse=True)
    scan = sensitivity.Scan.load(tmp_path / "run" / "scan.csv")
    assert (
        sensitivity.choose(scan, density=0.1, method=method, model=run.dense, images=digits.val)
        == plan
    )


def test_a_recipe_survives_json():
    for recipe in (
        experiments.paper_recipe("lenet-5"),
        experiments.compressed_recipe("lenet-5", 9),
        experiments.chosen_recipe("lenet-5", {"max_drop": 0.5, "method": "joint"}),
        experiments.paper_recipe("alexnet", "imagenette", {"classes": 10, "width": 0.25}),
        experiments.compressed_recipe("vgg-16", 20, "imagenette", {"classes": 10, "size": 64}),
    ):
        assert decode(experiments.Recipe, json.loads(json.dumps(asdict(recipe))), "it") == recipe


def test_seeds_differ_in_every_phase():
    recipe = experiments.paper_recipe("lenet-5")
    seeds = [
        config.seed
        for seed in range(3)
        for config in (recipe.seeded(seed).dense, *recipe.seeded(seed).retrain)
    ]
    assert len(set(seeds)) == len(seeds)


def test_the_test_images_are_looked_at_last_and_once_by_each_network(digits):
    looked = []

    class Watched(data.Split):
        def __iter__(self):
            looked.append(self.name)
            return super().__iter__()

    def watched(split):
        return Watched(**{name: getattr(split, name) for name in split.__dataclass_fields__})

    splits = replace(digits, val=watched(digits.val), test=watched(digits.test))
    experiments.run(quick(experiments.paper_recipe("lenet-300-100")), splits)
    assert looked.count("test") == 3  # dense, pruned and control
    first = looked.index("test")
    assert "val" in looked[:first]
    assert looked[first : first + 3] == ["test"] * 3


def test_a_run_leaves_the_callers_random_state(digits):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    experiments.run(quick(experiments.paper_recipe("lenet-300-100")), digits, seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_on_a_gpu_keeps_the_random_states_of_all_gpus(digits, monkeypatch):
    """Without one: torch is asked to keep them before anything is computed."""

    class AskedError(Exception):
        pass

    def fork_rng(devices):
        raise AskedError(*devices)

    class Elsewhere:
        device = torch.device("cuda", 1)

    monkeypatch.setattr(torch.random, "fork_rng", fork_rng)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    recipe = experiments.paper_recipe("lenet-300-100")
    with pytest.raises(AskedError) as caught:  # torch.manual_seed seeds them all
        experiments.run(recipe, replace(digits, train=Elsewhere()))
    assert caught.value.args == (torch.device("cuda", 0), torch.device("cuda", 1))
    with pytest.raises(AskedError) as caught:
        experiments.run(recipe, digits)
    assert caught.value.args == ()


def test_a_run_on_the_cpu_reaches_no_gpu(digits, monkeypatch):
    """torch.manual_seed seeds all of them, and their states would not come back."""
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    recipe = experiments.chosen_recipe("lenet-300-100", {"density": 0.1, "method": "joint"})
    recipe = replace(quick(recipe), scan=(0.1, 0.9), choose={**recipe.choose, "evaluations": 2})
    experiments.run(recipe, digits, seed=3)
    assert seeded == []


def test_the_command_that_began_a_run_is_in_its_record(digits, tmp_path):
    recipe = quick(experiments.paper_recipe("lenet-300-100"))
    assert experiments.run(recipe, digits).record["command"] is None

    def interrupt(note):
        raise KeyboardInterrupt

    begun = {"folder": tmp_path, "command": "pruning-lab run --out runs/a"}
    with pytest.raises(KeyboardInterrupt):
        experiments.run(recipe, digits, notify=interrupt, **begun)
    resumed = experiments.run(recipe, digits, folder=tmp_path, command="pruning-lab run --resume")
    assert resumed.record["command"] == begun["command"]
    assert experiments.Run.load(tmp_path).record["command"] == begun["command"]


def test_a_folder_that_is_not_there_and_one_without_a_run_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nothing; check the path"):
        experiments.Run.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"no finished run in .*--resume --out"):
        experiments.Run.load(tmp_path)


def test_a_run_in_which_anything_changed_is_refused(digits, tmp_path):
    run = experiments.run(quick(experiments.paper_recipe("lenet-300-100")), digits, folder=tmp_path)
    again = experiments.Run.load(tmp_path)
    assert again.record == run.record == json.loads((tmp_path / "run.json").read_text())
    for name in ("dense.safetensors", "model.safetensors", "mask.safetensors", "run.json"):
        before = (tmp_path / name).read_bytes()
        place = before.rindex(b"1") if name == "run.json" else -1
        changed = bytearray(before)
        changed[place] ^= 1
        (tmp_path / name).write_bytes(changed)
        with pytest.raises(ValueError, match="changed since the run; restore"):
            experiments.Run.load(tmp_path)
        (tmp_path / name).write_bytes(before)
    experiments.Run.load(tmp_path)


def test_a_folder_of_another_run_is_refused(digits, tmp_path):
    recipe = quick(experiments.paper_recipe("lenet-300-100"))
    experiments.run(recipe, digits, folder=tmp_path / "a")
    with pytest.raises(FileExistsError, match="finished run"):
        experiments.run(recipe, digits, folder=tmp_path / "a")
    (tmp_path / "a" / "run.json").unlink()
    with pytest.raises(ValueError, match="other settings or data"):
        experiments.run(recipe, digits, seed=1, folder=tmp_path / "a")
    other = replace(digits, train=digits.train.head(1000))
    with pytest.raises(ValueError, match="other settings or data"):
        experiments.run(recipe, other, folder=tmp_path / "a")


def test_the_record_says_what_was_measured(digits):
    recipe = quick(experiments.paper_recipe("lenet-5", "mnist-5k"))
    run = experiments.run(recipe, digits, seed=2)
    record = json.loads(json.dumps(run.record))
    x, y = digits.test.normalise(digits.test.images), digits.test.labels
    for which, model in (("dense", run.dense), ("pruned", run.model), ("control", run.control)):
        with torch.no_grad():
            right = (model.eval()(x).argmax(1) == y).sum().item()
        assert record["test"][which]["value"] == right / len(y)
        assert record["test"][which]["n"] == len(y)
    kinds = [(stage["kind"], stage["round"]) for stage in record["stages"]]
    assert kinds == [(kind, n) for n in (1, 2, 3) for kind in ("cut", "retrained")]
    phases = ["train", "round 1", "round 2", "round 3", *["control"] * 3]
    assert [row["phase"] for row in record["epochs"]] == phases
    assert record["data"]["name"] == "mnist-5k"
    assert record["versions"]["torch"] == torch.__version__
    assert len(record["scan"]) == 4


# --- the control -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "recipe",
    [
        experiments.paper_recipe("alexnet", "imagenette", {"width": 0.25, "size": 64}),
        experiments.compressed_recipe("lenet-300-100", 80).seeded(3),
        experiments.chosen_recipe("lenet-5", {"density": 0.1}),
    ],
    ids=lambda recipe: recipe.network,
)
def test_the_controls_recipe_differs_in_what_is_pruned_alone(recipe):
    pruned, control = asdict(recipe), asdict(recipe.control)
    assert control.pop("rounds") == tuple({"density": 1.0} for _ in recipe.retrain)
    assert control.pop("choose") is None
    assert control == {n: value for n, value in pruned.items() if n not in ("rounds", "choose")}
    assert recipe.seeded(5).control == recipe.control.seeded(5)


def test_the_control_is_the_dense_network_trained_on_by_the_same_configs(digits):
    recipe = quick(experiments.paper_recipe("lenet-300-100", "mnist-5k"))
    found = experiments.run(recipe, digits, seed=1)
    model = copy.deepcopy(found.dense)
    for config in recipe.seeded(1).retrain:
        for _ in training.train(model, digits.train, config):
            pass
    expected = model.state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in found.control.state_dict().items())
    test = found.record["test"]
    paired = evaluation.drop(
        evaluation.evaluate(model, digits.test), evaluation.evaluate(found.model, digits.test)
    )
    assert test["control_drop"] == asdict(paired)
    lrs = {
        kind: [row["lr"] for row in found.record["epochs"] if row["phase"].startswith(kind)]
        for kind in ("round", "control")
    }
    assert lrs["round"] == lrs["control"]


def test_without_a_control_nothing_is_said_of_one(digits, tmp_path):
    recipe = quick(experiments.paper_recipe("lenet-300-100", "mnist-5k"))
    found = experiments.run(recipe, digits, control=False, folder=tmp_path)
    assert found.control is None
    assert found.record["test"]["control"] is found.record["test"]["control_drop"] is None
    assert not (tmp_path / "control.safetensors").exists()
    assert experiments.Run.load(tmp_path).control is None
    assert recipe.total_epochs(control=False) == 4
    assert recipe.total_epochs() == 7


# --- workspaces --------------------------------------------------------------------------------


def test_a_workspace_trains_a_shared_network_once_and_finds_its_runs_again(digits, tmp_path):
    notes = []
    workspace = experiments.Workspace(tmp_path, notes.append)
    recipe = quick(experiments.paper_recipe("lenet-300-100", "mnist-5k"))
    first = workspace.run(recipe, digits)
    other = replace(recipe, rounds=(*recipe.rounds[:2], {"density": 0.01}))
    second = workspace.run(other, digits)
    assert second.mask.density == pytest.approx(0.01, abs=1e-4)
    for name in ("dense", "control"):  # read, and not trained again: the seconds are the first's
        phase = "train" if name == "dense" else "control"
        assert second.record["test"][name] == first.record["test"][name]
        assert second.record["seconds"][phase] == first.record["seconds"][phase]
    del notes[:]
    again = workspace.run(recipe, digits, control=False)  # the one with a control serves
    assert again.record == first.record
    assert [note.epoch for note in notes] == [None]
    assert "has this run" in notes[0].text
    assert workspace.run(recipe, digits, seed=1).record["seed"] == 1
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text('{"format": "pruning_lab config 1"}')
    assert workspace.run(recipe, digits).record == first.record


def test_what_was_measured_once_is_read(tmp_path):
    calls = []

    def measure():
        calls.append(1)
        return [evaluation.Accuracy.counted(len(calls), 10)]

    workspace = experiments.Workspace(tmp_path)
    kind = list[evaluation.Accuracy]
    first = workspace.measured({"a": 1, "b": 2}, kind, measure)
    assert workspace.measured({"b": 2, "a": 1}, kind, measure) == first
    assert workspace.measured({"a": 2, "b": 2}, kind, measure) != first
    assert len(calls) == 2
    experiments.Workspace().measured({"a": 1, "b": 2}, kind, measure)
    assert len(calls) == 3


def test_a_network_of_a_workspace_resumes_and_is_read(digits, tmp_path):
    workspace, config = experiments.Workspace(tmp_path), training.TrainConfig(epochs=2)

    def made(epochs=None):
        model = models.lenet_300_100()
        torch.manual_seed(0)
        with torch.no_grad():
            for p in model.parameters():
                p.normal_(0, 0.05)

        def steps(checkpoint):
            for epoch in training.train(model, digits.train, config, checkpoint=checkpoint):
                yield epoch
                if epoch.epoch == epochs:
                    raise KeyboardInterrupt

        return workspace.network({"config": asdict(config)}, model, steps)

    with pytest.raises(KeyboardInterrupt):
        made(epochs=1)
    first, second = made().state_dict(), made().state_dict()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
