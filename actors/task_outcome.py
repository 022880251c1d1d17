"""What the end of a task is to who waited for it: its result, or an error."""

from __future__ import annotations

from typing import Any

from bus.errors import DeadlineExceeded, NoBid, TaskFailed, WasCancelled


def failure(
    task: str, status: str, error: dict[str, Any], **fields: Any
) -> NoBid | DeadlineExceeded | TaskFailed:
    """The error of a task that failed or was cancelled; its `code` says why."""
    code, reason = error.get("code", "failed"), error.get("message", "no reason was given")
    if status == "cancelled":
        return WasCancelled(f"Task {task} was cancelled: {reason}", task=task, code=code, **fields)
    kind = NoBid if code == "no_bid" else DeadlineExceeded if code == "deadline" else TaskFailed
    return kind(f"Task {task} failed: {reason}", task=task, code=code, **fields)
