"""The studio in JupyterLab and on its own page, in a real browser: hands move it, it follows."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest
from jupyter_server.services.kernels.connection.base import (
    deserialize_msg_from_ws_v1,
    serialize_msg_to_ws_v1,
)
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

from pruning_lab import models, sensitivity

OPEN = """from pruning_lab import data, models, studio, widgets
s = studio.Studio(models.lenet_5(trained="mnist"), data.load("mnist-5k"))
panel = widgets.StudioPanel(s).settle()"""

# What the studio's own calls say, in the page, after whatever the user did.
WATCH = """import json, ipywidgets
from pruning_lab.studio import Measured

def facts(s):
    m, a = s.metrics(), s.metrics().accuracy
    return json.dumps({
        "what": s.attempt.what,
        "accuracy": f"{a.value:.2%} {a.low:.2%} to {a.high:.2%}, {a.n:,} images",
        "drop": str(m.drop),
        "kept": f"{m.density:.1%} {m.kept:,}",
        "layers": {row.layer: [row.quality, f"{row.density:.1%}"] for row in m},
        "mask": s.mask.fingerprint(),
    })

def watched(panel):
    s, shown = panel.studio, ipywidgets.HTML()
    shown.add_class("facts")
    s.on(Measured, lambda event: event.final and shown.set_trait("value", facts(s)))
    s.refresh()
    return ipywidgets.VBox([panel, shown])
