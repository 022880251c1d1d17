"""Messages: each survives the wire, and has one identity however often it is fed."""

from __future__ import annotations

import inspect

import pytest
from pydantic import BaseModel, ValidationError
from secops import messages
from secops.messages import LogEnded, SshLine, SshLines


def test_an_events_identity_is_digest_and_line() -> None:
    assert SshLine(log="ab", number=7, text="x").identity == "ab:7"
    assert SshLines(log="ab", first=7, texts=("x", "y")).identity == "ab:7"
    assert LogEnded(log="ab", name="auth.log", lines=2).identity == "ab:end"


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError):
        SshLine.model_validate({"log": "ab", "number": 1, "text": "x", "more": 1})


def test_every_message_names_its_wire_name() -> None:
    for name, each in inspect.getmembers(messages, inspect.isclass):
        if each.__module__ == messages.__name__ and issubclass(each, BaseModel) and not name.startswith("_"):
            assert (each.__doc__ or "").startswith("`ssh."), name
