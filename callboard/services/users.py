"""The commands that use the instance in a `CALLBOARD_HOME`: what was started for one of them ends with the last.

Who starts, joins, leaves or stops it holds `start.lock`: of several that come at once, one starts it and the others
join. Each user holds `users.lock` shared, and the kernel drops that with a user that is killed. The file `temporary`
says that the last user stops the instance; it is made before anything is started, and `up --detach` removes it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from . import lock
from .home import Home

# Another command may be starting the instance, with a long recovery of Postgres before it.
LOCK_TIMEOUT_S = 240.0


class Users:
    """The users of the instance below one `Home`, of which this object is one between `join` and `leave`."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._handle: int | None = None

    @asynccontextmanager
    async def alone(self, progress: Callable[[str], None]) -> AsyncIterator[None]:
        """Nobody else starts, joins, leaves or stops it for the length of the block.

        Raises `DataFolderError` or `ServiceUnavailable`.
        """
        self._home.create()
        path = self._home / "start.lock"
        if lock.held(path):
            progress("waiting for another command, which starts or stops Callboard")
        async with lock.exclusive(path, timeout_s=LOCK_TIMEOUT_S):
            yield

    def join(self) -> None:
        """Become a user; only while `alone`."""
        self._handle = os.open(self._home / "users.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._handle, fcntl.LOCK_SH)

    @property
    def joined(self) -> bool:
        return self._handle is not None

    def leave(self) -> bool:
        """Be no user any more; while `alone`, True says that there is no other."""
        if self._handle is None:
            return False
        handle, self._handle = self._handle, None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False
        finally:
            os.close(handle)

    @property
    def temporary(self) -> bool:
        """Whether the instance ends with its last user."""
        return self._mark.exists()

    def begin(self) -> None:
        """Say that it does."""
        self._mark.touch(mode=0o600)

    def keep(self) -> None:
        """Say that it does not, or is not there any more."""
        self._mark.unlink(missing_ok=True)

    @property
    def _mark(self) -> Path:
        return self._home / "temporary"
