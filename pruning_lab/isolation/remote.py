"""The grader's end: a worker process, and a function in it that is called as if it were here."""

import builtins
import io
import json
import os
import pickle
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType

import torch
from torch import nn

import pruning_lab
from pruning_lab.isolation import jail
from pruning_lab.isolation.calls import Blocked, Ended, Guarded, Raised, RemoteError, TimeUp
from pruning_lab.isolation.wire import (
    LENGTH,
    MODULES,
    parsed,
    read,
    receive,
    unpacked,
    unpacked_tensor,
)

_MOST = 2**25  # bytes of a reply
_PACKAGE = Path(pruning_lab.__file__).resolve().parent
_LOADING = 60.0  # seconds for imports and helpers of a student's


@dataclass(frozen=True)
class Definition:
    """What a student wrote under a name: lines of cells, in order, and the function's code."""

    name: str
    parts: tuple[tuple[str, str, int, int], ...]  # name and text of a cell, first and last line
    code: CodeType | None = None  # of the function; compiled and never run here
    given: Mapping[str, object] = field(default_factory=dict)  # names that the notebook had
    case: tuple = ()  # what exercises.case says
    place: str = ""  # the cell of the definition itself


class Worker:
    """A process that forks one for each case; it is started again where it is gone."""

    def __init__(
        self, *, memory: int = 2**31, loaded: Sequence[str] = ("pandas",), isolate: bool = True
    ):
        self.memory, self._loaded, self._isolate = memory, list(loaded), isolate
        self._process: subprocess.Popen | None = None
        self._isolated: frozenset[str] = frozenset()
        self._folder = tempfile.TemporaryDirectory()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_) -> None:
        self._stop()
        self._folder.cleanup()

    @property
    def has_run(self) -> bool:
        return self._process is not None

    @property
    def isolated(self) -> frozenset[str]:
        """What a student's function does not see, of files, network and processes."""
        if self._process is None:
            self._start()
        return self._isolated

    def _start(self) -> None:
        if not hasattr(os, "fork"):
            raise OSError("answers are graded on Linux and macOS; on Windows type it in WSL")
        self._control, theirs = socket.socketpair()
        paths = [str(_PACKAGE.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        script, package = str(Path(jail.__file__)), str(_PACKAGE)
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", script, str(theirs.fileno()), package),
                    *(json.dumps(self._loaded), str(int(self._isolate))),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=self._folder.name,
                env={
                    **{k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "HOME")},
                    "PYTHONPATH": os.pathsep.join(filter(None, paths)),
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "OMP_NUM_THREADS": "1",
                },
            )
        self._control.settimeout(300)
        hello = b""
        while len(hello) < 64:
            if not (more := self._control.recv(64 - len(hello))):
                raise OSError("the process for answers did not start; type: pruning-lab --version")
            hello += more
        self._isolated = frozenset(hello.decode().split())

    def _stop(self) -> None:
        if self._process:
            self._control.close()
            self._process.kill()
            self._process.wait()
            self._process = None

    def fork(self) -> socket.socket:
        """A socket to a new process."""
        if self._process is None or self._process.poll() is not None:
            self._stop()
            self._start()
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [b"1"], [theirs.fileno()])
        return ours

    def end(self) -> int | None:
        """End the process; its exit code or minus its signal, None where the worker is gone too."""
        try:
            self._control.sendall(b"0")
            return LENGTH.unpack(receive(self._control, LENGTH.size))[0] - 2**16
        except (OSError, EOFError):
            self._stop()
            return None

    @property
    def folder(self) -> str:
        return tempfile.mkdtemp(dir=self._folder.name)


