"""What a handler gives a call of its context, looked at before anything is done or recorded."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from functools import partial
from numbers import Real
from types import FunctionType
from typing import Any

from actors.retry import NO_RETRY, RetryPolicy
from actors.tool import Tool
from bus.errors import InvalidMessage


def require_step(function: object, retry: object) -> None:
    """Raise InvalidMessage for what cannot be a step's function or its policy. Most steps pass by the two comparisons."""
    if type(function) is FunctionType and retry is NO_RETRY:
        return
    _refuse_tool(function, "step", "Use ctx.call.")
    _require_function(function, "step")
    require_policy(retry)


def require_compensation(function: object, retry: object) -> None:
    """Raise InvalidMessage for what cannot undo anything, or is no policy."""
    _refuse_tool(
        function, "compensation", "Compensate with a function that sends a message to an agent which uses ctx.call."
    )  # fmt: skip
    _require_function(function, "compensate")
    require_policy(retry)


def require_calls(calls: Sequence[Any], first: object) -> None:
    """Raise InvalidMessage for what a gather cannot run beside each other, or wait for so many of."""
    why: InvalidMessage | None = None
    for call in calls:
        if not inspect.isawaitable(call):
            why = InvalidMessage(
                f"ctx.gather takes calls, and not {_what(call)}.",
                fix="Give each as an argument of its own: ctx.gather(*calls).",
            )
    if first is not None and not (isinstance(first, int) and 1 <= first <= len(calls)):
        why = InvalidMessage(f"The first {first!r} of {len(calls)} calls cannot be waited for.")
    if why is not None:
        for call in calls:
            _close(call)
        raise why


def require_sleep(seconds: object) -> None:
    """Raise InvalidMessage for what is no number of seconds from 0 up."""
    if not is_time(seconds):
        raise InvalidMessage(
            f"Nobody can sleep for {seconds!r} s.", fix="Give a number of seconds from 0 up."
        )


def require_policy(retry: object) -> None:
    """Raise InvalidMessage for what is no policy."""
    if not isinstance(retry, RetryPolicy):
        raise InvalidMessage(f"{retry!r} is no RetryPolicy.", fix="Write retry=RetryPolicy(attempts=3).")


def is_time(seconds: object) -> bool:
    """Whether it is a finite number of seconds from 0 up."""
    return isinstance(seconds, Real) and float(seconds) >= 0 and math.isfinite(seconds)


def _refuse_tool(function: object, what: str, fix: str) -> None:
    while isinstance(function, partial):
        function = function.func
    if isinstance(function, Tool):
        raise InvalidMessage(
            f"{function.name} is a tool: as a {what} it would pass by its approval, and have no entry in the ledger.",
            fix=fix,
        )


def _require_function(function: object, call: str) -> None:
    if not callable(function):
        _close(function)
        raise InvalidMessage(
            f"ctx.{call} takes a function, and not {_what(function)}.",
            fix=f"Give it uncalled, and its arguments behind it: ctx.{call}(function, argument).",
        )


def _what(given: object) -> str:
    return type(given).__name__


def _close(given: object) -> None:
    """Nobody awaits it any more: Python would warn of that as well."""
    if inspect.iscoroutine(given):
        given.close()
