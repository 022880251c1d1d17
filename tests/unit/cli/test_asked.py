"""What waits for somebody's word is shown with who may answer, and with the command as it is to be typed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from callboard.cli import asked
from callboard.cli.asked import asked_lines, command_lines
from storage.decisions import Waiting

ID = "01a1fd37-88b7-76f2-befc-acb34d549230"


@pytest.fixture(autouse=True)
def mallory_has_logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "login_name", lambda: "mallory")


def promise(kind: str, **details: Any) -> Waiting:
    return Waiting(
        id=ID, domain="desk", agent="guard/a", kind=kind, name="permit", details=json.dumps(details),
        created_at=datetime.now(UTC), due_at=None, status="pending", settled_by=None, settled_at=None, value=None,
    )  # fmt: skip


def approval(*approvers: str) -> Waiting:
    return promise("approval", action="open", details={"gate": "north"}, approvers=approvers)


@pytest.mark.parametrize(
    ("approvers", "whom", "by"),
    [
        ((), "a person", ""),
        (("alice",), "alice", " --as alice"),
        (("alice", "mallory"), "alice or mallory", ""),
        (("d/judge/j", "Ann Lee"), "d/judge/j or Ann Lee", " --as 'Ann Lee'"),
        (("a", "b", "c", "d", "e"), "a, b, c or 2 more", " --as a"),
    ],
)
def test_an_approval_names_who_may_decide_and_as_whom(approvers: tuple[str, ...], whom: str, by: str) -> None:
    assert [line.plain for line in asked_lines([approval(*approvers)])] == [
        f"waits for {whom}: open: gate north",
        f"  callboard approve {ID}{by}",
        f"  callboard deny {ID} --reason WHY",
    ]


def test_what_only_agents_approve_can_be_denied() -> None:
    assert [line.plain for line in asked_lines([approval("d/judge/j")])] == [
        "waits for d/judge/j: open: gate north",
        f"  callboard deny {ID} --reason WHY",
    ]


def test_promises_and_unknown_outcomes_have_commands_of_their_own() -> None:
    [line, command] = [line.plain for line in asked_lines([promise("promise")])]
    assert line == "waits for the promise permit, of desk/guard/a"
    assert command == f"  callboard promise resolve {ID} JSON"
    outcome = promise("outcome", tool="open_gate", arguments={"gate": "north"})
    assert command_lines(outcome)[0] == f"callboard ledger settle {ID} --happened"


def test_of_many_the_first_are_named() -> None:
    lines = [line.plain for line in asked_lines([promise("promise")] * 7)]
    assert len(lines) == 2 * asked.MOST + 1
    assert lines[-1] == "and 2 more questions: `callboard approvals`"


@pytest.mark.parametrize(
    ("asks", "words"),
    [
        (promise("approval", action="open", details={}, approvers=["Ann Lee"]), "waits for Ann Lee: open"),
        (promise("approval", action="open", details=None, approvers=[]), "waits for a person: open"),
        (
            promise("outcome", tool="page", arguments={}, call="c"),
            "waits for a person: has the call of page acted? Nobody knows",
        ),
    ],
)
def test_a_question_without_details_ends_without_a_colon(asks: Waiting, words: str) -> None:
    assert asked.waits_text(asks) == words
