"""A function that a turn calls, again and again as its policy allows, for as long as the turn may go on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from actors.exits import as_failures
from actors.functions import is_async, name_of
from actors.retry import RetryPolicy
from actors.threads import in_thread
from bus.registry import first_line

if TYPE_CHECKING:
    from actors.journal import Journal
    from actors.scope import Scope


class Turn(Protocol):
    _scope: Scope

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]: ...

    def _journal(self) -> Journal: ...


async def attempt(
    turn: Turn,
    function: Callable[..., Any],
    arguments: Sequence[Any],
    named: Mapping[str, Any],
    retry: RetryPolicy,
    name: str | None = None,
    *,
    again: Callable[[Exception], Awaitable[None]] | None = None,
    nested: bool = False,
) -> Any:
    """Call it until it succeeds; raises its error once it may not be tried again. `again` is awaited with the error before
    each further attempt. A `nested` one is called by the function of a step, which may be cut short.

    A turn that is given up waits for a thread, and cuts an `async` function short, which then leaves no record. Raises
    TurnGone where this run of the turn was dropped during a pause: the next run makes the further attempts.
    """
    failures = 0
    journal = turn._journal()
    branches = journal.branches
    must_end = (lambda: branches.must_stop) if nested else None
    try:
        while True:
            try:
                with as_failures():
                    if is_async(function):
                        with branches.cuttable():
                            return await function(*arguments, **named)
                    return await in_thread(_with(function, named), *arguments, must_end=must_end)
            except Exception as error:
                failures += 1
                if not retry.allows(error, failures):
                    raise
                words = name or name_of(function), failures, first_line(error)
                turn.logger.warning("%s failed (%d): %s", *words)
                if again is not None:
                    await again(error)
            if branches.must_stop:
                await branches.proceed()
            with branches.cuttable():
                await asyncio.sleep(retry.delay_s(failures, turn._scope.rng))
            journal.must_go_on()
    except asyncio.CancelledError:
        if not branches.was_cut():
            raise
        await branches.proceed()
        raise


def _with(function: Callable[..., Any], named: Mapping[str, Any]) -> Callable[..., Any]:
    return (lambda *arguments: function(*arguments, **named)) if named else function
