"""Calls beside each other: each is a branch of its own, and counts its own calls."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any

import msgspec

from actors import branch
from actors.branch import Branch
from actors.entries import CHOICE
from actors.exits import as_failures
from actors.given_up import give_up_calls
from actors.journal import Journal
from bus.errors import LimitExceeded, NonDeterministicHandler
from storage.edges import Gate


class Gathering:
    """Runs `calls` at one place of a turn until the `first` so many have ended, or all; the others are given up.

    Which were the first, or whose error has ended it, is on record, so that a turn that runs again ends it the same way,
    whatever has become of the others.
    """

    def __init__(
        self,
        journal: Journal,
        place: str,
        gates: tuple[Gate, ...],
        calls: Sequence[Awaitable[Any]],
        first: int | None,
    ) -> None:
        self._journal = journal
        self._place = place
        self._gates = gates
        self._calls = calls
        self._first = first
        self._done: list[int] = []
        self._failed: int | None = None
        self._lacks = 0  # branches that have to end
        self._goes_on = False  # the branch that waits for them

    async def results(self) -> list[Any]:
        """In the order of the calls. Raises the first error of a branch, which ends all."""
        count = len(self._calls)
        name = f"{self._first or count} of {count}"
        chosen = self._journal.recorded(self._place, CHOICE, name)
        if chosen is not None:
            wanted = msgspec.json.decode(chosen.value, type=list[int])
            self._leave_out(wanted)
            try:
                results = await self._run(wanted, len(wanted))
            except Exception as error:
                if not chosen.ok and not self._journal.branches.is_ending:
                    self._journal.ended_by(error, self._place)
                raise
            if not chosen.ok:
                raise NonDeterministicHandler(
                    f"The calls at {self._place} end without the error that the journal has there.",
                    place=self._place, called=f"{CHOICE} {name}", recorded=f"the error of call {wanted[0] + 1}",
                )  # fmt: skip
            return results
        try:
            results = await self._run(range(count), self._first or count)
        except Exception as error:
            if self._failed is not None and not self._journal.branches.is_ending:
                self._choose(name, [self._failed], ok=False)
                self._journal.ended_by(error, self._place)
            raise
        if self._first is not None:
            self._choose(name, self._done, ok=True)
        return results

    def _choose(self, name: str, numbers: list[int], *, ok: bool) -> None:
        self._journal.record(self._place, CHOICE, name, msgspec.json.encode(numbers).decode(), ok=ok)
        others = tuple(self._prefix(n) for n in range(len(self._calls)) if n not in numbers)
        self._journal.promises.let_go_questions(self._place, others)
        if ok and others:  # an error may be taken back
            give_up_calls(self._journal, *others)

    @property
    def given_up(self) -> list[str]:
        """The places of the branches that do not count begin so."""
        return [self._prefix(n) for n in range(len(self._calls)) if n not in self._done]

    def _prefix(self, n: int) -> str:
        return f"{self._place}.{n}/"

    def _leave_out(self, wanted: Sequence[int]) -> None:
        """The others were not among the first when the turn ran before."""
        for n, call in enumerate(self._calls):
            if n not in wanted:
                self._journal.forgive(self._prefix(n))
                give_up_calls(self._journal, self._prefix(n))
                if inspect.iscoroutine(call):
                    call.close()

    async def _run(self, wanted: Sequence[int], count: int) -> list[Any]:
        branches = self._journal.branches
        tasks = {n: asyncio.create_task(self._branch(n)) for n in wanted}
        branches.enter(len(tasks))
        self._lacks = count
        for task in tasks.values():
            task.add_done_callback(self._ended)
        branches.leave()  # this branch waits for those
        try:
            self._done = await self._first_done(tasks, count)
        except LimitExceeded as reached:
            await self._end_of_children(reached, tasks.values())
            raise
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
            if not self._goes_on:
                branches.enter()
            for n in tasks.keys() - set(self._done):
                self._journal.forgive(self._prefix(n))
        return [tasks[n].result() for n in self._done]

    async def _end_of_children(self, reached: LimitExceeded, tasks: Iterable[asyncio.Task[Any]]) -> None:
        """The limit ends the tasks that the turn waits for as well: as one that is cancelled for it, the turn is undone when
        they have ended, and its branches do nothing new until then."""
        branches = self._journal.branches
        if branches.must_stop or self._journal.promises.awaits_a_task:
            branches.end_early(lambda: LimitExceeded(reached.message, **reached.fields), children_first=True)
            with branches.waiting():
                await asyncio.wait(tasks)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """The branch that waits for these is counted before the last of them is not: between the two the turn could be put
        away with what it was woken by, and nothing would wake it again."""
        self._lacks -= 1
        has_failed = task.cancelled() or task.exception() is not None
        if not self._goes_on and (self._lacks == 0 or has_failed):
            self._goes_on = True
            self._journal.branches.enter()
        self._journal.branches.leave()

    async def _first_done(self, tasks: dict[int, asyncio.Task[Any]], count: int) -> list[int]:
        """The numbers of the first `count` tasks that have ended; raises the first error."""
        pending = set(tasks.values())
        ended: list[int] = []
        while len(ended) < count:
            finished, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for number, task in tasks.items():
                if task in finished:
                    self._failed = number
                    task.result()
                    self._failed = None
                    ended.append(number)
        return sorted(ended[:count])

    async def _branch(self, n: int) -> Any:
        gates = self._gates
        if self._first is not None and self._first < len(self._calls):
            gates = (*gates, Gate(self._place, self._first, len(self._calls), n))
        outer = branch.current.get()
        is_in_step = outer is not None and outer.is_in_step
        inner = Branch(self._prefix(n), gates=gates, is_in_step=is_in_step)
        branch.current.set(inner)  # of this task alone: its context is a copy
        with as_failures():
            return await self._calls[n]
