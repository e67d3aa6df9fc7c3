#!/usr/bin/env python3
"""Set up pruning_lab next to this file, once, and run it.

    python3 lab.py run              train, scan, prune, retrain and report, on a LeNet
    python3 lab.py test             every test, notebooks and browser included
    python3 lab.py test -k masks    what follows goes to pytest
    python3 lab.py notebooks        the course, in JupyterLab
    python3 lab.py studio           the threshold studio, in the browser
    python3 lab.py scan ...         any other command goes to pruning-lab, with its options

The first call makes .venv here, with uv where it is on the PATH, else with pip. That takes some
minutes, and on Linux downloads about 3 GB that become 6 GB (PyTorch's CUDA build, which runs on the
CPU too). Later calls start at once. It needs Python 3.11 or newer, and nothing else.
"""

# Written so that a much older Python can still read this file, and say which one it needs.
import contextlib
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENV = ROOT / ".venv"
BIN = ENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
STAMP = ENV / "lab-stamp.txt"


def main(words):
    if sys.version_info < (3, 11):  # noqa: UP036, older Pythons are to read this
        sys.exit(
            f"pruning_lab needs Python 3.11 or newer, and this is {sys.version.split()[0]};"
            " start it with a newer one, as in: python3.12 lab.py run"
        )
    if not words or words[0] in ("-h", "--help", "help"):
        print(__doc__.strip())
        return 0
    # With this set, no bytecode is kept, and every notebook kernel compiles all of torch again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if not is_ready():
        try:
            with one_at_a_time():
                if not is_ready():
                    set_up()
        except OSError as error:
            stop(error)
        except KeyboardInterrupt:
            stop("interrupted", code=130)
    return run(*words)


def run(word, *rest):
    """Do one task in the environment; on POSIX this process becomes it."""
    # Without it, `data/` would be looked for in the current folder.
    os.environ.setdefault("PRUNING_LAB_DATA", str(ROOT / "data"))
    # Threads that spin long starve each other on a machine that is shared.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # Inside a notebook, `!pruning-lab` and `!pip` are to mean this environment too.
    os.environ["PATH"] = str(BIN) + os.pathsep + os.environ.get("PATH", os.defpath)
    # -P: a random.py in the current folder belongs to the user, and is not to be imported.
    task = ["-P", "-m", "pruning_lab", word]
    if word == "test":
        os.chdir(str(ROOT))
        task = ["-m", "pytest"]
    if word == "notebooks":
        task = ["-P", "-m", "jupyterlab", f"--ServerApp.root_dir={ROOT / 'notebooks'}"]
    command = [str(PYTHON), *task, *rest]
    if os.name == "posix":
        os.execv(command[0], command)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the task to answer
    return subprocess.call(command)


def is_ready():
    return PYTHON.exists() and STAMP.is_file() and STAMP.read_bytes() == stamp()


def stamp():
    """What an environment depends on: this folder, this Python and the two files."""
    inputs = hashlib.sha256("{}.{}".format(*sys.version_info).encode())
    for name in ("pyproject.toml", "constraints.txt"):
        inputs.update((ROOT / name).read_bytes())
    return os.fsencode(str(ROOT)) + b"\n" + inputs.hexdigest().encode()


def set_up():
    """Make or update the environment, and stamp it when it is complete."""
    uv = shutil.which("uv")
    if not uv and not all(map(importlib.util.find_spec, ("venv", "ensurepip"))):
        sys.exit(
            "lab.py: this Python cannot make environments, for it lacks ensurepip;"
            " type `sudo apt install python3-venv` (Debian, Ubuntu), or install uv."
        )
    finished = stamp()
    fresh = not is_usable()
    print(
        f"lab.py: {'making' if fresh else 'updating'} .venv with {'uv' if uv else 'pip'};"
        " the first time, this takes some minutes and, on Linux, 6 GB",
        file=sys.stderr,
    )
    ENV.mkdir(exist_ok=True)
    STAMP.write_text("unfinished")  # until the end: if it is stopped, the next call starts again
    if fresh:
        make_empty()
    what = ["-c", "constraints.txt", "-e", ".[dev]"]
    if uv:
        steps = [[uv, "pip", "install", "--python", str(PYTHON), "--compile-bytecode", *what]]
    else:
        pip = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", *what]
        steps = [[str(PYTHON), "-m", "ensurepip", "--default-pip"], pip]
    for step in steps:
        # To stderr, because the output of the task may be piped.
        code = subprocess.call(step, cwd=str(ROOT), stdout=sys.stderr)
        if code > 0 and not fresh:
            STAMP.unlink()  # it failed by itself, as when offline: the old one is still usable
        if code:
            stop("`{}` ended with {}; its messages are above".format(" ".join(step), code))
    STAMP.write_bytes(finished)


def is_usable():
    """Whether there is a complete environment of this Python in its place.

    One that `uv run` or the user made is kept, with all that is in it.
    """
    if STAMP.is_file() and STAMP.read_bytes().partition(b"\n")[0] != os.fsencode(str(ROOT)):
        return False  # unfinished, or the folder moved: its scripts point to where it was
    ask = "import sys; print(sys.prefix, *sys.version_info[:2])"
    try:
        answer = subprocess.check_output([str(PYTHON), "-c", ask], universal_newlines=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return answer.strip() == "{} {} {}".format(ENV, *sys.version_info)


def make_empty():
    import venv  # here, because not every Python has it

    for path in ENV.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(str(path))
        elif path != STAMP:  # it says "unfinished", in case this is interrupted
            path.unlink()
    venv.create(str(ENV), symlinks=os.name != "nt")


@contextlib.contextmanager
def one_at_a_time():
    """A second call waits until the first has set up; a lock ends with its process."""
    with open(__file__, "rb") as file:
        with contextlib.suppress(ImportError, OSError):  # Windows and some shared folders have none
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def stop(reason, code=1):
    print(f"lab.py: the set-up did not finish: {reason}", file=sys.stderr)
    print("The same command starts it again.", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
