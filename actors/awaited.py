"""Calls that a handler begins and forgets to await: they have done nothing, and its turn is not to pass for a success."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from inspect import CORO_CREATED, getcoroutinestate
from types import CoroutineType
from typing import Any, TypeVar, cast

from bus.errors import NotAwaited

Begun = list["CoroutineType[Any, Any, Any]"]

M = TypeVar("M", bound=Callable[..., Coroutine[Any, Any, Any]])


def to_be_awaited(method: M) -> M:
    """For a method that does nothing unless it is awaited; its object has the calls in `_begun`, in their order."""

    @wraps(method)
    def begin(self: Any, *arguments: Any, **named: Any) -> Any:
        call: Any = method(self, *arguments, **named)
        begun: Begun = self._begun
        last = begun[-1] if begun else None
        if last is not None and (last.cr_frame is None or getcoroutinestate(last) != CORO_CREATED):
            begun[-1] = call  # one call after the other, as most handlers have them, leaves one here
        else:
            begun.append(call)
        return call

    return cast("M", begin)


def require_awaited(begun: Begun) -> None:
    """At the end of a handler. Raises NotAwaited."""
    forgotten = [call for call in begun if getcoroutinestate(call) == CORO_CREATED]
    if not forgotten:
        return
    for call in forgotten:
        call.close()  # Python would warn of each
    name = forgotten[-1].cr_code.co_name  # of those that were given to a gather, the gather
    raise NotAwaited(
        f"The handler has called {name} and not awaited it, so nothing was done.",
        fix=f"Write `await` before each call of {name}.",
    )
