"""A studio saves itself: after every change, at any moment, on a disk that may be full."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import weakref
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from torch import nn
from toys import CLASSES, lively

from pruning_lab import data, files, models
from pruning_lab.studio import Changed, Failed, Studio
from pruning_lab.studio.saving import Saver
from pruning_lab.training import TrainConfig

GENTLE = TrainConfig(epochs=1, lr=0.05, batch_size=8)


@pytest.fixture
def splits(split):
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.randint(CLASSES, (40,), generator=generator)
    train, test = (replace(split, name=n, images=pixels, labels=labels) for n in ("train", "test"))
    return data.Splits("noise", train, split, test, "random")


@pytest.fixture
def studio(toy, splits, tmp_path):
    studio = Studio(toy, splits).autosave(tmp_path / "s.json")
    yield studio
    studio.close()
    assert savers() == []


def savers() -> list:
    return [thread for thread in threading.enumerate() if thread.name == "studio-saver"]


def on_disk(path) -> dict:
    return json.loads(path.read_text())["history"]


def soon(happened, seconds=20):
    end = time.perf_counter() + seconds
    while not happened():
        assert time.perf_counter() < end, "it never happened"
        time.sleep(0.002)


def test_every_change_and_every_measurement_is_soon_on_disk(studio, tmp_path):
    path = tmp_path / "s.json"
    assert studio.path == path
    for step, fits in [
        (lambda: studio.set({"fc1": 1.0}), lambda h: h["attempts"][-1]["what"] == "fc1: quality 1"),
        (studio.settle, lambda h: h["attempts"][-1]["accuracy"] is not None),
        (lambda: studio.rename("one"), lambda h: h["attempts"][-1]["name"] == "one"),
        (studio.undo, lambda h: h["now"] == 1),
        (lambda: studio.lock("fc1"), lambda h: h["locks"] == ["fc1"]),
        (studio.branch, lambda h: h["attempts"][-1]["line"] == "line 2"),
    ]:
        step()
        soon(lambda: fits(on_disk(path)))  # noqa: B023
    studio.test()
    soon(lambda: json.loads(path.read_text())["tests"] == 1)
    soon(lambda: savers() == [])  # an idle studio has no thread


def test_two_studios_of_one_file_lose_nothing_of_one_another(toy, splits, tmp_path):
    path, told = tmp_path / "s.json", []
    Studio(toy, splits).autosave(path).retrain(config=GENTLE).settle().close()
    one, other = (Studio.load(path, toy, splits).autosave(path) for _ in range(2))
    one.on(Failed, told.append)
    for studio, density in ((other, 0.5), (one, 0.3), (other, 0.4)):
        studio.set(density=density).settle().retrain(config=GENTLE).settle()
    for studio in (one, other):
        studio.save(studio.path)  # by hand too
        studio.rename("the last").close()
    assert (one.path, other.path) == (tmp_path / "s-2.json", path)
    assert [event.text for event in told] == [
        f"another studio is saved as {path}; from now on this one is in {one.path}"
    ]
    for studio in (one, other):
        again = Studio.load(studio.path, toy, splits)
        assert again.attempts == studio.attempts
        assert again.attempt.name == "the last"
        assert models.fingerprint(again.network()) == models.fingerprint(studio.network())
        again.close()


def test_what_was_saved_by_itself_is_loaded_again(studio, toy, splits, tmp_path):
    studio.set({"fc1": 1.0}).settle().retrain(config=GENTLE).set(density={"fc2": 0.3}).settle()
    studio.set({"fc1": 0.5}, merge=True)
    studio.close()
    loaded = Studio.load(tmp_path / "s.json", toy, splits).autosave(tmp_path / "s.json")
    assert loaded.attempts == studio.attempts
    assert loaded.attempt.version == 1
    assert loaded.fingerprint() == studio.fingerprint()
    loaded.set({"fc1": 0.7}).close()
    again = Studio.load(tmp_path / "s.json", toy, splits)
    assert again.attempts == loaded.attempts
    again.close()


def test_weights_are_written_once_each(studio, tmp_path):
    studio.set({"fc1": 1.0}).settle().retrain(config=GENTLE)
    soon(lambda: len(on_disk(tmp_path / "s.json")["attempts"]) == 3 and not savers())
    weights = sorted(tmp_path.glob("*.safetensors"))
    assert [file.name for file in weights] == ["s-0.safetensors", "s-1.safetensors"]
    before = [file.stat().st_mtime_ns for file in weights]
    studio.undo().set({"fc1": 1.1}).settle()
    soon(lambda: len(on_disk(tmp_path / "s.json")["attempts"]) == 4 and not savers())
    studio.save(tmp_path / "s.json")
    assert [file.stat().st_mtime_ns for file in weights] == before


def test_a_drag_does_not_wait_and_is_written_a_few_times(studio, tmp_path, monkeypatch):
    studio.settle()
    written, real = [], files.write

    def slowly(path, content):
        written.append(time.perf_counter())
        time.sleep(0.2)
        return real(path, content)

    monkeypatch.setattr(files, "write", slowly)
    began = time.perf_counter()
    for step in range(60):
        studio.set({"fc1": step / 30}, merge=True)
    assert time.perf_counter() - began < 1
    studio.close()
    assert len(written) < 12
    last = on_disk(tmp_path / "s.json")["attempts"][-1]["settings"]
    assert last == {"fc1": {"kind": "quality", "amount": 59 / 30}}


def test_a_save_that_fails_is_told_once_and_tried_again(studio, tmp_path):
    path, heard = tmp_path / "s.json", []
    studio.settle()
    studio.on(Failed, lambda event: heard.append((event.text, studio.status)))
    studio.on(Failed, lambda event: 1 / 0)  # which is not to end the saving
    shutil.rmtree(tmp_path)
    tmp_path.write_text("in its place")
    studio.set({"fc1": 1.0}).settle()
    soon(lambda: heard)
    ((text, status),) = heard
    assert "could not be written" in text
    assert status == f"failed: {text}"
    studio.set({"fc1": 1.5}).settle()
    soon(lambda: not savers())
    assert len(heard) == 1
    assert studio.metrics().final
    tmp_path.unlink()  # the folder that is gone is made again, with the weights
    studio.set({"fc1": 2.0}).settle()
    soon(lambda: not savers())
    assert len(on_disk(path)["attempts"]) == 4
    assert (tmp_path / "s-0.safetensors").exists()
    path.unlink()
    studio.close()
    assert len(heard) == 1


def test_a_disk_that_is_full_is_tried_again_when_the_studio_closes(
    studio, toy, splits, tmp_path, monkeypatch
):
    def full(path, content):
        raise OSError(28, "No space left on device")

    studio.settle()
    soon(lambda: not savers())
    with monkeypatch.context() as patched:
        patched.setattr(files, "write", full)
        studio.set({"fc1": 1.0}).settle()
        soon(lambda: studio.status.startswith("failed") and not savers())
    studio.close()
    loaded = Studio.load(tmp_path / "s.json", toy, splits)
    assert loaded.attempts == studio.attempts
    loaded.close()


def test_autosave_says_at_once_where_it_cannot_save(toy, splits, tmp_path):
    studio = Studio(toy, splits)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="could not be written"):
        studio.autosave(tmp_path / "file" / "s.json")
    assert studio.path is None
    studio.set({"fc1": 1.0}).settle()
    assert savers() == []
    studio.close()


def test_saving_elsewhere_ends_saving_here(studio, tmp_path):
    studio.set({"fc1": 1.0}).settle().autosave(tmp_path / "other.json")
    soon(lambda: not savers())
    before = (tmp_path / "s.json").read_bytes()
    studio.set({"fc1": 2.0}).settle().close()
    assert (tmp_path / "s.json").read_bytes() == before
    assert len(on_disk(tmp_path / "other.json")["attempts"]) == 3


def test_listeners_that_end_are_forgotten(studio):
    class Listener:
        def __call__(self, event):
            pass

    gone = []
    for _ in range(100):
        listener = Listener()
        gone.append(weakref.ref(listener))
        forget = studio.on(Changed, listener)
        studio.rename("x").rename("")
        forget()
        del listener, forget
    studio.settle()
    assert [one() for one in gone] == [None] * 100


def test_the_last_change_is_the_one_saved_whenever_it_comes():
    state, saved = [0], []

    def save():
        found = state[0]
        time.sleep(0.001)
        saved.append(found)

    saver = Saver(save, print)
    for number in range(300):
        state[0] = number
        saver.changed()
        time.sleep(0.0005 * (number % 7))
    saver.close()
    assert saved[-1] == 299
    assert saved == sorted(saved)


KILLED = """
import os, random, signal, sys, time
import torch
sys.path.insert(0, sys.argv[2])
from test_saving import big, images
from pruning_lab.studio import Studio
from pruning_lab.training import TrainConfig

