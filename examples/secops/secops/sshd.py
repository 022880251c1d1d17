"""Read what sshd says about authentication, so that no client can put words into its mouth.

A client chooses its user name, and sshd prints it in the middle of its lines: `x from 192.0.2.1 port 22 ssh2`
is a legal user name. So nothing is searched for in a line: each form is read from its fixed start, and its
source from its fixed tail (sshd's own words stand last); where both sides of the source are the client's to
choose, a line with two candidates names nobody. The work for a line grows with its length, never with its
square.

The forms are those of OpenSSH's auth.c, auth2.c, auth-pam.c, monitor.c, packet.c and sshd.c up to 10.0;
which of them tell of a failure follows fail2ban's standard `sshd` filter (mode normal), with the
differences that the README's table gives.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from .address import normalise
from .record import Kind, Record, Witness
from .syslog import Entry, read_entry

PROGRAMS: Final = frozenset({"sshd", "sshd-session", "sshd-auth"})
# sshd prints 100 characters of a user name (`%.100s`), escaped characters count up to four.
MAX_USER = 400

_Reading = tuple[Kind, str, str, str, str, Witness | None]  # kind, source, port, user, method, witness
_WHERE = r"(\S+)(?: port (\d{1,5}))?(?: on \S+)?"
_TAIL = re.compile(_WHERE)
_PAM_TAIL = re.compile(r"(\S+)(?: via \S+)?()")
# A method is one of sshd's own words: any user of the machine can write a line in its name, and the report shows it.
_ATTEMPT = re.compile(r"(Failed|Accepted) ([A-Za-z0-9./@-]{1,64}) for ")
_ATTEMPT_TAIL = re.compile(_WHERE + r"(?: ssh\d?)?(?:: [\w-]+ (?:SHA256:|MD5:)?[\w+/=:]+)?", re.ASCII)
# Lookaheads find candidates that overlap, too: one hidden behind another would leave the wrong one alone.
_ATTEMPT_ANYWHERE = re.compile(r"(?= from (\S+) port (\d{1,5}) ssh\d?(?::|$))")
# What follows `ssh2:` for these holds text of the client's choice.
_DETAILED = ("gssapi", "hostbased")
_PAM_ERROR = re.compile(
    r"(?:[Aa]uthentication (?:failure|error|failed)|Permission denied"
    r"|User not known to the underlying authentication module) for "
)
_BARRED = (
    "not listed in AllowUsers",
    "listed in DenyUsers",
    "not in any group",
    "a group is listed in DenyGroups",
    "none of user's groups are listed in AllowGroups",
)
_RECEIVED = re.compile(r"Received disconnect from (?:(\S+) port (\d{1,5})|(\S+)): ?(\d+):(.*)", re.DOTALL)
_LEFT = re.compile(r"(?:Connection (?:closed|reset) by|Disconnected from) ")
_LEAVER = re.compile(r"(?:authenticating |invalid )?user ")
_TOO_MANY = ": Too many authentication failures"
_CHANGED = "Change of username or service not allowed: "
_CHANGED_ANYWHERE = re.compile(r"(?= (\S+) port (\d{1,5}): )")
_PROBES = tuple(
    re.compile(form)
    for form in (
        r"Did not receive identification string from " + _WHERE,
        r"(?:banner exchange: |ssh_dispatch_run_fatal: )?Connection from (\S+) port (\d{1,5})\b",
        r"Unable to negotiate with (\S+) port (\d{1,5})\b",
        r"Timeout before authentication for (?:connection from )?(\S+)(?: port (\d{1,5}))?",
        r"reverse mapping checking getaddrinfo for \S+ \[(\S+)\]()",
        r"Address (\S+) maps to ()",
        r"refused connect from \S+ \((\S+)\)()",
        r"drop connection #\d+ from \[(\S+)\]:(\d{1,5})\b",
    )
)


def parse_line(text: str) -> Record | None:
    """Return what one line of a log says; None when sshd did not write it. Raises nothing."""
    entry = read_entry(text)
    if entry is None or entry.program not in PROGRAMS:
        return None
    reading = _read(entry.message)
    if reading is None:
        return Record(kind=Kind.OTHER, stamp=entry.stamp)
    kind, source, port, user, method, witness = reading
    return Record(
        kind=kind,
        source=normalise(source),
        user=user[:MAX_USER],
        method=method,
        count=entry.count,
        witness=witness,
        connection=_connection(entry, port),
        stamp=entry.stamp,
    )


def _connection(entry: Entry, port: str) -> str:
    if entry.pid:
        return f"{entry.host}/{entry.pid}"
    return f"{entry.host}:{port}" if port else ""


def _read(message: str) -> _Reading | None:
    message = message.removesuffix(" [preauth]").rstrip()
    for prefix in ("error: ", "fatal: ", "PAM: "):
        message = message.removeprefix(prefix)
    for reader in _READERS:
        reading = reader(message)
        if reading is not None:
            return reading
    return None


def _attempt(message: str) -> _Reading | None:
    """`Failed|Accepted METHOD for [invalid user ]USER from SOURCE port N ssh2[: KEY]`."""
    start = _ATTEMPT.match(message)
    if start is None:
        return None
    outcome, method = start.groups()
    rest = message[start.end() :]
    found = _split(rest, _ATTEMPT_TAIL) if not method.startswith(_DETAILED) else None
    if found is None:
        candidates = list(_ATTEMPT_ANYWHERE.finditer(" " + rest))
        if len(candidates) != 1:
            return None
        found = rest[: max(0, candidates[0].start() - 1)], candidates[0][1], candidates[0][2]
    user, source, port = found
    if outcome == "Accepted":
        return Kind.ACCEPTED, source, port, user, method, None
    name = user.removeprefix("invalid user ").removeprefix("illegal user ")
    if name == user and method in ("publickey", "none"):
        # Every client with several keys, and every client that asks which methods there are, does this.
        return Kind.OTHER, source, port, user, method, None
    witness = Witness.INTERACTIVE if method.startswith("keyboard-interactive") else Witness.FAILED
    return Kind.FAILURE, source, port, name, method, witness


def _invalid_user(message: str) -> _Reading | None:
    """`Invalid user USER from SOURCE[ port N]`."""
    rest = _after(message, ("Invalid user ", "Illegal user ", "invalid user ", "illegal user "))
    return _told(rest, _TAIL, Kind.INVALID_USER, Witness.NAMED)


def _pam_error(message: str) -> _Reading | None:
    """`error: PAM: Authentication failure for [illegal user ]USER from SOURCE[ via ADDRESS]`."""
    start = _PAM_ERROR.match(message)
    rest = message[start.end() :].removeprefix("illegal user ") if start else None
    return _told(rest, _PAM_TAIL, Kind.FAILURE, Witness.PAM_ERROR)


def _barred(message: str) -> _Reading | None:
    """`User USER from SOURCE not allowed because REASON`; `ROOT LOGIN REFUSED FROM SOURCE[ port N]`."""
    refused = _after(message, ("ROOT LOGIN REFUSED FROM ",))
    if refused is not None:
        return _told(f"root from {refused}", _TAIL, Kind.FAILURE, Witness.BARRED)
    rest, _, reason = message.rpartition(" not allowed because ")
    if not reason.startswith(_BARRED):
        return None
    return _told(_after(rest, ("User ",)), _TAIL, Kind.FAILURE, Witness.BARRED)


def _exceeded(message: str) -> _Reading | None:
    """`maximum authentication attempts exceeded for [invalid user ]USER from SOURCE port N ssh2`."""
    rest = _after(message, ("maximum authentication attempts exceeded for ",))
    if rest is not None:
        rest = rest.removeprefix("invalid user ")
    return _told(rest, _ATTEMPT_TAIL, Kind.FAILURE, Witness.DISMISSED)


def _received_disconnect(message: str) -> _Reading | None:
    """`Received disconnect from SOURCE[ port N]: CODE: TEXT`; the text is the client's."""
    match = _RECEIVED.fullmatch(message)
    if match is None:
        return None
    source, port = match[1] or match[3], match[2] or ""
    if match[4] == "3" and ": Auth fail" in match[5]:
        return Kind.FAILURE, source, port, "", "", Witness.CLIENT
    return Kind.DISCONNECT, source, port, "", "", None


