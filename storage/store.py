"""What the turn loop needs of storage: narrow contracts, with Postgres and memory behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from bus.envelope import Envelope
from storage.edges import Agent, ChainedAsks, PromisePlace, Refusal, WaitEdge
from storage.journal import Flush, StoredJournal
from storage.ledger import EarlierCall
from storage.records import (
    PAGE_AGENTS,
    PAGE_BYTES,
    Attempt,
    BuriedMessage,
    Cancellation,
    EventBatch,
    EventCursor,
    Fence,
    MailHead,
    MailPlace,
    Mark,
    Ownership,
    Share,
    StoredState,
    TurnRecord,
)
from storage.room import Bounds, Lack, Recipient
from storage.schedules import Firing, ScheduleRow
from storage.spent import Reached
from storage.standing import Standing


class TurnStore(Protocol):
    """Where turns are committed."""

    async def commit(
        self, fence: Fence, writes: Sequence[TurnRecord | Flush], marks: Sequence[Mark]
    ) -> list[int | None]:
        """Commit all of it or nothing; return the mailbox numbers of the messages sent, in their order.

        Those of control messages are below zero, so that they pass the queue wherever they come to one. Sends with a
        due time become timers and are not in the list. None stands for a reply that came too late: it was not sent.
        Raises Fenced, StaleTurn or InvalidData, after
        which nothing was written, or StorageUnavailable, after which the outcome is unknown: `settle` it.
        """
        ...

    async def settle(self, fence: Fence, write: TurnRecord | Flush) -> bool:
        """Whether the batch of this write was committed, found by looking under a lock on the fence."""
        ...

    async def fire_timers(self, fence: Fence, partitions: Sequence[int], limit: int) -> list[MailPlace]:
        """Move due timers into mailboxes; return where to. The fence counts where any is due."""
        ...

    async def settle_due(self, fence: Fence, partitions: Sequence[int], limit: int) -> list[MailPlace]:
        """Settle promises whose time has come; return where their wake-ups are. The fence counts where any is due."""
        ...


class AskStore(Protocol):
    """Where asks are seen as edges from one agent to another, whoever owns them."""

    async def wait_edges(self, agents: Sequence[Agent], limit: int) -> list[WaitEdge]:
        """The asks that the open turns of these agents wait for."""
        ...

    async def refuse_ask(self, newest: WaitEdge, cycle: Sequence[WaitEdge], agents: Sequence[str]) -> Refusal:
        """Settle the newest ask of a cycle as refused and withdraw its message, if all of the cycle still wait.

        A message that was handled and not answered yet waits for no turn. `agents` are the addresses to be named.
        """
        ...

    async def chained_asks(
        self, domain: str, partitions: Sequence[int], after: PromisePlace, limit: int
    ) -> ChainedAsks:
        """Which asks of those partitions lead on to others, among the next so many promises of the domain."""
        ...


class MailboxStore(Protocol):
    """Where waiting messages and states are read."""

    async def load_partition(
        self,
        domain: str,
        partition: int,
        *,
        after: tuple[str, str],
        agents: int,
        each: Share,
        page_bytes: int,
    ) -> tuple[list[Envelope], set[tuple[str, str]], tuple[str, str] | None]:
        """One page of a partition: messages, the agents that have more than their share, the next page's start.

        Of a paused agent only its control messages. With a share of no bytes there is one message of each agent,
        its payload left out (""). A page ends with the agent that brings it to `page_bytes`.
        """
        ...

    async def load_agent(
        self,
        domain: str,
        partition: int,
        tenant: str,
        agent: str,
        share: Share,
        *,
        control_only: bool = False,
    ) -> tuple[list[Envelope], bool]:
        """The first messages of one agent's mailbox, paused or not, and whether it has more than the share."""
        ...

    async def mail_heads(
        self, domain: str, after: tuple[str, int, str], partitions: Sequence[int], limit: int
    ) -> tuple[list[MailHead], tuple[str, int, str] | None]:
        """The first message of each agent that has mail in the partitions, from a place on, and the next place.

        Of a paused agent only a control message. Cheap: it looks at so many agents at most, and at no payload.
        """
        ...

    async def load_states(
        self, domain: str, agents: Sequence[tuple[str, str]], *, page_bytes: int = PAGE_BYTES
    ) -> tuple[list[StoredState], int]:
        """The states of the first of these agents, until they have so many bytes, and how many agents those are. One
        without a state is left out, unless its first turn is open."""
        ...

    async def load_turns(
        self,
        domain: str,
        partition: int,
        *,
        after: tuple[str, str] = ("", ""),
        turns: int = PAGE_AGENTS,
        page_bytes: int = PAGE_BYTES,
    ) -> tuple[list[Envelope], tuple[str, str] | None]:
        """A page of a partition's turns that are open and have something to do, and where the next one begins."""
        ...

    async def load_journal(self, domain: str, tenant: str, agent: str) -> StoredJournal | None:
        """The open turn of an agent, with what it has recorded and what it waits for."""
        ...

    async def find_mail(
        self, domain: str, partition: int, tenant: str, agent: str, message: str
    ) -> int | None:
        """The number of a message that waits in an agent's mailbox, by its id."""
        ...

    async def promise_standing(self, domain: str, tenant: str, id_: str, by: str) -> Standing | None:
        """What has become of a promise, and whether `by` may decide it; None when there is no such promise."""
        ...

    async def earlier_calls(self, domain: str, tenant: str, agent: str, message: str) -> list[EarlierCall]:
        """The calls of tools that were made for a message and have acted, or may have; the oldest first."""
        ...

    async def is_gone(self, domain: str, epoch: int) -> bool:
        """Whether the process of a host is known to be gone."""
        ...

    async def put_blob(self, domain: str, tenant: str, digest: str, data: bytes) -> None: ...

    async def get_blob(self, domain: str, tenant: str, digest: str) -> bytes:
        """Raises InvalidPayload when no blob has that digest."""
        ...

    async def read_dead_letter(
        self, domain: str, tenant: str, agent: str, number: int
    ) -> BuriedMessage | None:
        """A dead letter of this agent."""
        ...


