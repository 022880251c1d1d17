"""The end of a turn that is given up: its compensations run, last first, each once it is on record."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import msgspec

from actors import values
from actors.activation import Activation
from actors.attempts import attempt
from actors.branch import inside
from actors.context import Context
from actors.journal import Journal
from actors.saga import UNDO, Compensation, Ending
from bus import faultpoints
from bus.errors import NonDeterministicHandler, TurnTimeout
from storage.records import NOT_UNDONE


async def undo(activation: Activation, ctx: Context, ending: Ending, *, for_good: bool) -> Ending:
    """Run the compensations that have not run yet; return why the turn is given up, and what could not be undone.

    From the first commit on that the turn is given up is on record, so that a crash changes nothing of it. Raises
    NonDeterministicHandler when one is on record that the handler has not registered again, unless it is `for_good`:
    then it counts as not undone. Raises TurnGone and BlobsUnavailable.
    """
    journal = activation.journal
    assert journal is not None
    ctx.consequences.take_sends()  # what its handler has sent since the last commit goes nowhere
    ending = journal.unwind(ending)
    if journal.is_dirty:
        await ctx._flush()
    faultpoints.reached("undo.before")
    failed: list[str] = []
    for lost in journal.saga.lost():
        if not for_good:
            raise NonDeterministicHandler(
                f"{lost.name} is to undo what was done before {lost.key}, and the handler has not come there again.",
                place=lost.key,
                called="the end",
                recorded=f"{lost.kind} {lost.name}",
            )
        failed.append(f"{lost.name} (it was not reached)")
    for compensation in journal.saga.in_order():
        if compensation.undo_at not in journal.entries:
            await _run(activation, ctx, journal, compensation)
    failed += [
        f"{e.name} ({values.error_line(e.value)})" for e in journal.entries if e.kind == UNDO and not e.ok
    ]
    if not failed:
        return ending
    error = f"{ending.error}; not undone: {'; '.join(failed)}"
    return msgspec.structs.replace(ending, reason=NOT_UNDONE, error=error)


async def _run(activation: Activation, ctx: Context, journal: Journal, compensation: Compensation) -> None:
    journal.branches.on_running()  # it has as much time as a turn
    activation.task = asyncio.current_task()
    began = time.perf_counter()
    try:
        # What it sends and charges takes no place of the handler's, which may come further when it runs again.
        with inside(compensation.undo_at) as inner:
            arguments, named = compensation.arguments()
            again = partial(ctx._begin_again, inner)
            await attempt(ctx, compensation.function, arguments, named, compensation.retry, again=again)
        ok, value = True, "null"
    except asyncio.CancelledError:
        error: Exception = RuntimeError("something that it waited for was cancelled")
        if activation.overdue:
            activation.overdue = False
            uncancel()
            error = TurnTimeout("It has run longer than a turn may.")
        elif is_cancelled():
            raise
        ok, value = False, values.encode_error(error)
    except Exception as error:
        ok, value = False, values.encode_error(error)
    finally:
        activation.task = None
    if not ok:
        ctx.consequences.take_sends()
        ctx.logger.error("%s could not be undone: %s", compensation.name, values.error_line(value))
    took_ms = (time.perf_counter() - began) * 1000
    journal.record(compensation.undo_at, UNDO, compensation.name, value, ok=ok, took_ms=took_ms)
    await ctx._flush()
    faultpoints.reached("undo.after")


def is_cancelled() -> bool:
    """Whether it is this task that was cancelled: its host has ended."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def uncancel() -> None:
    """The cancellation was for the handler that ran in this task, not for the task."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
