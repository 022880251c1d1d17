"""What authors' functions raise that is no error: an exit, or the panic of a library written in Rust."""

from __future__ import annotations

import asyncio

from actors.blobs import BlobsUnavailable
from actors.journal import TurnGone
from bus.errors import TaskCancelled
from bus.registry import first_line

_PASS = (
    Exception,
    asyncio.CancelledError,
    GeneratorExit,
    TurnGone,
    TaskCancelled,
    BlobsUnavailable,
)  # these say something to whoever runs the turn


class as_failures:  # as a generator it would take four times as long
    """An exit that leaves a task of its own ends the event loop, and with it all the agents of the host; here it is a
    failure of whoever has called the function. Raises RuntimeError."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, raised: BaseException | None, traceback: object) -> None:
        if raised is not None and not isinstance(raised, _PASS):
            raise failure_of(raised) from raised


def failure_of(raised: BaseException) -> RuntimeError:
    return RuntimeError(f"{type(raised).__name__}: {first_line(raised)}")
