"""The studio as a page of its own: a server on this machine alone, which asks for its token."""

import json
import os
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path

HOST = "127.0.0.1"
NOTEBOOK = Path(__file__).resolve().parent.parent / "pages" / "studio.ipynb"
TYPED = "PRUNING_LAB_STUDIO"  # environment variable: what was typed, and in which folder, as JSON


def serve(typed: dict, port: int, ready: Callable[[str], None], *, debug: bool = False) -> None:
    """Serve the page until Ctrl-C; `ready` gets its address, its kernel gets `typed` in TYPED."""
    from tornado.ioloop import IOLoop
    from traitlets.config import Config
    from voila.app import Voila  # slow to load, and of no use to other commands

    os.environ[TYPED] = json.dumps({**typed, "folder": os.getcwd()})
    token = secrets.token_urlsafe(24)
    server = Voila.instance(
        ip=HOST,
        port=port,
        port_retries=0,
        token=token,
        open_browser=False,
        config_file_paths=[],  # else a voila.py in the current folder would be run
        # Requests by other host names are refused. No pings: on one machine a connection ends with
        # its page, and the answer times of Jupyter's server and of tornado exclude each other.
        tornado_settings={"allow_remote_access": False, "ws_ping_interval": 0},
        log_level="DEBUG" if debug else "ERROR",
        config=Config(
            # No kernels that the user has installed: the one of this Python has the library.
            KernelSpecManager={"kernel_dirs": []},
            VoilaConfiguration={"show_tracebacks": debug},
        ),
    )
    server.initialize([str(NOTEBOOK)])
    IOLoop.current().add_callback(ready, f"http://{HOST}:{port}/?token={token}")
    server.start()


def free_port(port: int | None) -> int:
    """The port, or any free one. Raises OSError where it is taken."""
    with socket.socket() as probe:
        if os.name == "posix":  # elsewhere this would find every port free
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port or 0))
        except OSError as error:
            raise OSError(
                f"--port {port}: {error.strerror}; leave --port out, and a free one is found"
            ) from None
        return probe.getsockname()[1]


def browse(address: str, folder: str) -> None:
    """Open the address by a file in `folder`: every user of a machine can read command lines."""
    file = Path(folder) / "studio.html"
    file.write_text(f'<meta http-equiv="refresh" content="0; url={address}">', encoding="utf-8")
    threading.Thread(target=webbrowser.open, args=[file.as_uri()], daemon=True).start()
