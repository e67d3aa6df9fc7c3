"""Rows: one table type for everything measured, and JSON both ways (checked by msgspec)."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from operator import attrgetter
from typing import ClassVar, TypeVar

import msgspec
from tabulate import tabulate

T = TypeVar("T")

_WORDS = {"float": "number", "int": "whole number", "str": "text", "array": "list"}  # of JSON
_MOST = 2**63  # no count of this library is larger
_NUMBER = re.compile(r"[-+±×*]?[\d.,]+( ?%|×)?")


class Rows(tuple[T, ...]):
    """A tuple of dataclass rows that prints as a table; a slice is a table of the same type.

    `columns` maps the header of a printed column to a function from a row to its cell (default: all
    fields). Keywords become attributes, which slices and copies keep.
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
        """The rows as text, one line each, under the headers; numbers are aligned to the right."""
        rows = list(rows)
        names = (field.name for row in rows[:1] for field in fields(row))
        columns = cls.columns or {name: attrgetter(name) for name in names}
        cells = [[_text(cell(row)) for cell in columns.values()] for row in rows]
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


def _text(cell: object) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else printable(cell)


def counted(number: int, word: str) -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def printable(text: object) -> str:
    r"""The text with control characters escaped: a file's or a layer's name may have some.

    >>> print(printable("fc1\x1b[2J"))
    fc1\x1b[2J
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def flat(row: object) -> dict:
    """A row's fields in one dict: `accuracy.value` becomes `accuracy`, `.low` `accuracy_low`."""
    cells = {}
    for name, entry in plain(row).items():
        parts = entry if isinstance(entry, dict) else {"value": entry}
        for part, value in parts.items():
            cells[name if part == "value" else f"{name}_{part}"] = value
    return cells


def plain(value: object):
    """The value for JSON; a dataclass becomes a dict of the fields that its repr shows."""
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

    `form` is the required "format" of the value, such as "pruning_lab plan 3". Optional fields are
    required too unless `whole=False`; with `strict=False` numbers may be texts. Raises ValueError
    with the path of the first field that is wrong, unknown or missing.
    """
    where = printable(where)
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


def _of_form(value: object, form: str, where: str) -> dict:
    """The value without its "format", which has to be `form`."""
    what, found = form.split()[1], value.get("format") if isinstance(value, dict) else None
    if not isinstance(found, str) or found.split()[:2] != form.split()[:2]:
        raise ValueError(f"{where} is not a {what} file; name one that pruning_lab wrote")
    if found != form:
        raise ValueError(
            f"{where} is a {what} of another version of pruning_lab ({found!r}, not {form!r}); "
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
    """The first field that the value has too many or lacks, or number that is not finite."""
    if isinstance(made, dict):
        where = place and f"{place}: "
        if extra := value.keys() - made.keys():
            return f"{where}unknown field {min(extra)!r}"
        if whole and (missing := made.keys() - value.keys()):
            return f"{where}the field {min(missing)!r} is missing"
        parts = [(f"{place}.{name}".lstrip("."), name) for name in value]
    elif isinstance(made, list):
        parts = [(f"{place}[{index}]", index) for index in range(len(made))]
    else:
        most = math.inf if isinstance(made, float) else _MOST
        odd = isinstance(made, int | float) and not abs(made) < most  # NaN is not
        return f"{place} must be a finite number, got {value}" if odd else None
    found = (_difference(made[key], value[key], whole, path) for path, key in parts)
    return next(filter(None, found), None)
