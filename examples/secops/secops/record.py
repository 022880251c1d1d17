"""What one line of sshd says, in the domain's own words."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from .stamp import Stamp


class Kind(StrEnum):
    """What a line is about."""

    FAILURE = "failure"
    INVALID_USER = "invalid_user"
    ACCEPTED = "accepted"
    DISCONNECT = "disconnect"
    PROBE = "probe"
    OTHER = "other"


class Witness(StrEnum):
    """Which of sshd's statements tells of a failed attempt.

    One attempt may be told several times within one connection; `tally.attempts` says how they add up.
    """

    FAILED = "failed"  # Failed METHOD for ...
    INTERACTIVE = "interactive"  # Failed keyboard-interactive... for ...
    PAM_ERROR = "pam_error"  # error: PAM: Authentication failure for ...
    NAMED = "named"  # Invalid user ...
    BARRED = "barred"  # User ... not allowed because ..., ROOT LOGIN REFUSED
    DISMISSED = "dismissed"  # sshd ended the connection: too many attempts, or a changed user name
    CLIENT = "client"  # the client left with "Auth fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One line of sshd.

    `source` is a normalised address or host name, None when the line names none for certain; `witness` is
    set if and only if the line tells of a failed authentication; `connection` tells the connections of one
    source apart ("" when the line does not say).
    """

    kind: Kind
    source: str | None = None
    user: str = ""
    method: str = ""
    count: int = 1
    witness: Witness | None = None
    connection: str = ""
    stamp: Stamp | None = None
