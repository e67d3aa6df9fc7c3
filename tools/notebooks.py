"""Make the notebooks from their sources: a fresh run, outputs kept, nothing of the machine.

    python tools/notebooks.py              every notebook
    python tools/notebooks.py 01 03        those
    python tools/notebooks.py --check      run nothing; say which notebooks differ from their source

The source of notebooks/01_dense.ipynb is notebooks/source/01_dense.py (jupytext, percent format):
edit that, run this, commit both. A cell tagged `nbval-check-output` is compared by the tests with
what is stored, on MNIST and on digits, so its output must be the same on both and on any machine.

Outputs come from MNIST, found in $PRUNING_LAB_DATA or data/.
"""

import argparse
import hashlib
import os
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
# Without a kernel JupyterLab asks for one before it runs anything.
METADATA = nbformat.from_dict(
    {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
)
WIDGET = "application/vnd.jupyter.widget-view+json"


def sources() -> list[Path]:
    return sorted((NOTEBOOKS / "source").glob("*.py"))


def target(source: Path) -> Path:
    return NOTEBOOKS / f"{source.stem}.ipynb"


def assemble(source: Path) -> nbformat.NotebookNode:
    """The notebook without outputs: what a run starts from, and what a commit is compared with."""
    notebook = jupytext.read(source, fmt="py:percent")
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        # An id of what the cell says stays when cells around it come and go.
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    notebook.metadata = METADATA.copy()
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def run(notebook: nbformat.NotebookNode, data: Path) -> None:
    """Execute in a folder where `data` is the only thing, so that no path of this machine shows."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").symlink_to(data.resolve())
        environment = {k: v for k, v in os.environ.items() if k != "PRUNING_LAB_DATA"}
        NotebookClient(
            notebook,
            timeout=600,
            kernel_name="python3",
            record_timing=False,
            store_widget_state=False,
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
        ).execute(env=environment)
    notebook.metadata = METADATA.copy()  # the kernel has added its version
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            # A widget lives in its kernel; the picture beside it is what a reader can see.
            output.get("data", {}).pop(WIDGET, None)


def same(left: nbformat.NotebookNode, right: nbformat.NotebookNode) -> bool:
    """Whether two notebooks ask the same, whatever their outputs."""

    def asked(notebook):
        return [(c.cell_type, c.id, c.source, dict(c.metadata)) for c in notebook.cells]

    return asked(left) == asked(right) and left.metadata == right.metadata


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="how the notebooks' names begin; all if none")
    parser.add_argument(
        "--check", action="store_true", help="compare with the sources, run nothing"
    )
    options = parser.parse_args()
    chosen = [s for s in sources() if not options.names or s.name.startswith(tuple(options.names))]
    if not chosen:
        parser.error(f"no notebook begins with {' or '.join(options.names)}")
    if options.check:
        stale = [
            s.stem
            for s in chosen
            if not target(s).exists()
            or not same(assemble(s), nbformat.read(target(s), as_version=4))
        ]
        for name in stale:
            print(f"{name} is not what its source says; type: python tools/notebooks.py {name}")
        return 1 if stale else 0
    data = Path(os.environ.get("PRUNING_LAB_DATA", ROOT / "data"))
    if not (data / "MNIST").is_dir():
        parser.error(f"the stored outputs are MNIST's, and there is no MNIST in {data}")
    for source in chosen:
        print(source.stem, flush=True)
        notebook = assemble(source)
        run(notebook, data)
        nbformat.write(notebook, target(source))
    return 0


if __name__ == "__main__":
    sys.exit(main())
