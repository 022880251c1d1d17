"""The keeper's program: it starts the embedded services again when they die (decision 53).

It looks every second, and ends once the instance was stopped. It starts under `instance.lock`, as everything does that
starts or stops services, so that it never brings back what `down` has just ended.
"""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio import sleep as pause
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from bus.errors import CallboardError
from callboard.settings import Settings

from .home import Home
from .instance import Instance, read_record
from .keeper import REVIVED
from .services import restart_died

LOOK_EVERY_S = 1.0
# A server that does not come up, or dies again soon, is started less and less often.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
STEADY_AFTER_S = 120.0

Say = Callable[[str], None]


async def keep(settings: Settings, say: Say) -> None:
    """Start again what has died, until the instance was stopped. Raises `DataFolderError` when its record is damaged."""
    home = Home(settings.home)
    pause_s, tried = FIRST_PAUSE_S, -STEADY_AFTER_S
    while (instance := read_record(home)) is not None:
        if not instance.died:
            await pause(LOOK_EVERY_S)
            continue
        if time.monotonic() - tried >= STEADY_AFTER_S:
            pause_s = FIRST_PAUSE_S
        await _revive(settings, instance, say, pause_s)
        tried = time.monotonic()
        await pause(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


async def _revive(settings: Settings, instance: Instance, say: Say, pause_s: float) -> None:
    names, began = " and ".join(instance.died), time.monotonic()
    try:
        if await restart_died(settings):
            say(f"{names}{REVIVED} in {time.monotonic() - began:.1f} s.")
    except Exception as error:  # whatever it is, it must not end the keeper: nobody would start that again
        words = str(error) if isinstance(error, CallboardError) else f"{type(error).__name__}: {error}."
        say(f"{names} died, and cannot be started: {words} It is tried again in {pause_s:.0f} s.")


def _log(line: str) -> None:
    with suppress(OSError):  # a full disk is what servers die of, and must not end their keeper
        print(datetime.now().astimezone().isoformat(" ", "seconds"), line, flush=True)


if __name__ == "__main__":
    asyncio.run(keep(Settings(home=Path(sys.argv[1])), _log))
