"""Tables 1 to 5: the paper's numbers as its pages print them, ours from what was measured."""

import copy
import json
from contextlib import chdir
from dataclasses import replace

import pytest

from pruning_lab import cli, counts, data, experiments, masks, models
from pruning_lab.experiments import tables
from pruning_lab.rows import plain


def few(splits, count=300):
    """The first images of each part."""
    parts = {name: getattr(splits, name).head(count) for name in ("train", "val", "test")}
    return replace(splits, **parts)


def quick(recipe):
    """The recipe with one epoch wherever it has many."""
    one = [replace(config, epochs=1) for config in recipe.retrain]
    return replace(recipe, dense=replace(recipe.dense, epochs=1), retrain=tuple(one), scan=(0.1,))


@pytest.fixture(scope="module")
def splits():
    return few(data.load("mnist-5k"))


def measured(splits, density):
    """The record of an untrained LeNet-5, pruned; another one is its control."""
    dense, control = models.lenet_5(), models.lenet_5()
    model = copy.deepcopy(dense)
    masks.prune(model, density=density).apply_(model)
    compared = experiments.compare(dense, model, splits, control)
    return {"recipe": {"network": "lenet-5"}, **compared}, (dense, control, model)


@pytest.fixture(scope="module")
def two(splits):
    """Two records, as of two seeds, of networks of 10 % and 20 %."""
    return [measured(splits, density)[0] for density in (0.1, 0.2)]


def test_table_3_has_every_number_that_the_paper_prints(two):
    table = tables.layer_table(two)
    assert table.cells[0][1::2] == tuple(
        f"{name}\npaper" for name in ("weights", "FLOP", "act%", "weights%", "FLOP%")
    )
    assert [row[0::1][:1] + row[1::2] for row in table.cells[1:]] == [
        ("conv1", "0.5K", "576K", "82%", "66%", "66%"),
        ("conv2", "25K", "3.2M", "72%", "12%", "10%"),
        ("fc1", "400K", "800K", "55%", "8%", "6%"),
        ("fc2", "5K", "10K", "100%", "19%", "10%"),
        ("total", "431K", "4.586M", "77%", "8%", "16%"),
    ]


def test_a_fraction_of_a_percent_is_not_rounded_away():
    """VGG-16 keeps 7.5 %."""
    row = experiments.tables.LayerRow("total", None, tables.paper.VGG_16[-1])
    assert tables.LayerTable.columns["weights%\npaper"](row) == "7.5%"
    assert tables.LayerTable.columns["FLOP\npaper"](row) == "30.9B"


def test_our_columns_are_means_over_the_seeds(two, splits):
    *rows, total = tables.layer_table(two)
    assert [row.ours.weights for row in rows] == [500, 25_000, 400_000, 5_000]
    assert [row.ours.density for row in rows] == pytest.approx([0.15] * 4)
    assert total.ours.flops == 4_586_000
    for row, one, other in zip(
        rows, *(record["layers"]["pruned"][:-1] for record in two), strict=True
    ):
        active = (one["activation_density"] + other["activation_density"]) / 2
        assert row.ours.activation_density == pytest.approx(active)
        left = (one["flops_kept"] + other["flops_kept"]) / 2 / one["flops"]
        assert row.ours.flop_density == pytest.approx(left)


def test_our_operations_follow_the_papers_rule(splits):
    """FLOP% = Weights% x Act% of the layer before, which makes all 31 rows of the paper."""
    record, _ = measured(splits, 0.1)
    *rows, _ = tables.layer_table([record])
    enters = [1.0] + [row.ours.activation_density for row in rows]
    images = (splits.val.normalise(splits.val.images) != 0).float().mean().item()
    expected = [
        row.ours.density * act for row, act in zip(rows, [images, *enters[1:]], strict=False)
    ]
    assert [row.ours.flop_density for row in rows] == pytest.approx(expected, rel=1e-4)


def test_table_1_pools_the_images_of_all_seeds(two):
    row = tables.network_row(two)
    right = sum(round(300 * record["test"]["pruned"]["value"]) for record in two)
    assert (row.runs, row.accuracy["pruned"].n) == (2, 600)
    assert row.accuracy["pruned"].value == pytest.approx(right / 600)
    lost = sum(round(300 * record["test"]["control_drop"]["value"]) for record in two)
    assert row.drop["control"].value == pytest.approx(lost / 600)
    assert row.drop["dense"].n == 600


def test_table_1_says_compression_both_ways(two):
    cells = {line[0]: line[1:] for line in tables.network_row(two).cells}
    kept = 0.15 * 430_500
    assert cells["parameters, pruned"][:2] == ("36K", f"{kept + 580:,.0f}")
    assert cells["compression, all parameters"][:2] == ("12x", f"{431_080 / (kept + 580):.1f}x")
    assert cells["compression, weights only"][:2] == ("", f"{430_500 / kept:.1f}x")


