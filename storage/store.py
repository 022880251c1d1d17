"""What the turn loop needs of storage: narrow contracts, with Postgres and memory behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bus.envelope import Envelope
from storage.records import EventBatch, Fence, Mark, Ownership, StoredState, TurnRecord


class TurnStore(Protocol):
    """Where turns are committed."""

    async def commit(self, fence: Fence, turns: Sequence[TurnRecord], marks: Sequence[Mark]) -> list[int]:
        """Commit all of it or nothing; return the mailbox numbers of the messages sent, in their order.

        Sends with a due time become timers and have no number. Raises Fenced, StaleTurn or InvalidData, after
        which nothing was written, or StorageUnavailable, after which the outcome is unknown: `settle` it.
        """
        ...

    async def settle(self, fence: Fence, turn: TurnRecord) -> bool:
        """Whether the batch of this turn was committed, found by looking under a lock on the fence."""
        ...

    async def fire_timers(self, fence: Fence, partitions: Sequence[int], limit: int) -> list[Envelope]:
        """Move due timers into mailboxes; return the new messages."""
        ...


class MailboxStore(Protocol):
    """Where waiting messages and states are read."""

    async def load_partition(
        self, domain: str, partition: int, *, after: tuple[str, str], agents: int, each: int
    ) -> tuple[list[Envelope], set[tuple[str, str]], tuple[str, str] | None]:
        """One page of a partition: messages, the agents that have more than `each`, the next page's start.

        Of a paused agent only its control messages.
        """
        ...

    async def load_agent(
        self, domain: str, partition: int, tenant: str, agent: str, each: int
    ) -> list[Envelope]:
        """The first messages of one agent's mailbox, paused or not."""
        ...

    async def load_states(self, domain: str, agents: Sequence[tuple[str, str]]) -> list[StoredState]:
        """The committed states of those (tenant, agent) that have one."""
        ...

    async def put_blob(self, domain: str, tenant: str, digest: str, data: bytes) -> None: ...

    async def get_blob(self, domain: str, tenant: str, digest: str) -> bytes:
        """Raises InvalidPayload when no blob has that digest."""
        ...

    async def read_dead_letter(
        self, domain: str, tenant: str, agent: str, number: int
    ) -> tuple[str, str] | None:
        """Header and payload (JSON) of a dead letter."""
        ...


class OwnershipStore(Protocol):
    """A host's own row."""

    async def read_ownership(self, fence: Fence) -> Ownership: ...

    async def release(self, fence: Fence, partitions: Sequence[int]) -> None: ...

    async def clear_suspects(self, fence: Fence, partitions: Sequence[int]) -> None: ...

    async def ready(self, fence: Fence) -> None: ...


class EventStore(Protocol):
    """Where events from outside are accepted."""

    async def event_cursor(self, domain: str) -> tuple[str, int] | None:
        """The stream's incarnation and the last sequence number accepted from it."""
        ...

    async def accept_events(self, fence: Fence, cursor: tuple[str, int], batch: EventBatch) -> dict[str, int]:
        """Accept a batch and move the cursor; return the mailbox numbers of the new messages by their ids.

        Raises Fenced unless the epoch owns partition 0, StaleTurn when the cursor is there already.
        """
        ...


class HostStore(TurnStore, MailboxStore, OwnershipStore, EventStore, Protocol):
    """All that a host needs."""
