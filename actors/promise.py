"""A promise as the handler that makes it holds it."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actors.calls import DurableCalls


class Promise:
    """A place where a turn waits, or may: `await` it for the value that it is resolved with.

    Whoever has `ref` may resolve it, once, before or after the wait begins: `ctx.resolve(ref, value)`.
    """

    def __init__(self, calls: DurableCalls, ref: str, place: str, name: str) -> None:
        self.ref = ref
        self.name = name
        self._calls = calls
        self._place = place

    def __await__(self) -> Generator[Any, None, Any]:
        return self._calls._value_of(self._place, self.name).__await__()
