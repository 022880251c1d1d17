"""What is remembered of one source within one log, and how a line changes it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Self

from pydantic import BaseModel, ConfigDict

from .evidence import Evidence
from .record import Kind, Record, Witness
from .tally import Tally
from .thresholds import Thresholds
from .window import Window


class Login(BaseModel):
    """An accepted login, and what had failed from the same source before it."""

    model_config = ConfigDict(frozen=True)

    line: int
    at: datetime | None
    user: str
    method: str
    failures_before: int
    users_before: int


class Sighting(BaseModel):
    """One line of sshd about one source: what a watchman is told."""

    model_config = ConfigDict(frozen=True)

    source: str
    line: int
    at: datetime | None
    kind: Kind
    user: str = ""
    method: str = ""
    count: int = 1
    witness: Witness | None = None
    connection: str = ""

    @classmethod
    def of(cls, record: Record, *, line: int, at: datetime | None) -> Self | None:
        """Return the sighting in a record; None when it names no source or nobody needs it."""
        if record.source is None or record.kind is Kind.OTHER:
            return None
        return cls(
            source=record.source,
            line=line,
            at=at,
            kind=record.kind,
            user=record.user,
            method=record.method,
            count=record.count,
            witness=record.witness,
            connection=record.connection,
        )


class Watch(BaseModel):
    """One source in one log. All collections are bounded; all plain numbers are exact.

    `users` maps user name to failures in order of first try; names beyond the bound are only counted, as
    failures, in `unlisted`. `peak` is the most failures in any window.
    """

    model_config = ConfigDict(frozen=True)

    source: str
    last_line: int = 0
    failures: int = 0
    users: dict[str, int] = {}
    unlisted: int = 0
    window: Window = Window()
    peak: int = 0
    first_at: datetime | None = None
    last_at: datetime | None = None
    evidence: Evidence = Evidence()
    logins: tuple[Login, ...] = ()
    accepted: int = 0
    visits: int = 0
    connections: dict[str, Tally] = {}


def observe(watch: Watch, sighting: Sighting, limits: Thresholds) -> Watch:
    """Return the watch after one more line of its source.

    Lines come in file order; one that was seen already changes nothing, so that feeding twice is harmless.
    """
    if sighting.line <= watch.last_line:
        return watch
    watch = watch.model_copy(update={"last_line": sighting.line})
    if sighting.witness is not None:
        return _failed(watch, sighting, sighting.witness, limits)
    if sighting.kind is Kind.ACCEPTED:
        return _accepted(watch, sighting, limits)
    return watch.model_copy(update={"visits": watch.visits + sighting.count})


def _failed(watch: Watch, sighting: Sighting, witness: Witness, limits: Thresholds) -> Watch:
    at_s = _seconds(sighting.at or watch.last_at)
    before = watch.connections.get(sighting.connection, Tally())
    after = before.with_line(witness, sighting.count, at_s)
    new = after.attempts - before.attempts
    window = watch.window.add(at_s, new, limits) if new else watch.window
    users, unlisted = _with_user(watch, sighting, new, limits)
    return watch.model_copy(
        update={
            "failures": watch.failures + new,
            "users": users,
            "unlisted": unlisted,
            "window": window,
            "peak": max(watch.peak, window.total),
            "first_at": _earlier(watch.first_at, sighting.at),
            "last_at": _later(watch.last_at, sighting.at),
            "evidence": watch.evidence.add(sighting.line, limits.max_evidence),
            "connections": _with_connection(watch, sighting.connection, after, limits),
        }
    )


def _accepted(watch: Watch, sighting: Sighting, limits: Thresholds) -> Watch:
    login = Login(
        line=sighting.line,
        at=sighting.at,
        user=sighting.user,
        method=sighting.method,
        failures_before=watch.failures,
        users_before=len(watch.users),
    )
    # The worst ones stay when there are too many: they are what a person must see.
    logins = sorted((*watch.logins, login), key=lambda each: (-each.failures_before, each.line))
    kept = sorted(logins[: limits.max_logins], key=lambda each: each.line)
    return watch.model_copy(update={"logins": tuple(kept), "accepted": watch.accepted + sighting.count})


def _with_user(watch: Watch, sighting: Sighting, new: int, limits: Thresholds) -> tuple[dict[str, int], int]:
    # A client that reports its own failure names no user; an empty user name elsewhere is a real one.
    if sighting.user == "" and sighting.witness in (Witness.CLIENT, Witness.DISMISSED):
        return watch.users, watch.unlisted
    if sighting.user in watch.users or len(watch.users) < limits.max_users:
        return {**watch.users, sighting.user: watch.users.get(sighting.user, 0) + new}, watch.unlisted
    return watch.users, watch.unlisted + new


def _with_connection(watch: Watch, key: str, tally: Tally, limits: Thresholds) -> dict[str, Tally]:
    """Remember the connection as the latest one; forget idle ones, and the oldest above the bound."""
    oldest = tally.last_s - limits.connection_idle_s
    kept = {name: each for name, each in watch.connections.items() if name != key and each.last_s >= oldest}
    kept[key] = tally
    while len(kept) > limits.max_connections:
        del kept[next(iter(kept))]
    return kept


def _seconds(at: datetime | None) -> int:
    return int((at - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) if at else 0


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    return min(one, other) if one and other else one or other


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max(one, other) if one and other else one or other
