"""From a command's function to its exit code: the event loop, and errors as one clear line."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec

import typer

from bus.errors import CallboardError, ServiceUnavailable, StorageUnavailable
from callboard.cli.terminal import clean, note

if TYPE_CHECKING:
    from typer.exceptions import TyperException

P = ParamSpec("P")

_FULL = (errno.ENOSPC, errno.EDQUOT)

FAILED, WRONG_USAGE, UNAVAILABLE, INTERRUPTED, TERMINATED = 1, 2, 3, 130, 143


def needs_command(context: typer.Context) -> None:
    """Where no command follows, print the help, which is wrong usage all the same: a script has forgotten one."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(WRONG_USAGE)


def asynchronous(command: Callable[P, Coroutine[Any, Any, int | None]]) -> Callable[P, int]:
    """Make a coroutine a command; what it returns is the exit code, None is 0."""

    @functools.wraps(command)
    def run(*arguments: P.args, **options: P.kwargs) -> int:
        return asyncio.run(_ended_by_signals(command(*arguments, **options))) or 0

    return run


async def _ended_by_signals(work: Coroutine[Any, Any, int | None]) -> int | None:
    """Ctrl-C and SIGTERM end a command, which stops what it has started; one more does not keep it from that.

    The third ends it at once, and leaves `callboard down` to be called.
    """
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    received: list[int] = []

    def end(number: int, frame: object) -> None:
        received.append(number)
        if len(received) == 1:
            loop.call_soon_threadsafe(task.cancel)
        elif len(received) == 2:
            note("It is being stopped. Once more leaves it as it is.")
        else:
            raise KeyboardInterrupt

    before = {}
    with contextlib.suppress(ValueError):  # only a main thread can listen to signals
        before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return await work
    except asyncio.CancelledError:
        if not received:
            raise
        return TERMINATED if received[0] == signal.SIGTERM else INTERRUPTED
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if received:  # a thread that reads from a terminal or a pipe cannot be ended, and may read for ever
            loop.set_default_executor(ThreadPoolExecutor())


def leave(code: int) -> NoReturn:
    """End the process. One that was interrupted does not wait for its threads."""
    if code in (INTERRUPTED, TERMINATED):
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def exit_code_of(call: Callable[[], Any], *, debug: bool, command: str = "callboard") -> int:
    """Call, and turn what it raises into a line on standard error and an exit code. `command` is the one whose help says how
    it is right, where an error does not say itself whose it is."""
    from typer.exceptions import Abort, TyperException

    try:
        result = call()
        sys.stdout.flush()
        if result == INTERRUPTED:  # typer has caught the Ctrl-C
            note("Interrupted.")
        if result == TERMINATED:
            note("Terminated.")
        return result if isinstance(result, int) else 0
    except TyperException as error:  # wrong usage; its message names the argument
        if message := _said(error).rstrip("."):
            note(
                f"Error: {message}{'' if message.endswith('?') else '.'} Try `{_command(error) or command} --help`."
            )
        return error.exit_code
    except (KeyboardInterrupt, Abort):
        note("Interrupted.")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe has seen enough; Python's own flush at exit must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        _report(error, debug)
        return UNAVAILABLE if isinstance(error, (ServiceUnavailable, StorageUnavailable)) else FAILED


def _said(error: TyperException) -> str:
    """What is wrong with the words, pydantic's in plain ones."""
    from pydantic import ValidationError

    from bus.complaints import in_plain_words

    if isinstance(error.__cause__, ValidationError):
        error.message = in_plain_words(error.__cause__.errors()[0])
    return error.format_message()


def _command(error: TyperException) -> str | None:
    """The command whose help says how it is right."""
    context = getattr(error, "ctx", None)
    return None if context is None else str(context.command_path)


def _report(error: Exception, debug: bool) -> None:
    if debug:
        import traceback

        sys.stderr.write(clean("".join(traceback.format_exception(error)), lines=True))
    if isinstance(error, CallboardError):
        note(f"Error: {error}")
    elif isinstance(error, OSError) and error.errno in _FULL:
        place = f" at {error.filename}" if error.filename else ""
        note(
            f"Error: There is no space left{place}. Free some, and try again; `callboard doctor` says how much there is."
        )
    else:
        hint = "" if debug else " This is a bug in Callboard; --debug shows where."
        note(f"Error: {type(error).__name__}: {str(error).strip() or 'no message'}.{hint}")


def configure_logging(*, debug: bool) -> None:
    """Logs go to standard error; a command shows warnings, `--debug` shows all."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if debug else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    if debug:
        return
    # Interrupted while Ray connects in a thread, asyncio would print a traceback of a future nobody waits for;
    # and Ray remarks in the same place that a thread cannot handle SIGTERM, which we do ourselves.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    # It tells of each connection that ends with its server; what that means for the command is said by the command.
    logging.getLogger("asyncpg").setLevel(logging.CRITICAL)
    logging.getLogger("ray._private.worker").setLevel(logging.ERROR)
