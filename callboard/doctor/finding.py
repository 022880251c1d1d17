"""One finding of the doctor."""

from __future__ import annotations

import msgspec

GOOD, WARN, FAIL = "good", "warn", "fail"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What was looked at, how it is (`good`, `warn` or `fail`), in words, and what to do about it."""

    check: str
    status: str
    detail: str
    mend: str = ""


def good(check: str, detail: str) -> Finding:
    return Finding(check=check, status=GOOD, detail=detail)


def warn(check: str, detail: str, mend: str) -> Finding:
    return Finding(check=check, status=WARN, detail=detail, mend=mend)


def fail(check: str, detail: str, mend: str) -> Finding:
    return Finding(check=check, status=FAIL, detail=detail, mend=mend)
