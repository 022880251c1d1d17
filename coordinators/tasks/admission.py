"""How many requests about tasks are worked on at once, and for how long."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Hashable

from bus.errors import CallboardError, Overloaded, ServiceUnavailable

_logger = logging.getLogger("callboard.tasks")

PENDING = 256  # requests that one host or coordinator works on; past that it refuses
PENDING_BYTES = 32 * 1024 * 1024
WITHIN_S = 5.0
RETRY_AFTER_S = 1


class Admission:
    """Answers `{"id": ...}` once the work is committed, or `{"error": {"type", "message", "fix", ...}}`."""

    def __init__(self, domain: str) -> None:
        self._domain = domain
        self._pending = 0
        self._pending_bytes = 0
        self._under_way: dict[Hashable, asyncio.Task[bytes]] = {}

    async def answer(
        self, key: Hashable | None, size: int, work: Callable[[], Awaitable[str]]
    ) -> bytes | None:
        """The answer to a request of so many bytes. What comes under the key of one that is under way is that one,
        and gets its answer; None where there is no room for it: then the first is answered.
        """
        first = self._under_way.get(key) if key is not None else None
        if self._pending >= PENDING or self._pending_bytes + size > PENDING_BYTES:
            return None if first is not None else error_answer(self._overloaded())
        self._pending += 1
        self._pending_bytes += size
        try:
            if first is None:
                first = asyncio.create_task(_carried_out(work))
                if key is not None:
                    self._under_way[key] = first
                    first.add_done_callback(lambda _: self._under_way.pop(key, None))
            return await asyncio.shield(first)
        finally:
            self._pending -= 1
            self._pending_bytes -= size

    def _overloaded(self) -> Overloaded:
        return Overloaded(
            f"{self._pending} requests about tasks of {self._domain} are under way here.",
            retry_after_s=RETRY_AFTER_S,
        )


async def _carried_out(work: Callable[[], Awaitable[str]]) -> bytes:
    try:
        async with asyncio.timeout(WITHIN_S):
            return json.dumps({"id": await work()}).encode()
    except CallboardError as error:
        return error_answer(error)
    except TimeoutError:
        return error_answer(
            ServiceUnavailable(
                f"The request was not committed within {WITHIN_S:.0f} s; it may yet have been.",
                fix="Ask again, with the same `request_key` where there is one: it is accepted once.",
            )
        )
    except Exception:
        _logger.exception("a request about a task failed")
        return error_answer(CallboardError("The request failed.", fix="Look into the host's log."))


def error_answer(error: CallboardError) -> bytes:
    said = {"type": type(error).__name__, "message": error.message, "fix": error.fix, **error.fields}
    return json.dumps({"error": said}, default=str).encode()
