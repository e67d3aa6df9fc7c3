"""The server of `pruning-lab studio` without a browser: who gets in, and what is sent."""

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

from pruning_lab.cli import page
from pruning_lab.studio import Studio
from pruning_lab.widgets import StudioPanel


@pytest.fixture
def studio(toy, split):
    studio = Studio(toy, split)
    yield studio.settle(60)
    studio.close()


def wait_for(coroutine, seconds: float) -> None:
    """Run it in a thread of its own: tests with a browser leave a running loop in this one."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(asyncio.wait_for(coroutine, seconds))).result()


def serve(studio, use) -> None:
    """Run a coroutine that uses the page of a studio."""

    async def run():
        served = page.Page(studio, page.listen(None))
        try:
            await use(served)
        finally:
            await served.close()

    wait_for(run(), 120)


async def asked(address, **headers):
    """What comes for an address; nothing is followed."""
    request = HTTPRequest(address, headers=headers, follow_redirects=False)
    return await AsyncHTTPClient().fetch(request, raise_error=False)


def place(served) -> str:
    return served.address.partition("?")[0]


class Browser:
    """A page's side of the connection: its values, and messages."""

    def __init__(self, socket):
        self.socket, self.values, self.messages = socket, {}, 0

    @classmethod
    async def open(cls, served, **headers):
        """As a browser that has been at the address with the token."""
        own = {"Cookie": f"{served.cookie}={served.token}", "Origin": place(served)[:-1]}
        address = f"{place(served).replace('http', 'ws')}socket"
        self = cls(await websocket_connect(HTTPRequest(address, headers={**own, **headers})))
        await self.read()
        return self

    async def read(self) -> None:
        """One message: binary frames, then one of JSON."""
        while isinstance(frame := await self.socket.read_message(), bytes):
            end = 1 + frame[0]
            self.values[frame[1:end].decode()] = frame[end:]
        assert frame is not None, "the connection is closed"
        self.values |= json.loads(frame)
        self.messages += 1

    async def until(self, holds) -> None:
        while not holds(self.values):
            await self.read()

    async def ask(self, view, *requests) -> None:
        await self.socket.write_message(json.dumps({"requests": {"view": view, "list": requests}}))


def setting(n, **layers) -> dict:
    return {"n": n, "do": "set", "kind": "quality", "layers": layers, "drag": False}


# --- who gets in -------------------------------------------------------------------------------


def test_only_those_with_the_token_get_in(studio):
    async def use(served):
        address, port = place(served), served.places[0].partition(":")[2]
        assert served.address.startswith("http://127.0.0.1:")
        assert len(served.token) >= 32
        for wrong in (
            "",
            "?token=",
            f"?token={served.token[:-1]}",
            "?token=é",
            "page.js",
            "socket",
        ):
            answer = await asked(address + wrong)
            assert answer.code == 403
            assert (
                answer.body
                == b"Open the address that pruning-lab studio printed, with its token.\n"
            )
            assert "Set-Cookie" not in answer.headers
        first = await asked(served.address)
        cookie, *attributes = first.headers["Set-Cookie"].split("; ")
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {*attributes}
        for name in ("", "page.js", "page.css"):
            answer = await asked(address + name, Cookie=cookie)
            assert answer.code == 200
            policy = answer.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'self';")
            assert "unsafe" not in policy
            assert b"://" not in answer.body.replace(b"ws://${location.host}", b"")
        assert (await asked(address, Cookie=f"{cookie}x")).code == 403
        assert (await asked(f"{address}../__init__.py", Cookie=cookie)).code in (403, 404)
        assert (await asked(f"{address}page.html", Cookie=cookie)).code == 404
        for host in ("elsewhere.example", f"elsewhere.example:{port}", "127.0.0.1", "127.0.0.1:1"):
            assert (await asked(served.address, Cookie=cookie, Host=host)).code == 403
        assert (await asked(address, Cookie=cookie, Host=f"localhost:{port}")).code == 200

    serve(studio, use)


