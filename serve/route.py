"""Whether Ray Serve's proxy knows its way: it hears of routes beside all else, and answers 404 until then."""

from __future__ import annotations

import time
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException

from bus.errors import ServiceUnavailable

ROUTED_WITHIN_S = 30.0
_LOOK_EVERY_S = 0.1


def wait_for_route(
    host: str, port: int, what: str = "The model gateway", *, within_s: float = ROUTED_WITHIN_S
) -> None:
    """Return once the proxy that listens there has a route. Raises ServiceUnavailable."""
    deadline = time.monotonic() + within_s
    while not _has_route(host, port, within_s):
        if time.monotonic() > deadline:
            raise ServiceUnavailable(
                f"{what} runs, and Ray Serve does not answer for it on port {port}.",
                fix="See the log of its proxy in the Ray dashboard.",
            )
        time.sleep(_LOOK_EVERY_S)


def _has_route(host: str, port: int, within_s: float) -> bool:
    asked = HTTPConnection(host, port, timeout=within_s)
    try:
        asked.request("GET", "/-/healthz")
        return asked.getresponse().status == HTTPStatus.OK
    except (OSError, HTTPException):
        return False
    finally:
        asked.close()
