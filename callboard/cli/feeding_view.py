"""What a person sees while a file is fed: how many events the stream has, and how fast it takes them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from callboard.cli.terminal import clean, console, count, note, plain

if TYPE_CHECKING:
    from callboard.cli.feeding import Publisher

_FRAME_EVERY_S = 0.2
_SAY_EVERY_S = 5.0  # where the output is no terminal


@asynccontextmanager
async def shown_feeding(publisher: Publisher, what: str, *, live: bool) -> AsyncIterator[None]:
    """Show the feed's progress for the length of the block: a line that stays in place, or a line now and then."""
    with ExitStack() as stack:
        show = _Line(stack) if live else note
        showing = asyncio.create_task(_show(publisher, what, show, _FRAME_EVERY_S if live else _SAY_EVERY_S))
        try:
            yield
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)


async def _show(publisher: Publisher, what: str, show: Any, every_s: float) -> None:
    began = time.monotonic()
    while True:
        await asyncio.sleep(every_s)
        show(progress_line(what, publisher.acknowledged, time.monotonic() - began))


def progress_line(what: str, events: int, elapsed_s: float) -> str:
    rate = events / elapsed_s if elapsed_s else 0.0
    return clean(f"feeding {what}: {count(events, 'event')} in {elapsed_s:.0f} s, {rate:,.0f} a second")


class _Line:
    """A line that is gone at the end."""

    def __init__(self, stack: ExitStack) -> None:
        from rich.live import Live

        self._live = stack.enter_context(Live(console=console(), auto_refresh=False, transient=True))

    def __call__(self, text: str) -> None:
        line = plain(text, "dim")
        line.no_wrap, line.overflow = True, "ellipsis"
        self._live.update(line, refresh=True)
