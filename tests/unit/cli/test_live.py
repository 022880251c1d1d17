"""The live view stays readable at 80 columns and within the terminal's height."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from rich.console import Console

from callboard.cli import following
from callboard.cli.follow import Rate, Snapshot
from callboard.cli.following import _Lines
from callboard.cli.live import plain_line, view
from callboard.cli.status import host_state
from storage.decisions import Waiting
from storage.inspect import HostView, TaskEventView, TaskView
from storage.lack import Lack

NOW = datetime.now(UTC)
TASK = TaskView(
    domain="desk", tenant="default", id="0" * 36, status="running", goal="g" * 200, priority=5, policy="direct",
    assignee="desk/clerk/1", progress=0.62, deadline=None, created_at=NOW, updated_at=NOW, finished_at=None,
)  # fmt: skip
HOST = HostView(
    domain="desk", epoch=1, host="desk-da15d3fb", node="n", pid=1, release="1.0", owned=list(range(64)), wanted=[], suspect=[],
    draining=False, started_at=NOW, ready=True, ended_at=None, ended_why=None, silent_s=0.1, lag_ms=1.0,
    blocked_by=None, backlog=12_345, agents=300, turns=2_031_100, rss_bytes=120 * 2**20,
)  # fmt: skip


def host(epoch: int, **changed: Any) -> HostView:
    return msgspec.structs.replace(HOST, epoch=epoch, **changed)


def snapshot(hosts: list[HostView], events: int) -> Snapshot:
    body = json.dumps({"note": "a note " * 30, "by": "\x1b[2J"})
    log = [TaskEventView(number=n, at=NOW, kind="progress", body=body) for n in range(1, events + 1)]
    return Snapshot(task=TASK, hosts=hosts, fresh=[], log=log, turns_per_s=8210.0, elapsed_s=3.0)


def lines(shown: Snapshot, width: int, height: int) -> list[str]:
    text = io.StringIO()
    Console(file=text, width=width, height=height, markup=False, highlight=False).print(view(shown, height))
    return text.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("hosts", [0, 1, 40])
def test_a_frame_fits_the_terminal(width: int, hosts: int) -> None:
    frame = lines(snapshot([host(n) for n in range(hosts)], 500), width, 30)
    assert len(frame) <= 30
    assert max(len(line) for line in frame) <= width
    assert any("earlier" in line for line in frame)
    assert not any("\x1b[2J" in line for line in frame)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
def test_what_waits_for_a_person_stands_there_with_the_command_that_decides_it(
    width: int, height: int
) -> None:
    shown = snapshot([host(n) for n in range(2)], 500)
    shown.asked = [question(n) for n in range(5)]
    frame = lines(shown, width, height)
    assert len(frame) <= height
    assert max(len(line) for line in frame) <= width
    assert f"  callboard approve {question(0).id}" in [line.rstrip() for line in frame]
    assert any(
        line.startswith("waits for a person: call block_address: address 203.0.113.0") for line in frame
    )
    assert "and 3 more questions: `callboard approvals`" in [line.rstrip() for line in frame]
    assert not any("\x1b[2J" in line for line in frame)
    assert plain_line(shown).endswith(", 5 decisions waited for")


def test_what_waits_is_said_once_and_again_after_a_while(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = snapshot([HOST], 0)
    shown.asked, shown.quiet_s = [question(0)], 3600.0
    say = _Lines()
    command = f"    callboard approve {question(0).id}\n"
    for _ in range(3):
        say(shown)
    assert capsys.readouterr().err.count(command) == 1
    shown.asked = [question(0), question(1)]
    say(shown)
    assert command not in capsys.readouterr().err
    monkeypatch.setattr(following, "_SAY_EVERY_S", 0.0)
    say(shown)
    assert capsys.readouterr().err == ""  # nothing else happens, and no line says so
    monkeypatch.setattr(following, "_SAY_ASKED_EVERY_S", 0.0)
    say(shown)
    assert capsys.readouterr().err.count(command) == 1


def test_a_task_that_nobody_has_ended_is_told_of_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = snapshot([HOST], 500)
    words = (
        "desk/clerk/1 has handled the task",
        "and nothing of it is under way; nobody has called ctx.complete or ctx.fail.",
        f"`callboard cancel {TASK.id}` ends it.",
    )
    assert not any("under way" in line for line in lines(shown, 80, 24))
    shown.stands_still = True
    frame = [line.rstrip() for line in lines(shown, 80, 24)]
    assert len(frame) <= 24
    assert set(words) <= set(frame)
    monkeypatch.setattr(following, "_SAY_EVERY_S", 0.0)
    say = _Lines()
    say(shown)
    say(shown)
    assert capsys.readouterr().err == " ".join(words) + "\n"  # and no line on how the domain is doing
    shown.stands_still = False
    say(shown)
    shown.stands_still = True
    say(shown)
    assert capsys.readouterr().err.count("ctx.complete") == 1


def test_a_promise_is_named_once_nothing_else_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    shown = snapshot([HOST], 0)
    shown.promises = [msgspec.structs.replace(question(0), kind="promise", details=None)]
    assert not any("promise" in line for line in lines(shown, 80, 30))
    say = _Lines()
    say(shown)
    assert capsys.readouterr().err == ""
    shown.quiet_s = 5.0
    command = f"callboard promise resolve {question(0).id} JSON"
    assert f"  {command}" in [line.rstrip() for line in lines(shown, 80, 30)]
    say(shown)
    assert capsys.readouterr().err == f"It waits for the promise x, of desk/responder/x\n    {command}\n"


def question(number: int) -> Waiting:
    details = {
        "action": "call block_address",
        "details": {"address": f"203.0.113.{number}", "why": "\x1b[2J" + "w " * 99},
    }
    return Waiting(
        id=f"01a1fd37-88b7-76f2-befc-acb34d54923{number}", domain="desk", agent="responder/x", kind="approval",
        name="x", details=json.dumps(details), created_at=NOW, due_at=None, status="pending", settled_by=None,
        settled_at=None, value=None,
    )  # fmt: skip


def test_hosts_that_wait_for_room_are_told_of_once_and_again_when_it_is_for_something_else(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = snapshot([HOST], 500)
    say = _Lines()
    shown.lack = Lack(hosts=1, cpus=1.0, free=0.5, largest=2.0, others=0)
    frame = lines(shown, 80, 24)
    assert len(frame) <= 24
    assert any(line.startswith("1 host waits for room in Ray: each asks for 1 CPU, and") for line in frame)
    say(shown)
    shown.lack = msgspec.structs.replace(shown.lack, free=0.25)
    say(shown)
    shown.lack = msgspec.structs.replace(shown.lack, behind="shop")
    say(shown)
    shown.lack = None
    say(shown)
    assert capsys.readouterr().err.splitlines() == [
        "desk: 1 host waits for room in Ray: each asks for 1 CPU, and no node has more than 0.5 free",
        "desk: 1 host waits until those of shop are ready, since Ray has no room for all of them",
    ]


def test_figures_are_whole_at_80_columns_whatever_a_host_says() -> None:
    trouble = [host(1, silent_s=9.0), host(2, blocked_by="a_very_long_handler_name (agents.py:42)"), host(3)]
    text = "\n".join(lines(snapshot(trouble, 1), 80, 30))
    assert text.count("12,345") == 3
    assert text.count("2,031,100") == 3
    assert text.count("120 MiB") == 3
    assert "silent" in text
    assert "blocked by" in text


def test_without_a_terminal_it_is_one_line() -> None:
    shown = snapshot([HOST], 1)
    assert plain_line(shown) == "62% running, 1 host, backlog 12,345, 8,210 turns/s"
    shown.events_waiting = 1_234_567
    assert plain_line(shown) == "62% running, 1 host, 1,234,567 events waiting, backlog 12,345, 8,210 turns/s"


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_how_far_a_task_came_that_did_not_end_well_is_no_share_of_what_went_wrong(status: str) -> None:
    shown = snapshot([HOST], 0)
    shown.task = msgspec.structs.replace(TASK, status=status, progress=0.0)
    assert plain_line(shown).startswith(f"{status} at 0%, 1 host")


def test_events_that_nobody_has_read_stand_beside_the_backlog() -> None:
    shown = snapshot([host(n, backlog=123_456, agents=123_456) for n in range(8)], 1)
    assert "hosts 8/8   events ?   backlog 987,648" in "\n".join(lines(shown, 80, 30))
    shown.events_waiting = 1_234_567
    frame = lines(shown, 80, 30)
    assert any("events 1,234,567   backlog 987,648" in line for line in frame)
    assert len(frame) <= 30


@pytest.mark.parametrize(
    ("changed", "state"),
    [
        ({}, "ready"),
        ({"silent_s": 9.0, "blocked_by": "x"}, "silent"),
        ({"ready": False, "blocked_by": "x"}, "starting"),
        ({"suspect": [1], "blocked_by": "x"}, "recovering"),
        ({"blocked_by": "x"}, "blocked by x"),
        ({"draining": True}, "draining"),
        ({"draining": True, "kept": [3]}, "ends calls"),
    ],
)
def test_a_host_that_recovers_is_not_in_trouble(changed: dict[str, Any], state: str) -> None:
    assert host_state(host(1, **changed)).plain == state


def test_the_rate_counts_what_hosts_add_and_survives_their_restart() -> None:
    rate = Rate()
    assert rate.update([host(1, turns=1_000)], 0.0) == 0.0
    assert rate.update([host(1, turns=1_500)], 1.0) == 500.0
    assert rate.update([host(1, turns=1_500), host(2, turns=0)], 2.0) == 250.0
    assert rate.update([host(2, turns=300)], 3.0) == 150.0
