"""What a student's notebook defines, read off its code: no cell is run here.

Metadata, ids, outputs and the order of running do not matter; of a name that is defined twice the
last definition counts.
"""

import ast
import builtins
import dis
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType

from pruning_lab import files
from pruning_lab.course.editions import text_of
from pruning_lab.isolation import Definition

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_SIMPLE = (*_FUNCTIONS, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
_STORES = ("STORE_NAME", "STORE_GLOBAL")
_LOADS = ("LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS")
_CHANGING = ("append", "clear", "extend", "insert", "pop", "remove", "setdefault", "update")
_HARMLESS = ("time", "timeit", "capture", "prun")  # cell magics below which there is Python


@dataclass(frozen=True)
class Statement:
    """A statement that stands in no function, and its cell."""

    cell: str
    text: str  # of the cell
    node: ast.stmt
    binds: frozenset[str]
    changes: frozenset[str]  # `plan["fc1"] = 2`, `count += 1`
    uses: frozenset[str]


@dataclass(frozen=True)
class Notebook:
    """The statements of a notebook in order, and what could not be read."""

    name: str
    statements: tuple[Statement, ...] = ()
    text: str = ""  # of all cells, the texts too
    faults: tuple[str, ...] = field(default=())

    def binds(self, name: str) -> bool:
        return any(name in statement.binds for statement in self.statements)


def read(path: Path) -> Notebook:
    """Read a notebook; what is wrong with it is in `faults`, and nothing is raised."""
    try:
        content = json.loads(files.read_text(path))
        sheets = content.get("worksheets") or [content]  # files of before 2014
        cells = [cell for sheet in sheets for cell in sheet["cells"]]
        pairs = [(cell.get("cell_type"), text_of(cell)) for cell in cells]
    except (ValueError, OSError, RecursionError, TypeError, KeyError, AttributeError):
        return Notebook(path.name, faults=(f"{path.name} is no notebook that can be read",))
    statements, faults = [], []
    for number, (kind, text) in enumerate(pairs, start=1):
        if kind != "code" or (code := without_magics(text)) is None:
            continue
        name = f"{path.name}, cell {number}"
        try:
            statements += _statements(name, code)
        except SyntaxError as error:
            faults.append(f"{name} is left out: {error.msg}, line {error.lineno}")
        except (ValueError, RecursionError, MemoryError):
            faults.append(f"{name} is left out: it is no Python")
    return Notebook(path.name, tuple(statements), "\n".join(t for _, t in pairs), tuple(faults))


def without_magics(text: str) -> str | None:
    """Code with IPython's own lines taken out, as many lines as before; None for another language.

    >>> without_magics("%matplotlib inline\\nx = 1")
    'pass\\nx = 1'
    """
    lines = text.replace("\r\n", "\n").split("\n")
    first = next((n for n, line in enumerate(lines) if line.strip()), 0)
    if lines[first].startswith("%%"):
        if lines[first][2:].split(None, 1)[:1] not in [[name] for name in _HARMLESS]:
            return None
        lines[first] = ""
    return "\n".join(re.sub(r"^(\s*)([%!?]|\w+\?+$).*", r"\1pass", line) for line in lines)


def _statements(cell: str, code: str) -> Iterator[Statement]:
    for node in ast.parse(code, cell).body:
        compiled = compile(ast.Module([node], []), cell, "exec", dont_inherit=True)
        binds = {step.argval for step in dis.get_instructions(compiled) if step.opname in _STORES}
        binds |= {"*"} if isinstance(node, ast.ImportFrom) and node.names[0].name == "*" else set()
        changes = _changed(node)
        if isinstance(node, ast.AugAssign):
            binds -= changes
        yield Statement(cell, code, node, frozenset(binds), changes, frozenset(_used(compiled)))


def _used(code: CodeType) -> Iterator[str]:
    """The names that are looked up outside of functions, those of its functions too."""
    for step in dis.get_instructions(code):
        if step.opname in _LOADS:
            yield step.argval
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _used(inner)


def _changed(node: ast.stmt) -> frozenset[str]:
    """The names whose values a statement changes without a definition, in a loop too."""
    if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
        return frozenset()
    inner = (child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt))
    names, targets = {name for child in inner for name in _changed(child)}, []
    if isinstance(node, ast.Assign | ast.Delete):
        targets = [t for t in node.targets if isinstance(t, ast.Subscript | ast.Attribute)]
    elif isinstance(node, ast.AugAssign):
        targets = [node.target]
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        function = node.value.func
        targets = [function] if getattr(function, "attr", "") in _CHANGING else []
    for target in targets:
        while isinstance(target, ast.Subscript | ast.Attribute):
            target = target.value
        names |= {target.id} if isinstance(target, ast.Name) else set()
    return frozenset(names)


