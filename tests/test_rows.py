"""One table type for all rows."""

import copy
import pickle
from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from pruning_lab.evaluation import Accuracy
from pruning_lab.rows import Rows, decode, flat, plain, printable


@dataclass(frozen=True)
class Row:
    layer: str
    kept: int
    accuracy: Accuracy | None = field(default=None)


class Table(Rows[Row]):
    columns: ClassVar = {"layer": lambda row: row.layer, "kept": lambda row: f"{row.kept:,}"}
    source: str = "nowhere"


ROWS = [Row("conv1", 25), Row("fc1", 40_000), Row("fc2", 500, Accuracy.counted(90, 100))]


@pytest.fixture
def table() -> Table:
    return Table(ROWS, source="toy")


def test_a_slice_is_a_table_that_knows_the_same(table):
    part = table[1:]
    assert type(part) is Table
    assert list(part) == ROWS[1:]
    assert part.source == "toy"
    assert table[0] == ROWS[0]


@pytest.mark.parametrize("same", [copy.copy, copy.deepcopy])
def test_a_copy_is_equal_and_knows_the_same(table, same):
    again = same(table)
    assert type(again) is Table
    assert again == table
    assert again.source == "toy"


def test_a_table_goes_through_a_pickle():
    receipt = pytest.importorskip("pruning_lab.masks").Receipt([], not_covered=(1, 2))
    assert pickle.loads(pickle.dumps(receipt)).not_covered == (1, 2)


def test_it_prints_a_line_per_row_with_numbers_to_the_right(table):
    assert str(table).splitlines() == [
        "layer      kept",
        "-------  ------",
        "conv1        25",
        "fc1      40,000",
        "fc2         500",
    ]


def test_a_name_with_control_characters_cannot_act_on_a_terminal():
    """A new line, a colour, a bell, text from right to left; letters of any script stay."""
    table = Table([Row("fc1\n\x1b[31mé 层\a\u202e", 3)])
    assert len(str(table).splitlines()) == 3
    assert r"fc1\n\x1b[31mé 层\x07\u202e" in str(table)
    assert printable("conv1 µ") == "conv1 µ"
    with pytest.raises(ValueError, match=r"odd\\x1b is broken: Expected `array`") as caught:
        decode(list[Row], 3, "odd\x1b")
    assert str(caught.value).isprintable()


def test_no_rows_print_their_headers():
    assert str(Table()).splitlines()[0].split() == ["layer", "kept"]


def test_pandas_gets_a_column_per_field_and_the_interval_beside_the_value(table):
    frame = table.to_pandas()
    assert list(frame.layer) == ["conv1", "fc1", "fc2"]
    assert frame.accuracy[2] == pytest.approx(0.9)
    assert frame.accuracy_n[2] == 100
    assert 0.8 < frame.accuracy_low[2] < 0.9 < frame.accuracy_high[2]


def test_rows_go_to_json_and_back(table):
    assert Table(decode(list[Row], plain(table), "it")) == table


def test_flat_keeps_what_is_not_nested():
    assert flat(ROWS[0]) == {"layer": "conv1", "kept": 25, "accuracy": None}
