"""The world outside, as a process of its own: an HTTP service that counts what is done to it, by idempotency key.

`POST /act?key=K&how=H` acts: `ok` answers, `deaf` acts and closes the connection without an answer, `hang` acts and answers
a moment later, `refuse` does not act. `POST /once` does the same, and acts once for each key, as a service does that honours
them. `GET /acted?key=K` and `GET /counts` tell. Nothing of Callboard's is imported here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HANGS_S = 0.3
ADDRESS = "CALLBOARD_FAULTS_JUDGE"


class Refused(Exception):
    """The service has not acted."""


class _Judge(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = threading.Lock()
        self.calls: Counter[str] = Counter()  # by key
        self.effects: Counter[str] = Counter()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked may be dead."""


class _Handler(BaseHTTPRequestHandler):
    server: _Judge

    def do_GET(self) -> None:
        path, asked = self._asked()
        with self.server.lock:
            if path == "/counts":
                self._answer(200, {"calls": self.server.calls, "effects": self.server.effects})
            else:
                self._answer(200, {"acted": self.server.effects[asked["key"]]})

    def do_POST(self) -> None:
        path, asked = self._asked()
        key, how = asked["key"], asked.get("how", "ok")
        with self.server.lock:
            self.server.calls[key] += 1
            if how != "refuse":
                self.server.effects[key] = 1 if path == "/once" else self.server.effects[key] + 1
        if how == "hang":
            time.sleep(HANGS_S)
        if how == "deaf":
            self.close_connection = True
            return
        self._answer(409 if how == "refuse" else 200, {"key": key})

    def _asked(self) -> tuple[str, dict[str, str]]:
        url = urllib.parse.urlsplit(self.path)
        return url.path, dict(urllib.parse.parse_qsl(url.query))

    def _answer(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def act(url: str, key: str, how: str, *, once: bool = False) -> str:
    """Act on the service; raises Refused, or OSError when nobody knows. Blocking."""
    words = urllib.parse.urlencode({"key": key, "how": how})
    try:
        with urllib.request.urlopen(
            f"{url}/{'once' if once else 'act'}?{words}", data=b"", timeout=10
        ) as reply:
            answered: str = json.load(reply)["key"]
            return answered
    except urllib.error.HTTPError as error:
        raise Refused(f"{error.code}") from None


def acted(url: str, key: str) -> bool:
    """Whether the service has acted under a key. Blocking."""
    return bool(_get(f"{url}/acted?{urllib.parse.urlencode({'key': key})}")["acted"])


def counts(url: str) -> dict[str, dict[str, int]]:
    """Calls and effects, by key. Blocking."""
    return _get(f"{url}/counts")


def _get(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=10) as reply:
        found: dict[str, Any] = json.load(reply)
        return found


def note(address: str) -> None:
    """Called by each process for what in it is not given the address."""
    os.environ[ADDRESS] = address


def noted() -> str:
    return os.environ[ADDRESS]


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """A judge in a process of its own; its address."""
    file = folder / "judge"
    process = subprocess.Popen([sys.executable, "-m", "tests.faults.judge", str(file)])
    try:
        while process.poll() is None and not (file.exists() and file.read_text()):
            time.sleep(0.01)
        yield file.read_text()
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Serve until killed; the address goes into the file that is named."""
    judge = _Judge()
    Path(sys.argv[1]).write_text(f"http://127.0.0.1:{judge.server_port}")
    judge.serve_forever()


if __name__ == "__main__":
    main()
