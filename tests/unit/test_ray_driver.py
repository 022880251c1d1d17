"""The process that joins Ray answers each call, with a result or a typed error, until its input ends."""

from __future__ import annotations

import io
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest

from bus.errors import ServiceUnavailable
from callboard.ray_driver import SIZE, serve


def answers(*calls: tuple[str, dict[str, Any]]) -> dict[int, tuple[Any, Exception | None]]:
    """By the number of the call."""
    met = threading.Event()

    def refuse(why: str) -> None:
        raise ServiceUnavailable(f"Refused: {why}.", fix="Ask again.")

    def fail() -> None:
        raise type("OfRay", (Exception,), {})("it broke\nat some place")

    requests = io.BytesIO(b"".join(pickle.dumps((n, *call)) for n, call in enumerate(calls)))
    written = io.BytesIO()
    known: dict[str, Callable[..., Any]] = {
        "add": lambda a, b: a + b,
        "refuse": refuse,
        "go_away": fail,
        "wait": met.wait,
        "meet": met.set,
        "hand_over": lambda: lambda: None,
    }
    serve(requests, written, known)
    written.seek(0)
    found = {}
    while size := written.read(SIZE.size):
        number, result, error = pickle.loads(written.read(SIZE.unpack(size)[0]))
        found[number] = (result, error)
    return found


def test_each_call_is_answered_under_its_number() -> None:
    assert answers(("add", {"a": 1, "b": 2}), ("add", {"a": 3, "b": 4})) == {0: (3, None), 1: (7, None)}
    assert answers() == {}


def test_a_call_waits_for_no_other() -> None:
    """The first one ends only when the second has run."""
    assert answers(("wait", {"timeout": 20}), ("meet", {})) == {0: (True, None), 1: (None, None)}


def test_a_typed_error_comes_back_whole() -> None:
    result, error = answers(("refuse", {"why": "busy"}))[0]
    assert result is None
    assert str(error) == "Refused: busy. Ask again."


def test_whatever_else_is_raised_is_one_line_of_ours() -> None:
    """Its class may not be known to whoever called."""
    _, error = answers(("go_away", {}))[0]
    with pytest.raises(ServiceUnavailable, match=r"Ray failed to go away: it broke\. "):
        raise error or AssertionError


def test_a_result_that_cannot_be_written_is_an_error() -> None:
    """Who called would wait for ever."""
    _, error = answers(("hand_over", {}))[0]
    assert isinstance(error, ServiceUnavailable)
