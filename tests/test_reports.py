"""The tables and the page: the paper's numbers from the paper, ours from the record."""

import html
import json
import re
from dataclasses import replace

import pytest
import torch

from pruning_lab import (
    counts,
    data,
    evaluation,
    experiments,
    masks,
    models,
    neurons,
    paper,
    reports,
)
from pruning_lab.rows import plain


@pytest.fixture(scope="module")
def run():
    """Untrained networks on digits: a report tells the truth about bad ones too."""
    splits = data.load("mnist-5k")
    dense, model = models.lenet_5(), models.lenet_5()
    model.load_state_dict(dense.state_dict())
    mask = masks.prune(model, density=0.1)
    mask.apply_(model)
    record = {"recipe": {"network": "lenet-5"}, **experiments.compare(dense, model, splits)}
    return experiments.Run(record, dense, model, mask)


def test_table_1_has_the_papers_column_and_ours(run):
    rows = {row[0]: row[1:] for row in reports.table_1(run.record)}
    assert rows["error, dense"][0] == "0.80%"
    assert rows["error, pruned"][0] == "0.77%"
    assert rows["change of accuracy, points"][0] == "+0.03"
    assert rows["parameters, pruned"][:2] == ("36K", f"{43_050 + 580:,}")
    assert rows["compression, all parameters"][:2] == ("12x", f"{431_080 / 43_630:.1f}x")


def test_an_errors_interval_holds_the_error_and_runs_upwards(run):
    for row in reports.table_1(run.record)[1:3]:
        error = float(row[2].rstrip("%"))
        low, high = (float(number) for number in re.findall(r"[\d.]+(?=%)", row[3]))
        assert low < error < high


def test_the_layer_table_has_a_row_for_each_of_the_papers(run):
    header, *rows = reports.layer_table(run.record)
    assert header[7:9] == ("weights%\npaper", "weights%\nours")
    assert [row[0] for row in rows] == [row.layer for row in paper.LENET_5]
    assert [row[7] for row in rows] == ["66%", "12%", "8%", "19%", "8%"]  # weights%, paper
    assert [row[8] for row in rows] == ["10.0%"] * 5  # weights%, ours


def test_the_terminal_shows_both_tables_under_their_names(run):
    text = reports.text(run.record)
    assert text.startswith(reports.sentence(run.record))
    assert "\nTable 1: LeNet-5; errors on 1,000 test images of mnist-5k" in text
    assert "the paper's are of mnist" in text
    assert "\nTable 3: layer by layer" in text


def test_the_sentence_has_the_weights_the_compression_and_the_change_with_its_sign(run):
    record = json.loads(json.dumps(run.record))
    record["test"]["drop"] = plain(evaluation.Drop.counted(9, 2, 359))
    said = reports.sentence(record)
    assert "LeNet-5 keeps 43,050 of its 430,500 weights (10.0%" in said
    assert "9.9x fewer parameters" in said
    dense = record["test"]["dense"]["value"]
    assert "1,000 test images of mnist-5k changes by -1.95 points (-3.8" in said
    assert f"from the dense network's {dense:.2%}." in said
    change = {row[0]: row[1:] for row in reports.table_1(record)}["change of accuracy, points"]
    assert change[1] == "-1.95"
    assert change[2].startswith("-3.8")


def test_the_page_holds_its_pictures_and_has_none_of_what_was_not_done(run):
    page = reports.html(run)
    assert page.count("<img") == page.count("data:image/svg+xml;base64,") == 5  # four layers
    assert "Sensitivity" not in page
    assert "The last pruning" not in page
    assert "://" not in page


