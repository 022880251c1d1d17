"""Named points in the code at which a fault test can kill, stop or disturb this very process.

`CALLBOARD_FAULTS="commit.before=kill@3,publish.before=stop@10"` kills the process the third time that
it reaches `commit.before`, and stops it (SIGSTOP) the tenth time it reaches `publish.before`. Without
the variable a point costs two look-ups. The log line tells a test that a fault fired. A name that is not in POINTS is
refused wherever it stands: a fault that can never be armed would be a test that proves nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass

POINTS = frozenset(
    {
        "commit.before",
        "commit.between_fence_and_commit",
        "commit.after",  # committed, nothing published yet
        "flush.before",  # a commit that has something of a turn that waits
        "flush.after",
        "park.before_cancel",  # committed that the turn is put away; its handler is still in memory
        "wake.before",  # a turn that was put away is about to run again
        "call.before",  # the intent of a tool's call is committed
        "call.after",  # the call has returned, and that is written nowhere
        "handover.middle",
        "acquire.middle",
        "takeover.middle",
        "trial.before",
        "undo.before",
        "undo.after",
        "cancel.before_stopped",
        "assign.before_commit",
        "assign.after_commit",
        "retention.before_commit",
        "start.checks_postgres",
        "start.migrates",
    }
)

_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


@dataclass
class _Fault:
    action: str
    countdown: int


def _read(text: str) -> dict[str, _Fault]:
    faults = {}
    for entry in filter(None, text.split(",")):
        point, _, rest = entry.partition("=")
        action, _, count = rest.partition("@")
        if point not in POINTS or action not in _SIGNALS:
            raise ValueError(f"CALLBOARD_FAULTS: {entry!r} is not POINT=kill@N or POINT=stop@N")
        faults[point] = _Fault(action, int(count or 1))
    return faults


_armed = _read(os.environ.get("CALLBOARD_FAULTS", ""))


def is_armed(point: str) -> bool:
    """Whether a fault waits at this point."""
    return _find(point) is not None


def reached(point: str) -> None:
    """Pass a named point; a fault that waits here and has counted down happens now."""
    fault = _find(point)
    if fault is None:
        return
    fault.countdown -= 1
    if fault.countdown == 0:
        del _armed[point]
        sys.stderr.write(f"fault fired: {point} {fault.action} pid {os.getpid()}\n")
        sys.stderr.flush()
        os.kill(os.getpid(), _SIGNALS[fault.action])


def _find(point: str) -> _Fault | None:
    if point not in POINTS:
        raise ValueError(f"{point!r} is not in faultpoints.POINTS")
    return _armed.get(point)
