"""Take one syslog line apart: stamp, host, program, process, message, and how often it was repeated."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .stamp import Stamp, read_iso, read_syslog

# Anchored, and each repetition ends at one place only: each reads a line in one pass.
_RFC5424 = re.compile(
    r"<\d{1,3}>1 (?P<stamp>\S+) (?P<host>\S+) (?P<program>\S+) (?P<pid>\S+) \S+ "
    r"(?:-|(?:\[(?:[^\]\\]|\\.)*\])+)(?: \ufeff?(?P<message>.*))?",
    re.DOTALL,
)
_CLASSIC = re.compile(
    r"(?:<\d{1,3}>)?"
    r"(?P<stamp>[A-Z][a-z]{2} [ \d]?\d \d\d:\d\d:\d\d(?:\.\d+)?|\d{4}-\d\d-\d\d[Tt ]\S+) "
    r"(?P<host>\S+) (?P<program>[^\s:\[\]()]+)(?:\[(?P<pid>\d+)\])?: ?(?P<message>.*)",
    re.DOTALL,
)
# rsyslog's form; the count is its own, never a client's.
_REPEATED = re.compile(r"message repeated (\d{1,6}) times: \[ ?(.*)\]\s*", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One syslog line. `count` is above 1 for `message repeated N times: [ ... ]`."""

    stamp: Stamp | None
    host: str
    program: str
    pid: str
    message: str
    count: int = 1


def read_entry(text: str) -> Entry | None:
    """Read a line in RFC 3164, RFC 5424 or journald's ISO form; None when it is none of them."""
    match = _RFC5424.fullmatch(text) or _CLASSIC.fullmatch(text)
    if match is None:
        return None
    stamp, message, count = match["stamp"], (match["message"] or "").rstrip(), 1
    repeated = _REPEATED.fullmatch(message)
    if repeated is not None:
        count, message = max(1, int(repeated[1])), repeated[2].rstrip()
    return Entry(
        stamp=read_syslog(stamp) or read_iso(stamp),
        host=match["host"][:64],
        program=match["program"],
        pid=(match["pid"] or "").strip("-"),
        message=message,
        count=count,
    )
