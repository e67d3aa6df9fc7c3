"""Files are whole or not there, come back as they went, and execute nothing."""

import json
import os
import pickle
import signal
import struct
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


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failing_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, step, error):
    path = files.write(tmp_path / "model", "old")

    def fail(*_):
        raise error

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error)):
        files.write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_synced_before_it_gets_its_name(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("sync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("name"), replace(a, b)))
    files.write(tmp_path / "model", b"content")
    assert calls == ["sync", "name"]


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
        time.sleep(delay)
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        assert not path.exists() or path.read_bytes() in contents
    assert path.exists()


def test_a_class_may_read_what_one_wrote(tmp_path):
    before = os.umask(0o022)
    try:
        assert files.write(tmp_path / "deep" / "er" / "model", "x").stat().st_mode & 0o777 == 0o644
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


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
        (b'{\n "fc1": 0.5,\n "fc2" 0.5\n}', "line 3, column 8"),
        (b"", "line 1"),
        (b'"\xe9"', "not text, byte 1"),
        (b"[" * 100_000, "recursion"),
        (b"1" * 5_000, "digits"),
    ],
)
def test_broken_json_is_named_with_the_place_where_it_breaks(tmp_path, content, says):
    path = files.write(tmp_path / "plan.json", content)
    with pytest.raises(ValueError, match=says) as caught:
        files.load_json(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("load", [files.load_json, files.load_tensors])
def test_a_path_that_is_no_file_is_named(tmp_path, load):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere")
    with pytest.raises(IsADirectoryError, match="name a file in it"):
        load(tmp_path)


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
        container({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}, b"\0"),
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
