"""`pruning-lab`: files in, files out. One module per command, its options beside its handler.

cyclopts reads the options before torch is imported: help and typing mistakes are answered at once.
"""

import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError
from cyclopts.help import DefaultFormatter, PanelSpec
from rich.box import Box

import pruning_lab as lab
from pruning_lab.cli import outputs
from pruning_lab.cli.common import Output

COMMANDS = (
    *("run", "train", "scan", "choose", "prune", "retrain", "report", "table", "figure"),
    *("cost", "pack", "unpack", "bench", "export", "studio", "course"),
)


def app() -> App:
    """The whole command line. No module of a command imports torch before it is called."""
    no_box = PanelSpec(box=Box("    \n" * 8), padding=(0, 0, 0, 3))
    made = App(
        "pruning-lab",
        help="Train, scan, prune and retrain neural networks (Han et al. 2015).\n\n"
        "Start with: pruning-lab run --model lenet-300-100",
        version=f"pruning-lab {lab.__version__}",
        help_format="plaintext",
        help_formatter=DefaultFormatter(panel_spec=no_box),
        default_parameter=Parameter(negative=(), show_default=_shown),
    )
    for place, name in enumerate(COMMANDS):
        command = getattr(import_module(f"pruning_lab.cli.{name}"), name)
        if isinstance(command, App):  # one with commands of its own
            command.sort_key = place
            made.command(command)
        else:
            made.command(command, sort_key=place)
    made.register_install_completion_command(help="Complete commands and options in your shell.")
    return made


def _shown(default: object) -> object:
    """What the help says of a default: nothing of None and of a flag."""
    return None if default is None or default is False else default


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command: 0 when it worked, else one sentence, and 2 for bad input, 1 for others.

    `--debug` shows the traceback of any error.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        command, bound, _ = app().parse_args(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        text = str(error).strip().rstrip("., ")
        if isinstance(error, UnusedCliTokensError):
            text = f"nothing takes {' '.join(error.unused_tokens)!r}"
        elif error.msg and error.argument:
            text = f"{error.argument.name}: {error.msg}"
        words = " ".join(("pruning-lab", *(error.command_chain or ())))
        return _fail(2, f"{text}; {words} --help says what can be typed")
    bound.apply_defaults()
    groups = bound.arguments.values()
    output = next((group for group in groups if isinstance(group, Output)), None)
    if output is None:  # --help, --version, --install-completion
        command(*bound.args, **bound.kwargs)
        return 0
    bound.arguments["output"] = replace(output, command=shlex.join(("pruning-lab", *arguments)))
    # How long threads spin before they sleep: long enough for a network's small layers on an idle
    # machine, short enough not to starve each other on a busy one. Has to stand before torch is
    # loaded; only GNU's OpenMP (Linux) reads it.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        import torch

        outputs.check(command, bound.arguments)
        with lab.processes.joined():
            torch.manual_seed(bound.arguments.get("seed") or 0)
            command(*bound.args, **bound.kwargs)
    except KeyboardInterrupt:
        resumes = isinstance(bound.arguments.get("resume"), bool)  # the studio's is a file
        resumes = resumes or any(hasattr(group, "resume") for group in groups)
        advice = "the same command with --resume continues after the last finished batch or epoch"
        if "seeds" in bound.arguments:  # table and figure keep their runs
            resumes, advice = True, "the same command continues after the last finished epoch"
        return _fail(130, f"interrupted; {advice if resumes else 'nothing was written'}")
    except Exception as error:
        if output.debug:
            raise
        return _fail(*_explained(error))
    return 0


def _fail(code: int, message: str) -> int:
    print(f"pruning-lab: {' '.join(message.splitlines())}", file=sys.stderr)
    return code


def _explained(error: Exception) -> tuple[int, str]:
    """The exit code, and one sentence."""
    kind, text = type(error).__name__, str(error).strip()
    if _is_raised_here(error):
        return 2, str(error.args[0] if isinstance(error, KeyError) else error)
    if isinstance(error, OSError) and error.filename is not None:
        return 2, f"{error.filename}: {error.strerror}; check the path and who may use it"
    if kind == "MemoryError" or "out of memory" in text.lower() or "t allocate memory" in text:
        return 1, (
            "out of memory; try a smaller --batch-size or --size, fewer processes, or another "
            "--device (--resume continues from what was saved)"
        )
    first_line = text.partition("\n")[0]
    if kind.startswith("Dist"):  # torch's DistError and its kinds
        return 1, (
            f"the processes cannot reach each other: {first_line}; start all of them again "
            f"(--resume continues from what was saved)"
        )
    if kind == "ModuleNotFoundError" and error.name in _COURSE:
        return 1, f"{error.name} is not installed; type: pip install 'pruning-lab[course]'"
    return 1, f"internal error: {kind}: {first_line}; run it again with --debug, and report it"


_COURSE = ("matplotlib", "ipywidgets", "anywidget", "tornado", "mlxtend", "pandas")  # its extra


def _is_raised_here(error: Exception) -> bool:
    """Whether a `raise` of this package made the error: then it is a sentence about the input."""
    *_, frame = traceback.extract_tb(error.__traceback__)
    ours = Path(frame.filename).is_relative_to(Path(__file__).parent.parent)
    return ours and (frame.line or "").startswith("raise ")
