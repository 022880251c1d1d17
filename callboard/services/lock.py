"""File locks: one starter at a time, and who holds a data folder.

A `flock` belongs to the open file, and children inherit it. A server is started holding the lock of its
data folder, and its own children hold it too: so the kernel knows, without pid files going stale, whether
any process of that server still lives, and drops the lock with the last of them.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from bus.errors import DataFolderError, ServiceUnavailable

# How often a lock is looked at while waiting, in seconds: short beside a start-up, long beside a system call.
POLL_S = 0.01


@asynccontextmanager
async def exclusive(path: Path, *, timeout_s: float) -> AsyncIterator[None]:
    """Hold the lock for the length of the block; wait up to `timeout_s` for it.

    Raises `ServiceUnavailable` when another command holds it longer than that.
    """
    handle = await acquire(path, timeout_s=timeout_s)
    if handle is None:
        holder = holder_of(path)
        raise ServiceUnavailable(
            f"Another command (process {holder or 'unknown'}) has been starting or stopping services for "
            f"{timeout_s:.0f} s.",
            fix="Wait for it, or end it, and try again.",
        )
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, b"%d\n" % os.getpid(), 0)
        yield
    finally:
        os.close(handle)


async def acquire(path: Path, *, timeout_s: float) -> int | None:
    """The descriptor of the locked file, or None if others kept the lock for `timeout_s`."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = asyncio.get_running_loop().time() + timeout_s
    try:
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return handle
            if asyncio.get_running_loop().time() >= deadline:
                os.close(handle)
                return None
            await asyncio.sleep(POLL_S)
    except BaseException:
        os.close(handle)
        raise


async def wait_free(path: Path, *, timeout_s: float) -> bool:
    """Whether the lock became free within `timeout_s`."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while held(path):
        if asyncio.get_running_loop().time() >= deadline:
            return False
        await asyncio.sleep(POLL_S)
    return True


def held(path: Path) -> bool:
    """Whether any process holds the lock. Raises `DataFolderError` where we may not look."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except PermissionError as error:
        raise DataFolderError(
            f"{path} belongs to another user.",
            fix="Run as that user, or set CALLBOARD_HOME to a folder of your own.",
        ) from error
    try:
        # A shared lock, so that two lookers do not take each other for the holder.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def holder_of(path: Path) -> int | None:
    """The pid that the holder wrote into the lock file; meaningful only while the lock is held."""
    try:
        return int(path.read_text().strip())
    except (OSError, ValueError):
        return None
