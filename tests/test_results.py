"""What the README says was measured; what ships was trained by our own commands."""

import hashlib
import importlib.util
import json
from pathlib import Path

import pytest

from pruning_lab import experiments, files, paper

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "pruning_lab" / "weights"


def readme_tables():
    path = ROOT / "tools" / "readme_tables.py"
    spec = importlib.util.spec_from_file_location("readme_tables", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readmes_tables_are_those_of_the_results():
    text = (ROOT / "README.md").read_text()
    tables = readme_tables()
    assert len(tables.MARKED.findall(text)) == len(tables.TABLES)
    assert tables.filled(text) == text


@pytest.mark.parametrize("network", ["lenet-300-100", "lenet-5"])
def test_the_results_reach_the_papers_errors_with_no_more_parameters(network):
    theirs = paper.TABLE_1[network]
    result = files.load_json(ROOT / "results" / f"{network}.json")
    assert len({row["seed"] for row in result["rows"]}) == 5
    assert result["median"]["dense_error"] <= theirs.dense_error
    assert result["median"]["error"] <= theirs.error
    assert all(row["parameters"] <= theirs.parameters for row in result["rows"])


@pytest.mark.parametrize(
    "path", sorted((ROOT / "results").glob("lenet-*.json")), ids=lambda p: p.stem
)
def test_the_results_are_of_the_recipes_that_the_library_has(path):
    recorded = files.load_json(path)["recipe"]
    network = recorded["network"]
    recipe = experiments.paper_recipe(network)
    if path.stem != network:
        compression = float(path.stem.removeprefix(f"{network}-").removesuffix("x"))
        recipe = experiments.compressed_recipe(network, compression)
    assert experiments.Recipe.from_json(recorded) == recipe


@pytest.mark.parametrize("network", ["lenet-300-100", "lenet-5"])
def test_shipped_weights_are_those_of_their_manifest(network):
    path = WEIGHTS / f"{network}-mnist.safetensors"
    manifest = json.loads(path.with_suffix(".json").read_text())
    assert hashlib.sha256(path.read_bytes()).hexdigest() == manifest["sha256"]
    assert 1 - manifest["test"]["value"] <= paper.TABLE_1[network].dense_error
