"""Files are written atomically, come back as they were saved, and execute nothing."""

import json
import os
import pickle
import shlex
import signal
import stat
import struct
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pruning_lab import files


@pytest.fixture(scope="session")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


def container(header: dict | bytes, body: bytes = b"") -> bytes:
    """A safetensors file by its specification: length, JSON header, bytes."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + body


WRITERS = {
    "bytes": lambda path, value: files.write(path, bytes([value])),
    "tensors": lambda path, value: files.save_tensors(path, {"a": torch.tensor([value])}),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failing_write_leaves_the_old_file_and_no_litter(
    tmp_path, monkeypatch, write, step, error
):
    path = write(tmp_path / "model", 1)
    old = path.read_bytes()

    def fail(*_):
        raise error

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error)):
        write(path, 2)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="needs a limit on the size of files")
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_is_an_oserror_and_leaves_the_old_file_and_no_litter(tmp_path, write):
    import resource

    path = write(tmp_path / "model", 1)
    old = path.read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(OSError, match=r"[Tt]oo large"):
            write(path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be synced there")
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_the_content_is_synced_before_the_rename_and_the_folder_after(tmp_path, monkeypatch, write):
    calls = []
    fsync, replace = os.fsync, os.replace

    def sync(descriptor):
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("rename"), replace(a, b)))
    write(tmp_path / "model", 1)
    assert calls == ["file", "rename", "folder"]


def test_a_folder_that_cannot_be_synced_is_no_error(tmp_path, monkeypatch):
    fsync = os.fsync

    def sync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")  # as network file systems answer
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    assert files.write(tmp_path / "model", "x").read_text() == "x"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_killed_writer_leaves_a_whole_file(tmp_path):
    path, contents = tmp_path / "model", [b"a" * 300_000, b"b" * 200_000]
    for delay in (0.002, 0.005, 0.01, 0.02):
        writer = os.fork()
        if writer == 0:
            while True:
                for content in contents:
                    files.write(path, content)
        until = time.monotonic() + 60
        while not path.exists() and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(delay)
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        assert not path.exists() or path.read_bytes() in contents
    assert path.exists()


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_the_umask_says_who_may_read_a_written_file(tmp_path, write, umask, mode):
    before = os.umask(umask)
    try:
        assert write(tmp_path / "deep" / "er" / "model", 1).stat().st_mode & 0o777 == mode
    finally:
        os.umask(before)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_writing_never_touches_the_umask_of_the_process(tmp_path, monkeypatch, write):
    """It is one for all threads: what another one creates meanwhile would be open to everyone."""
    monkeypatch.setattr(os, "umask", lambda _: pytest.fail("the umask was changed"))
    write(tmp_path / "model", 1)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # A surrogate is no character, so no file of text can hold it.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abcé"), inner),
    max_leaves=8,
)


@given(value=values)
def test_json_comes_back_as_it_went(scratch, value):
    assert files.load_json(files.save_json(scratch / "value.json", value)) == value


def test_json_refuses_what_is_no_number(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        files.save_json(tmp_path / "value.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{\n "fc1": 0.5,\n "fc2" 0.5\n}', "line 3 column 8"),
        (b"", "line 1"),
        (b'"\xe9"', "not text: .* in position 1"),
        (b"[" * 100_000, "recursion"),
        (b"1" * 5_000, "digits"),
    ],
)
def test_broken_json_is_named_with_the_place_where_it_breaks(tmp_path, content, says):
    path = files.write(tmp_path / "plan.json", content)
    with pytest.raises(ValueError, match=says) as caught:
        files.load_json(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("load", [files.load_json, files.load_tensors, files.load_about])
def test_a_path_that_is_no_file_is_named(tmp_path, load):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere")
    with pytest.raises(IsADirectoryError, match="name a file in it"):
        load(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
@pytest.mark.parametrize("load", [files.load_json, files.load_tensors, files.read_text])
def test_control_characters_in_the_name_of_a_file_are_escaped_in_its_error(tmp_path, load):
    path = tmp_path / "odd\n\x1b[2J"
    for content in (None, b"\xff"):
        if content:
            path.write_bytes(content)
        with pytest.raises((ValueError, OSError), match=r"odd\\n\\x1b\[2J") as caught:
            load(path)
        assert str(caught.value).isprintable()
    with pytest.raises(OSError, match=r"odd\\n\\x1b\[2J") as caught:
        files.write(path / "model", b"")
    assert str(caught.value).isprintable()


def test_tensors_come_back_as_they_went(tmp_path):
    weight = torch.randn(6, 3, 5, 5)
    tensors = {
        "channels_last": weight.to(memory_format=torch.channels_last),
        "transposed": torch.randn(3, 4).T,
        "half": torch.randn(3).half(),
        "bits": torch.tensor([True, False]),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 3),
        "also_empty": torch.zeros(0),
        "trained": torch.nn.Parameter(torch.ones(2)),
    }
    back, about = files.load_tensors(
        files.save_tensors(tmp_path / "t", tensors, about={"é": [1.5]})
    )
    assert about == {"é": [1.5]}
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor), name


def test_tied_tensors_come_back_under_both_names(tmp_path):
    base = torch.arange(10.0)
    tensors = {"a": base, "b": base, "left": base[:6], "right": base[4:]}
    back, about = files.load_tensors(files.save_tensors(tmp_path / "t", tensors))
    assert about is None
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


def test_loaded_tensors_are_ordinary_and_outlive_their_file(tmp_path):
    path = files.save_tensors(tmp_path / "t", {"a": torch.arange(1e6), "b": torch.ones(3)})
    tensors, _ = files.load_tensors(path)
    with open(path, "r+b") as file:  # the same file, so that a memory map would show it
        file.write(bytes(path.stat().st_size))
    path.unlink()
    assert torch.equal(tensors["a"], torch.arange(1e6))
    tensors["b"].requires_grad_().sum().backward()
    tensors["a"][0] = 7
    assert tensors["a"].untyped_storage().nbytes() == 4e6  # of its own


def test_about_is_read_without_the_tensors(tmp_path):
    path = files.save_tensors(tmp_path / "t", {"a": torch.zeros(9)}, about={"é": [1.5]})
    assert files.load_about(path) == {"é": [1.5]}
    assert files.load_about(files.save_tensors(tmp_path / "none", {})) is None
    odd = {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}
    files.write(path, container({"__metadata__": {"about": "{}"}, "a": odd}, bytes(3)))
    assert files.load_about(path) == {}
    with pytest.raises(ValueError, match=r"t is not a whole safetensors file .*F6_E2M3"):
        files.load_tensors(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_not_run_and_what_converts_it_is_said(zipped, toy, tmp_path):
    path = tmp_path / "it's mine.pt"
    state = {**toy.state_dict(), "tied": toy.fc1.weight, "turned": toy.fc1.weight.T}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"mine.pt is a pickle of torch.save, which is") as caught:
        files.load_about(path)
    python, *words = shlex.split(str(caught.value).partition("; convert it: ")[2])
    assert python == "python"
    subprocess.run([sys.executable, *words], check=True)
    tensors, _ = files.load_tensors(words[-1])
    assert tensors.keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in tensors.items())


MEMORY = """
import sys, threading, torch
from pruning_lab import files

