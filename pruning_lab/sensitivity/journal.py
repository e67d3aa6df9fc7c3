"""What is done of a scan, batch by batch, in a file that only grows."""

import glob
import json
import os
from pathlib import Path

import torch
from torch import Tensor

from pruning_lab import files, processes


class Journal:
    """The counts (cells, 4) of every batch that is done: `done`, and on disk beside `out`.

    A line torn by an interrupt is no line: its batch is measured again. Raises FileExistsError
    where an interrupted scan left a journal and `resume` is off, ValueError where it is of another
    scan than `about` describes.
    """

    def __init__(self, out: str | Path, about: dict, cells: int, resume: bool):
        self.out = Path(out)
        self.path = self.out.with_name(f"{self.out.name}.part{processes.rank()}")
        self.parts = sorted(self.out.parent.glob(f"{glob.escape(self.out.name)}.part*"))
        if self.parts and not resume:
            raise FileExistsError(
                f"{self.parts[0]} is left of an interrupted scan; resume it by --resume "
                f"(resume=True), or delete it"
            )
        header, self.done = json.dumps(about), {}
        for part in self.parts:
            first, *lines = files.read_text(part).split("\n")
            if first != header:
                raise ValueError(
                    f"{part} is of another scan: other weights, images, batches, levels or "
                    f"versions; scan as it did, or delete it"
                )
            for number, line in enumerate(lines[:-1], start=2):  # the last one is empty, or torn
                try:
                    index, counts = json.loads(line)
                    self.done[int(index)] = torch.tensor(counts).reshape(cells, 4)
                except (ValueError, TypeError, RuntimeError):
                    raise ValueError(
                        f"{part}, line {number} is broken; delete the file, and scan again"
                    ) from None
        processes.wait()  # all have read before anyone writes
        lines = [self._line(index, counts) for index, counts in self.done.items()]
        files.write(self.path, "".join([header + "\n", *lines]))
        self.file = self.path.open("a")

    def note(self, index: int, counts: Tensor) -> None:
        self.done[index] = counts
        self.file.write(self._line(index, counts))
        self.file.flush()
        os.fsync(self.file.fileno())

    def remove(self) -> None:
        """Once the scan is saved."""
        self.file.close()
        processes.wait()
        for path in {self.path, *self.parts}:
            path.unlink(missing_ok=True)

    @staticmethod
    def _line(index: int, counts: Tensor) -> str:
        return json.dumps([index, counts.tolist()]) + "\n"
