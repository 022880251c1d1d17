"""Room for hosts. A cluster that is full has none for a second set of them beside the first: hosts with a domain's newest
code come one by one, each after one with older code has made room for it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from storage.lack import Lack
from storage.placement import HostRow

_logger = logging.getLogger("callboard.coordinator")

LOOK_EVERY_S = 1.0
TOLD_WITHIN_S = 3.0  # Ray tells up to a second late who waits, and who has got what was freed
OTHERS_LEAVE_WITHIN_S = 5.0  # other domains take back what waits while this one's hosts are replaced


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """How many of a domain's hosts wait until there is room for them in the cluster, and how much else does.

    `too_large` are hosts that no node of the cluster is large enough for. Each asks for `cpus` CPUs; `free` has the node
    with the most of them, `largest` the largest node in all.
    """

    hosts: int = 0
    too_large: int = 0
    others: int = 0
    cpus: float = 0.0
    free: float = 0.0
    largest: float = 0.0


Queue = Callable[[], Awaitable[Waiting]]


async def nobody_waits() -> Waiting:
    """Of a cluster that starts whatever it is asked for."""
    return Waiting()


class Room:
    """What is known of the cluster's room. It is looked up beside the rounds: a cluster that does not answer keeps none."""

    def __init__(self, queue: Queue, clock: Callable[[], float] = time.monotonic) -> None:
        self._queue = queue
        self._clock = clock
        self._waiting = Waiting()
        self._asked_at = float("-inf")
        self._forgot_at = clock()
        self._look: asyncio.Task[None] | None = None
        self._others_since: float | None = None
        self._others_told = False

    def look(self, coming: int) -> None:
        """To be called every round, with how many hosts are to come."""
        if not coming:
            self.forget()
        elif self._look is None and self._clock() - self._asked_at >= LOOK_EVERY_S:
            self._look = asyncio.create_task(self._ask())

    def forget(self) -> None:
        """What was told holds no more: a process has ended, and whoever waited may have its room, or all have come."""
        self._forgot_at = self._clock()

    def close(self) -> None:
        if self._look is not None:
            self._look.cancel()

    def is_lacking(self, coming: int) -> bool:
        """Whether of the hosts that are to come each one waits for room, and none is being started."""
        waiting = self._waiting
        return (
            0 < coming <= waiting.hosts + waiting.too_large
            and self._asked_at - self._forgot_at >= TOLD_WITHIN_S
        )

    @property
    def is_too_small(self) -> bool:
        """Whether no host that leaves would make room."""
        return self._waiting.too_large > 0

    def lack(self, missing: int, behind: str | None) -> Lack:
        """What so many hosts lack, and the domain that they wait behind."""
        known = self._waiting
        return Lack(
            hosts=missing, cpus=known.cpus, free=known.free, largest=known.largest, others=known.others, behind=behind
        )  # fmt: skip

    def made_by(self, current: Sequence[HostRow], older: Sequence[HostRow], coming: int) -> HostRow | None:
        """The host with older code that has to leave before one with the newest can come; None while nobody has to.

        One at a time: another leaves only once all that have come are ready.
        """
        if not older or not self.is_lacking(coming) or not all(host.ready for host in current):
            return None
        if self.is_too_small or self._others_wait():
            return None
        return min(older, key=lambda host: (host.ready, len(host.owned), host.epoch))

    def _others_wait(self) -> bool:
        """Whoever they are, they might take the room."""
        others, now = self._waiting.others, self._clock()
        if not others:
            self._others_since, self._others_told = None, False
            return False
        if self._others_since is None:
            self._others_since = now
        if not self._others_told and now - self._others_since >= OTHERS_LEAVE_WITHIN_S:
            self._others_told = True
            _logger.warning(
                "no room is made for a host with newer code: %d others wait in the cluster, and might take it",
                others,
            )
        return True

    async def _ask(self) -> None:
        asked_at = self._clock()
        try:
            self._waiting = await self._queue()
        except Exception:
            _logger.exception("what the cluster has room for cannot be told")
            self._waiting = Waiting()
        finally:
            self._asked_at, self._look = asked_at, None
