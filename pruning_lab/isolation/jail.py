"""The start of a worker: a script that takes files, network and other processes out of sight.

Runs before torch is imported, for a process with threads may not enter a user namespace. What the
system refuses is left out, and said: `Jail.isolated` has the rest. Elsewhere than on Linux nothing
is isolated.
"""

import ctypes
import json
import os
import signal
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_NEW_NS, _NEW_USER, _NEW_PID, _NEW_NET = 0x00020000, 0x10000000, 0x20000000, 0x40000000
_READ_ONLY, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 32, 4096, 16384, 1 << 18
_DEATH_SIGNAL, _NO_NEW_PRIVILEGES = 1, 38  # of prctl
_CAPABILITY_VERSION_3 = 0x20080522
_WORK = "/answers"  # where a student's function works
_SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/etc/ld.so.cache", "/dev/null")
_SYSTEM += ("/dev/urandom", "/dev/zero", "/proc/cpuinfo", "/proc/meminfo")


@dataclass
class Jail:
    """What is isolated ("processes", "network", "files"), and the folder of what is seen."""

    package: Path
    isolated: set[str] = field(default_factory=set)
    root: str | None = None

    @property
    def hidden(self) -> tuple[str, ...]:
        """Folders that hold answers."""
        return tuple(str(self.package / name) for name in ("exercises", "notebooks"))

    @property
    def work(self) -> str | None:
        """Where a function's files are, seen from outside."""
        return self.root and self.root + _WORK

    def lock(self) -> None:
        """See no more than the new root, without a privilege to leave it."""
        if self.root:
            os.chroot(self.root)
            os.chdir(_WORK)
            _drop_privileges()


def enter(package: Path) -> Jail:
    """Leave the system's files, network and processes, as far as it allows.

    Returns in the process that is to serve: the first of a process namespace, where there is one.
    """
    jail = Jail(package)
    if not sys.platform.startswith("linux"):
        return jail
    libc = ctypes.CDLL(None, use_errno=True)
    _follow(libc)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_NEW_USER | _NEW_NS | _NEW_PID | _NEW_NET):
        return jail
    with suppress(OSError):
        Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    if first := os.fork():
        _, status = os.waitpid(first, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 255)
    _follow(libc)
    jail.isolated |= {"processes", "network"}
    with suppress(OSError):
        jail.root = _new_root(libc, jail)
        jail.isolated.add("files")
    return jail


def _follow(libc: ctypes.CDLL) -> None:
    """End with the process that has started this one."""
    libc.prctl(_DEATH_SIGNAL, signal.SIGKILL)


def _new_root(libc: ctypes.CDLL, jail: Jail) -> str:
    """A folder with Python and what it needs, read-only, and without the course's answers."""
    _mount(libc, None, "/", None, _REC | _PRIVATE)
    root = tempfile.mkdtemp()
    _mount(libc, "tmpfs", root, "tmpfs", 0, "size=16m,mode=755")
    for path in _shown(jail.package):
        target = Path(root + path)
        if os.path.islink(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(os.readlink(path))
            continue
        if os.path.isdir(path):
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        _mount(libc, path, str(target), None, _BIND | _REC)
        kept = os.statvfs(target).f_flag & ~_READ_ONLY  # nodev and the like may not be dropped
        _mount(libc, None, str(target), None, _BIND | _REMOUNT | _READ_ONLY | kept)
    for name in jail.hidden:
        if Path(root + name).is_dir():
            _mount(libc, "tmpfs", root + name, "tmpfs", _READ_ONLY, "size=4k")
    Path(root + _WORK).mkdir()
    return root


def _shown(package: Path) -> list[str]:
    """Paths to bind, none inside another; of a checkout the package alone."""
    prefixes = [os.path.realpath(prefix) for prefix in {sys.prefix, sys.base_prefix}]
    others = [path for path in sys.path if not Path(path, package.name).is_dir()]
    wanted = [*_SYSTEM, sys.prefix, sys.base_prefix, *prefixes, *others, str(package)]
    found: list[str] = []
    for path in sorted({os.path.abspath(p) for p in wanted if p and os.path.exists(p)}, key=len):
        inside = any(Path(path).is_relative_to(outer) for outer in found)
        if not inside and path != "/":
            found.append(path)
    return found


def _mount(libc, source, target, kind, flags, options=None) -> None:
    texts = [text.encode() if text else None for text in (source, target, kind)]
    if libc.mount(*texts, ctypes.c_ulong(flags), options.encode() if options else None):
        raise OSError(ctypes.get_errno(), f"cannot mount {target}")


def _drop_privileges() -> None:
    """No capability is left, so that the new root cannot be left either."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    head, none = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    if libc.capset(head, none):
        raise OSError(ctypes.get_errno(), "cannot drop capabilities")


def main() -> None:
    descriptor, package = int(sys.argv[1]), Path(sys.argv[2])
    jail = enter(package) if int(sys.argv[4]) else Jail(package)
    from pruning_lab.isolation.server import serve

    serve(descriptor, jail, json.loads(sys.argv[3]))


if __name__ == "__main__":
    main()
