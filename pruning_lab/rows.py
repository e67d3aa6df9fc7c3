"""Rows: one table type for everything measured, and JSON both ways (checked by msgspec)."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import ClassVar, TypeVar

import msgspec
from tabulate import tabulate

T = TypeVar("T")

_MOST = 2**63  # no number of this library is larger
_NUMBER = re.compile(r"[-+±×*]?[\d.,]+( ?%|×)?")


class Rows(tuple[T, ...]):
    """A tuple of dataclass rows that prints as a table; a slice is a table of the same type.

    `columns` maps the header of a printed column to a function from a row to its cell's text.
    Keywords become attributes, which slices and copies keep.
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
        cells = [[printable(cell(row)) for cell in cls.columns.values()] for row in rows]
        align = [
            "right" if all(not c or _NUMBER.fullmatch(c) for c in column) else "left"
            for column in zip(*cells, strict=True)
        ]
        return tabulate(cells, list(cls.columns), disable_numparse=True, colalign=align or None)

    def to_pandas(self):
        """A pandas.DataFrame; an accuracy's interval becomes columns such as accuracy_low."""
        import pandas  # part of the course's installation, not of the library's

        return pandas.DataFrame([flat(row) for row in self])


def printable(text: object) -> str:
    r"""The text with control characters escaped: "fc1\x1b[2J" cannot clear a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def flat(row: object) -> dict:
    """A row's fields in one dict: `accuracy.value` becomes `accuracy`, `.low` `accuracy_low`."""
    cells = {}
    for name, entry in plain(row).items():
        parts = entry if isinstance(entry, dict) else {"value": entry}
        cells |= {name if part == "value" else f"{name}_{part}": parts[part] for part in parts}
    return cells


def plain(value: object):
    """The value for JSON; a dataclass becomes a dict of the fields that its repr shows."""
    if is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value) if field.repr}
    if isinstance(value, Mapping):
        return {name: plain(entry) for name, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, list | tuple) else value


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
        what, found = form.split()[1], value.get("format") if isinstance(value, dict) else None
        if not isinstance(found, str) or found.split()[:2] != form.split()[:2]:
            raise ValueError(f"{where} is not a {what} file; name one that pruning_lab wrote")
        if found != form:
            raise ValueError(
                f"{where} is a {what} of another version of pruning_lab ({found!r}, not {form!r}); "
                f"use that version, or delete it and make it again"
            )
        value = {name: entry for name, entry in value.items() if name != "format"}
    try:
        made = msgspec.convert(value, kind, strict=strict)
        _check_same(plain(made), value, whole)
    except (ValueError, RecursionError) as error:  # msgspec's own is a ValueError
        raise ValueError(f"{where} is broken: {error}") from None
    return made


def _check_same(made: object, value: object, whole: bool, place: str = "$") -> None:
    """ValueError for a field too many or too few, and for a number that is not finite."""
    if isinstance(made, dict):
        if extra := value.keys() - made.keys():
            raise ValueError(f"unknown field `{min(extra)}` - at `{place}`")
        if whole and (missing := made.keys() - value.keys()):
            raise ValueError(f"missing field `{min(missing)}` - at `{place}`")
        for name in value:
            _check_same(made[name], value[name], whole, f"{place}.{name}")
    elif isinstance(made, list):
        for index, entry in enumerate(made):
            _check_same(entry, value[index], whole, f"{place}[{index}]")
    elif isinstance(made, int | float) and not abs(made) < _MOST:  # NaN is not
        raise ValueError(f"Expected a finite number, got {value} - at `{place}`")
