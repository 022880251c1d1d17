"""Whether a port is free for Ray Serve, which would listen beside others of its account."""

from __future__ import annotations

import socket

import pytest

from callboard.port import own_port

HOST = "127.0.0.1"


def listening(*, shared: bool = False) -> socket.socket:
    made = socket.socket()
    if shared:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind((HOST, 0))
    made.listen()
    return made


@pytest.mark.parametrize("shared", [False, True])
def test_where_anybody_listens_another_one_is_taken(shared: bool) -> None:
    with listening(shared=shared) as taken:
        port = taken.getsockname()[1]
        with own_port(port) as found:
            assert found != port
    with own_port(port) as found:
        assert found == port


def test_connections_that_its_server_has_ended_just_now_are_in_nobodys_way() -> None:
    with listening(shared=True) as server:
        port = server.getsockname()[1]
        with socket.create_connection((HOST, port)) as client:
            server.accept()[0].close()  # the server's side waits for a minute
            assert client.recv(1) == b""
    with own_port(port) as found:
        assert found == port


def test_one_that_somebody_is_about_to_listen_at_is_not_free() -> None:
    with own_port(0) as ours:
        with own_port(ours) as others:
            assert others != ours
        with socket.socket() as serve:  # whoever holds it listens there
            serve.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            serve.bind((HOST, ours))
            serve.listen()
