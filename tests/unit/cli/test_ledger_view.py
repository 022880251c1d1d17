"""The calls that `callboard ledger` lists, and what is to be done about those of which nobody knows."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from callboard.cli.ledger import _shortened, _show_what_to_do, _status
from callboard.cli.table import table
from storage.inspect.ledger import CallView
from tests.unit.cli.test_table import lines

ARGUMENTS = {"address": "203.0.113.99", "hours": 24, "why": "sweep"}


def test_they_are_folded_between_their_parts() -> None:
    shown = table(("arguments",), [(_shortened(json.dumps(ARGUMENTS, separators=(",", ":"))),)])
    assert lines(shown, 32)[2:] == ['{"address": "203.0.113.99",', '"hours": 24, "why": "sweep"}']


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(None, "(large)"), ('{"häuser":1}', '{"häuser": 1}'), (json.dumps(["x" * 99]), '["' + "x" * 57 + "…")],
)
def test_they_are_as_short_as_a_list_wants_them(arguments: str | None, said: str) -> None:
    assert _shortened(arguments) == said


def view(**known: Any) -> CallView:
    return CallView(
        **{
            "domain": "shop", "agent": "till/a", "id": "c1", "tool": "pay", "effect": "at_most_once", "status": "unknown",
            "attempts": 1, "error": None, "said_by": None, "reason": None, "again_by": None, "digest": "d", "arguments": "{}",
            "task": None, "message": "m", "approval": None, "question": None, "started_at": datetime.now(UTC), "ended_at": None, **known,
        }
    )  # fmt: skip


FOR_GOOD = view(error="EffectUnknown: Whether pay has acted is unknown.")


@pytest.mark.parametrize(
    ("calls", "out", "err"),
    [
        ([view(status="started"), view()], "", ""),  # under way, or somebody will be asked yet
        (
            [view(question="q1"), view(id="c2", question="q2")],
            "call c1: callboard ledger settle q1 --happened or --not-happened\n"
            "call c2: callboard ledger settle q2 --happened or --not-happened\n",
            "",
        ),
        (
            [FOR_GOOD],
            "call c1: callboard ledger settle c1 --happened or --not-happened\n",
            "Nothing waits for the answer about 1 call with an error: ",
        ),
        (
            [FOR_GOOD, view(question="q1"), FOR_GOOD],
            "call c1: callboard ledger settle c1 --happened or --not-happened\n"
            "call c1: callboard ledger settle q1 --happened or --not-happened\n"
            "call c1: callboard ledger settle c1 --happened or --not-happened\n",
            "Nothing waits for the answer about 2 calls with an error: ",
        ),
    ],
)
def test_calls_of_which_nobody_knows_are_listed_with_what_to_do(
    calls: list[CallView], out: str, err: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _show_what_to_do(calls)
    said = capsys.readouterr()
    assert said.out == out
    assert said.err.startswith(err)
    assert bool(said.err) is bool(err)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (view(status="started"), "started"),
        (view(status="started", attempts=2), "started (2 tries), being made again"),
        (FOR_GOOD, "unknown: EffectUnknown: Whether pay has acted is unknown."),
        (view(status="succeeded", said_by="bob"), "succeeded, says bob"),
        (view(status="failed", said_by="bob", reason="no trace"), "failed, says bob: no trace"),
        (
            view(status="succeeded", attempts=2, again_by="maria"),
            "succeeded (2 tries), maria had it made again",
        ),
        (
            view(status="succeeded", attempts=2, again_by="maria", said_by="bob"),
            "succeeded (2 tries), maria had it made again, says bob",
        ),
    ],
)
def test_who_has_said_what_a_call_did_and_who_had_it_made_again_are_told_apart(
    call: CallView, said: str
) -> None:
    assert _status(call) == said
