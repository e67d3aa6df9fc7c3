"""One line of modules, light imports, and the paper's numbers in one place."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pruning_lab
from pruning_lab import paper

LINE = (
    *(
        "paper",
        "provenance",
        "rows",
        "files",
        "processes",
        "layers",
        "criteria",
        "masks",
        "isolation",
        "models",
        "data",
        "evaluation",
        "checkpoints",
        "training",
        "counts",
    ),
    *("neurons", "storage", "sparse", "cost", "sensitivity", "retraining", "experiments", "plots"),
    *("reports", "exercises", "course", "studio", "widgets", "cli"),
)

PACKAGE = Path(pruning_lab.__file__).parent
SOURCES = {
    path: path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for path in sorted(PACKAGE.rglob("*.py"))
    if path not in (PACKAGE / "__init__.py", PACKAGE / "__main__.py")
}


def imports(path: Path) -> set[str]:
    """The modules of this package that a file imports, inside functions too."""
    dotted = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            dotted += [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            dotted += [f"{node.module}.{alias.name}" for alias in node.names]
    parts = [name.split(".") for name in dotted if name.startswith("pruning_lab.")]
    return {part[1] for part in parts if part[1] != "__version__"}


def test_every_module_has_its_place_in_the_line():
    assert set(SOURCES.values()) <= set(LINE)


def test_a_module_imports_only_from_those_before_it():
    wrong = [
        f"{module} imports {other}"
        for path, module in SOURCES.items()
        for other in imports(path) - {module}
        if other not in LINE[: LINE.index(module)]
    ]
    assert wrong == []


def imported_files(path: Path) -> set[Path]:
    """The files of this package that a file imports, inside functions and for types too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if file_of(name) else node.module for name in inside]
        else:
            continue
        found |= {file for name in names if (file := file_of(name))}
    return found


def file_of(name: str) -> Path | None:
    """The file of a module of this package, by its dotted name."""
    place = PACKAGE.parent.joinpath(*name.split("."))
    files = place.with_suffix(".py"), place / "__init__.py"
    return next((file for file in files if file.is_file() and PACKAGE in file.parents), None)


def test_no_file_imports_itself_by_a_detour():
    """No circles, inside folders neither."""
    imported = {path: imported_files(path) for path in SOURCES}
    assert PACKAGE / "data" / "splits.py" in imported[PACKAGE / "data" / "photos.py"]
    left, before = set(imported), None
    while left != before:  # what imports nothing that is left, or is imported by nothing, is free
        before = left
        left = {path for path in left if imported[path] & left}
        left &= {file for path in left for file in imported[path]}
    assert sorted(path.relative_to(PACKAGE).as_posix() for path in left) == []


def test_pruning_loads_no_plots_widgets_tables_or_data_sets_and_drawing_no_pyplot():
    script = """
import sys
import pruning_lab
from pruning_lab import masks, models, data, evaluation, training, counts, sensitivity, retraining
heavy = {"matplotlib", "ipywidgets", "IPython", "mlxtend", "pandas", "sklearn", "torchvision"}
print(sorted(heavy & set(sys.modules)))
from matplotlib.figure import Figure
import torch
from pruning_lab import plots
plots.weights(torch.randn(50), ax=Figure().subplots())
print("matplotlib.pyplot" in sys.modules)  # its global state is not for threads that draw
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == ["[]", "False"], done.stderr


def test_modules_and_main_functions_appear_on_the_package_when_first_used():
    script = """
import sys
import pruning_lab as lab
print("torch" in sys.modules, {"masks", "prune", "Studio", "train", "criteria"} <= set(dir(lab)))
print(lab.prune is lab.masks.prune, lab.scan is lab.sensitivity.scan)
try:
    lab.prunes
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == ["False True", "True True"], done.stderr
    assert "has no attribute 'prunes'" in done.stdout
    home = {module for path, module in SOURCES.items()}
    assert home | {"__version__"} >= {n for n in dir(pruning_lab) if n.islower() and n in LINE}
    assert home <= set(dir(pruning_lab))


def test_importing_draws_no_random_number_and_sets_no_threads():
    """Importing does nothing: no call stands alone at the top of a module."""
    calls = [
        f"{path.name}:{node.lineno}"
        for path in SOURCES
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ]
    assert calls == []


def test_the_papers_errors_are_typed_in_one_module():
    errors = {r.error for r in paper.TABLE_1.values()}
    errors |= {r.dense_error for r in paper.TABLE_1.values()}
    errors |= {r.top1_error for r in paper.TABLE_6}
    distinct = {e for e in errors if round(1e4 * e) % 10}  # 0.008 may well mean something else
    typed = [
        f"{path.name}:{node.lineno} types {node.value}"
        for path, module in SOURCES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, float) and module != "paper"
        if any(abs(node.value - scale * e) < 1e-9 for e in distinct for scale in (1, 100))
    ]
    assert len(distinct) > 8
    assert typed == []


def test_editors_are_told_of_all_that_the_package_has():
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text())
    imported = [a for node in stub.body if isinstance(node, ast.ImportFrom) for a in node.names]
    assert all(alias.name == alias.asname for alias in imported)  # `as` marks it as meant for users
    assert {alias.name for alias in imported} | {"__version__"} == set(dir(pruning_lab))
    assert (PACKAGE / "py.typed").exists()


def test_no_module_class_or_function_is_too_long_to_be_read_in_one_sitting():
    most = {ast.Module: 450, ast.ClassDef: 300, ast.FunctionDef: 80}
    too_long = []
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            lines = path.read_text().count("\n")
            if not isinstance(node, ast.Module):
                lines = getattr(node, "end_lineno", 0) - getattr(node, "lineno", 0) + 1
            if lines > most.get(type(node), lines):
                too_long.append(f"{path.name}: {getattr(node, 'name', 'module')} {lines}")
    assert sorted(set(too_long)) == []


def test_the_prose_has_words_that_a_student_can_search_for():
    words = r"\b(anew|whoever|somebody|newest|mend(s|ed)?|by heart|held against|minds? most)\b"
    root = PACKAGE.parent
    pages = [root / "README.md", root / "CHANGELOG.md", *(root / "docs").glob("*.md")]
    found = [
        f"{path.name}: {match[0]}"
        for path in (*SOURCES, *(page for page in pages if page.exists()))
        for match in re.finditer(words, path.read_text())
    ]
    assert found == []
