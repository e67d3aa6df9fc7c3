"""The tables and the page: the paper's numbers from the paper, ours from the record."""

import re

import pytest

from pruning_lab import data, experiments, masks, models, paper, reports


@pytest.fixture(scope="module")
def run():
    """Untrained networks on digits: a report tells the truth about bad ones too."""
    splits = data.load("digits")
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
    assert rows["change in points"][0] == "-0.03"
    assert rows["parameters, pruned"][:2] == ("36K", f"{43_050 + 580:,}")
    assert rows["compression"][:2] == ("12x", f"{431_080 / 43_630:.1f}x")


def test_an_errors_interval_holds_the_error_and_runs_upwards(run):
    for row in reports.table_1(run.record)[1:3]:
        error = float(row[2].rstrip("%"))
        low, high = (float(number) for number in re.findall(r"[\d.]+(?=%)", row[3]))
        assert low < error < high


def test_the_layer_table_has_a_row_for_each_of_the_papers(run):
    rows = reports.layer_table(run.record)[2:]
    assert [row[0] for row in rows] == [row.layer for row in paper.LENET_5]
    assert [row[5] for row in rows] == ["66%", "12%", "8%", "19%", "8%"]  # weights%, paper
    assert [row[6] for row in rows] == ["10.0%"] * 5  # weights%, ours


def test_the_terminal_shows_both_tables_under_their_names(run):
    text = reports.text(run.record)
    assert text.startswith("Table 1: LeNet-5; errors on 359 test images of digits, used once")
    assert "the paper's are of mnist" in text
    assert "\nTable 3: layer by layer" in text


def test_the_page_holds_its_pictures_and_has_none_of_what_was_not_done(run):
    page = reports.html(run)
    assert page.count("<img") == page.count("data:image/png;base64,") == 2
    assert "Sensitivity" not in page
    assert "The last cut" not in page
    assert "://" not in page
