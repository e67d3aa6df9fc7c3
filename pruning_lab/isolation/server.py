"""The worker's process: loads torch once, and forks for every case of a student's function.

It runs no code of a student's itself. A fork has limits, no answers to import, and one socket. It
gets pickles from the grader, and sends plain values, which the grader compares with the answers.
"""

import builtins
import gc
import io
import linecache
import os
import pickle
import resource
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from pruning_lab.isolation.calls import Blocked, raised, refused, seed
from pruning_lab.isolation.wire import LENGTH, MODULES, message, packed, receive

# What students' functions call, loaded once: the modules behind these names.
_LOADED = ("criteria", "evaluation", "layers", "masks", "models", "sensitivity", "training")


def serve(descriptor: int, jail, loaded: list[str]) -> None:
    """Fork for each socket that comes; when told, end what it has forked and say how it ended."""
    torch.set_num_threads(1)
    # torch's optimizers load its compiler at their first step, which takes seconds.
    for name in (*(f"pruning_lab.{name}" for name in _LOADED), "torch._dynamo", *loaded):
        with suppress(ImportError):
            __import__(name)
    gc.freeze()  # a collection in a fork would copy the pages of all that is loaded
    with socket.socket(fileno=descriptor) as control:
        control.sendall(" ".join(sorted(jail.isolated)).ljust(64).encode())
        while True:
            _, descriptors, _, _ = socket.recv_fds(control, 1, 1)
            if not descriptors:
                return
            child = os.fork()
            if not child:
                control.close()
                _child(descriptors[0], jail)
            os.close(descriptors[0])
            if not control.recv(1):
                return
            control.sendall(LENGTH.pack(_end(child, "processes" in jail.isolated) + 2**16))
            for entry in os.scandir(jail.work) if jail.work else ():
                shutil.rmtree(entry) if entry.is_dir(follow_symlinks=False) else os.unlink(entry)


def _end(child: int, alone: bool) -> int:
    """End the child and all that it has started; its exit code, or minus a signal."""
    found, status = os.waitpid(child, os.WNOHANG)
    while True:
        with suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL) if alone else os.killpg(child, signal.SIGKILL)
        if not found:
            found, status = os.waitpid(child, 0)
        with suppress(ChildProcessError):
            while alone and os.waitpid(-1, 0):
                pass
        return os.waitstatus_to_exitcode(status)


def _child(descriptor: int, jail) -> None:
    try:
        with suppress(OSError):
            os.setsid()
        connection = socket.socket(fileno=descriptor)
        job = _received(connection, pickle.loads)
        _limit(job["memory"], job["processor"], "processes" in jail.isolated)
        if not jail.root:
            os.chdir(job["folder"])
            _watch(jail.hidden, job["folder"])
        jail.lock()
        _hide_answers(job["case"])
        _Child(connection, job).run()
    finally:
        os._exit(0)


def _received(connection: socket.socket, load: Callable[[bytes], object]):
    (length,) = LENGTH.unpack(receive(connection, LENGTH.size))
    return load(receive(connection, length))


def _limit(memory: int, processor: int, alone: bool) -> None:
    used = 0
    with suppress(OSError):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = {"CORE": 0, "CPU": processor, "FSIZE": 2**24, "NOFILE": 256}
    limits |= {"AS": used + memory} if used else {}
    limits |= {"NPROC": 64} if alone else {}
    for name, most in limits.items():
        with suppress(OSError, ValueError):
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))


