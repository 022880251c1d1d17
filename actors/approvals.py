"""The part of Context that asks for approval, and that decides on what others ask for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

import msgspec
from pydantic import BaseModel

from actors.approval import (
    ApprovalRequested,
    Comment,
    Decision,
    OnTimeout,
    Question,
    Refusal,
    Verdict,
    decision,
    question,
)
from actors.awaited import to_be_awaited
from bus.address import Address
from bus.envelope import Header, new_id
from bus.errors import ApprovalDenied, CallboardError, InvalidMessage, NonDeterministicHandler, UnknownPromise
from storage.journal import Kind, OpenPromise

if TYPE_CHECKING:
    from actors.branch import Branch
    from actors.consequences import Consequences
    from actors.journal import Journal
    from actors.wake import Wake
    from storage.journal import JournalEntry
    from storage.standing import Standing

DECIDE = "decide"


class Approvals(ABC):
    """Who may decide is checked when a decision commits; of several the first counts."""

    __slots__ = ()

    @to_be_awaited
    async def approval(
        self,
        action: str,
        details: Any = None,
        *,
        approvers: Sequence[str] = (),
        timeout: float | None = None,  # noqa: ASYNC109  (it outlives this process)
        on_timeout: OnTimeout = "deny",
        key: str | None = None,
    ) -> Decision:
        """Ask for approval of an action, with the details (JSON) that are to be seen; wait for the decision.

        It holds for exactly these details: other ones need an approval of their own. `approvers` names who may approve:
        people by their names, agents by their addresses, which are sent an ApprovalRequested; without any, every person
        may. Every person may deny. After `timeout` seconds `on_timeout` says what follows: `deny`, `approve`, or `raise` ApprovalDenied.
        """
        place = self._branch().place(key)
        if on_timeout not in get_args(OnTimeout):
            raise InvalidMessage(
                f"on_timeout={on_timeout!r} says nothing.", fix=f"One of: {', '.join(get_args(OnTimeout))}."
            )
        return await self._approval(place, question(action, details, approvers), timeout, on_timeout)

    async def _approval(
        self,
        place: str,
        asked: Question,
        timeout: float | None,  # noqa: ASYNC109
        on_timeout: OnTimeout,
    ) -> Decision:
        journal, action = self._journal(), asked.action
        name = f"{action} {asked.digest[:16]}"
        try:
            entry = journal.recorded(place, Kind.APPROVAL, name)
        except NonDeterministicHandler as error:
            raise await self._told_apart(error, place, asked) from None
        if entry is None and journal.promises.at(place) is None:
            await self._begin_wait(journal)
            due_at, promise = self._due_at(timeout), new_id()
            self._puts.count_bytes(len(name) + len(asked.details))
            request = ApprovalRequested(
                ref=self._ref(promise), action=action, details=msgspec.json.decode(asked.details),
                digest=asked.digest, until=due_at,
            )  # fmt: skip
            for number, agent in enumerate(asked.agents(self._asks_for())):
                self._send_apart(agent, request, due_at, f"{promise}.{number}")
            journal.promises.make(
                place, Kind.APPROVAL, name, id_=promise, due_at=due_at, details=asked.to_json()
            )
            await self._flush()
        outcome = await self._outcome(place)
        decided = decision(action, outcome.status, bytes(outcome.value), outcome.by, outcome.at, on_timeout)
        if decided.by is None and on_timeout == "raise":
            raise ApprovalDenied(f"Nobody has decided in time: {action}.", place=place, decision=decided)
        self._decisions.append(decided)
        return decided

    async def _told_apart(
        self, error: NonDeterministicHandler, place: str, asked: Question
    ) -> NonDeterministicHandler:
        """The error, with the details in which what is asked now `differs` from what was asked at that place."""
        journal = self._journal()
        made = journal.promises.at(place) or journal.entries.get(place)
        if made is None or made.kind != Kind.APPROVAL:
            return error
        promise = made.id if isinstance(made, OpenPromise) else (await journal.outcome(place)).promise
        standing = await self._standing(self._ref(promise))
        if standing is None or standing.details is None:
            return error
        before = msgspec.json.decode(standing.details, type=Question)
        differs = asked.differs_from(before) if before.action == asked.action else ""
        if not differs:
            return error
        words = f"{error.message.removesuffix('.')}; what differs is {differs}."
        return NonDeterministicHandler(words, **error.fields, differs=differs)

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The decisions that this turn has been given so far, those on its tool calls included."""
        return tuple(self._decisions)

    @to_be_awaited
    async def decide(
        self, ref: str, approved: bool, *, comment: str = "", digest: str = "", key: str | None = None
    ) -> None:
        """Approve or deny what another agent asks for; it is on record when this returns, with this agent and message.

        `ref` is that of the ApprovalRequested. An agent decides where the approval names its address, and never on what
        it asks for itself, nor on what another asks for while that one handles this agent's message. With a `digest`
        (or its beginning) it decides on exactly what has that one. Raises AlreadySettled when somebody else was first
        or the time is up, NotEntitled, UnknownPromise, and InvalidMessage for what is no such approval.
        """
        journal = self._journal()
        place = self._branch().place(key)
        verdict = Verdict(approved=approved, comment=comment)
        name = f"{verdict.status} {ref}"
        entry = journal.recorded(place, DECIDE, name)
        if entry is None:
            await journal.branches.proceed()
            refused = await self._decided(ref, verdict, digest, place)
            entry = _recorded(journal, place, name, refused)
        if not entry.ok:
            raise msgspec.json.decode(entry.value, type=Refusal).error(place)

    async def _decided(self, ref: str, verdict: Verdict, digest: str, place: str) -> CallboardError | None:
        """Decide, unless that was done before a crash; return what stood in the way."""
        by = self._asks_for()[0]
        said = Comment(comment=verdict.comment, message=self.header.id)
        standing = await self._standing(ref)
        if standing is None:
            return UnknownPromise(f"There is no approval {ref}.")
        if said.stands(standing, verdict.status, by):
            return None
        error = standing.why_not(verdict.status, by, digest)
        if error is not None:
            return error
        self._send_decision(ref, verdict.status, said.to_json(), digest, f"{DECIDE}:{place}")
        await self._flush()
        standing = await self._standing(ref)
        if standing is not None and said.stands(standing, verdict.status, by):
            return None
        error = None if standing is None else standing.why_not(verdict.status, by, digest)
        return error or UnknownPromise(f"The approval {ref} is gone.")

    # -- what Context brings -------------------------------------------------------------------------

    _decisions: list[Decision]
    _puts: Consequences

    @abstractmethod
    def _journal(self) -> Journal: ...

    @abstractmethod
    def _branch(self) -> Branch: ...

    @abstractmethod
    async def _flush(self, *, begins: bool = False) -> None: ...

    @abstractmethod
    async def _begin_wait(self, journal: Journal) -> None: ...

    @abstractmethod
    async def _outcome(self, place: str) -> Wake: ...

    @abstractmethod
    def _ref(self, promise: str) -> str: ...

    @abstractmethod
    def _due_at(self, timeout: float | None) -> float | None: ...

    @abstractmethod
    def _asks_for(self) -> tuple[str, str]:
        """This agent, and who has sent it the message being handled."""
        ...

    @abstractmethod
    def _send_apart(self, to: Address, message: BaseModel, deadline: float | None, place: str) -> None: ...

    @abstractmethod
    def _send_decision(self, ref: str, status: str, value: str, digest: str, place: str) -> None: ...

    @abstractmethod
    async def _standing(self, ref: str) -> Standing | None: ...

    @property
    @abstractmethod
    def header(self) -> Header: ...


def _recorded(journal: Journal, place: str, name: str, refused: CallboardError | None) -> JournalEntry:
    text = "null" if refused is None else Refusal.of(refused).to_json()
    return journal.record(place, DECIDE, name, text, ok=refused is None)