def _left(message: str) -> _Reading | None:
    """`Connection closed|reset by`, `Disconnected from`, each `[... user USER ]SOURCE[ port N]`."""
    start = _LEFT.match(message)
    if start is None:
        return None
    where = _leaver(message[start.end() :])
    return (Kind.DISCONNECT, where[1], where[2], where[0], "", None) if where else None


def _dismissed(message: str) -> _Reading | None:
    """`Disconnecting [...] user USER SOURCE port N: REASON`, for the two reasons that count."""
    rest = _after(message, ("Disconnecting authenticating user ", "Disconnecting invalid user "))
    if rest is None:
        return None
    if rest.endswith(_TOO_MANY):
        where = _leaver(f"user {rest.removesuffix(_TOO_MANY)}")
        return (Kind.FAILURE, where[1], where[2], where[0], "", Witness.DISMISSED) if where else None
    # Here the client chose what stands before the source and what stands behind it.
    candidates = list(_CHANGED_ANYWHERE.finditer(f" {rest}"))
    if len(candidates) != 1:
        return None
    source, port = candidates[0].groups()
    user, _, reason = rest.partition(f" {source} port {port}: ")
    return (Kind.FAILURE, source, port, user, "", Witness.DISMISSED) if reason.startswith(_CHANGED) else None


