"""How a call of a timeline has ended, in a line."""

from __future__ import annotations

import pytest

from callboard.cli.bars import WAIT, WORK, made_of, outcome
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


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ('{"happened": true, "again": true, "comment": "on the statement", "result": {"id": 7}}',
         '→ has acted, says external/maria: on the statement'),
        ('{"happened": true, "again": true, "comment": "", "result": null}', "→ has acted, says external/maria"),
        ('{"happened": false, "again": true, "comment": "no charge"}',
         "→ has not acted, and is made again, says external/maria: no charge"),
        ('{"happened": false, "again": false}', "→ has not acted, and is not to, says external/maria"),
        ('{"happened": true, "comment": "cut o', '→ {"happened": true, "comment": "cut o  by external/maria'),
    ],
)  # fmt: skip
def test_what_a_person_has_said_of_a_call_is_told_in_words_with_the_reason(value: str, line: str) -> None:
    call = Call(
        number=1, key="#1?1", kind="outcome", name="pay 0a1b", ok=True, status="resolved", by="external/maria", value=value
    )  # fmt: skip
    assert outcome(call) == line


@pytest.mark.parametrize(
    ("kind", "drawn"), [("approval", WAIT), ("outcome", WAIT), ("call", WORK), ("intent", WORK)]
)
def test_what_a_person_is_asked_is_drawn_as_waiting(kind: str, drawn: str) -> None:
    assert made_of(kind) == drawn