"""

SHOW, READ = f"{WATCH}\nwatched(panel)", "print(facts(s))"


class Hand:
    """What one does in the panel, and sees."""

    def __init__(self, page, tmp_path):
        self.page, self.folder = page, tmp_path

    def until(self, what: str) -> dict:
        """Wait until the studio stands at an attempt with such words, all measured and drawn."""
        self.page.wait_for_function(
            """what => {
                const text = name => document.querySelector(name)?.innerText ?? '';
                const facts = text('.facts');
                return text('.studio-headline').includes('up to date') && facts.includes('{')
                    && new RegExp(what).test(JSON.parse(facts).what);
            }""",
            arg=what,
            timeout=120_000,
        )
        facts = json.loads(self.page.locator(".facts").inner_text())
        self.check(facts)
        return facts

    def check(self, facts: dict) -> None:
        """The panel says what the studio says."""
        headline = " ".join(self.page.locator(".studio-headline").inner_text().split())
        assert f"accuracy on val {facts['accuracy']} change of accuracy {facts['drop']}" in headline
        assert f"weights kept {facts['kept']}" in headline
        for layer, (quality, kept) in facts["layers"].items():
            assert self.page.locator(f".studio-kept-{layer}").inner_text() == kept
            assert self.slider(layer) == pytest.approx(min(3, round(quality / 0.05) * 0.05))

    def slider(self, layer: str) -> float:
        handle = self.page.locator(f".studio-slider-{layer} .noUi-handle")
        return float(handle.get_attribute("aria-valuetext"))

    def keys(self, layer: str, key: str, times: int) -> None:
        self.page.locator(f".studio-slider-{layer} .noUi-handle").focus()
        for _ in range(times):
            self.page.keyboard.press(key)

    def fill(self, css: str, value: str) -> None:
        field = self.page.locator(f".{css} input")
        field.fill(value)
        field.press("Enter")

    def press(self, name: str) -> None:
        self.page.locator(f"button.studio-{name}").click()

    def picture(self) -> str:
        return self.page.locator(".studio-picture").get_attribute("src")

    def shoot(self, name: str) -> None:
        self.page.locator(".studio-panel").screenshot(path=self.folder / f"{name}.png")


def use(hand: Hand, work) -> dict:
    """A session of everything; gives the facts at its end."""
    dense = hand.until("as it came")
    pictures = [hand.picture()]
    assert hand.page.locator(".studio-picture").evaluate("image => image.naturalWidth") > 600
    hand.shoot("1-dense")

    hand.keys("fc1", "ArrowRight", 1)
    one = hand.until("fc1: quality 0.05$")
    pictures.append(hand.picture())
    hand.keys("fc1", "ArrowRight", 39)  # fast: what stays is the last state
    moved = hand.until("fc1: quality 2$")
    pictures.append(hand.picture())
    assert len({*pictures}) == 3
    assert len({dense["kept"], one["kept"], moved["kept"]}) == 3
    assert moved["layers"]["fc1"][0] == pytest.approx(2)
    hand.fill("studio-box-conv2", "1.2345")
    exact = hand.until(r"conv2: quality 1\.23")
    assert exact["layers"]["conv2"][0] == pytest.approx(1.2345, abs=1e-9)
    assert hand.slider("conv2") == pytest.approx(1.25)  # and yet no answer to it moved anything
    assert exact["accuracy"] != dense["accuracy"]
    hand.shoot("2-moved")

    hand.press("suggest")
    suggested = hand.until("suggested for")
    assert suggested["mask"] != exact["mask"]
    hand.shoot("3-suggested")

    hand.fill("studio-epochs", "500")
    hand.press("retrain")
    hand.page.wait_for_function(
        "document.querySelector('.studio-headline').innerText.includes('epoch 1 of 500')",
        timeout=120_000,
    )
    assert hand.page.locator("button.studio-undo").is_disabled()
    hand.shoot("4-retraining")
    hand.press("stop")
    retrained = hand.until(r"retrained \d+ epochs? from [\d.]+ ?% kept, stopped before 500")
    assert retrained["mask"] == suggested["mask"]
    hand.shoot("5-retrained")

    hand.press("undo")
    assert hand.until("suggested for") == suggested
    hand.press("redo")
    hand.until("retrained")
    hand.press("undo")
    undone = hand.until("suggested for")
    hand.press("export")
    hand.page.wait_for_function(
        "document.querySelector('.studio-message').innerText.includes('wrote plan.json')"
    )
    model, _ = models.load(work / "plan.safetensors", "lenet-5")
    mask = sensitivity.Plan.load(work / "plan.json").mask(model)
    assert mask.fingerprint() == undone["mask"]
    assert hand.page.locator(".studio-problem").inner_text().strip() == ""
    hand.shoot("6-exported")
    return undone


def test_in_jupyterlab(run_all, notebook, page, tmp_path):
    path = notebook("studio", OPEN, SHOW, READ)
    run_all("studio", "studio", "up to date", part="headline")
    facts = use(Hand(page, tmp_path), path.parent)
    last = page.locator(".jp-CodeCell").nth(2)
    last.locator(".jp-InputArea").click()
    page.keyboard.press("Shift+Enter")  # a second cell, that reads the studio
    page.wait_for_function(
        "what => [...document.querySelectorAll('.jp-OutputArea-output pre')].some("
        "pre => pre.innerText.includes(what))",
        arg=facts["what"],
    )
    assert json.loads(last.locator(".jp-OutputArea-output pre").inner_text()) == facts
    assert page.get_by_text("Error displaying widget").count() == 0
    assert page.locator(".jp-OutputArea-output[data-mime-type*='error']").count() == 0


# The page of `pruning-lab studio`, which Voila serves

PROTOCOL = "v1.kernel.websocket.jupyter.org"  # what pages speak; Voila takes any binary for it
OWN = """from pruning_lab import models

def make():
    return models.lenet_5()