def test_the_page_opens_with_the_result_and_the_command(run):
    page = reports.html(run, "pruning-lab report a&b")
    assert "report a&amp;b</pre>" in page
    page = html.unescape(page)
    places = [page.index(words) for words in (reports.sentence(run.record), "report a&b")]
    assert places == sorted(places)
    assert places[-1] < page.index("<table")
    assert "<pre>" not in reports.html(run)  # nobody typed one


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A short run of LeNet-300-100, and its page."""
    recipe = experiments.paper_recipe("lenet-300-100", "mnist-5k")
    one = [replace(config, epochs=1) for config in (recipe.dense, *recipe.retrain)]
    recipe = replace(recipe, dense=one[0], retrain=tuple(one[1:]), scan=(0.5, 0.1))
    run = experiments.run(recipe, data.load("mnist-5k"), command="pruning-lab run --out <here>")
    return run, reports.html(run)


def test_the_page_of_a_run_says_what_made_it_and_where(whole):
    _, page = whole
    assert "<pre>pruning-lab run --out &lt;here&gt;</pre>" in page
    assert f"torch {torch.__version__}" in page
    assert "cores" in page


def test_the_map_of_kept_pixels_stands_beside_the_bands(whole):
    _, page = whole
    last = page[page.index("What fc1 looks at") :]
    assert last.count("<div class='grid'>") == 1
    assert last.count("<img") == 2
    assert page.count("<img") == 1 + 1 + 1 + 3 + 2


def test_the_same_run_gives_the_same_page(whole):
    run, page = whole
    assert reports.html(run) == page


def test_our_numbers_stand_beside_the_papers_with_their_intervals():
    measured = evaluation.Accuracy.counted(984, 1000)
    lost = evaluation.Drop.counted(5, 1, 1000)
    theirs = {"error": 0.0164, "parameters": 267e3, "images": "mnist"}
    ours = {"error": measured, "parameters": 266_610, "change": lost}
    table = reports.beside(theirs, ours)
    assert table.paper.to_dict() == {
        "error": "1.64%",
        "parameters": "267,000",
        "images": "mnist",
        "change": "",
    }
    assert table.ours["error"].startswith("1.60% (0.9")  # an interval around the error
    assert table.ours["parameters"] == "266,610"
    assert table.ours["change"] == str(lost)
    assert table.ours["images"] == ""


def test_each_layer_of_ours_stands_beside_the_papers():
    counted = counts.layers(models.lenet_300_100(), (1, 28, 28))
    table = reports.layers_beside(paper.LENET_300_100, counted, ["weights", "density"])
    assert list(table.index) == ["fc1", "fc2", "fc3", "total"]
    assert table["weights"].loc["fc1"].to_dict() == {"paper": "235,000", "ours": "235,200"}
    assert table["density"].loc["fc3"].to_dict() == {"paper": "26.00%", "ours": "100.00%"}


@pytest.mark.parametrize(
    ("lost", "won", "says"),
    [
        (40, 10, ("-3.00", ", so pruning cost accuracy.")),
        (10, 40, ("+3.00", ", so pruning gained accuracy.")),
        (10, 12, ("+0.20", ", which may be chance.")),
    ],
)
def test_what_pruning_cost_is_said_against_the_control(whole, lost, won, says):
    record = json.loads(json.dumps(whole[0].record))
    record["test"]["control_drop"] = plain(evaluation.Drop.counted(lost, won, 1000))
    said = reports.sentence(record)
    assert "Against the control, the dense network trained on for exactly as long (" in said
    assert f"it changes by {says[0]} points (" in said
    assert said.endswith(f"){says[1]}")
    cells = {row[0]: row[1:] for row in reports.table_1(record)}
    assert cells["change against the control"][1] == says[0]
    assert cells["error, control"][1] == f"{1 - record['test']['control']['value']:.2%}"


def test_both_compressions_stand_in_the_table(whole):
    run, _ = whole
    cells = {row[0]: row[1:] for row in reports.table_1(run.record)}
    kept = sum(int(layer.weight.count_nonzero()) for layer in masks.prunable(run.model).values())
    biases = 300 + 100 + 10
    assert cells["compression, all parameters"][1] == f"{266_610 / (kept + biases):.1f}x"
    assert cells["compression, weights only"][1] == f"{266_200 / kept:.1f}x"
    left = neurons.parameters(run.model).kept
    assert left <= kept + biases
    assert cells["compression, no dead neurons"][1] == f"{266_610 / left:.1f}x"


def test_a_record_without_a_control_says_so(whole):
    record = json.loads(json.dumps(whole[0].record))
    record["test"] |= {"control": None, "control_drop": None}
    assert reports.sentence(record).endswith("what pruning itself cost is not known.")
    assert {row[0]: row[2:] for row in reports.table_1(record)}["error, control"] == ("", "none")


def test_the_page_shows_the_dead_neurons_of_a_chain_and_none_of_another_network(whole, branching):
    run, page = whole
    total = neurons.find(run.model).total
    cells = "".join(f"<td>{n:,}</td>" for n in (total.neurons, total.by_output, total.by_input))
    assert f"<td>total</td>{cells}<td>{total.removed:,}</td>" in page
    kept = masks.Mask.of(branching)
    other = replace(run, dense=branching, model=branching, mask=kept)
    assert "Dead neurons" not in reports.html(other)
