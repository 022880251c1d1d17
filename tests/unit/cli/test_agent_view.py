"""An agent's state on the terminal."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

import pytest
from rich.console import Console

from bus.envelope import Header
from callboard.cli import agent_view, terminal
from storage.inspect import PastState


@pytest.mark.parametrize("on_terminal", [True, False])
def test_a_state_is_shown_whole_as_the_json_it_is_and_plays_no_tricks(
    monkeypatch: pytest.MonkeyPatch, on_terminal: bool
) -> None:
    state = {"user": "\x7f\x9b2J\x1b[2J\u202e[bold]Ü[/bold] " + "long " * 60, "\u200b\x85": ["\u2028", 1.50]}
    file = io.StringIO()
    out = Console(file=file, width=80, highlight=False, markup=False, color_system=None)
    monkeypatch.setattr(agent_view, "is_terminal", lambda: on_terminal)
    monkeypatch.setattr(agent_view, "console", lambda: out)
    agent_view.show_past(_past(json.dumps(state, ensure_ascii=False)))
    text = file.getvalue()
    assert terminal.clean(text, lines=True) == text
    shown = text[text.index("{") : text.rindex("}") + 1]
    assert json.loads(shown) == state
    assert "[bold]Ü[/bold]" in shown


def test_of_a_large_state_the_beginning_is_shown_and_how_much_there_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    many = {f"key {n}": list(range(10)) for n in range(1_000)}
    agent_view.show_past(_past(json.dumps(many)))
    text = capsys.readouterr().out
    assert text.count("\n") < 120
    assert '"key 0": [' in text
    assert "… 11,902 more lines; 87 KiB in all, which --json has whole\n" in text
    assert "is the one in its history" in text


def test_a_long_text_in_a_state_is_cut_and_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    agent_view.show_past(_past(json.dumps({"text": "x" * 100_000, "after": 1})))
    text = capsys.readouterr().out
    assert len(text) < 3_000
    assert '"after": 1' in text
    assert "… long lines are cut; 98 KiB in all, which --json has whole\n" in text


def _past(state: str) -> PastState:
    header = Header(id="m", type="tests.note.v1", sender="external/test", sent_at=0.0)
    return PastState(
        address="tests/box/a", tenant="default", version=1, newest=1, at=datetime(2026, 1, 1, tzinfo=UTC),
        decision="handled", lifecycle="running", header=header, state=state, state_hash="0" * 64,
    )  # fmt: skip
