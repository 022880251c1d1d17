"""The tree of a task's turns on the terminal: what is cut, and what its head says."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from callboard.cli.bars import Scale
from callboard.cli.task_timeline import Drawing, show_task_timeline
from callboard.cli.terminal import cut, short_id
from storage.inspect import TaskTimeline, TaskView, Turn, tree_of
from storage.inspect.timeline import Call, made_turn
from storage.inspect.turns import PromiseView

TASKS = ("01a2014b-7ee2-7304-9221-d9fd6bba9b03", "01a2014b-7ee2-7304-9221-d9fd6bba1c84")


def turn(address: str, *, calls: list[Call] | None = None, pending: list[PromiseView] | None = None) -> Turn:
    made = made_turn(
        address, 1, 10.0, {"id": address, "type": "hop.v1", "sender": "x", "sent_at": 1.0},
        {"decision": "handled", "lifecycle": "running", "at": 1.0, "notes": [], "sends": []},
    )  # fmt: skip
    return Turn(
        **{
            **{f: getattr(made, f) for f in made.__struct_fields__},
            "calls": calls or [],
            "pending": pending or [],
        }
    )


def drawn(*turns: Turn, width: int = 60) -> list[str]:
    return [line.plain for line in Drawing(Scale(0, 10, 20), width, 10.0, "far/0").lines(tree_of(turns))]


def test_agents_whose_keys_are_alike_but_for_their_ends_are_told_apart() -> None:
    long = [f"far/hopper/the-very-long-key-of-{side}" for side in ("left", "right")]
    addresses = [*(f"far/desk/{task}" for task in TASKS), *long]
    labels = [line.split("▕")[0].split()[0] for line in drawn(*(turn(address) for address in addresses))]
    assert labels[:2] == ["desk/…ba9b03", "desk/…ba1c84"]
    assert labels[2].endswith("left")
    assert labels[3].endswith("right")
    assert all(label.startswith("hopper/the-") for label in labels[2:])


def test_the_time_of_several_turns_in_one_line_is_said_to_be_theirs_together() -> None:
    lines = drawn(*(turn(f"far/hopper/{number}") for number in range(6)), width=80)
    assert lines[0].startswith("hopper/0  hop.v1")
    assert lines[1].startswith("… 5 more hopper, together  hop.v1")


def test_an_ask_has_its_bar_and_its_answer() -> None:
    answered = Call(
        number=0, key="#0", kind="ask", name="Question far/oracle/main", ok=True, began=2.0, ended=4.0,
        status="resolved", by="far/oracle/main", value='{"type": "a.v1", "payload": {"text": "forty-two"}}',
    )  # fmt: skip
    _, line = drawn(turn("far/hopper/1", calls=[answered]), width=80)
    label, bar, _ = line.replace("▏", "▕").split("▕")
    assert label.rstrip() == '  · ask Question oracle/main  → {"text": "forty-two"}  by oracle/main'
    assert bar == "    ━━━━" + " " * 12
    assert line.endswith("2.0 s")


def test_what_a_turn_waits_for_has_a_bar_up_to_now_and_enough_of_its_id() -> None:
    waits = PromiseView(
        id=TASKS[0], key="#1", kind="promise", name="permit", target=None, status="pending", due_at=None,
        created_at=datetime.fromtimestamp(5, UTC), settled_by=None, settled_at=None,
    )  # fmt: skip
    _, line = drawn(turn("far/hopper/1", pending=[waits]))
    label, bar, _ = line.replace("▏", "▕").split("▕")
    assert label.rstrip() == "  · waits for promise permit …ba9b03"
    assert bar == " " * 10 + "━" * 10


def test_what_a_turn_waits_for_plays_no_tricks_with_the_terminal() -> None:
    waits = PromiseView(
        id=TASKS[0], key="#1", kind="promise", name="a\x1b[2J\nb", target=None, status="pending", due_at=None,
        created_at=datetime.fromtimestamp(5, UTC), settled_by=None, settled_at=None,
    )  # fmt: skip
    _, line = drawn(turn("far/hopper/1", pending=[waits]), width=80)
    assert line.startswith(r"  · waits for promise a\x1b[2J\nb …ba9b03")


@pytest.mark.parametrize(
    ("total", "words"), [(250, "the first 1 of 250 turns"), (100_000, "the first 1 of 100,000+ turns")]
)
def test_the_head_of_a_cut_timeline_says_that_it_is_cut(
    capsys: pytest.CaptureFixture[str], total: int, words: str
) -> None:
    show(total)
    out, err = capsys.readouterr()
    assert words in out.splitlines()[1]
    assert "--limit" in err


def test_the_head_of_a_whole_timeline_says_nothing_of_that(capsys: pytest.CaptureFixture[str]) -> None:
    show(1)
    out, err = capsys.readouterr()
    assert "first" not in out
    assert err == ""


def show(total: int) -> None:
    at = datetime.now(UTC)
    task = TaskView(
        domain="far", tenant="default", id="0", status="completed", goal="go", priority=5, policy=None, assignee=None,
        progress=1.0, deadline=None, created_at=at, updated_at=at, finished_at=at,
    )  # fmt: skip
    timeline = TaskTimeline(task="far/0", turns=[turn("far/hopper/1")], shown=1, total=total, unhandled=[])
    show_task_timeline(task, timeline)


def test_text_is_cut_in_its_middle() -> None:
    assert cut("price-of-number-1", 17) == "price-of-number-1"
    assert cut("price-of-number-1", 9) == "pric…er-1"
    assert len(cut("price-of-number-1", 10)) == 10


def test_ids_are_shortened_to_what_tells_them_apart() -> None:
    assert [short_id(task) for task in TASKS] == ["…ba9b03", "…ba1c84"]
