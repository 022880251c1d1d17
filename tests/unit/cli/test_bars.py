"""How a call of a timeline has ended, in a line."""

from __future__ import annotations

import pytest

from callboard.cli.bars import outcome
from storage.inspect.timeline import Call


@pytest.mark.parametrize(
    ("status", "value", "line"),
    [
        ("approved", '{"comment": "seen on three hosts"}', "→ approved by alice: seen on three hosts"),
        ("approved", '{"comment": ""}', "→ approved by alice"),
        ("denied", '{"comment": "our own"}', "✗ denied by alice: our own"),
        ("denied", "null", "✗ denied by alice"),
        ("denied", '{"comment": "cut o', '✗ denied by alice: {"comment": "cut o'),
        ("expired", "null", "✗ expired"),
        ("resolved", "3", "→ 3  by alice"),
    ],
)
def test_who_decided_what_is_said_and_an_approval_is_no_failure(status: str, value: str, line: str) -> None:
    call = Call(
        number=1, key="#1", kind="approval", name="block", ok=True, status=status, by="alice", value=value
    )
    assert outcome(call) == line
