"""Messages: each survives the wire under its name, and events have one identity however often they are fed."""

from __future__ import annotations

import inspect

import pytest
from pydantic import BaseModel, ValidationError
from secops import messages
from secops.messages import LogEnded, SshLines

from bus.registry import wire_name_of

DIGEST = "ab" * 32


def test_an_events_identity_is_digest_and_lines() -> None:
    assert SshLines(log=DIGEST, first=7, texts=("x", "y")).identity == f"{DIGEST}:7-8"
    assert LogEnded(log=DIGEST, lines=2).identity == f"{DIGEST}:end"


@pytest.mark.parametrize(
    "more", [{"more": 1}, {"log": "x"}, {"first": 0}, {"texts": ()}, {"texts": ("x",) * 1001}]
)
def test_what_an_event_does_not_say_is_refused(more: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SshLines.model_validate({"log": DIGEST, "first": 1, "texts": ("x",), **more})


def test_every_message_has_a_wire_name_of_its_own() -> None:
    declared = [
        each
        for name, each in inspect.getmembers(messages, inspect.isclass)
        if each.__module__ == messages.__name__ and issubclass(each, BaseModel) and not name.startswith("_")
    ]
    names = [wire_name_of(each) for each in declared if each is not messages.CaseInput]
    assert len(set(names)) == len(names) > 15
    assert all(name.startswith("ssh.") for name in names)