def definition(
    notebook: Notebook, name: str, *, given: Mapping[str, object] | None = None, case: tuple = ()
) -> Definition | None:
    """The last definition of a name, with the imports and helpers that it needs, as far as known.

    `given` names are not taken from the notebook; `case` is what `exercises.case` says there.
    """
    statements, chosen, wanted, seen = (
        notebook.statements,
        set(),
        [name],
        {*(given or ()), *dir(builtins)},
    )
    if not (found := list(_binding(statements, name, len(statements)))):
        return None
    last = statements[found[0]]
    while wanted:
        if (needed := wanted.pop()) in seen and needed != name:
            continue
        seen.add(needed)
        for place in _binding(statements, needed, len(statements)):
            if place not in chosen:
                chosen.add(place)
                wanted += statements[place].uses - seen
    stars = (n for n, s in enumerate(statements) if "*" in s.binds)
    parts = [statements[place] for place in sorted({*chosen, *stars})]
    lines = tuple((s.cell, s.text, _first_line(s.node), s.node.end_lineno) for s in parts)
    parts = tuple(dict.fromkeys(lines))
    return Definition(name, parts, _code(last), given or {}, case, place=last.cell)


def _first_line(node: ast.stmt) -> int:
    decorators = getattr(node, "decorator_list", ())
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _binding(statements: Sequence[Statement], name: str, before: int) -> Iterator[int]:
    """The place of the last definition, then of what it is made from, then of later changes."""
    places = [n for n, s in enumerate(statements[:before]) if name in s.binds]
    for kinds in _FUNCTIONS, _SIMPLE, (ast.stmt,):  # a loop over `step` is no definition of it
        if found := [n for n in places if isinstance(statements[n].node, kinds)]:
            break
    else:
        return
    last = found[-1]
    yield last
    node = statements[last].node
    if name in statements[last].uses and not isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
        yield from _binding(statements, name, last)
    for place in range(last + 1, before):
        if name in statements[place].changes and not isinstance(node, _FUNCTIONS):
            yield place


def is_function(definition: Definition) -> bool:
    return definition.code is not None


def _code(statement: Statement) -> CodeType | None:
    """The code of a function or lambda, compiled and not run; None for another value."""
    node = statement.node
    if isinstance(node, _FUNCTIONS):
        name = node.name
    elif isinstance(getattr(node, "value", None), ast.Lambda):
        name = "<lambda>"
    else:
        return None
    made = compile(ast.Module([node], []), statement.cell, "exec", dont_inherit=True)
    codes = [value for value in made.co_consts if isinstance(value, CodeType)]
    return next(code for code in codes if code.co_name == name)


def literal(notebook: Notebook, name: str) -> object:
    """The last value of a name that is written out as numbers and texts; None for another."""
    for statement in reversed(notebook.statements):
        if name in statement.binds:
            value = getattr(statement.node, "value", None)
            try:
                return ast.literal_eval(value) if value is not None else None
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                return None
    return None


def calls(notebook: Notebook, function: str) -> Iterator[ast.Call]:
    """The calls of a method of this name, in order: `lab.exercises.check(...)`."""
    for statement in notebook.statements:
        for node in ast.walk(statement.node):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == function:
                yield node
