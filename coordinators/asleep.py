"""Who listens for domains that are asleep: their hosts and coordinators, which do otherwise, are not there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import asyncpg

from actors.event_place import count_waiting
from bus import subjects
from bus.errors import ServiceUnavailable, StorageUnavailable
from bus.events import EventStream
from bus.nats import NatsTransport
from coordinators.tasks.front import TaskFront
from storage.boundary import translated
from storage.domains import ASLEEP, all_domains, wake_domain
from storage.inspect import find_event_cursor
from storage.placement import live_hosts
from storage.queries import query

_logger = logging.getLogger("callboard.master")

AGAIN_S = 5.0  # after NATS was away


class Sleepers:
    """Called every round of the master: takes tasks over NATS, and wakes a domain for its events.

    It listens beside the rounds, which wait for no NATS.
    """

    def __init__(self, pool: asyncpg.Pool[Any], nats_url: str) -> None:
        self._pool = pool
        self._nats_url = nats_url
        self._transport: NatsTransport | None = None
        self._connecting = asyncio.Lock()
        self._listening: dict[str, asyncio.Task[None]] = {}

    async def __call__(self) -> None:
        state = {row.domain: row.state for row in await all_domains(self._pool)}
        for domain in [d for d, s in state.items() if s == ASLEEP and d not in self._listening]:
            self._listening[domain] = asyncio.create_task(self._listen_always(domain))
        for domain in [d for d in self._listening if state.get(d) != ASLEEP]:
            if domain not in state or any(host.ready for host in await live_hosts(self._pool, domain)):
                self._listening.pop(domain).cancel()

    async def close(self) -> None:
        for task in self._listening.values():
            task.cancel()
        await asyncio.gather(*self._listening.values(), return_exceptions=True)
        if self._transport is not None:
            await self._transport.close()

    async def _listen_always(self, domain: str) -> None:
        said = ""
        while True:
            try:
                await self._listen(domain)
            except (ServiceUnavailable, StorageUnavailable) as error:
                if error.message != said:
                    _logger.warning("nobody listens for %s, which is asleep: %s", domain, error.message)
                said = error.message
            except Exception:
                _logger.exception("nobody listens for %s, which is asleep", domain)
            await asyncio.sleep(AGAIN_S)

    async def _listen(self, domain: str) -> None:
        """Until a failure: then the subscriptions are closed, and whoever asks is told that nobody is there."""
        transport = await self._connected()
        look = asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            heard = await transport.subscribe(subjects.events(domain), lambda data: look.set(), look.set)
            stack.push_async_callback(heard.close)
            for asked in await TaskFront(self._pool, transport, domain).start():
                stack.push_async_callback(asked.close)
            await transport.flush()
            while True:
                look.clear()
                if await self._events_wait(transport, domain):
                    await wake_domain(self._pool, domain)
                    _logger.info("%s wakes: an event waits for it", domain)
                await look.wait()

    async def _events_wait(self, transport: NatsTransport, domain: str) -> bool:
        with translated():
            after = await self._pool.fetchval(query("asleep_after_event"), domain)
        cursor = await find_event_cursor(self._pool, domain)
        return (
            after is not None and await count_waiting(EventStream(transport), cursor, domain, after=after) > 0
        )

    async def _connected(self) -> NatsTransport:
        async with self._connecting:
            if self._transport is None:
                self._transport = await NatsTransport.connect(self._nats_url, name="callboard master")
            return self._transport
