"""A gateway is up when Ray Serve's proxy has a route to it; the proxy is played."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bus.errors import ServiceUnavailable
from serve.route import wait_for_route

HOST = "127.0.0.1"


@contextmanager
def proxy(*statuses: int) -> Iterator[tuple[int, list[str]]]:
    """One that answers with these in turn, and with the last for ever; its port, and the paths it was asked for."""
    asked: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses[min(len(asked), len(statuses) - 1)])
            self.end_headers()
            asked.append(self.path)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer((HOST, 0), Proxy) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port, asked
        finally:
            server.shutdown()
            thread.join()


def test_it_is_waited_for_until_the_proxy_has_a_route() -> None:
    with proxy(503, 503, 200) as (port, asked):
        wait_for_route(HOST, port)
    assert asked == ["/-/healthz"] * 3


def test_a_proxy_that_never_has_one_is_a_typed_error() -> None:
    with (
        proxy(503) as (port, asked),
        pytest.raises(ServiceUnavailable, match=f"does not answer for it on port {port}"),
    ):
        wait_for_route(HOST, port, within_s=0.2)
    assert asked


def test_one_that_does_not_listen_is_a_typed_error() -> None:
    with proxy(200) as (port, _):
        pass
    with pytest.raises(ServiceUnavailable):
        wait_for_route(HOST, port, within_s=0.2)
