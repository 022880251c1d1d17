"""The branches of a handler: `ctx.gather` runs several at once, and each counts its own calls."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

from bus.errors import InvalidMessage
from storage.edges import Gate

# What has a meaning in places, written otherwise in a key: `a/b` is what the step `a` calls `b`, `a!1` an attempt of a call.
_IN_A_KEY = str.maketrans({char: f"%{ord(char):02X}" for char in "%/!~?$"})


class Branch:
    """One line of calls. Their places are counted in the order in which it makes them, so they are the same whenever
    the handler runs again, whichever branch is faster."""

    __slots__ = ("_calls", "_sends", "gates", "is_in_step", "may_call", "prefix", "task")

    def __init__(
        self,
        prefix: str,
        task: asyncio.Task[Any] | None = None,
        gates: tuple[Gate, ...] = (),
        *,
        is_in_step: bool = False,
        may_call: bool = True,
    ) -> None:
        self.prefix = prefix
        self.gates = gates  # of the gathers around it that may do without it
        self.is_in_step = is_in_step  # of a function that does not run again once its result is on record
        self.may_call = may_call
        self._calls = 0
        self._sends = 0
        self.task = task or asyncio.current_task()

    @property
    def may_be_dropped(self) -> bool:
        """When others are first: it does not run again with the handler."""
        return bool(self.gates)

    def place(self, key: str | None) -> str:
        """The place of the next call: its key, or else its number; raises InvalidMessage."""
        if not (self.may_call and self._is_running_here()):
            raise InvalidMessage(
                "A call is made in a task of its own, which nothing puts away while it waits.",
                fix="Run calls beside each other with ctx.gather, and give ask and promise a timeout.",
            )
        if key is None:
            self._calls += 1
            return f"{self.prefix}#{self._calls}"
        if not is_name(key) or key.startswith("#") or len(key) > 200:
            raise InvalidMessage(
                f"{key!r} cannot be a key.", fix="Give 1 to 200 characters that do not begin with '#'."
            )
        return self.prefix + key.translate(_IN_A_KEY)

    def _is_running_here(self) -> bool:
        try:
            return asyncio.current_task() is self.task
        except RuntimeError:  # a thread: that of a plain handler, or of a plain function of a step
            return True

    def begin_again(self) -> None:
        """It makes its calls and sends once more, from the first."""
        self._calls = self._sends = 0

    def send_place(self) -> str:
        self._sends += 1
        return f"{self.prefix}>{self._sends}"


def is_name(given: object) -> bool:
    """Whether it is text that Postgres takes, and not empty."""
    if not (isinstance(given, str) and given) or "\0" in given:
        return False
    return given.isascii() or not any("\ud800" <= char <= "\udfff" for char in given)


current: ContextVar[Branch | None] = ContextVar("callboard_branch", default=None)


class inside:  # as a generator it would take four times as long
    """What the function of the step (or tool) at a place calls and sends has places below that. Else it would take numbers
    of the handler's, which has others when it runs again and the function does not: a message sent later would be taken
    for one that has gone out."""

    __slots__ = ("_before", "_inner")

    def __init__(
        self,
        place: str,
        gates: tuple[Gate, ...] = (),
        task: asyncio.Task[Any] | None = None,
        *,
        may_call: bool = True,
    ) -> None:
        self._inner = Branch(f"{place}/", task, gates, is_in_step=True, may_call=may_call)

    def __enter__(self) -> Branch:
        self._before = current.set(self._inner)
        return self._inner

    def __exit__(self, *raised: object) -> None:
        try:  # noqa: SIM105  # `suppress` takes as long as all the rest of this
            current.reset(self._before)
        except ValueError:  # closed by the collector, as when its host has ended: in another context
            pass