class OwnershipStore(Protocol):
    """A host's own row."""

    async def read_ownership(self, fence: Fence) -> Ownership: ...

    async def release(
        self, fence: Fence, partitions: Sequence[int], attempts: Sequence[Attempt] = ()
    ) -> None:
        """Give them back. These attempts there end with it: nothing has died of them, so they do not count."""
        ...

    async def keep(self, fence: Fence, partitions: Sequence[int]) -> None:
        """These are given back later than asked, when the calls that are being made there are on record."""
        ...

    async def clear_suspects(self, fence: Fence, partitions: Sequence[int]) -> None: ...

    async def ready(self, fence: Fence) -> None: ...


class EventStore(Protocol):
    """Where events from outside are accepted."""

    async def event_cursor(self, domain: str) -> EventCursor | None:
        """How far the stream of events has been accepted."""
        ...

    async def accept_events(self, fence: Fence, cursor: EventCursor, batch: EventBatch) -> dict[str, int]:
        """Accept a batch and move the cursor; return the mailbox numbers of the new messages by their ids.

        Raises Fenced unless the epoch owns partition 0, StaleTurn when the cursor is there already.
        """
        ...

    async def lack_of_room(self, domain: str, wanted: Mapping[Recipient, int], bounds: Bounds) -> Lack | None:
        """What keeps messages from being taken in from outside; see storage/room.py."""
        ...


class ScheduleStore(Protocol):
    """Where the schedules of domains are kept. Writing raises Fenced unless the epoch owns the first partition."""

    async def read_schedules(self, domain: str) -> tuple[float, list[ScheduleRow]]:
        """The time that it is for storage, and the schedules by name."""
        ...

    async def keep_schedules(self, fence: Fence, rows: Sequence[ScheduleRow]) -> None:
        """These are all that the domain has; one that comes when it came before keeps its next occurrence."""
        ...

    async def fire_schedule(self, fence: Fence, firing: Firing) -> bool:
        """Send the messages and move on to the next occurrence; False when there was nothing to send (any more)."""
        ...


class CancelStore(Protocol):
    """Where tasks that were cancelled are read, and carried out."""

    async def read_cancellations(self, *, ended: bool) -> list[Cancellation]:
        """Those of all domains that have not ended; with `ended`, also the newest of the others."""
        ...

    async def stop_cancelled(self, fence: Fence, partitions: Sequence[int]) -> list[MailPlace]:
        """Remove the timers of cancelled tasks, and have their waiting turns run again; return their open turns."""
        ...

    async def has_stopped(self, fence: Fence, cancellations: Sequence[int]) -> None:
        """Put down of which of them nothing runs on this host any more."""
        ...

    async def end_cancellations(self, fence: Fence, partitions: Sequence[int]) -> list[MailPlace]:
        """End those of which nothing is left anywhere; return where their tasks' agents are told."""
        ...


class LimitStore(Protocol):
    """Where it is seen what tasks use, as their turns are committed."""

    on_limit: Callable[[Reached], None]
    """Called with each limit above which a task is whose turns have just been committed."""


class PauseStore(Protocol):
    """Where it is read what is paused."""

    async def read_pauses(self, domain: str) -> list[tuple[str, str]]:
        """The tasks that are paused, by tenant and reference; two empty words stand for the domain itself."""
        ...


class HostStore(
    PauseStore,
    TurnStore,
    LimitStore,
    AskStore,
    MailboxStore,
    OwnershipStore,
    EventStore,
    ScheduleStore,
    CancelStore,
    Protocol,
):
    """All that a host needs."""