torch.set_num_threads(1)

CONFIG = TrainConfig(epochs=1, lr=0.01, batch_size=8)
Studio(big(), images()).retrain(config=CONFIG).close()  # imports what each would import alone

def say(*words):  # in one piece, though its process may be killed
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def work(path, seed):
    studio = Studio(big(), images()).autosave(path)
    dice = random.Random(seed)
    while True:
        if dice.random() < 0.2:
            studio.retrain(config=CONFIG)
        else:
            studio.set({"fc1": dice.random(), "fc2": dice.random()})
        say("made", seed, len(studio.attempts), time.time())
        time.sleep(dice.random() / 30)

for seed in range(6):
    path = f"{sys.argv[1]}/{seed}/s.json"
    if (child := os.fork()) == 0:
        work(path, seed)
    while not os.path.exists(path):
        time.sleep(0.001)
    time.sleep(seed**2 / 15)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    say("killed", seed, 0, time.time())
"""


def big():
    torch.manual_seed(0)
    layers = OrderedDict(flat=nn.Flatten(), fc1=nn.Linear(64, 2000), fc2=nn.Linear(2000, CLASSES))
    return lively(nn.Sequential(layers))


def images():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, 1, 8, 8, generator=generator)
    part = [(x, torch.arange(40) % CLASSES)]
    return data.Splits("x", part, part, part, "random")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_studio_has_all_but_the_last_half_second_on_disk(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path), os.path.dirname(__file__)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    lines = [line.split() for line in done.stdout.splitlines()]
    killed = {seed: float(at) for word, seed, _, at in lines if word == "killed"}
    assert len(killed) == 6, done.stderr
    for seed, end in killed.items():
        loaded = Studio.load(tmp_path / seed / "s.json", big(), images())
        loaded.close()
        own = [(int(n), float(at)) for word, of, n, at in lines if (word, of) == ("made", seed)]
        assert len(loaded.attempts) >= max([n for n, at in own if at < end - 0.5], default=1)
        assert len(own) > 5 or seed < "4"
