"""What all turns of one host share."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from actors.directory import Directory
from actors.domain import Domain, LimitSpec
from actors.flights import Flights
from actors.models import ModelClient, NoModels
from actors.secret import GivenSecrets, Secrets
from actors.task_messages import LEADS
from bus.envelope import Envelope, Header
from bus.errors import LimitExceeded, UnknownKind
from storage.spent import Reached

WHOLE = ("", "")  # a pause of the domain itself
_SLACK_S = 0.001  # an event loop's clock is coarse; a callback must not come before its time


class Clock:
    """Database time, as Postgres last said it and counted on from there. Seconds since 1970, UTC.

    It is counted by the clock that nobody sets: this machine's own time of day may jump by hours, and a sleep that
    began at that moment would last as much longer, or end at once.

    Whatever waits for database time (retries, timers, idleness) waits through it, so that a test can move it.
    What waits for a machine that is slow or away (back-off, hand-overs) does not.
    """

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()  # until Postgres is heard

    def now(self) -> float:
        return time.monotonic() + self._offset

    def correct(self, database_now: float) -> None:
        self._offset = database_now - time.monotonic()

    def call_at(self, when: float, callback: Callable[..., None], *arguments: Any) -> None:
        """Call back once it is `when`."""
        wait = max(0.0, when - self.now()) + _SLACK_S
        asyncio.get_running_loop().call_later(wait, callback, *arguments)

    async def pause(self, seconds: float) -> None:
        """The pause of a loop that looks for due work again and again."""
        await asyncio.sleep(seconds)


async def _never() -> bool:
    return False


class Scope:
    """The domain, its limits, the directory of all domains, the clock.

    `is_outdated` looks whether the domain has newer code than this host runs, or is led by another release of
    Callboard. It is asked when something is about to be given up that newer code may know: a domain's kinds and events
    are published before its hosts are replaced.
    """

    def __init__(
        self, domain: Domain, directory: Directory, clock: Clock, rng: random.Random | None = None
    ) -> None:
        self.domain = domain.name
        self.kinds = domain.kinds
        self.events = domain.events
        self.schedules = domain.spec.schedules
        self.limits: LimitSpec = domain.spec.limits
        self.folder = domain.folder
        self.directory = directory
        self.clock = clock
        self.rng = rng or random.Random()
        self.secrets: Secrets = GivenSecrets()
        self.models: ModelClient = NoModels()
        self.flights = Flights(self.limits.waiting_in_memory)
        self.is_outdated: Callable[[], Awaitable[bool]] = _never
        self.cancelled: dict[tuple[str, str], str] = {}
        """Why tasks were cancelled, by tenant and reference, as far as this host knows."""
        self.exhausted: dict[tuple[str, str], Reached] = {}
        """Tasks that are above a limit, by tenant and reference, as far as this host knows."""
        self.paused: frozenset[tuple[str, str]] = frozenset()
        """Tasks that are paused, by tenant and reference; WHOLE is this domain."""
        self._topics = domain.spec.topics

    def why_cancelled(self, envelope: Envelope) -> str | None:
        """Why the message is not to be handled: the task that it is part of was cancelled, or is above a limit. The
        agent that leads the task still hears of it, and what is undone is undone."""
        task = envelope.header.task
        if task is None or envelope.header.undoes or not (self.cancelled or self.exhausted):
            return None
        if envelope.is_control or envelope.agent.startswith(LEADS):
            return None
        why = self.cancelled.get((envelope.tenant, task))
        if why is None and (reached := self._reached(envelope.tenant, envelope.header)) is not None:
            why = reached.words
        return why

    def is_held(self, envelope: Envelope) -> bool:
        """Whether the message waits because its task is paused, or the domain. The agents that lead tasks go on, so
        that a task can be cancelled, and what was cancelled comes to its end."""
        if not self.paused or envelope.is_control or envelope.agent.startswith(LEADS):
            return False
        if envelope.header.undoes:  # it brings a task to rest
            return False
        task = envelope.header.task
        if WHOLE not in self.paused and (task is None or (envelope.tenant, task) not in self.paused):
            return False
        return self.why_cancelled(envelope) is None

    def is_at_held_work(self, envelope: Envelope | None) -> bool:
        """The same of a message whose handler runs or waits in memory, if there is one."""
        return envelope is not None and self.is_held(envelope)

    def refuse_if_exhausted(self, tenant: str, header: Header) -> None:
        """Raise LimitExceeded when the task of a message, with those above it, is above a limit."""
        reached = self._reached(tenant, header)
        if reached is not None:
            raise LimitExceeded(
                reached.words,
                task=reached.task,
                limit=reached.limit,
                used=reached.used,
                allowed=reached.allowed,
            )

    def _reached(self, tenant: str, header: Header) -> Reached | None:
        return None if header.undoes else self.exhausted.get((tenant, header.root or header.task or ""))

    def subscribers(self, topic: str) -> tuple[str, ...]:
        """The agents (`kind/key`) subscribed to a topic; raises UnknownKind for an undeclared one."""
        try:
            return self._topics[topic]
        except KeyError:
            raise UnknownKind(
                f"The domain {self.domain!r} has no topic {topic!r}.",
                fix="Declare it under `topics` in domain.yaml.",
            ) from None