def test_the_papers_numbers_never_stand_beside_those_of_other_images_unsaid(two):
    assert tables.network_row(two).cells[0][1:3] == ("paper, mnist", "2 runs, mnist-5k")
    same = [{**record, "data": {**record["data"], "name": "mnist"}} for record in two]
    assert tables.network_row(same).cells[0][1:3] == ("paper", "2 runs")
    small = {"network": "alexnet", "shape": {"width": 0.25, "size": 64, "classes": 10}}
    assert "width 0.25, 64 px" in tables.layer_table([{**two[0], "recipe": small}]).caption


def test_a_network_that_the_paper_has_not_stands_alone(two):
    own = [{**record, "recipe": {"network": "nets:make"}} for record in two]
    assert tables.network_row(own).cells[0] == ("", "2 runs", "95 % interval")
    assert "paper" not in str(tables.layer_table(own).cells[0])
    assert tables.layer_table(own).caption.startswith("nets:make on mnist-5k")


def test_a_row_without_a_control_says_so(two):
    record = json.loads(json.dumps(plain(two[0])))
    record["test"] |= {"control": None, "control_drop": None}
    cells = {line[0]: line[2:] for line in tables.network_row([record]).cells}
    assert cells["error, control"] == ("", "none")
    assert cells["change against the control"] == ("", "")


def test_rows_go_to_json_and_back(two):
    from pruning_lab.rows import decode

    for rows in (tables.layer_table(two), [tables.network_row(two)]):
        text = json.loads(json.dumps(plain(rows)))
        assert decode(list[type(rows[0])], text, "it") == list(rows)


def test_a_table_runs_what_its_folder_does_not_have(splits, tmp_path):
    recipe, notes = quick(experiments.paper_recipe("lenet-300-100", "mnist-5k")), []
    workspace = experiments.Workspace(tmp_path, notes.append)
    one = experiments.table_2(splits, recipe, seeds=(0, 1), workspace=workspace)
    trained = sum(note.epoch is not None for note in notes)
    assert trained == 2 * recipe.total_epochs()
    many = experiments.table_1(
        {"lenet-300-100": splits}, {"lenet-300-100": recipe}, workspace=workspace
    )
    assert (
        sum(note.epoch is not None for note in notes) == trained + recipe.total_epochs()
    )  # seed 2
    assert one.caption.startswith("Table 2: LeNet-300-100 on mnist-5k, 2 runs")
    assert many[0].runs == 3
    counted = counts.layers(models.lenet_300_100(), (1, 28, 28))
    assert [row.ours.flops for row in one] == [row.flops for row in (*counted, counted.total)]


@pytest.fixture
def inside(tmp_path, monkeypatch, splits):
    """An empty folder, where recipes are short and the images few."""
    made = experiments.paper_recipe
    monkeypatch.setattr(experiments, "paper_recipe", lambda *about: quick(made(*about)))
    monkeypatch.setattr(data, "load", lambda *name, **options: splits)
    with chdir(tmp_path):
        yield tmp_path


def test_the_command_prints_a_table_and_says_what_it_did_not_do_again(inside, capsys):
    assert cli.main(("table", "2", "--out", "rows.json")) == 0
    said = capsys.readouterr().out
    assert "Table 2: LeNet-300-100 on mnist-5k, 1 run; biases not counted\nlayer " in said
    assert "235K    235,200" in said
    assert "has this run" not in said
    rows = json.loads((inside / "rows.json").read_text())
    assert (rows["format"], rows["name"]) == ("pruning_lab table 1", "table-2")
    assert [row["layer"] for row in rows["rows"]] == ["fc1", "fc2", "fc3", "total"]
    (folder,) = inside.glob("runs/*/run.json")
    assert cli.main(("table", "1", "--model", "lenet-300-100")) == 0
    said = capsys.readouterr().out
    assert f"runs/{folder.parent.name} has this run" in said
    assert "Table 1: LeNet-300-100\n" in said
    assert cli.main(("table", "2", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == rows["rows"]
    kept = json.loads((inside / "runs/paper/table-2.json").read_text())
    assert kept == rows | {"command": "pruning-lab table 2 --json"}
    assert cli.main(("table", "2", "--out", "rows.json")) == 2
    assert "--out rows.json is there already; add --force" in capsys.readouterr().err
    assert cli.main(("table", "2", "--out", "rows.json", "--force")) == 0


def test_an_interrupted_table_continues_by_the_same_command(inside, monkeypatch, capsys):
    def interrupt(bar, epochs=1):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tqdm.tqdm.update", interrupt)
        assert cli.main(("table", "2")) == 130
    assert "the same command continues after the last finished epoch" in capsys.readouterr().err
    (begun,) = inside.glob("runs/*/config.json")
    assert cli.main(("table", "2")) == 0
    assert (begun.parent / "run.json").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("table", "7"), "must be a whole number from 1 to 6, got '7'"),
        (("table", "0"), "must be a whole number from 1 to 6, got '0'"),
        (("table", "2", "--model", "lenet-5", "vgg-16"), "table 2 is of one network, got lenet-5"),
    ],
)
def test_a_bad_number_gets_one_sentence(words, expected, capsys):
    assert cli.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
