"""One write on its way to the group commit, and who waits to hear of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Written:
    """Whether it has committed. One that waits may be cancelled, which is nothing to the write or to others that wait.

    Not a future: to be shielded from whoever waits that takes a second one, and each callback a pass of the event loop.
    """

    __slots__ = ("_tell", "_waiters", "committed")

    def __init__(self) -> None:
        self.committed: bool | None = None
        """None until it is known."""
        self._waiters: tuple[asyncio.Future[None], ...] = ()
        self._tell: tuple[Callable[[], object], ...] = ()

    def settle(self, committed: bool) -> None:
        """It is known; what is said of it later changes nothing."""
        if self.committed is not None:
            return
        self.committed = committed
        for tell in self._tell:
            tell()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def then(self, tell: Callable[[], object]) -> None:
        """Have this called once it is known, before those that wait go on. It must not raise."""
        self._tell += (tell,)

    async def known(self) -> bool:
        """Wait until it is known."""
        if self.committed is None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters += (waiter,)
            await waiter
        return self.committed is True