def test_a_websocket_needs_the_cookie_and_comes_from_the_page_itself(studio):
    async def use(served):
        await Browser.open(served)
        await Browser.open(served, Origin=f"http://{served.places[1]}")
        refused = [
            {"Cookie": ""},
            {"Cookie": f"{served.cookie}=x"},
            {"Origin": "http://elsewhere.example"},
            {"Origin": "null"},
            {"Origin": "http://127.0.0.1:1"},
            {"Host": "elsewhere.example"},
            {"Host": "elsewhere.example", "Origin": "http://elsewhere.example"},
        ]
        for headers in refused:
            with pytest.raises(HTTPClientError, match="403"):
                await Browser.open(served, **headers)

    serve(studio, use)


# --- what is sent ------------------------------------------------------------------------------


def test_a_page_gets_the_whole_state_and_then_what_changes(studio):
    async def use(served):
        browser = await Browser.open(served)
        panel = StudioPanel(studio)  # which a notebook would show
        await asyncio.to_thread(studio.settle, 60)
        names = {*browser.values} - {"handled"}
        await browser.until(lambda v: all(v[name] == getattr(panel, name) for name in names))
        assert browser.values["now"]["final"]
        await browser.ask("a", setting(1, fc1=1.0))
        await browser.until(lambda v: v["handled"] == {"a": 1} and v["now"]["final"])
        assert studio.attempt.settings["fc1"].amount == 1.0
        assert browser.values["now"]["accuracy"]["value"] == studio.attempt.accuracy.value

    serve(studio, use)


def test_what_was_carried_out_before_a_connection_was_lost_is_not_again(studio):
    async def use(served):
        browser = await Browser.open(served)
        requests = [setting(1, fc1=1.0), {"n": 2, "do": "branch", "text": "b"}, setting(3, fc1=2.0)]
        await browser.ask("a", *requests[:2])
        await browser.until(lambda v: v["handled"] == {"a": 2})
        browser.socket.close()
        again = await Browser.open(served)
        assert again.values["handled"] == {"a": 2}
        await again.ask("a", *requests)
        await again.until(lambda v: v["handled"] == {"a": 3})
        assert [a["what"] for a in again.values["attempts"]] == [
            "as it came", "fc1: quality 1", "from attempt 2", "fc1: quality 2"
        ]  # fmt: skip

    serve(studio, use)


def test_all_pages_see_the_same(studio):
    async def use(served):
        one, other = await Browser.open(served), await Browser.open(served)
        for n in range(1, 21):
            await (one if n % 2 else other).ask(f"view {n % 2}", setting(n, fc1=n / 10))
        for browser in (one, other):
            await browser.until(lambda v: v["handled"] == {"view 1": 19, "view 0": 20})
        await asyncio.to_thread(studio.settle, 60)
        late = await Browser.open(served)
        assert late.values["losses"]["n"] == late.values["now"]["accuracy"]["n"] == 50
        for browser in (one, other):  # what was sent before is read; then nothing differs
            await browser.until(lambda v: v == late.values)

    serve(studio, use)


def test_a_slow_page_gets_the_latest_values_only(studio):
    async def use(served):
        browser = await Browser.open(served)
        board = served._board
        before = browser.messages
        for n in range(1000):
            served._spread({"message": {"text": str(n), "problem": ""}})
        await browser.until(lambda v: v["message"]["text"] == "999")
        assert browser.messages - before <= 3
        began = time.monotonic()
        for n in range(200):
            served._spread({"message": {"text": f"again {n}", "problem": ""}})
            await asyncio.sleep(0.002)
        await browser.until(lambda v: v["message"]["text"] == "again 199")
        assert browser.messages - before <= 5 + 61 * (time.monotonic() - began)
        assert board.values["message"]["text"] == ""

    serve(studio, use)


