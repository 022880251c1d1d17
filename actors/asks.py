"""The part of Context that asks another agent, and waits for its answer."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import BaseModel

from actors import values
from actors.approvals import Approvals
from actors.awaited import to_be_awaited
from actors.failure import EXPIRED
from bus.address import Address, parse_address
from bus.envelope import Priority, new_id
from bus.errors import AskCycle, AskFailed
from storage.journal import Kind

if TYPE_CHECKING:
    from actors.wake import Wake


class Asks(Approvals):
    """A reply is a wake-up like any other; who has asked whom is in the committed wait edges, where circles are found."""

    __slots__ = ()

    @to_be_awaited
    async def ask(
        self,
        address: str | Address,
        message: BaseModel,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  (it outlives this process)
        key: str | None = None,
        priority: Priority | None = None,
    ) -> Any:
        """Send a message and wait for the answer: what the recipient's handler returns or replies with.

        `timeout` is in seconds. Raises AskFailed (`failed` or `timeout` is its `reason`) when the recipient has given the
        message up or does not answer in time; a turn that fails of it asks anew when it is tried again. Raises AskCycle when it
        waits for this agent, directly or through others, and what `send` raises.
        """
        name = f"{type(message).__name__} {address}"
        due_at = self._due_at(timeout)
        return (await self._ask(address, message, name, due_at, due_at, key, priority))[1]

    async def _ask(
        self, address: str | Address, message: BaseModel, name: str, due_at: float | None, deadline: float | None,
        key: str | None, priority: Priority | None, *, for_child: bool = False,
    ) -> tuple[str, Any]:  # fmt: skip
        """The place of the ask, and its answer. It is waited for until `due_at`; the message has the `deadline`."""
        journal = self._journal()
        branch_ = self._branch()
        place = branch_.place(key)
        if journal.recorded(place, Kind.ASK, name) is None and journal.promises.at(place) is None:
            if not branch_.is_in_step:
                journal.may_act(place, f"{Kind.ASK} {name}")
            await self._begin_wait(journal)
            promise = new_id()
            sent = self._send_ask(address, message, priority, deadline, promise)  # first: it may be refused
            journal.promises.make(
                place, Kind.ASK, name, id_=promise, target=str(parse_address(str(address))), message=sent,
                gates=branch_.gates, due_at=due_at,
            )  # fmt: skip
            await self._flush()
        return place, _answer(address, place, await self._outcome(place, for_child=for_child))

    # -- what Context brings -------------------------------------------------------------------------

    @abstractmethod
    async def _outcome(self, place: str, *, in_doubt: bool = False, for_child: bool = False) -> Wake: ...

    @abstractmethod
    def _send_ask(
        self,
        address: str | Address,
        message: BaseModel,
        priority: Priority | None,
        deadline: float | None,
        promise: str,
    ) -> str: ...


def _answer(address: str | Address, place: str, outcome: Wake) -> Any:
    """What an ask was answered; raises AskFailed, AskCycle."""
    if outcome.status == "resolved":
        return values.decode_answer(outcome.value)
    if outcome.status == "expired":
        raise AskFailed(f"{address} has not answered in time.", place=place, reason="timeout")
    if outcome.status == "cycle":
        cycle = tuple(msgspec.json.decode(outcome.value, type=list[str]))
        raise AskCycle(
            f"These agents ask each other, and each waits for the next: {' -> '.join(cycle)}.",
            place=place,
            reason=outcome.status,
            cycle=cycle,
        )
    text = bytes(outcome.value).decode()
    reason = "timeout" if msgspec.json.decode(text, type=values.Error).type == EXPIRED else outcome.status
    raise AskFailed(f"{address} has not answered: {values.error_clause(text)}.", place=place, reason=reason)
