"""`pruning-lab`: files in, files out.

torch is imported with the commands, after the words have been read: help and mistakes in typing are
answered at once.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from pruning_lab.cli.words import parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command: 0 when it worked, else one sentence, and 2 for bad input, 1 for the rest.

    `--debug` shows the traceback of any error.
    """
    try:
        options = parser().parse_args(arguments)
    except ValueError as error:
        print(f"pruning-lab: {error}", file=sys.stderr)
        return 2
    # How long threads spin before they sleep: long enough for a network's small layers on an idle
    # machine, short enough not to starve each other on a busy one, where the default takes twice
    # the time. Has to stand before torch is loaded; only GNU's OpenMP (Linux) heeds it.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        from pruning_lab.cli import outputs
        from pruning_lab.cli.commands import COMMANDS

        outputs.check(options)
        COMMANDS[options.command](options)
    except KeyboardInterrupt:
        print(f"\ninterrupted{_how_to_go_on(options)}", file=sys.stderr)
        return 130
    except Exception as error:
        if options.debug:
            raise
        code, message = _explained(error)
        one_line = " ".join(message.splitlines())  # the name of a file may have more
        print(f"pruning-lab: {one_line}", file=sys.stderr)
        return code
    return 0


def _explained(error: Exception) -> tuple[int, str]:
    """The exit code, and one sentence."""
    if _is_raised_here(error):
        return 2, str(error.args[0] if isinstance(error, KeyError) else error)
    if isinstance(error, OSError) and error.filename is not None:
        return 2, f"{error.filename}: {error.strerror}; check the path and who may use it"
    if isinstance(error, MemoryError) or "out of memory" in (text := str(error).lower()):
        return 1, _NO_MEMORY
    if "can't allocate memory" in text:  # torch's words for it on a CPU
        return 1, _NO_MEMORY
    first_line = str(error).strip().partition("\n")[0]
    if type(error).__name__.startswith("Dist"):  # torch's DistError and its kinds
        return 1, (
            f"the processes cannot reach each other: {first_line}; start all of them again "
            f"(--resume takes up what was saved)"
        )
    return 1, (
        f"internal error: {type(error).__name__}: {first_line}; run it again with --debug to see "
        f"where, and report it"
    )


_NO_MEMORY = (
    "out of memory; try a smaller --batch-size or --size, fewer processes, or another --device "
    "(--resume takes up what was saved)"
)


def _is_raised_here(error: Exception) -> bool:
    """Whether a `raise` of this package made the error: then it is a sentence about the input.

    An error of any other line is a mistake in the code.
    """
    *_, frame = traceback.extract_tb(error.__traceback__)
    ours = Path(frame.filename).is_relative_to(Path(__file__).parent.parent)
    return ours and (frame.line or "").startswith("raise ")


def _how_to_go_on(options: argparse.Namespace) -> str:
    if not hasattr(options, "resume"):
        return "; nothing was written"
    unit = "batch" if options.command == "scan" else "epoch"
    return f"; the same command with --resume goes on behind the last finished {unit}"
