"""A process of our own that joins a Ray for a command.

Ray's core takes signals for itself, prints, and ends its process where a connection fails. In a process apart it
can be ended at any moment, and the command stays in charge of what it has started.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import pickle
import sys
from typing import Any, Self

from bus.errors import CallboardError, ServiceUnavailable
from callboard.ray_driver import SIZE

_LEAVES_WITHIN_S = 2.0
# The port has been found open before. Who is refused would be told so after 20 s, by a Ray client after 30 s.
_IMPATIENCE = {
    "RAY_NUM_REDIS_GET_RETRIES": "6",  # a second each, also to find the head without any Redis
    "RAY_CLIENT_INITIAL_CONNECTION_TIMEOUT_S": "3",  # of three attempts
    "RAY_CLIENT_MAX_CONNECTION_TIMEOUT_S": "3",
}


class RayProcess:
    """`start` it early, since it imports Ray meanwhile; `async with` ends it. It carries several calls at once."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Future[tuple[Any, CallboardError | None]]] = {}
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls) -> Self:
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # the folder it is called from may hold a `bus` or a `storage` of its own
                "-m",
                "callboard.ray_driver",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=_IMPATIENCE | os.environ,
                cwd=sys.prefix,  # Ray puts it on the path of all that is started
                start_new_session=True,  # Ctrl-C is the command's to handle
            )
        )

    async def call(self, name: str, **arguments: Any) -> Any:
        """One of ray_driver's functions; raises what it raises, ServiceUnavailable when the process has ended."""
        assert self._process.stdin is not None
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            self._process.stdin.write(pickle.dumps((number, name, arguments)))
            with contextlib.suppress(ConnectionError):  # it has ended: there is no answer, or it came before
                await self._process.stdin.drain()
            await asyncio.wait((answer, self._reading), return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._answers[number]
        if not answer.done():
            raise ServiceUnavailable(
                f"Ray ended the process that was to {name.replace('_', ' ')}.",
                fix="Check that Ray runs: `callboard doctor`.",
            )
        result, error = answer.result()
        if error is not None:
            raise error
        return result

    async def _read(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                (size,) = SIZE.unpack(await self._process.stdout.readexactly(SIZE.size))
                number, result, error = pickle.loads(await self._process.stdout.readexactly(size))
                if number in self._answers:  # else who called has left
                    self._answers[number].set_result((result, error))

    async def __aenter__(self) -> Self:
        return self

    async def leave(self) -> None:
        """End it; what was started in Ray goes on."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEAVES_WITHIN_S):
                await self._process.wait()
        await self._kill()

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            await self.leave()
        else:
            await self._kill()

    async def _kill(self) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        self._reading.cancel()  # what it has started may hold its output open
