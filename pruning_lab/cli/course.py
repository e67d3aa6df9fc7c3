"""`pruning-lab course`: the notebooks, copied to where they may be changed."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

import pruning_lab as lab
from pruning_lab.cli import common, outputs


def course(
    folder: str = "pruning_lab_course",
    *,
    output: common.WritingOutput = common.WritingOutput(),
) -> None:
    """Copy the course's notebooks into a folder, and the solved ones into `read` below it.

    example:
      pruning-lab course && jupyter lab pruning_lab_course

    Args:
        folder: Where to; it is made if it is not there.
    """
    package = Path(lab.__file__).resolve().parent
    places = (package / "notebooks", package.parent / "notebooks")  # installed, or a checkout
    place = next((place for place in places if place.is_dir()), package)
    notebooks = [path for path in place.rglob("[0-9]*.ipynb") if ".ipynb_" not in str(path)]
    if not notebooks:
        raise FileNotFoundError(f"no notebooks in {places[0]}; install pruning_lab again")
    copies = {Path(folder) / path.relative_to(place): path for path in sorted(notebooks)}
    for copy in copies:
        outputs.check_file("the notebook", copy, "notebook", replace=output.force)
    for copy, path in copies.items():
        lab.files.write(copy, path.read_bytes())
    many = lab.rows.counted(len(copies), "notebook")
    text = f"wrote {many} to {folder}; open them with: jupyter lab {quote(folder)}"
    output.show({"out": folder, "notebooks": [str(copy) for copy in copies]}, text)
