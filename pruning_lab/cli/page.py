"""The studio as a page of its own: a server on this machine alone, which asks for its token."""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import threading
import webbrowser
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tornado.httpserver import HTTPServer
from tornado.web import Application, HTTPError, RequestHandler
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from pruning_lab.studio import Studio
from pruning_lab.widgets.board import Board
from pruning_lab.widgets.script import FOLDER, script

HOST = "127.0.0.1"
FRAME = 1 / 60  # seconds between two messages to a page
SECONDS = 2.0  # that the end of a task is waited for when the page is closed
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


def serve(studio: Studio, listening: socket.socket, ready: Callable[[str], None]) -> None:
    """Serve a studio's page until Ctrl-C or SIGTERM, then close both; `ready` gets the address."""

    async def run() -> None:
        end = asyncio.Event()
        _on_signals(end.set)
        page = Page(studio, listening)
        ready(page.address)
        await end.wait()
        await page.close()

    try:
        asyncio.run(run())
    finally:
        close(studio)


def close(studio: Studio) -> None:
    """Stop what is running, keep what it has done, and end the studio."""
    studio.stop()
    with contextlib.suppress(Exception):  # measuring it all may take longer
        studio.settle(SECONDS)
    studio.close()


def _on_signals(end: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for kind in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(kind, end)
        except NotImplementedError:  # on Windows
            signal.signal(kind, lambda *_: loop.call_soon_threadsafe(end))


class Page:
    """A studio's page, and the connections of all that look at it: they see the same."""

    def __init__(self, studio: Studio, listening: socket.socket):
        """To be called in an event loop; `listening` is a socket on this machine."""
        port = listening.getsockname()[1]
        self.token, self.cookie = secrets.token_urlsafe(24), f"pruning-lab-studio-{port}"
        self.places = [f"{host}:{port}" for host in (HOST, "localhost")]
        self.address = f"http://{self.places[0]}/?token={self.token}"
        self.values: dict[str, object] = {}
        self.connections: set[Connection] = set()
        self._loop = asyncio.get_running_loop()
        self._requests = ThreadPoolExecutor(1, "requests")  # one after the other
        self._board = Board(studio)
        self._board.show(lambda new: self._loop.call_soon_threadsafe(self._spread, new))
        files = r"/(page\.css|page\.js|studio\.css|view\.js)"
        routes = [("/", Start), (files, File), ("/socket", Connection)]
        self._server = HTTPServer(
            Application(
                [(path, handler, {"page": self}) for path, handler in routes],
                log_function=lambda handler: None,
                websocket_max_message_size=2**20,
            )
        )
        self._server.add_sockets([listening])

    def carry_out(self, requests: object) -> None:
        self._requests.submit(self._board.carry_out, requests)

    def _spread(self, new: dict) -> None:
        self.values |= new
        for connection in self.connections:
            connection.send(new)

    async def close(self) -> None:
        self._board.close()
        self._server.stop()
        for connection in tuple(self.connections):
            connection.close(1001)
        self._requests.shutdown(wait=False, cancel_futures=True)
        await self._server.close_all_connections()


# ------------------------------------------------------------------------------ what is answered


class Guarded(RequestHandler):
    """Answers to this machine's own names only, else a page of another name could ask; and to
    browsers with the token's cookie.
    """

    def initialize(self, page: Page) -> None:
        self.page = page

    def set_default_headers(self) -> None:
        self.set_header("Content-Security-Policy", _POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cache-Control", "no-store")

    def prepare(self) -> None:
        """Raises HTTPError for all others."""
        if self.request.host not in self.page.places:
            raise HTTPError(403, "by another name: %s", self.request.host)
        if not self.may_pass():
            raise HTTPError(403)

    def may_pass(self) -> bool:
        return self.is_right(self.get_cookie(self.page.cookie))

    def is_right(self, token: str | None) -> bool:
        return secrets.compare_digest((token or "").encode(), self.page.token.encode())

    def write_error(self, status_code: int, **about) -> None:
        """One sentence."""
        self.set_header("Content-Type", "text/plain")
        self.finish(
            "Open the address that pruning-lab studio printed, with its token.\n"
            if status_code == 403
            else "There is nothing here.\n"
        )

    def answer(self, name: str, text: str) -> None:
        self.set_header("Content-Type", f"{_TYPES[Path(name).suffix]}; charset=utf-8")
        self.finish(text)


class Start(Guarded):
    """The page; with the token it brings the cookie, by which the browser gets all else.

    The page's script takes the token out of the address. A redirection would do so sooner, but
    no strict cookie goes along with it where the address was opened from a file.
    """

    def may_pass(self) -> bool:
        return self.has_token() or super().may_pass()

    def has_token(self) -> bool:
        return self.is_right(self.get_query_argument("token", None))

    def get(self) -> None:
        if self.has_token():
            self.set_cookie(self.page.cookie, self.page.token, httponly=True, samesite="Strict")
        self.answer("page.html", (FOLDER / "page.html").read_text(encoding="utf-8"))


class File(Guarded):
    def get(self, name: str) -> None:
        text = script() if name == "view.js" else (FOLDER / name).read_text(encoding="utf-8")
        self.answer(name, text)


class Connection(Guarded, WebSocketHandler):
    """One page's connection: all values first, then the latest of those that have changed."""

    def may_pass(self) -> bool:
        origins = [f"http://{place}" for place in self.page.places]
        return super().may_pass() and self.request.headers.get("Origin") in origins

    def check_origin(self, origin: str) -> bool:
        """Yes: others `may_pass` has refused."""
        return True

    def open(self) -> None:
        """The whole state goes out first."""
        self._waiting, self._news = dict(self.page.values), asyncio.Event()
        self._news.set()
        self._sender = asyncio.create_task(self._send())
        self.page.connections.add(self)

    def send(self, values: dict) -> None:
        """Later values replace those that still wait: a slow page gets fewer."""
        self._waiting |= values
        self._news.set()

    async def _send(self) -> None:
        with contextlib.suppress(WebSocketClosedError):
            while True:
                await self._news.wait()
                self._news.clear()
                values, self._waiting = self._waiting, {}
                for frame in frames(values):
                    await self.write_message(frame, binary=isinstance(frame, bytes))
                await asyncio.sleep(FRAME)

    def on_message(self, message: str | bytes) -> None:
        """Requests; anything else ends the connection."""
        try:
            requests = json.loads(message)["requests"]
        except (ValueError, KeyError, TypeError):
            self.close(1007, "not a request")
            return
        self.page.carry_out(requests)

    def on_close(self) -> None:
        """Nothing of the page is kept."""
        self._sender.cancel()
        self.page.connections.discard(self)


def frames(values: dict) -> list[bytes | str]:
    """A message: (length of the name, name, bytes) for bytes, then all other values as JSON."""
    binary = {name: value for name, value in values.items() if isinstance(value, bytes)}
    parts = [bytes([len(name)]) + name.encode() + value for name, value in binary.items()]
    other = {name: value for name, value in values.items() if name not in binary}
    return [*parts, json.dumps(other, ensure_ascii=False, allow_nan=False)]


# -------------------------------------------------------------------------------------- opening


def listen(port: int | None) -> socket.socket:
    """A socket at this port, or at any free one. Raises OSError where it is taken."""
    listening = socket.socket()
    if os.name == "posix":  # elsewhere this would find every port free
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port or 0))
        listening.listen(64)
    except OSError as error:
        listening.close()
        raise OSError(
            f"--port {port}: {error.strerror}; leave --port out, and a free one is found"
        ) from None
    listening.setblocking(False)
    return listening


def browse(address: str, folder: str) -> None:
    """Open the address by a file in `folder`: every user of a machine can read command lines."""
    file = Path(folder) / "studio.html"
    file.write_text(f'<meta http-equiv="refresh" content="0; url={address}">', encoding="utf-8")
    threading.Thread(target=webbrowser.open, args=[file.as_uri()], daemon=True).start()