def test_what_is_no_request_ends_the_connection_and_the_studio_goes_on(studio):
    async def use(served):
        for message in ("x", "{}", "[1]", '{"other": 1}', b"\x00"):
            browser = await Browser.open(served)
            await browser.socket.write_message(message, binary=isinstance(message, bytes))
            assert await browser.socket.read_message() is None
        browser = await Browser.open(served)
        await browser.socket.write_message(json.dumps({"requests": {"view": 1}}))
        await browser.ask("a", setting(1, fc1=1.0))
        await browser.until(lambda v: v["handled"] == {"a": 1})

    serve(studio, use)


def test_visits_leave_nothing_behind(studio):
    async def visit(served, n):
        browser = await Browser.open(served)
        await browser.ask(f"visit {n}", {"n": 1, "do": "go", "number": 1})
        await browser.until(lambda v: f"visit {n}" in v["handled"])
        browser.socket.close()
        while served.connections:
            await asyncio.sleep(0.01)

    async def use(served):
        await visit(served, 0)
        tasks, sizes = len(asyncio.all_tasks()), []
        tracemalloc.start()
        for n in range(1, 21):
            await visit(served, n)
            if n in (10, 20):
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert not [thing for thing in gc.get_objects() if type(thing) is page.Connection]
        assert len(asyncio.all_tasks()) <= tasks
        assert sizes[1] - sizes[0] < 50_000

    serve(studio, use)


# --- the process -------------------------------------------------------------------------------


@pytest.fixture
def opened(tmp_path):
    """A function: starts `pruning-lab studio` with these words, in a folder; (process, record)."""
    processes = []

    def start(*words):
        command = [sys.executable, "-P", "-m", "pruning_lab", "studio", *words]
        process = subprocess.Popen(
            [*command, "--no-browser", "--json"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        line = process.stdout.readline()
        assert line, process.stderr.read()
        return process, json.loads(line)

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=60)


class Address:
    """What `Browser` needs of a page in another process."""

    def __init__(self, address):
        self.address, self.token = address, address.partition("?token=")[2]
        self.cookie = f"pruning-lab-studio-{place(self).split(':')[2][:-1]}"


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C and SIGKILL are sent as POSIX sends them")
def test_ctrl_c_ends_a_retraining_and_what_was_killed_is_opened_again(opened, tmp_path):
    process, record = opened("--data", "mnist-5k")
    assert record["path"] == "studio.json"
    seen = {}

    async def work():
        browser = await Browser.open(Address(record["address"]))
        await browser.ask("a", setting(1, fc1=1.4), setting(2, conv2=1.1))
        await browser.until(lambda v: v["now"]["number"] == 3 and v["now"]["final"])
        await browser.ask("a", {"n": 3, "do": "retrain", "epochs": 1})
        await browser.until(lambda v: v["network"]["version"] == 1 and v["now"]["final"])
        await asyncio.sleep(1)  # a killed process loses its last half second
        process.kill()
        seen["before"] = browser.values

    wait_for(work(), 200)
    process.wait(20)

    process, record = opened("--resume", "studio.json")
    assert record["path"] == "studio.json"

    async def again():
        browser = await Browser.open(Address(record["address"]))
        await browser.until(lambda v: v["network"]["layers"][0]["flops"])
        for name in ("attempts", "network"):
            assert browser.values[name] == seen["before"][name], name
        assert browser.values["now"]["string"] == seen["before"]["now"]["string"]
        await browser.ask("b", {"n": 1, "do": "retrain", "epochs": 1000})
        await browser.until(lambda v: v["progress"].get("points"))
        process.send_signal(signal.SIGINT)

    wait_for(again(), 200)
    began = time.monotonic()
    assert process.wait(30) == 0, process.stderr.read()
    assert time.monotonic() - began < 10  # of which the end of the interpreter is some
    attempts = json.loads((tmp_path / "studio.json").read_text())["history"]["attempts"]
    assert len(attempts) >= 4
