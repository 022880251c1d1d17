"""An event that a domain does not take is told with what would make it one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from actors.event_message import _priority, _spec_of
from actors.scope import Scope
from bus.errors import InvalidPayload, NoHandler
from bus.event import PRIORITY_HEADER, TYPE_HEADER, Event


@pytest.mark.parametrize(
    ("given", "types", "said"),
    [
        (None, [], "lists no event 'raised'; it takes other. List it under `events` in domain.yaml"),
        ("a.v2", [], "lists no event 'raised'; it takes other."),
        (
            None,
            ["a.v1", "b.v1"],
            "with several types: a.v1, b.v1. Publish it with one of them in the header Callboard-Type.",
        ),
        (
            "a.v2",
            ["a.v1"],
            "with the type a.v1, and not with 'a.v2'. Correct the header Callboard-Type, or list that type",
        ),
    ],
)
def test_an_event_that_is_not_taken_is_told_by_name_and_type(
    given: str | None, types: list[str], said: str
) -> None:
    listed = {("raised", type_): None for type_ in types} | {("other", "o.v1"): None}
    scope = cast("Scope", SimpleNamespace(domain="alerts", events=listed))
    headers = {} if given is None else {TYPE_HEADER: given}
    event = Event(name="raised", seq=1, at_ns=0, headers=headers, data=b"{}")
    with pytest.raises(NoHandler) as refused:
        _spec_of(event, scope)
    assert said in str(refused.value)


def test_a_priority_that_is_none_is_refused_in_words() -> None:
    event = Event(name="raised", seq=1, at_ns=0, headers={PRIORITY_HEADER: "high"}, data=b"{}")
    with pytest.raises(InvalidPayload, match="'high' is not a priority"):
        _priority(event)
