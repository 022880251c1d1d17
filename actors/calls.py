"""The part of Context that records and waits: steps, asks, sleeps, promises and branches of them."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from actors import branch, values
from actors.arguments import require_calls, require_compensation, require_sleep, require_step
from actors.asks import Asks
from actors.attempts import attempt
from actors.awaited import to_be_awaited
from actors.branch import Branch
from actors.effects import Call
from actors.entries import STEP
from actors.functions import name_of
from actors.gathering import Gathering
from actors.journal import Journal
from actors.ledger import Ledger
from actors.promise import Promise
from actors.retry import NO_RETRY, RetryPolicy
from actors.saga import COMPENSATE, COMPENSATION_RETRY, Compensation, encode_arguments
from actors.tool import Tool
from actors.wake import CLOCK, Wake
from bus.errors import (
    DeadlineExceeded,
    InvalidMessage,
    PromiseExpired,
    StepFailed,
)
from bus.moment import require_moment
from storage.journal import Kind
from storage.ledger import EarlierCall

if TYPE_CHECKING:
    from actors.consequences import Consequences
    from actors.scope import Scope

TIME_UNIT_S = 1e-6  # Postgres' times are rounded to it


class DurableCalls(Asks):
    """Each call is recorded in the turn's journal under its place: its key, or else its number in call order.

    When the handler runs again (after a crash, or because it was put away while it waited), it finds what is
    recorded and computes nothing twice. So between these calls a handler must do the same each time: what depends on
    the time, on chance or on the outside belongs into a step.
    """

    __slots__ = ()

    @to_be_awaited
    async def step(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        key: str | None = None,
        retry: RetryPolicy = NO_RETRY,
        **named: Any,
    ) -> Any:
        """Call a function once and record its result, which JSON must be able to carry; return it.

        A plain function runs in a thread. A result is given as the function's return annotation says, or as plain
        JSON values without one. Raises StepFailed with the function's error once `retry` allows no further try, or with
        why its result cannot be recorded, InvalidPayload for a result that is not what the annotation says, and
        InvalidMessage for a tool. What is on record counts, whatever the arguments are when the handler runs again.
        """
        require_step(function, retry)
        name = name_of(function)
        journal, branch_ = self._journal(), self._branch()
        place = branch_.place(key)

        cause: Exception | None = None

        async def made() -> Any:
            nonlocal cause
            with branch.inside(place, branch_.gates, branch_.task) as inner:
                try:
                    again, nested = partial(self._begin_again, inner), branch_.is_in_step
                    return await attempt(self, function, arguments, named, retry, again=again, nested=nested)
                except Exception as error:
                    cause = error
                    raise

        is_replayed = place in journal.entries
        ok, text = await self._once(place, STEP, name, made)
        if not ok:
            try:  # with its cause: what has failed within it is made anew with it
                raise StepFailed(f"{name} failed: {values.error_clause(text)}.", place=place) from cause
            finally:
                cause = None  # whose traceback has this frame
        what = f"{STEP} {name}"
        return journal.result(text, function, place, what, is_replayed=is_replayed)

    async def _begin_again(self, inner: Branch, error: Exception) -> None:
        """The function of a step, or a compensation, has failed, and is called once more. What it has sent has gone out, or is not to."""
        await self._journal().begin_again(inner, error)
        self._puts.drop_sends(inner.prefix)

    async def _once(
        self,
        place: str,
        kind: str,
        name: str,
        make: Callable[[], Awaitable[Any]],
        *,
        value_of: Callable[[Any], Any] = lambda made: made,
        beside: Callable[[Any], None] = lambda made: None,
    ) -> tuple[bool, str]:
        """What is recorded at a place, made first if there is nothing: whether that succeeded, and its value or its error.

        `beside` records what goes with it, whether or not its value can be kept.
        """
        journal = self._journal()
        entry = journal.recorded(place, kind, name)
        if entry is not None:
            return entry.ok, await journal.text_of(entry)
        await journal.branches.proceed()
        began = time.perf_counter()
        blob = made = None
        try:
            made = await make()
            text = values.encode(value_of(made))
            blob = await self._check_in_value(text) if self._puts.is_large(text) else None
            ok = True
        except Exception as error:
            ok, text = False, values.encode_error(error)
        if made is not None:
            beside(made)  # in one write with the entry, whatever the blob of that has waited for
        took_ms = (time.perf_counter() - began) * 1000
        journal.record(place, kind, name, "null" if blob else text, ok=ok, took_ms=took_ms, blob=blob)
        if ok:  # a failure is on record once the handler has gone on from it
            await self._flush()
        return ok, text

    def compensate(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        key: str | None = None,
        retry: RetryPolicy = COMPENSATION_RETRY,
        **named: Any,
    ) -> None:
        """Say what undoes the action before it: a function that is called if this turn fails for good or is cancelled.

        The last registered runs first, each in a turn's place in the journal of its own, with the arguments as they
        are recorded now (JSON values or pydantic models, given as the function's annotations say). It may run again
        after a crash, and also for an action whose outcome was never known, so undoing twice must be the same as
        once. It may send messages, and waits for nothing. A turn that succeeds drops it. This call is not awaited.

        Raises InvalidPayload or PayloadTooLarge for arguments that cannot be recorded, InvalidMessage for a tool, and in a
        branch of `gather(first=...)`: one that is given up is not there to say it again.
        """
        require_compensation(function, retry)
        journal = self._journal()
        if self._branch().is_in_step:
            raise InvalidMessage(
                "The function of a step cannot say what undoes it, for it does not run again.",
                fix="Call ctx.compensate beside ctx.step.",
            )
        if self._branch().may_be_dropped:
            raise InvalidMessage(
                "A branch that may be given up cannot be compensated.",
                fix="Call ctx.compensate after ctx.gather has returned.",
            )
        name = name_of(function)
        place = self._branch().place(key)
        entry = journal.recorded(place, COMPENSATE, name)
        if entry is None:
            text = encode_arguments(arguments, named)
            self._puts.count_bytes(len(text))
            entry = journal.record(place, COMPENSATE, name, text)
        journal.saga.register(
            Compensation(place=place, name=name, function=function, recorded=entry.value, retry=retry)
        )

    @to_be_awaited
    async def sleep(self, seconds: float, *, key: str | None = None) -> None:
        """Wait so many seconds of database time; holds nothing while it waits."""
        require_sleep(seconds)
        journal = self._journal()
        place = self._branch().place(key)
        if journal.recorded(place, Kind.SLEEP, "sleep") is None and journal.promises.at(place) is None:
            await self._begin_wait(journal)
            until = require_moment(self._scope.clock.now() + seconds)
            due_at = until if self.deadline is None else min(until, self.deadline)
            journal.promises.make(place, Kind.SLEEP, "sleep", due_at=due_at)
            await self._flush()
        await self._outcome(place)

    @to_be_awaited
    async def promise(
        self,
        name: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  (it outlives this process)
        key: str | None = None,
    ) -> Promise:
        """Make a promise that anyone who knows its id may resolve; `await` what this returns for its value.

        Awaiting it raises PromiseExpired after `timeout` seconds, which count from now.
        """
        if not branch.is_name(name):
            raise InvalidMessage(f"{name!r} cannot be the name of a promise.", fix="Give it some text.")
        journal = self._journal()
        place = self._branch().place(key)
        made = journal.promises.at(place)
        if journal.recorded(place, Kind.PROMISE, name) is not None:
            id_ = (await journal.outcome(place)).promise
        elif made is not None:
            id_ = made.id
        else:
            await self._begin_wait(journal)
            self._puts.count_bytes(len(name))
            id_ = journal.promises.make(place, Kind.PROMISE, name, due_at=self._due_at(timeout))
            await self._flush()
        return Promise(self, self._ref(id_), place, name)

    async def _value_of(self, place: str, name: str) -> Any:
        outcome = await self._outcome(place)
        if outcome.status == "resolved":
            return values.decode_answer(outcome.value)
        raise PromiseExpired(f"The promise {name!r} was not resolved in time.", place=place)

    @to_be_awaited
    async def call(self, tool: Tool, *arguments: Any, key: str | None = None, **named: Any) -> Any:
        """Call a tool; return its result. The ledger records who called it, why, and what is known of the outcome.

        Raises ToolFailed when it has failed, EffectUnknown when it may have acted and nobody can tell, ResultLost when
        it has acted and its result cannot be kept, ApprovalDenied, MissingSecret, and InvalidPayload for arguments
        that do not fit its signature or that JSON cannot carry.
        """
        if not isinstance(tool, Tool):
            raise InvalidMessage(f"{tool!r} is no tool.", fix="Declare it with @tool.")
        journal = self._journal()
        bound = tool.bind(arguments, named)
        branch_ = self._branch()
        place = branch_.place(key)
        return await Call(self, journal, tool, bound, place, is_in_step=branch_.is_in_step).result()

    @to_be_awaited
    async def gather(self, *calls: Awaitable[Any], first: int | None = None) -> list[Any]:
        """Run calls beside each other; return their results in order.

        With `first`, wait for so many of them only, and return the results of those, in the order of the arguments;
        the others are given up, and the tasks that they wait for cancelled. The first error ends all in the same way, and
        is raised.
        """
        require_calls(calls, first)
        if not calls:
            return []
        journal, branch_ = self._journal(), self._branch()
        gathering = Gathering(journal, branch_.place(None), branch_.gates, calls, first)
        try:
            results = await gathering.results()
        except Exception:
            self._let_children_go(gathering, "has no use for it: a call beside it has failed")
            raise
        self._let_children_go(gathering, "had enough results without it")
        return results

    def _let_children_go(self, gathering: Gathering, why: str) -> None:
        """Also when the turn runs again: what has gone out is not sent twice."""
        for prefix in gathering.given_up:
            for promise in self._journal().promises.asks_below(prefix):
                self._let_child_go(promise.id, why)

    async def _begin_wait(self, journal: Journal) -> None:
        """To be passed before a promise is made; raises DeadlineExceeded once there is no time left to wait."""
        await journal.branches.proceed()
        if self.deadline is not None and self.deadline <= self._scope.clock.now():
            raise DeadlineExceeded(
                "The message's deadline has passed: its turn waits for nothing more.", deadline=self.deadline
            )

    async def _outcome(self, place: str, *, in_doubt: bool = False, for_child: bool = False) -> Wake:
        """How what was made at a place has ended; see Journal.outcome. Raises DeadlineExceeded when the message's deadline has ended it: when
        it was settled by the clock, or its failure told, only then."""
        journal = self._journal()
        if place not in journal.entries and not journal.branches.is_ending:
            await self._flush_sends()  # whoever is to settle it may need them
        outcome = await journal.outcome(place, in_doubt=in_doubt, for_child=for_child)
        is_late = self.deadline is not None and outcome.at >= self.deadline - TIME_UNIT_S
        if is_late and (outcome.by == CLOCK or outcome.status == "failed"):
            raise DeadlineExceeded(
                "The message's deadline passed while its turn waited.", place=place, deadline=self.deadline
            )
        return outcome

    def _branch(self) -> Branch:
        return branch.current.get() or self._journal().branches.root

    # -- what Context brings -------------------------------------------------------------------------

    _scope: Scope
    _puts: Consequences

    @property
    @abstractmethod
    def logger(self) -> logging.LoggerAdapter[logging.Logger]: ...

    @abstractmethod
    async def _flush_sends(self) -> None: ...

    @abstractmethod
    def _let_child_go(self, promise: str, why: str) -> None:
        """Have the task cancelled that was started with this promise, if that is what it waits for."""
        ...

    @abstractmethod
    async def _check_in_value(self, text: str) -> str: ...

    @abstractmethod
    async def _earlier_call(self, tool: str, digest: str, place: str) -> EarlierCall | None:
        """One that an earlier turn has made for the same message, and that is not taken yet."""
        ...

    @property
    @abstractmethod
    def deadline(self) -> float | None: ...

    @property
    @abstractmethod
    def _ledger(self) -> Ledger: ...
