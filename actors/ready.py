"""Agents that have a message to handle, ordered by the priority of that message."""

from __future__ import annotations

import asyncio
from collections import deque

from actors.activation import Activation
from bus.envelope import Envelope

# Of this many turns one goes to each lower priority first, so that none starves.
_CYCLE = 16
_HIGH_FIRST = (2, 1, 0)
_ORDER = {0: (0, 1, 2), _CYCLE // 2: (1, 2, 0)}


OWN = "callboard."


def is_own(envelope: Envelope) -> bool:
    """Callboard's own messages start, report on and end tasks, or come from an operator: they are few and short,
    and somebody waits for each. They never stand behind the backlog of a busy domain, and what an agent sends
    while it handles one has the priority of its header all the same."""
    return envelope.header.type.startswith(OWN)


class ReadyQueue:
    """Each agent stands in it at most once. `take` waits; `close_gate` makes everyone wait.

    One waiter is woken at a time, and wakes the next if it leaves something behind: where no handler waits for
    anything, one worker runs all turns, and the others cost nothing.
    """

    def __init__(self) -> None:
        self._queues: tuple[deque[Activation], ...] = (deque(), deque(), deque())
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._waking = False  # a waiter was woken, and has not looked yet
        self._open = True
        self._taken = 0

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues)

    def add(self, activation: Activation) -> None:
        """Schedule an agent unless it is scheduled or running already."""
        if activation.scheduled or activation.running or not activation.queue:
            return
        activation.scheduled = True
        header = activation.queue[0].header
        self._queues[2 if header.type.startswith(OWN) else min(2, max(0, header.priority))].append(activation)
        if self._waiters:
            self._wake()

    async def take(self) -> Activation:
        """The next agent; its caller runs one turn of it."""
        activation = self.take_now()
        while activation is None:
            activation = await self._wait()
        return activation

    async def take_later(self) -> Activation:
        """The same, once the event loop has gone round."""
        while (activation := await self._wait()) is None:
            pass
        return activation

    def take_now(self) -> Activation | None:
        """The next agent, or None when there is none yet."""
        return self._pop() if self._open else None

    async def _wait(self) -> Activation | None:
        """Stand in line until woken; then what there is to take."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._wake()
        try:
            await waiter
            return self.take_now()
        finally:
            if not waiter.cancelled():
                self._waking = False
                self._wake()

    def close_gate(self) -> None:
        self._open = False

    def open_gate(self) -> None:
        self._open = True
        self._wake()

    def _pop(self) -> Activation | None:
        self._taken += 1
        for priority in _ORDER.get(self._taken % _CYCLE, _HIGH_FIRST):
            queue = self._queues[priority]
            while queue:
                activation = queue.popleft()
                activation.scheduled = False
                if activation.alive and activation.queue:
                    return activation
        return None

    def _wake(self) -> None:
        if self._waking or not self._open or not any(self._queues):
            return
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                self._waking = True
                return
