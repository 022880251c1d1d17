"""The process that joins Ray answers each call, with a result or a typed error, until its input ends."""

from __future__ import annotations

import io
import pickle
from typing import Any

import pytest

from bus.errors import ServiceUnavailable
from callboard.ray_driver import SIZE, serve


def answers(*calls: tuple[str, dict[str, Any]]) -> list[tuple[Any, Exception | None]]:
    def refuse(why: str) -> None:
        raise ServiceUnavailable(f"Refused: {why}.", fix="Ask again.")

    def fail() -> None:
        raise type("OfRay", (Exception,), {})("it broke\nat some place")

    requests = io.BytesIO(b"".join(pickle.dumps(call) for call in calls))
    written = io.BytesIO()
    serve(requests, written, {"add": lambda a, b: a + b, "refuse": refuse, "go_away": fail})
    written.seek(0)
    found = []
    while size := written.read(SIZE.size):
        found.append(pickle.loads(written.read(SIZE.unpack(size)[0])))
    return found


def test_calls_are_answered_in_order() -> None:
    assert answers(("add", {"a": 1, "b": 2}), ("add", {"a": 3, "b": 4})) == [(3, None), (7, None)]
    assert answers() == []


def test_a_typed_error_comes_back_whole() -> None:
    ((result, error),) = answers(("refuse", {"why": "busy"}))
    assert result is None
    assert str(error) == "Refused: busy. Ask again."


def test_whatever_else_is_raised_is_one_line_of_ours() -> None:
    """Its class may not be known to whoever called."""
    ((_, error),) = answers(("go_away", {}))
    with pytest.raises(ServiceUnavailable, match=r"Ray failed to go away: it broke\. "):
        raise error or AssertionError
