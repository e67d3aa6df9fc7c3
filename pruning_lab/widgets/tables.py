"""Small tables in HTML."""

from collections.abc import Iterable, Sequence

NUMBER = '<td style="padding: 0 1em; text-align: right">'
_NAME = '<td style="padding: 0 1em; opacity: 0.65; text-align: right">'


def table(rows: Iterable[Sequence[str]], cell: str = "<td>") -> str:
    """A name in front, and what belongs to it."""
    lines = (
        f"{_NAME}{name}</td>{''.join(f'{cell}{it}</td>' for it in its)}" for name, *its in rows
    )
    inside = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<table style="line-height: 1.6">{inside}</table>'