def anonymous():  # bytes of memory that are no file's
    (line,) = (line for line in open("/proc/self/status") if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])

def watch():
    global most
    while not done.wait(0.001):
        most = max(most, anonymous())

path, size = sys.argv[1], 200_000_000
if sys.argv[2] == "save":
    tensors = {name: torch.ones(size // 8) for name in "ab"}
    call = lambda: files.save_tensors(path, tensors)
else:
    call = lambda: files.load_tensors(path)
done, before = threading.Event(), anonymous()
most = before
thread = threading.Thread(target=watch)
thread.start()
kept = call()
done.set()
thread.join()
print((most - before) / size)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's counts")
def test_memory_holds_one_copy_of_the_tensors_that_are_saved_or_loaded(tmp_path):
    path = tmp_path / "large"

    def copies(call):
        words = [sys.executable, "-c", MEMORY, path, call]
        return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)

    assert copies("save") < 0.3  # besides the tensors
    assert 0.9 < copies("load") < 1.3


class Bomb:
    """Unpickling this makes a folder."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_a_pickle_is_refused_and_never_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pickle").write_bytes(pickle.dumps(Bomb()))
    torch.save({"weight": Bomb()}, tmp_path / "torch")
    for name in ("pickle", "torch"):
        with pytest.raises(ValueError, match=name):
            files.load_tensors(name)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "content",
    [
        container({"a": {"dtype": "F9", "shape": [2], "data_offsets": [0, 1]}}, b"\0"),
        container({"a": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}}, bytes(3)),
        container({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)),
        container({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8)),
        container({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}}),
        container({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)),
        container({"__metadata__": {"about": "{"}}),
        container({"__metadata__": {"about": "[" * 100_000}}),
        container(b"[]"),
        container(b"{}")[:9],
        struct.pack("<Q", 2**63) + b"{}",
        b"",
    ],
)
def test_a_hostile_safetensors_file_is_refused_by_name(tmp_path, content):
    path = files.write(tmp_path / "model.safetensors", content)
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        files.load_tensors(path)


def test_a_safetensors_file_of_another_tool_may_have_no_metadata(tmp_path):
    path = files.write(tmp_path / "model", container({"__metadata__": None}))
    assert files.load_tensors(path) == ({}, None)


@given(data=st.data())
def test_a_damaged_safetensors_file_loads_or_is_refused_by_name(scratch, data):
    path = files.save_tensors(
        scratch / "damaged", {"a": torch.arange(6.0), "b": torch.ones(3).bool()}, about={"k": 1}
    )
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        files.load_tensors(path)
        said = str(path)
    except ValueError as error:
        said = str(error)
    assert str(path) in said


@given(content=st.binary(max_size=64))
def test_random_bytes_are_refused_by_name(scratch, content):
    path = files.write(scratch / "random", content)
    with pytest.raises(ValueError, match="random"):
        files.load_tensors(path)


def test_sha256_is_the_standards():
    assert files.sha256(b"abc").startswith("ba7816bf8f01cfea414140de5dae2223")  # FIPS 180-2