def _leaver(rest: str) -> tuple[str, str, str] | None:
    """Split `[authenticating|invalid user USER ]SOURCE[ port N]` into user, source and port."""
    user, start = "", _LEAVER.match(rest)
    if start is not None:
        words = rest[start.end() :].rsplit(" ", 3)
        if len(words) != 4 or words[2] != "port":
            return None
        user, rest = words[0], " ".join(words[1:])
    where = _TAIL.fullmatch(rest)
    return (user, where[1], where[2] or "") if where else None


def _probe(message: str) -> _Reading | None:
    """Lines about a connection that did not come to an authentication."""
    for form in _PROBES:
        match = form.match(message)
        if match is not None:
            return Kind.PROBE, match[1], match[2] or "", "", "", None
    rest = _after(message, ("Bad protocol version identification ",))
    found = _split(rest, _TAIL) if rest is not None else None
    return (Kind.PROBE, found[1], found[2], "", "", None) if found else None


def _after(message: str, starts: tuple[str, ...]) -> str | None:
    for start in starts:
        if message.startswith(start):
            return message[len(start) :]
    return None


def _split(rest: str, tail: re.Pattern[str]) -> tuple[str, str, str] | None:
    """Split `USER from TAIL` at the last ` from `: the user, the source and its port."""
    user, separator, where = f" {rest}".rpartition(" from ")
    match = tail.fullmatch(where) if separator else None
    return (user[1:], match[1], match[2] or "") if match else None


def _told(rest: str | None, tail: re.Pattern[str], kind: Kind, witness: Witness) -> _Reading | None:
    found = _split(rest, tail) if rest is not None else None
    return (kind, found[1], found[2], found[0], "", witness) if found else None


_READERS: Final[tuple[Callable[[str], _Reading | None], ...]] = (
    _attempt,
    _invalid_user,
    _pam_error,
    _barred,
    _exceeded,
    _received_disconnect,
    _left,
    _dismissed,
    _probe,
)
