"""What is done of a scan, batch by batch, in a file that only grows."""

import glob
import json
import os
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from pruning_lab import files, processes


class Journal:
    """The counts (cells, 4) of every batch that is done: `done`, and on disk beside `out`.

    A line that an interrupt tore is no line: its batch is measured again. Raises FileExistsError
    where an interrupted scan left a journal and `resume` is off, ValueError where it is of another
    scan than `about` describes.
    """

    def __init__(self, out: str | Path, about: dict, cells: int, resume: bool):
        out, self.done = Path(out), {}
        self.parts = sorted(out.parent.glob(f"{glob.escape(out.name)}.part*"))
        if self.parts and not resume:
            raise FileExistsError(
                f"{self.parts[0]} is left of an interrupted scan; resume it by --resume "
                f"(resume=True), or delete it"
            )
        header = json.dumps(about)
        for part in self.parts:
            first, *lines = files.read_text(part).split("\n")
            if first != header:
                raise ValueError(
                    f"{part} is of another scan: other weights, images, batches, levels or "
                    f"versions; scan as it did, or delete it"
                )
            for line in lines:
                with suppress(ValueError, TypeError, RuntimeError):
                    index, counts = json.loads(line)
                    self.done[int(index)] = torch.tensor(counts).reshape(cells, 4)
        processes.wait()  # all have read before anyone writes
        path = out.with_name(f"{out.name}.part{processes.rank()}")
        self.parts = {path, *self.parts}
        files.write(path, header + "\n")
        self._file = path.open("a")
        for index, counts in self.done.items():
            self.note(index, counts)

    def note(self, index: int, counts: Tensor) -> None:
        self._file.write(json.dumps([index, counts.tolist()]) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def remove(self) -> None:
        """Once the scan is saved."""
        self._file.close()
        processes.wait()
        for path in self.parts:
            path.unlink(missing_ok=True)
