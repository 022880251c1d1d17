"""A port on loopback for Ray Serve. It lets every process of its account listen beside it (SO_REUSEPORT), and each gets a part of
the requests: whoever starts it must know that nobody else does, or is about to."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator

from bus.errors import ServiceUnavailable

_HOST = "127.0.0.1"
_LOOK_TIMEOUT_S = 1.0


@contextlib.contextmanager
def own_port(wanted: int) -> Iterator[int]:
    """The one that is wanted, so that clients find it again; else any that is free. Until the block ends, by when Serve
    listens, it is nobody else's who asks here.

    Raises ServiceUnavailable.
    """
    with contextlib.ExitStack() as stack:
        for port in (wanted, 0):
            with contextlib.suppress(OSError):
                found = _bound(port)
                stack.enter_context(_held(found))
                break
        else:
            raise ServiceUnavailable("No port is free on 127.0.0.1.", fix="End whatever listens on so many.")
        yield found


def _bound(port: int) -> int:
    """Raises OSError for one that is taken."""
    with socket.socket() as probe:
        # As Serve does: connections that a server has ended just now are in nobody's way.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        probe.bind((_HOST, port))
        found = int(probe.getsockname()[1])
        if is_answered(found):
            raise OSError(f"somebody of this account listens at {found}")
    return found


def is_answered(port: int) -> bool:
    """Whether anybody listens there."""
    try:
        socket.create_connection((_HOST, port), timeout=_LOOK_TIMEOUT_S).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        return True  # one that has no time
    return True


@contextlib.contextmanager
def _held(port: int) -> Iterator[None]:
    """A name that one process of the machine can have, and that goes with it. Raises OSError where another has it."""
    with socket.socket(socket.AF_UNIX) as holder:
        if sys.platform == "linux":  # others have no such names
            holder.bind(f"\0callboard-port-{port}")
        yield
