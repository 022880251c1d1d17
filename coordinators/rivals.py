"""Two Rays for one database: whoever leads goes on, the other one waits and says so.

Else each coordinator that is fenced would be started again by its Ray, claim a new epoch and fence the other one, for
ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from storage.connect import connect
from storage.placement import find_rival, report_rival

_logger = logging.getLogger("callboard.coordinator")

LOOK_EVERY_S = 2.0
CLAIMS = "callboard-claim"  # these connections are no coordinator's yet


async def wait_for_rivals(url: str, name: str, node: str, here: Callable[[], Collection[str]]) -> None:
    """Return once no coordinator of that name is at work outside of this Ray, whose nodes `here` tells.

    Call it before there is a connection with the coordinator's name. Raises StorageUnavailable.
    """
    connection = await connect(url, application=CLAIMS)
    said = None
    try:
        while True:
            rival = await find_rival(connection, name, await asyncio.to_thread(here))
            if rival is None:
                return
            if rival != said:
                _logger.error("another Ray leads %s with this database, on its node %s: waiting", name, rival)
                said = rival
            await report_rival(connection, name, node)
            await asyncio.sleep(LOOK_EVERY_S)
    finally:
        await connection.close()