class Remote(Guarded):
    """A student's function in a worker: each case in a process of its own, values over a socket.

    Networks, optimizers and masks among its arguments live there until the case ends, and what it
    did to a network is done to the one here. Functions among them are called here.
    """

    def __init__(
        self, worker: Worker, definition: Definition, seconds: float, blocked: Sequence[str] = ()
    ):
        super().__init__(None, seconds, tuple(blocked))
        self._worker, self._definition, self._seconds = worker, definition, seconds
        self.__name__ = definition.name
        if definition.code is not None:
            self.__code__ = definition.code
        self._socket: socket.socket | None = None
        self._known: list[object] = []

    def begin(self) -> None:
        self.close()

    def close(self) -> int | None:
        """End this case's process; how it ended."""
        self._known, self._calls = [], []
        if self._socket is None:
            return None
        self._socket.close()
        self._socket = None
        return self._worker.end()

    def value(self) -> object:
        """What the name stands for, where that is no function."""
        try:
            return self._open(wanted="value")
        finally:
            self.close()

    def __call__(self, *args, **kwargs):
        if self._socket is None:
            self._open(wanted="ready")
        if self._left <= 0:
            raise TimeUp
        began, self._calls = time.monotonic(), []
        try:
            self._send((args, kwargs))
            self._known += [arg for arg in args if self._lives(arg) and not self._is_known(arg)]
            while True:
                kind, content = self._received(self._left - (time.monotonic() - began))
                if kind != "called":
                    return self._result(kind, content)
                self._send(self._called(*content))
        finally:
            self._left -= time.monotonic() - began

    def _open(self, wanted: str) -> object:
        definition, self._nonce = self._definition, secrets.token_bytes(16)
        self._socket = self._worker.fork()
        self._send(
            {
                "nonce": self._nonce,
                "name": definition.name,
                "parts": definition.parts,
                "given": dict(definition.given),
                "case": definition.case,
                "blocked": self._blocked,
                "memory": self._worker.memory,
                "processor": int(_LOADING + self._seconds) + 1,
                "folder": self._worker.folder,
            }
        )
        kind, content = self._received(_LOADING)
        if kind not in (wanted, "raised"):
            raise Ended(
                f"{definition.name} is {'a function' if kind == 'ready' else 'no function'}"
            )
        return self._result(kind, content)

    def _result(self, kind: str, content: object) -> object:
        if kind == "raised":
            name, text, line = map(str, content)
            raise _error(Raised(name, text, line))
        if kind == "blocked":
            raise Blocked(str(content))
        return self._unpacked(content) if kind in ("returned", "value") else None

    # ------------------------------------------------------------------------------- the socket

    def _send(self, content: object) -> None:
        file = io.BytesIO()
        _Pickler(file, self._reference).dump(content)
        text = file.getvalue()
        try:
            self._socket.settimeout(30)
            self._socket.sendall(LENGTH.pack(len(text)) + text)
        except OSError:
            self._gone()

    def _received(self, seconds: float) -> tuple[str, object]:
        """A message; the networks here are then as those there."""
        until = time.monotonic() + seconds
        try:
            self._socket.settimeout(max(seconds, 0.01))
            kind, content, states = parsed(read(self._socket, self._nonce, _MOST))
            for number, state in states:
                tensors = {name: unpacked_tensor(entry[1:]) for name, entry in state}
                _fill(self._known[number], tensors)
        except TimeoutError:
            self.close()
            raise TimeUp from None
        except (EOFError, OSError):
            self._gone()
        except (ValueError, TypeError, IndexError, KeyError, RuntimeError, AttributeError):
            self.close()
            raise Ended("its process wrote what no answer is") from None
        if time.monotonic() > until:  # one byte at a time
            self.close()
            raise TimeUp
        return kind, content

    def _gone(self) -> None:
        code = self.close()
        if code == -signal.SIGXCPU or code == -signal.SIGKILL:
            raise Ended("it took all the processor time or memory that an answer may take")
        how = f"exit code {code}" if code is None or code >= 0 else signal.Signals(-code).name
        raise Ended(f"it ended the process in which it ran ({how}), as os._exit and crashes do")

    # ----------------------------------------------------------------------- what lives there too

    def _lives(self, value: object) -> bool:
        return isinstance(value, MODULES)

    def _is_known(self, value: object) -> bool:
        return any(value is known for known in self._known)

    def _reference(self, value: object) -> tuple[str, int] | None:
        """Instead of what lives there already, or of a function that is to be called here."""
        for number, known in enumerate(self._known):
            if known is value:
                return "known", number
        if _is_ours(value):
            self._calls.append(value)
            return "call", len(self._calls) - 1
        return None

    def _called(self, number: object, args: object) -> tuple[str, object]:
        try:
            function, values = self._calls[number], [self._unpacked(arg) for arg in args]
        except (ValueError, TypeError, IndexError, KeyError, AttributeError):
            return "raise", ("TypeError", "it was called with what cannot be sent")
        try:
            return "return", function(*values)
        except Exception as error:
            return "raise", (type(error).__name__, str(error))

    def _unpacked(self, content: object) -> object:
        return unpacked(content, self._known.__getitem__, self._module)

    def _module(self, name: str, state: dict) -> nn.Module:
        """A network that the student made: a copy of one that is here, or a linear layer."""
        shapes = {key: entry.shape for key, entry in state.items()}
        for known in self._known:
            if isinstance(known, nn.Module):
                theirs = {key: entry.shape for key, entry in known.state_dict().items()}
                if theirs == shapes:
                    made = deepcopy(known)
                    made.load_state_dict(state)
                    return made
        if name == "Linear" and {"weight"} <= shapes.keys() <= {"weight", "bias"}:
            out, in_ = shapes["weight"]
            layer = nn.Linear(in_, out, bias="bias" in shapes)
            layer.load_state_dict(state)
            return layer
        raise ValueError("a network of another form")


class _Pickler(pickle.Pickler):
    """Pickles without classes and functions of the answers' modules."""

    def __init__(self, file: io.BytesIO, reference: Callable):
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.persistent_id = reference

    def reducer_override(self, value: object):
        if isinstance(value, tuple) and hasattr(value, "_fields") and _of_answers(type(value)):
            return _named, (type(value).__name__, value._fields, tuple(value))
        return NotImplemented


def _named(name: str, fields: tuple[str, ...], values: tuple) -> tuple:
    return namedtuple(name, fields)(*values)


def _of_answers(thing: object) -> bool:
    return str(getattr(thing, "__module__", "")).startswith("pruning_lab.exercises")


def _is_ours(value: object) -> bool:
    """Whether a function, or an object that is called, has no name by which it could be sent."""
    if isinstance(value, FunctionType):
        return _of_answers(value) or "<" in value.__qualname__
    if isinstance(value, partial):
        return _is_ours(value.func)
    if isinstance(value, type | nn.Module):
        return False
    return callable(value) and _of_answers(type(value))


def _fill(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """The values of a module's parameters and buffers; a new tensor where the shape is another."""
    for name, entry in [*module.named_parameters(), *module.named_buffers()]:
        there = tensors[name]
        if there.shape == entry.shape:
            entry.detach().copy_(there)
        else:
            entry.data = there


def _error(found: Raised) -> Exception:
    """An exception of the same kind, where that is one of Python's own."""
    kind = getattr(builtins, found.kind, None)
    if isinstance(kind, type) and issubclass(kind, Exception) and kind is not Exception:
        with suppress(TypeError):
            return type(found.kind, (RemoteError, kind), {})(found)
    return RemoteError(found)
