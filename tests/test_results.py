"""What the README says was measured; what ships was trained by our own commands."""

import hashlib
import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pruning_lab import data, evaluation, experiments, files, models, paper
from pruning_lab.rows import decode, plain

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "pruning_lab" / "weights"


def readme_tables():
    path = ROOT / "tools" / "readme_tables.py"
    spec = importlib.util.spec_from_file_location("readme_tables", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_the_pages_are_those_of_the_results():
    tables = readme_tables()
    pages = [page.read_text() for page in tables.PAGES]
    assert {name for text in pages for _, name, _ in tables.MARKED.findall(text)} == {
        *tables.TABLES
    }
    for text in pages:
        assert tables.filled(text) == text


FRONTIER = {path.stem: files.load_json(path) for path in (ROOT / "results/frontier").glob("*.json")}


def same_recipe(recorded, name):
    """Whether the library has this recipe, by the name of its file: NETWORK-40x-unaugmented."""
    shape = {"data": "imagenette", "shape": recorded.shape} if recorded.shape else {}
    name, unaugmented, _ = name.partition("-unaugmented")
    compression = name.removeprefix(recorded.network).strip("-x")
    recipe = experiments.paper_recipe(recorded.network, **shape)
    if compression:
        recipe = experiments.compressed_recipe(recorded.network, float(compression), **shape)
    recipe = recipe.trained_with(bf16=recorded.dense.bf16)
    return recorded == (recipe.unaugmented() if unaugmented else recipe)


@pytest.mark.parametrize("name", FRONTIER)
def test_the_frontier_is_of_the_recipes_that_the_library_has_and_its_rows_of_its_runs(name):
    result = FRONTIER[name]
    recorded = decode(experiments.Recipe, result["recipe"], "it", whole=False)
    assert same_recipe(recorded, name)
    runs = [{**run, "recipe": result["recipe"]} for run in result["runs"]]
    assert [run["seed"] for run in runs] == [*range(len(runs))]
    assert plain(experiments.row_of(runs)) == result["row"]


def test_the_papers_error_is_reached_with_no_more_parameters():
    result, theirs = FRONTIER["lenet-300-100"], paper.TABLE_1["lenet-300-100"]
    assert result["row"]["dense_error"] <= theirs.dense_error
    assert result["row"]["error"] <= theirs.error
    assert all(run["parameters"]["pruned"] <= theirs.parameters for run in result["runs"])


@pytest.mark.parametrize(
    ("network", "least"), [("lenet-300-100", 20), ("lenet-5", 40), ("alexnet", 9)]
)
def test_nothing_is_lost_against_the_control_at_these_compressions(network, least):
    row = readme_tables().frontier_rows().free(network)
    assert row.seeds == 5
    assert row.compression >= least


@pytest.mark.parametrize(
    ("name", "compression", "error"),
    [("lenet-300-100-87x", 100, 0.0164), ("lenet-5-219.1x", 310, 0.0080)],
)
def test_the_papers_dense_errors_are_kept_at_these_compressions(name, compression, error):
    row = FRONTIER[name]["row"]
    assert (row["seeds"], row["data"]) == (5, "mnist")
    assert row["compression"] >= compression
    assert row["error"] <= error


PHOTOS = files.load_json(ROOT / "results" / "photos.json")["rows"]


@pytest.mark.parametrize(
    "row", PHOTOS, ids=lambda row: f"{row['network']}, {row['compression']:.0f}x"
)
def test_photos_lose_nothing_and_are_of_the_recipes_that_the_library_has(row):
    recorded = decode(experiments.Recipe, row["recipe"], "it", whole=False)
    theirs = paper.TABLE_1[recorded.network].compression
    recipe = experiments.paper_recipe(recorded.network, row["data"], recorded.shape)
    if round(row["compression"]) != theirs:
        ask = (recorded.network, round(row["compression"]), row["data"], recorded.shape)
        recipe = experiments.compressed_recipe(*ask)
    if recorded.dense.bf16:
        recipe = recipe.trained_with(bf16=True)
    assert replace(recorded, rounds=()) == replace(recipe.seeded(row["seed"]), rounds=())
    for ours, now in zip(recorded.rounds, recipe.rounds, strict=True):
        assert ours["density"] == pytest.approx(now["density"], rel=1e-5)
    assert row["compression"] >= theirs
    assert row["change"]["low"] <= 0  # a drop, so the interval reaches down to none at least


@pytest.mark.parametrize("network", ["lenet-300-100", "lenet-5"])
def test_shipped_weights_are_those_of_their_manifest(network):
    path = WEIGHTS / f"{network}-mnist.safetensors"
    manifest = json.loads(path.with_suffix(".json").read_text())
    assert hashlib.sha256(path.read_bytes()).hexdigest() == manifest["sha256"]
    assert 1 - manifest["test"]["value"] <= paper.TABLE_1[network].dense_error


def test_the_shipped_alexnet_is_of_its_manifest_and_as_good_on_val_as_that_says():
    path = WEIGHTS / "alexnet-imagenette.safetensors"
    manifest = json.loads(path.with_suffix(".json").read_text())
    assert hashlib.sha256(path.read_bytes()).hexdigest() == manifest["sha256"]
    assert path.stat().st_size < 6e6
    assert manifest["shape"] == {"classes": 10, **experiments.REDUCED["alexnet"]}
    model = models.alexnet(trained="imagenette", **manifest["shape"])
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    try:
        val = data.load("imagenette", size=manifest["shape"]["size"]).val
    except FileNotFoundError:
        pytest.skip("no Imagenette")
    assert val.n == manifest["val"]["n"]
    assert (
        manifest["val"]["low"] <= evaluation.evaluate(model, val).value <= manifest["val"]["high"]
    )
