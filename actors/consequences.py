"""What one turn puts into its commit: messages, notes, blobs, lines of a task."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from hashlib import sha256
from typing import TYPE_CHECKING

from actors.blobs import Blob
from actors.branch import current
from actors.entries import drafting
from actors.ready import OWN
from actors.task_messages import LEADS
from bus.address import Address, partition_of
from bus.envelope import Envelope, Header, Outgoing, header_to_json, new_id
from bus.errors import HopLimitExceeded, InvalidMessage, PayloadTooLarge
from storage.records import CancelWrite, NewTask, PauseWrite, TaskEvent, TaskWrite

if TYPE_CHECKING:
    from actors.journal import Journal
    from actors.scope import Scope

# The place of a message that takes no other's. Not the turn's: a thread may send meanwhile.
apart: ContextVar[str | None] = ContextVar("callboard_apart", default=None)


class Consequences:
    """Collected while the turn runs, within its domain's limits; dropped when it fails.

    `journal` is there once the turn has recorded something. From then on each message has a place, and what went out
    when the turn ran before is not sent again.
    """

    __slots__ = (
        "_blob_bytes", "_bytes", "_envelope", "_now", "_places", "_scope", "accepts", "blobs", "cancels", "destroys", "journal", "new_tasks", "notes", "pauses",
        "sends", "task_events", "tasks", "undead",
    )  # fmt: skip

    def __init__(self, scope: Scope, envelope: Envelope, now: float, journal: Journal | None = None) -> None:
        self._scope = scope
        self._envelope = envelope
        self._now = now
        self._places: list[str] = []  # of the sends, in a turn with a journal
        self._bytes = 0
        self._blob_bytes = 0  # of those of `blobs` that are sent
        self.journal = journal
        self.sends: list[Outgoing] = []
        self.blobs: list[Blob] = []  # not stored yet
        self.notes: list[str] = []
        # Seldom used, and a turn is a matter of microseconds: tuples, so that most turns make none of them.
        self.tasks: tuple[TaskWrite, ...] = ()
        self.task_events: tuple[TaskEvent, ...] = ()
        self.cancels: tuple[CancelWrite, ...] = ()
        self.new_tasks: tuple[NewTask, ...] = ()
        self.pauses: tuple[PauseWrite, ...] = ()
        self.undead: tuple[int, ...] = ()  # dead letters that are taken back
        self.accepts: tuple[tuple[str, Outgoing], ...] = ()  # events that are read anew, with their keys
        self.destroys = False  # the agent's state goes

    def begin(self, journal: Journal) -> None:
        """The turn records something for the first time: what it has sent gets its places."""
        self.journal = journal
        self._places = [journal.branches.root.send_place() for _ in self.sends]

    def clock_now(self) -> float:
        """Database time now; in a turn that has not waited, that of its start."""
        return self._now if self.journal is None else self._scope.clock.now()

    def note(self, text: str) -> None:
        self.count_bytes(len(text))
        self.notes.append(text)

    def replayed(self, to: str, wire_name: str) -> tuple[str, str | None]:
        """The place of the next message, and its id if it went out when the turn ran before."""
        if self.journal is None:
            return "", None
        place = apart.get() or (current.get() or self.journal.branches.root).send_place()
        return place, self.journal.entries.replayed_send(place, to, wire_name)

    def post(
        self,
        to: Address,
        wire_name: str,
        payload: str,
        place: str,
        priority: int,
        deadline: float | None,
        due: float | None,
        *,
        reply_to: str | None = None,
        settles: str | None = None,
        blob: str | None = None,
        task: str | None = None,
        shared: bool = False,
    ) -> str:
        """Add a message, part of the same task unless another is named, and return its id.

        Raises what `Context.send` raises for its recipient and its limits.
        """
        scope = self._scope
        partitions = scope.directory.partitions(to.domain, to.kind)
        came = self._envelope.header
        # What is shared ends where it serves a task by name, and where Callboard itself has the word.
        shared = shared or (came.shared and task is None and not wire_name.startswith(OWN))
        undoes = shared or (came.undoes and not came.shared)
        task = task or came.task
        if self.journal is not None and self.journal.branches.is_ending:
            if self.journal.branches.must_stop:
                self.journal.branches.refuse_send()
                return new_id()
            undoes, shared, deadline = True, False, None  # it outlives what has ended the turn
        elif scope.exhausted and task is not None and not wire_name.startswith(OWN):
            scope.refuse_if_exhausted(self._envelope.tenant, came)
        if len(self.sends) >= scope.limits.sends_per_turn and not self._leads_a_task:
            raise InvalidMessage(
                f"One turn may send {scope.limits.sends_per_turn} messages.",
                fix="Send the rest in further turns, or raise the domain's `limits.sends_per_turn`.",
            )
        if came.hops >= scope.limits.hops and not wire_name.startswith(OWN):  # reports, answers: they end
            raise HopLimitExceeded(f"The chain of {came.correlation or came.id} has {came.hops} hops.")
        if blob is None and self.is_large(payload):
            before = len(self.blobs)
            payload, blob = self.check_in(payload, to.domain)
            self._bound_blobs(before)
        header = Header(
            id=new_id(),
            type=wire_name,
            sender=f"{scope.domain}/{self._envelope.agent}",
            sent_at=self.clock_now(),
            correlation=came.correlation or came.id,
            causation=came.id,
            task=task,
            root=came.root if task == came.task else None,
            priority=priority,
            deadline=deadline,
            hops=came.hops + 1,
            traceparent=came.traceparent,
            blob=blob,
            reply_to=reply_to,
            undoes=undoes,
            shared=shared,
        )
        header_json = header_to_json(header)
        self.count_bytes(len(header_json) + len(payload))
        agent = f"{to.kind}/{to.key}"
        send = Outgoing(
            domain=to.domain,
            tenant=self._envelope.tenant,
            agent=agent,
            partition=partition_of(self._envelope.tenant, agent, partitions),
            header=header,
            header_json=header_json,
            payload=payload,
            visible_at=due,
            control=settles is not None,
            settles=settles,
        )
        if self.journal is None:
            self.sends.append(send)
        else:
            self._put(place, send)
        return header.id

    def _put(self, place: str, send: Outgoing) -> None:
        with drafting:
            self._places.append(place)
            self.sends.append(send)

    # -- of tasks: for their own agents only ---------------------------------------------------------

    def cancel_task(self, task: str, why: str) -> None:
        """Have every host end what is part of it."""
        self.cancels += (CancelWrite(task=task, why=why),)

    def pause_task(self, pause: PauseWrite) -> None:
        """Have every host begin nothing more of it, or go on."""
        self.pauses += (pause,)

    def write_task(self, row: TaskWrite | None, events: Sequence[TaskEvent]) -> None:
        """Its row, and lines of its log."""
        if row is not None:
            self.tasks += (row,)
        self.task_events += tuple(events)

    def start_task(self, task: NewTask, event: TaskEvent) -> None:
        """The row of one that another has started."""
        self.new_tasks += (task,)
        self.task_events += (event,)

    @property
    def _leads_a_task(self) -> bool:
        """Such an agent sends what the task's end takes, within bounds of its own."""
        return self._envelope.agent.startswith(LEADS)

    def sent_at(self, place: str) -> tuple[str, str, str] | None:
        """The type, id and recipient of the message that went out at a place, or is about to, in a turn with a journal."""
        assert self.journal is not None
        with drafting:
            about = [*zip(self._places, self.sends, strict=True)]
        for at, send in about:
            if at == place:
                return send.header.type, send.header.id, f"{send.domain}/{send.agent}"
        gone = (sent for sent in self.journal.entries.sent if sent.place == place)
        return next(((sent.type, sent.id, sent.to) for sent in gone), None)

    @property
    def unsent(self) -> list[str]:
        """The places of what has been sent and not committed, in a turn with a journal."""
        return [*self._places]

    def take_sends(self) -> list[tuple[str, Outgoing]]:
        """What has been sent and not committed, each with its place."""
        if not self.sends:
            return []
        with drafting:
            return self._take()

    def take_stored(self) -> list[tuple[str, Outgoing]] | None:
        """The same; None where blobs are to be stored first. A thread may send at any moment, a blob before its message."""
        if not (self.sends or self.blobs):
            return []
        with drafting:
            return None if self.blobs else self._take()

    def stored_sends(self) -> tuple[Outgoing, ...] | None:
        """What the end of the turn takes along; None where blobs are to be stored first."""
        with drafting:
            return None if self.blobs else tuple(self.sends)

    def _take(self) -> list[tuple[str, Outgoing]]:
        sends, self.sends = self.sends, []
        places, self._places = self._places, []
        return list(zip(places, sends, strict=True))

    def drop_sends(self, prefix: str) -> None:
        """What was sent at the places that begin so, and is not committed, goes nowhere."""
        for place, send in self.take_sends():
            if not place.startswith(prefix):
                self._put(place, send)

    def is_large(self, text: str) -> bool:
        """Whether it goes into a blob."""
        limit = self._scope.limits.claim_check_bytes  # in UTF-8; most are so short that nobody need count
        return 4 * len(text) > limit and len(text.encode()) > limit

    def check_in(self, payload: str, domain: str) -> tuple[str, str]:
        """Make a blob of it, in the domain whose agent will read it; return what stands in its place, and the digest.
        Raises PayloadTooLarge."""
        data = payload.encode()
        limit = self._scope.limits.payload_bytes
        if len(data) > limit:
            raise PayloadTooLarge(f"The payload has {len(data)} bytes; {limit} is the limit.")
        digest = sha256(data).hexdigest()
        if all(
            (domain, digest) != (blob.domain, blob.digest) for blob in self.blobs
        ):  # it is checked in again while storage is away
            self.blobs.append(Blob(domain, self._envelope.tenant, digest, data))
        return "null", digest

    def _bound_blobs(self, before: int) -> None:
        """What is sent and waits to be stored is in memory, however little of it the commit will have. One blob may be in
        any case; there were so many `before`."""
        if len(self.blobs) == before:
            return
        limit = self._scope.limits.turn_bytes
        self._blob_bytes = len(self.blobs[-1].data) + (self._blob_bytes if before else 0)
        if before and self._blob_bytes > limit and not self._leads_a_task:
            raise PayloadTooLarge(
                f"One turn may send {limit} bytes of large payloads.",
                fix="Send the rest in further turns, or raise the domain's `limits.turn_bytes`.",
            )

    def count_bytes(self, size: int) -> None:
        """Bounds what one turn puts into the commit; characters are near enough."""
        self._bytes += size
        if self._bytes > self._scope.limits.turn_bytes and not self._leads_a_task:
            raise PayloadTooLarge(
                f"One turn may send and explain {self._scope.limits.turn_bytes} bytes.",
                fix="Send the rest in further turns, or raise the domain's `limits.turn_bytes`.",
            )