def _watch(folders: tuple[str, ...], own: str) -> None:
    """Where the system isolates nothing, Python refuses at least; code in C is not stopped."""
    refused = {"os.chmod", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree", "os.chdir"}
    refused |= {"socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto"}
    refused |= {"os.kill", "os.killpg", "os.fork", "os.forkpty", "os.exec", "os.posix_spawn"}
    refused |= {"os.system", "subprocess.Popen"}

    def hook(event: str, arguments: tuple) -> None:
        if event in refused:
            raise PermissionError(f"{event} is not for answers")
        if event == "open" and isinstance(arguments[0], str):
            path = os.path.abspath(arguments[0])
            if path.startswith(folders) or (arguments[2] & 3 and not path.startswith(own)):
                raise PermissionError(f"{arguments[0]} is not for answers")

    sys.addaudithook(hook)


def _hide_answers(case: tuple) -> None:
    """`lab.exercises` is a module with `case`, and functions that do nothing."""
    stub = ModuleType("pruning_lab.exercises")
    stub.case = lambda id_: case
    for name in ("check", "explain", "guess", "guessed", "hint", "progress", "reveal", "student"):
        setattr(stub, name, lambda *_, **__: None)
    sys.modules[stub.__name__] = stub


def _state_of(module: nn.Module, prefix: str = "") -> list:
    """Name and tensor of all parameters and buffers: read off the module, whatever is patched."""
    entries = vars(module)["_parameters"] | vars(module)["_buffers"]
    found = [[f"{prefix}{name}", entry] for name, entry in entries.items() if entry is not None]
    for name, child in vars(module)["_modules"].items():
        found += _state_of(child, f"{prefix}{name}.")
    return found


class _Child:
    """Defines what the student wrote, and calls it as often as asked.

    What it calls itself is bound before: a student who patches torch does not change it.
    """

    def __init__(self, connection: socket.socket, job: dict):
        self._connection, self._job = connection, job
        self._known, self._answered = [], False
        self._pack, self._message, self._state = packed, message, _state_of
        self._sendall, self._recv = connection.sendall, connection.recv

    def run(self) -> None:
        namespace = {"__name__": "__main__", **self._job["given"]}
        try:
            for name, text, first, last in self._job["parts"]:
                lines = text.splitlines(keepends=True)
                linecache.cache[name] = (len(text), None, lines, name)
                code = "\n" * (first - 1) + "".join(lines[first - 1 : last])
                exec(compile(code, name, "exec", dont_inherit=True), namespace)
            target = namespace[self._job["name"]]
        except BaseException as error:
            return self._raised(error, None)
        seed()
        if not callable(target):
            return self._send("value", self._pack(target))
        self._send("ready")
        while True:
            args, kwargs = _received(self._connection, self._loaded)
            self._known += [a for a in args if isinstance(a, MODULES) and self._number(a) is None]
            try:
                with torch.enable_grad(), refused(self._job["blocked"]):
                    value = target(*args, **kwargs)
                content = self._pack(value, self._number)
            except Blocked as error:
                self._send("blocked", str(error))
            except BaseException as error:
                self._raised(error, target)
            else:
                self._send("returned", content)

    def _raised(self, error: BaseException, target: object) -> None:
        found = raised(error, target)
        self._send("raised", [found.kind, found.message[:2000], found.line[:500]])

    def _send(self, kind: str, content: object = None) -> None:
        states = [
            [number, [[name, self._pack(entry)] for name, entry in self._state(known)]]
            for number, known in enumerate(self._known)
            if isinstance(known, nn.Module)
        ]
        text = self._job["nonce"] + self._message([kind, content, states])
        self._sendall(LENGTH.pack(len(text)) + text)

    def _number(self, value: object) -> int | None:
        places = (n for n, known in enumerate(self._known) if known is value)
        return next(places, None)

    def _loaded(self, content: bytes) -> object:
        unpickler = pickle.Unpickler(io.BytesIO(content))
        unpickler.persistent_load = self._there
        return unpickler.load()

    def _there(self, reference: tuple[str, int]) -> object:
        """An object that is here already, or a function of the grader's."""
        kind, number = reference
        return self._known[number] if kind == "known" else self._caller(number)

    def _caller(self, number: int) -> Callable:
        def call(*args):
            self._send("called", [number, [self._pack(arg, self._number) for arg in args]])
            kind, content = _received(self._connection, self._loaded)
            if kind == "raise":
                name, text = content
                error = getattr(builtins, name, RuntimeError)
                raise error(text)
            return content

        return call
