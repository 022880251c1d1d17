"""The branches of a turn's handler: how many of them run, what the others wait for, and whether they may go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

from actors.branch import Branch
from bus.errors import InvalidMessage


class Branches:
    """`running` counts those that do not wait for a promise: at zero the turn may be put away.

    A handler is held when its task or domain is paused, and told to end when its turn is given up; both at its calls.
    """

    __slots__ = (
        "_children", "_children_first", "_cut", "_cuttable", "_doubts", "_held", "_stalled", "_stopped", "_told", "_undoing",
        "_waiters", "_why_ending", "on_new", "on_running", "on_waiting", "root", "running",
    )  # fmt: skip

    def __init__(self, task: asyncio.Task[Any] | None) -> None:
        self.root = Branch("", task)
        self.running = 1
        self.on_waiting: Callable[[], None] = lambda: None
        self.on_running: Callable[[], None] = lambda: None
        self.on_new: Callable[[], None] = lambda: None
        """Called before anything new happens; may raise."""
        self._waiters: dict[str, list[asyncio.Future[None]]] = {}  # by the promise that they wait for
        self._held: asyncio.Future[None] | None = None
        self._stopped = 0  # branches that wait until they are let go
        self._why_ending: Callable[[], BaseException] | None = None
        self._stalled: asyncio.Future[None] | None = None
        self._told = False
        self._undoing = False
        self._doubts = 0  # branches that wait to hear what a call has done: no turn ends before that
        self._children = (
            0  # branches that wait for a task: a turn that is cancelled does not end before that has
        )
        self._children_first = False
        self._cuttable: set[asyncio.Task[Any]] = set()
        self._cut: set[asyncio.Task[Any]] = set()  # of those, the ones that were cancelled

    async def proceed(self) -> None:
        """To be passed before anything new happens; raises in a turn that is given up."""
        self.refuse_in_compensation()
        while self._held is not None and self._why_ending is None:
            await self._until_let_go(self._held)
        if self._why_ending is None:
            self.on_new()
            return
        if self._stalled is None:
            self._stalled = asyncio.get_running_loop().create_future()
        stalled = self._stalled
        with self.waiting():
            await asyncio.shield(stalled)
        raise self._why_ending()

    # -- who runs, and who waits ---------------------------------------------------------------------

    def enter(self, branches: int = 1) -> None:
        if self.running == 0:
            self.on_running()
        self.running += branches

    def leave(self) -> None:
        """A branch of the handler waits, or has ended."""
        self.running -= 1
        if self.running == 0:
            if self._why_ending is not None and not self._must_hear:
                self._tell()
            else:
                self.on_waiting()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """This branch waits for others, or to be let go."""
        self.leave()
        try:
            yield
        finally:
            self.enter()

    @property
    def _must_hear(self) -> bool:
        """Whether a branch waits for what a turn that is given up waits for as well."""
        return self._doubts > 0 or (self._children_first and self._children > 0)

    async def wait_for(self, promise: str, *, in_doubt: bool = False, for_child: bool = False) -> None:
        """Wait until it is settled; may never return if the turn is put away. A branch that is `in_doubt` waits for that
        in a turn that is given up as well, and the others with it; one that waits for a task in one that is cancelled."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(promise, []).append(waiter)
        self._doubts += in_doubt
        self._children += for_child
        self.leave()
        try:
            await waiter
        finally:
            self._doubts -= in_doubt
            self._children -= for_child
            if not waiter.done() or waiter.cancelled() or waiter.exception() is not None:
                self.enter()  # otherwise `wake` has done so

    def wake(self, promise: str) -> None:
        for waiter in self._waiters.pop(promise, ()):
            if not waiter.done():
                waiter.set_result(None)
                self.enter()  # now: were the turn put away before the branch goes on, nothing would wake it again

    # -- a turn of what is paused --------------------------------------------------------------------

    def hold(self) -> None:
        """Let the handler begin nothing new until `let_go`."""
        if self._held is None:
            self._held = asyncio.get_running_loop().create_future()

    def let_go(self) -> None:
        held, self._held = self._held, None
        if held is not None and not held.done():
            held.set_result(None)

    @property
    def is_stopped(self) -> bool:
        """Whether a branch has come to where it is held. Such a turn is not put away: nothing would wake it."""
        return self._stopped > 0

    async def stop_until(self, done: asyncio.Future[None]) -> None:
        """Hold this branch until then, or until the turn is given up."""
        if self._why_ending is not None:  # since `proceed`
            return
        try:
            with self.cuttable():
                await self._until_let_go(done)
        except asyncio.CancelledError:
            if not self.was_cut():
                raise

    async def _until_let_go(self, held: asyncio.Future[None]) -> None:
        self._stopped += 1
        try:
            with self.waiting():
                await asyncio.shield(held)
        finally:
            self._stopped -= 1

    # -- a turn that is given up ---------------------------------------------------------------------

    @property
    def is_ending(self) -> bool:
        """Whether the turn is given up: its handler can do nothing new, or has ended and is being undone."""
        return self._why_ending is not None or self._undoing

    @property
    def must_stop(self) -> bool:
        """Whether its handler still runs, and can do nothing new."""
        return self._why_ending is not None and not self._undoing

    @property
    def why_stopped(self) -> str | None:
        """Why its handler, which still runs, can do nothing new."""
        return None if self._why_ending is None or self._undoing else str(self._why_ending())

    def end_early(self, why: Callable[[], BaseException], *, children_first: bool) -> None:
        """Let the handler do nothing new. A branch that comes to a call that is not on record waits there until all
        have come so far, lest what another one is about to finish goes unrecorded; then each gets what `why` makes.
        Functions that are marked as `cuttable` are cancelled; whatever else runs is waited for, and with `children_first`
        the tasks that the handler waits for.
        """
        if self.is_ending:
            return
        self._why_ending, self._children_first = why, children_first
        self._cut = {*self._cuttable}
        for task in self._cut:
            task.cancel()
        if self.running == 0 and not self._must_hear:
            self._tell()

    def _tell(self) -> None:
        """Every branch waits, and none will be woken but by this."""
        assert self._why_ending is not None
        stalled, self._stalled = self._stalled, None
        waiters, self._waiters = self._waiters, {}
        if stalled is None and not waiters:
            return
        self._told = True
        if stalled is not None:
            stalled.set_result(None)
        for waiter in chain.from_iterable(waiters.values()):
            if not waiter.done():
                waiter.set_exception(self._why_ending())
                waiter.exception()  # whoever waited may be gone

    def refuse_send(self) -> None:
        """A message sent in a turn that is given up goes nowhere; once the handler has been told, it hears of it."""
        if self._told and self._why_ending is not None:
            raise self._why_ending()

    def cuttable(self) -> _Cuttable:
        """What is awaited within may be cancelled when the turn is given up; then `was_cut` tells so."""
        return _Cuttable(self._cuttable)

    def was_cut(self) -> bool:
        """Whether the cancellation that has just come was `end_early`'s alone; it is then taken back. A branch that its
        gather gives up as well is not to wait for the others: the gather waits for it."""
        task = asyncio.current_task()
        if task is None or task not in self._cut or self._undoing or not task.cancelling():
            return False
        self._cut.discard(task)
        return task.uncancel() == 0

    def undo(self) -> None:
        """The handler has ended: from here on nothing but its compensations runs."""
        self._undoing = True

    def refuse_in_compensation(self) -> None:
        if self._undoing:
            raise InvalidMessage(
                "A compensation records nothing and waits for nothing.",
                fix="Do its work in the function itself; it may send messages.",
            )


class _Cuttable:
    """The task within it is among these, and after it as before. (A generator would take four times as long.)"""

    __slots__ = ("_among", "_task", "_was_among")

    def __init__(self, among: set[asyncio.Task[Any]]) -> None:
        self._among = among

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._was_among = task in self._among  # within the function of a step, which may itself be cut
        self._among.add(task)

    def __exit__(self, *raised: object) -> None:
        if not self._was_among:
            self._among.discard(self._task)
