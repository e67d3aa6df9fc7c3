"""`pruning-lab`: files in, files out.

torch is imported with the commands, after the words have been read: help and mistakes in typing are
answered at once.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from pruning_lab.cli.words import parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it worked, 2 with one sentence when the input was at fault."""
    options = parser().parse_args(arguments)
    # How long threads spin before they sleep: long enough for a network's small layers on an idle
    # machine, short enough not to starve each other on a busy one, where the default takes twice
    # the time. Has to stand before torch is loaded; only GNU's OpenMP (Linux) heeds it.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        from pruning_lab.cli.commands import COMMANDS

        COMMANDS[options.command](options)
    except KeyboardInterrupt:
        print(f"\ninterrupted{_how_to_go_on(options)}", file=sys.stderr)
        return 130
    except (ValueError, KeyError, TypeError, OSError, ArithmeticError) as error:
        if options.debug:
            raise
        message = error.args[0] if isinstance(error, KeyError) else error
        print(f"pruning-lab: {message}", file=sys.stderr)
        return 2
    return 0


def _how_to_go_on(options: argparse.Namespace) -> str:
    if not hasattr(options, "resume"):
        return "; nothing was written"
    unit = "batch" if options.command == "scan" else "epoch"
    return f"; the same command with --resume goes on behind the last finished {unit}"
