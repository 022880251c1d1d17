"""What an attached `callboard up` does until it is ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from callboard.ray_head import RayHead
from callboard.services import Home, Keeper, is_recorded

LOOK_EVERY_S = 1.0


async def watch(home: Path, head: RayHead | None, say: Callable[[str], None]) -> None:
    """Pass on what the keeper says, until another command has stopped Callboard. `head` is our own Ray's, if there is one.

    Raises ServiceUnavailable when that has died: what runs in it is lost, so that it is for whoever started it, systemd
    say, to start it all again.
    """
    log = Keeper(home=Home(home)).log
    read = log.stat().st_size if log.exists() else 0
    has_services = is_recorded(Home(home))  # of its own: whose end alone tells where Ray is somebody else's
    while (head is None or await head.require_alive()) and (not has_services or is_recorded(Home(home))):
        lines, read = _after(log, read)
        for line in lines:
            say(line)
        await asyncio.sleep(LOOK_EVERY_S)
    say("Another command has stopped Callboard.")


def _after(log: Path, read: int) -> tuple[list[str], int]:
    """The whole lines of the log after so many bytes, and how many bytes it has with them."""
    if not log.exists():
        return [], read
    with log.open("rb") as file:
        file.seek(read)
        lines = file.read().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")]
    return [line.decode(errors="replace").rstrip() for line in whole], read + sum(map(len, whole))
