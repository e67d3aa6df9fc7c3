"""Rows: one table type for everything measured, and JSON both ways.

Types are checked by msgspec: it reads the dataclasses and TypedDicts of the library as they are.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import ClassVar, TypeVar

import msgspec
from tabulate import tabulate

T = TypeVar("T")

_WORDS = {"float": "number", "int": "whole number", "str": "text", "array": "list"}  # of JSON
_MOST = 2**63  # no count of this library is larger
_NUMBER = re.compile(r"[-+±×*]?[\d.,]+( ?%|×)?")


class Rows(tuple[T, ...]):
    """A row per dataclass: prints as a table, and slices to another table of the same type.

    `columns` maps the header of a printed column to the text of a row's cell (default: all fields);
    columns of numbers are aligned to the right. Keywords become attributes, which slices and copies
    keep.
    """

    columns: ClassVar[Mapping[str, Callable[[T], str]]] = {}

    def __new__(cls, rows: Iterable[T] = (), **attributes):
        made = super().__new__(cls, rows)
        vars(made).update(attributes)
        return made

    def __getnewargs_ex__(self) -> tuple:
        return (tuple(self),), vars(self)  # for copies and pickles

    def __getitem__(self, index):
        found = super().__getitem__(index)
        return type(self)(found, **vars(self)) if isinstance(index, slice) else found

    def __str__(self) -> str:
        return self.table(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} rows; print it, or see .to_pandas())"

    @classmethod
    def table(cls, rows: Iterable[T]) -> str:
        """The rows as text, one line each, under the headers."""
        rows = list(rows)
        columns = cls.columns or _columns_of(rows)
        cells = [[cell(row) for cell in columns.values()] for row in rows]
        align = [
            "right" if all(not c or _NUMBER.fullmatch(c) for c in column) else "left"
            for column in zip(*cells, strict=True)
        ]
        options = {"colalign": align} if cells else {}  # tabulate wants no alignment of no rows
        return tabulate(cells, list(columns), disable_numparse=True, **options)

    def to_pandas(self):
        """A pandas.DataFrame; an accuracy's interval becomes columns such as accuracy_low."""
        import pandas  # part of the course's installation, not of the library's

        return pandas.DataFrame([flat(row) for row in self])


def _columns_of(rows: list) -> dict[str, Callable]:
    """A column for each field of the rows."""

    def cell(name: str) -> Callable:
        def text(row) -> str:
            value = getattr(row, name)
            return f"{value:.4g}" if isinstance(value, float) else str(value)

        return text

    return {field.name: cell(field.name) for row in rows[:1] for field in fields(row)}


def flat(row: object) -> dict:
    """A row's fields in one dict: `value` of a nested row under the name of the field itself."""
    cells = {}
    for name, entry in plain(row).items():
        if isinstance(entry, dict):
            for part, value in entry.items():
                cells[name if part == "value" else f"{name}_{part}"] = value
        else:
            cells[name] = entry
    return cells


def plain(value: object):
    """The value for JSON: a dataclass becomes a dict of the fields that its repr shows."""
    if is_dataclass(value):
        shown = (field.name for field in fields(value) if field.repr)
        return {name: plain(getattr(value, name)) for name in shown}
    if isinstance(value, Mapping):
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value


def decode(
    kind: type[T],
    value: object,
    where: object,
    form: str | None = None,
    *,
    whole: bool = True,
    strict: bool = True,
) -> T:
    """What `plain` made of a `kind`, with every type checked; `where` names its file.

    `form` is what the value's "format" has to be, such as "pruning_lab plan 3". A field that may be
    left out must be there too, unless `whole=False`. With `strict=False` numbers may be texts.
    Raises ValueError with the path of the field that is wrong, unknown or missing.
    """
    if form is not None:
        value = _of_form(value, form, where)
    try:
        made = msgspec.convert(value, kind, strict=strict)
        wrong = _difference(plain(made), value, whole)
    except msgspec.ValidationError as error:
        wrong = _sentence(str(error))
    except RecursionError:
        wrong = "it is nested too deeply"
    if wrong:
        raise ValueError(f"{where} is broken: {wrong}")
    return made


def _of_form(value: object, form: str, where: object) -> dict:
    """The value less its "format"."""
    what, said = form.split()[1], value.get("format") if isinstance(value, dict) else None
    if not isinstance(said, str) or said.split()[:2] != form.split()[:2]:
        raise ValueError(f"{where} is not a {what} file; name one that pruning_lab wrote")
    if said != form:
        raise ValueError(
            f"{where} is a {what} of another version of pruning_lab ({said!r}, not {form!r}); "
            f"use that version, or delete it and make it again"
        )
    return {name: entry for name, entry in value.items() if name != "format"}


def _sentence(message: str) -> str:
    """msgspec's "Expected `float`, got `str` - at `$.a[0]`" as "a[0] must be number, got text"."""
    text, _, place = message.rpartition(" - at `$")
    text, place = text or message, place.strip("`.") if text else ""
    text = re.sub(
        r"`(.*?)`", lambda m: re.sub(r"\w+", lambda w: _WORDS.get(w[0], w[0]), m[1]), text
    )
    text = re.sub("^Object missing required field (.*)", r"the field '\1' is missing", text)
    text = re.sub("^Expected", "must be" if place else "it must be", text)
    return f"{place} {text}" if text.startswith("must") else f"{place}: {text}".removeprefix(": ")


def _difference(made: object, value: object, whole: bool, place: str = "") -> str | None:
    """What the value has too much or lacks, or which of its numbers is none; None where it fits."""
    if isinstance(made, dict):
        if extra := value.keys() - made.keys():
            return f"{place + ': ' if place else ''}unknown field {min(extra)!r}"
        if whole and (missing := made.keys() - value.keys()):
            return f"{place + ': ' if place else ''}the field {min(missing)!r} is missing"
        parts = [(f"{place}.{n}".lstrip("."), made[n], entry) for n, entry in value.items()]
    elif isinstance(made, list):
        parts = [(f"{place}[{n}]", *pair) for n, pair in enumerate(zip(made, value, strict=True))]
    else:
        most = math.inf if isinstance(made, float) else _MOST
        odd = isinstance(made, int | float) and not abs(made) < most  # NaN is not
        return f"{place} must be a finite number, got {value}" if odd else None
    return next(filter(None, (_difference(m, v, whole, p) for p, m, v in parts)), None)
