"""Which messages a host has in memory, and how much of its cache they take up."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf

from actors.activation import Activation
from actors.domain import LimitSpec
from bus.envelope import Envelope
from storage.records import Share

MAX_SEEN = 262_144  # numbers of messages handled lately, so that a late copy is known (about 20 MB)


class Books:
    """`seen` holds the number of every message that is queued, running, uncommitted or handled lately, with the bytes
    that it takes up until it has been handled; a message whose number is in it is a copy."""

    def __init__(self, limits: LimitSpec) -> None:
        self.per_agent = limits.cached_messages_per_agent
        self.agent_bytes = min(limits.cached_bytes_per_agent, limits.cached_bytes)
        # Of a nearly full cache each agent gets so little that all the host's workers have something to do.
        self.least_bytes = min(self.agent_bytes, limits.cached_bytes // (2 * limits.concurrent_turns))
        self.most_bytes = limits.cached_bytes
        self._most = limits.cached_messages
        self.seen: dict[int, int] = {}
        self.cached = 0  # messages queued
        self.bytes = 0  # of what is queued, runs or has not committed
        self._handled: deque[int] = deque()
        self._forgotten = 0  # how many have been in it and are not any more
        self._reads: dict[
            object, int
        ] = {}  # how many had been handled when each read under way began, oldest first

    @property
    def fill(self) -> float:
        """How much of the cache is used: 1 is full."""
        return max(self.cached / self._most, self.bytes / self.most_bytes)

    def has_room(self, activation: Activation) -> bool:
        """Whether there is room for one more message of an agent."""
        return (
            len(activation.queue) < self.per_agent
            and self.cached < self._most
            and activation.size < self.agent_bytes
            and self.bytes < self.most_bytes
        )

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One query for mailboxes, until what it has found is queued: what is handled meanwhile may be found there once
        more, so `seen` keeps it. What was handled before is not, however many queries follow each other."""
        read = object()
        self._reads[read] = self._forgotten + len(self._handled)
        try:
            yield
        finally:
            del self._reads[read]

    def share(self) -> Share:
        """How much of each agent's mailbox there is room for now."""
        return Share(
            messages=self.per_agent if self.cached < self._most else 1,
            size=self.agent_bytes if self.bytes < self.most_bytes else 0,
        )

    def enter(self, activation: Activation, envelope: Envelope) -> None:
        """A message is in memory with its payload: it is queued, or was unread until now."""
        size = size_of(envelope)
        self.seen[envelope.seq] = size
        self.bytes += size
        activation.size += size

    def forget(self, activation: Activation, seq: int) -> None:
        """It has left memory: a copy of it is welcome again."""
        size = self.seen.pop(seq, 0)
        self.bytes -= size
        activation.size -= size

    def release(self, seq: int) -> None:
        """Its turn will not commit: a copy of it is welcome again."""
        self.bytes -= self.seen.pop(seq, 0)

    def handled(self, activation: Activation, seq: int) -> None:
        """Its turn has committed."""
        self._handled.append(seq)
        size = self.seen.get(seq, 0)
        self.seen[seq] = 0
        activation.size -= size
        self.bytes -= size
        if len(self._handled) > MAX_SEEN:
            known_to_reads = next(iter(self._reads.values()), inf)
            while len(self._handled) > MAX_SEEN and self._forgotten < known_to_reads:
                self.seen.pop(self._handled.popleft(), None)
                self._forgotten += 1


def size_of(envelope: Envelope) -> int:
    """About the bytes that a message holds in memory; its texts have one, two or four bytes a character."""
    return envelope.payload.__sizeof__() + envelope.header_json.__sizeof__()
