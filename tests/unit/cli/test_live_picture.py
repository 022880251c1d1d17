"""The picture of the live view in the README is what a frame looks like now; `make pictures` draws it anew."""

from __future__ import annotations

import io
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from callboard.cli.follow import Snapshot
from callboard.cli.live import view
from storage.decisions import Waiting
from storage.inspect import HostView, TaskEventView, TaskView

PICTURE = Path(__file__).parents[3] / "docs" / "live-view.svg"
COMMAND = "callboard run examples/secops --input auth.log"
BEGAN = datetime(2026, 11, 21, 12, 10, 50, tzinfo=UTC)
TASK = TaskView(
    domain="secops", tenant="default", id="01a1fe04-2a6e-7c11-9f3c-61c7c7a3e9d2", status="running",
    goal="secops: auth.log", priority=5, policy="direct",
    assignee="secops/reporter/01a1fe04-2a6e-7c11-9f3c-61c7c7a3e9d2", progress=0.95, deadline=None,
    created_at=BEGAN, updated_at=BEGAN, finished_at=None,
)  # fmt: skip
LOG: list[tuple[int, str, dict[str, Any]]] = [
    (0, "submitted", {"goal": TASK.goal, "priority": 5}),
    (1, "assigned", {"assignee": TASK.assignee, "policy": "direct"}),
    (1, "running", {"by": TASK.assignee}),
    (1, "progress", {"note": "all 564 lines read, judging their sources"}),
    (1, "progress", {"note": "10 sources judged"}),
    (1, "progress", {"note": "22 sources judged"}),
    (1, "progress", {"note": "24 sources judged, 4 blocks proposed, 2 to be approved"}),
]


def frame() -> Snapshot:
    """That of a run which waits for two approvals."""
    log = [
        TaskEventView(number=n, at=BEGAN.replace(second=50 + after_s), kind=kind, body=json.dumps(body))
        for n, (after_s, kind, body) in enumerate(LOG)
    ]
    hosts = [host(1, "secops-fe044208", turns=109), host(2, "secops-541ca671", turns=133)]
    shown = Snapshot(task=TASK, hosts=hosts, fresh=[], log=log, turns_per_s=0.0, elapsed_s=8.0)
    shown.events_waiting = 0
    shown.asked = [question("3736-7035-93c6-b5aa0693d660", 45), question("3734-718b-a302-3748244289ad", 200)]
    return shown


def host(epoch: int, name: str, turns: int) -> HostView:
    return HostView(
        domain="secops", epoch=epoch, host=name, node="n", pid=1, release="1.0", owned=list(range(32)), wanted=[],
        suspect=[], draining=False, started_at=BEGAN, ready=True, ended_at=None, ended_why=None, silent_s=0.1,
        lag_ms=1.0, blocked_by=None, backlog=0, agents=31, turns=turns, rss_bytes=123 * 2**20,
    )  # fmt: skip


def question(tail: str, number: int) -> Waiting:
    details = {"address": f"203.0.113.{number}", "hours": 24, "severity": "critical"}
    return Waiting(
        id=f"01a1fe04-{tail}", domain="secops", agent=f"responder/203.0.113.{number}", kind="approval",
        name="block_address", details=json.dumps({"action": "call block_address", "details": details}),
        created_at=BEGAN, due_at=None, status="pending", settled_by=None, settled_at=None, value=None,
    )  # fmt: skip


def drawn(shown: Snapshot) -> str:
    console = Console(
        record=True, width=80, height=30, file=io.StringIO(), force_terminal=True, color_system="truecolor",
        legacy_windows=False, markup=False, highlight=False, _environ={},
    )  # fmt: skip
    console.print(view(shown, 30))
    return console.export_svg(title=COMMAND, unique_id="live-view")


def test_the_picture_of_the_readme_is_that_of_a_frame() -> None:
    found = "\n".join(line.rstrip() for line in drawn(frame()).splitlines()) + "\n"
    if os.environ.get("CALLBOARD_DRAW_PICTURES"):  # `make pictures`
        PICTURE.write_text(found)
    assert found == PICTURE.read_text(), "the live view looks otherwise: run `make pictures` and look at it"