"""


@pytest.fixture
def served(tmp_path):
    """The studio of an own network on its page, as a process: it, its address and its folder.

    Its panel stands in the page with the facts below it, which the kernel's start-up sees to.
    """
    work, startup = tmp_path / "work", tmp_path / "ipython" / "profile_default" / "startup"
    work.mkdir()
    startup.mkdir(parents=True)
    (work / "own_nets.py").write_text(OWN)
    models.save(work / "own.safetensors", models.lenet_5(trained="mnist"))
    (startup / "facts.py").write_text(
        f"{WATCH}\nfrom pruning_lab.cli import studio\npanel = studio.panel\n"
        "studio.panel = lambda: watched(panel().settle())\n"
    )
    words = ("--model", "own_nets:make", "--weights", "own.safetensors", "--data", "mnist-5k")
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "pruning_lab", "studio", *words, "--no-browser", "--json"],
        cwd=work,
        env={**os.environ, "OMP_NUM_THREADS": "1", "IPYTHONDIR": str(tmp_path / "ipython")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield process, json.loads(line)["address"], work
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


async def asked(address, headers=None):
    """Status and headers of a page; it is not followed where it sends one elsewhere."""
    answer = await AsyncHTTPClient().fetch(
        address, headers=headers, follow_redirects=False, raise_error=False, request_timeout=120
    )
    return answer.code, answer.headers


async def widgets_of(socket):
    """How many widgets live in the kernel behind a socket."""
    once = uuid.uuid4().hex  # an equal message would be dropped as a replay
    header = {"msg_id": once, "msg_type": "comm_info_request", "version": "5.3"}
    header |= {"session": "s", "username": "", "date": "2026-01-01T00:00:00Z"}
    parts = [json.dumps(part).encode() for part in (header, {}, {}, {})]
    await socket.write_message(serialize_msg_to_ws_v1(parts, "shell"), binary=True)
    while True:
        message = await socket.read_message()
        assert message is not None, "the server has closed the connection"
        _, (header, _, _, content, *_) = deserialize_msg_from_ws_v1(message)
        if json.loads(header)["msg_type"] == "comm_info_reply":
            return len(json.loads(content)["comms"])


async def turned_away(address):
    """Without its token, and by another name, there is no page."""
    place, _, token = address.partition("?token=")
    for wrong in (place, f"{place}?token=", f"{place}?token={token[:-1]}"):
        code, headers = await asked(wrong)
        assert (code, headers["Location"].partition("?")[0]) == (302, "/login")
    assert (await asked(address, {"Host": "elsewhere.example"}))[0] == 403


async def connected(channels, cookies, used):
    """A connection of our own to the page's kernel, kept open for longer than the page is used."""
    with pytest.raises(HTTPClientError, match="403"):
        await websocket_connect(channels, subprotocols=[PROTOCOL])
    request = HTTPRequest(channels, headers={"Cookie": cookies})
    socket = await websocket_connect(request, subprotocols=[PROTOCOL])
    until = time.monotonic() + 31  # Jupyter's server looks after its connections every 30 s
    assert await widgets_of(socket) > 30  # the panel is there, and answers
    while time.monotonic() < until or not used.is_set():
        await asyncio.sleep(0.1)
    assert await widgets_of(socket) > 30
    socket.close()


class Beside(threading.Thread):
    """Runs a coroutine in a thread, for the browser has an event loop in this one."""

    def __init__(self, coroutine):
        super().__init__(daemon=True)
        self.coroutine, self.error = coroutine, None
        self.start()

    def run(self):
        try:
            asyncio.run(asyncio.wait_for(self.coroutine, 300))
        except BaseException as error:
            self.error = error

    def result(self):
        self.join()
        if self.error:
            raise self.error


def children(pid):
    """Processes that a process has started. Only where there is /proc."""
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return found.read_text().split() if found.exists() else [0]


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent as POSIX sends it")
def test_a_page_of_its_own_for_those_with_its_token_that_ends_with_its_kernel(
    served, page, tmp_path
):
    process, address, work = served
    place, _, token = address.partition("?token=")
    assert place.startswith("http://127.0.0.1:")
    assert len(token) >= 32
    Beside(turned_away(address)).result()

    answer = page.goto(address, wait_until="commit")
    assert answer.status == 200
    text = answer.text()
    assert "The threshold studio" in text
    assert "widget-view+json" in text
    assert "studio.panel()" not in text  # the code is hidden
    (kernel,) = set(re.findall(r'"kernelId": "([0-9a-f-]{36})"', text))
    channels = f"{place.replace('http', 'ws', 1)}api/kernels/{kernel}/channels"
    cookies = "; ".join(f"{c['name']}={c['value']}" for c in page.context.cookies())
    used = threading.Event()
    connection = Beside(connected(channels, cookies, used))
    try:
        use(Hand(page, tmp_path), work)
        assert not re.search("Traceback|Error displaying widget", page.locator("body").inner_text())
    finally:
        used.set()
    connection.result()
    kernels = children(process.pid)
    assert kernels
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert not any(Path(f"/proc/{kernel}").exists() for kernel in kernels)
