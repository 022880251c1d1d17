"""Write the bundled sample logs: a night at a made-up server, told twice.

    python examples/secops/make_sample.py

`sample/auth.log` has syslog time stamps without a year and crosses new year; `sample/auth-iso.log.gz` tells
the same night as a newer OpenSSH does, with ISO time stamps. Every address is from a range reserved for
documentation (RFC 5737, RFC 3849); nothing in it happened. The story keeps its own account of who failed how
often (`Story.failures`), apart from the parser: tests compare the two.
"""

from __future__ import annotations

import gzip
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

SEED = 20
HOST = "gate"
START = datetime(2023, 12, 31, 21, 0, tzinfo=UTC)
FOLDER = Path(__file__).parent / "sample"

GUESSER = "203.0.113.45"
ENUMERATOR = "203.0.113.200"
INTRUDER = "203.0.113.99"
V6_GUESSER = "2001:db8:bad::17"
PATIENT = "2001:db8:51a:1::9"
OFFICE_JOB = "192.0.2.9"
OFFICE_PEOPLE = ("192.0.2.5", "192.0.2.6", "2001:db8:f1ce:1::5")
FORGETFUL = "192.0.2.210"
CALLERS = ("203.0.113.150", "203.0.113.151", "192.0.2.77", "2001:db8:ca11::1")
SWEEPERS = tuple(f"198.51.100.{number}" for number in range(20, 80, 6))
VERDICTS = {
    GUESSER: "brute_force",
    ENUMERATOR: "enumeration",
    INTRUDER: "compromised",
    V6_GUESSER: "brute_force",
    PATIENT: "brute_force",
    OFFICE_JOB: "brute_force",
    FORGETFUL: "noise",
    **dict.fromkeys(SWEEPERS, "sweep"),
    **dict.fromkeys((*OFFICE_PEOPLE, *CALLERS), "clean"),
}
NAMES = (
    "admin",
    "test",
    "oracle",
    "postgres",
    "ubuntu",
    "pi",
    "git",
    "jenkins",
    "nagios",
    "www",
    "ftpuser",
    "hadoop",
    "deployer",
    "bak",
    "minecraft",
    "guest",
    "user1",
    "support",
    "tomcat",
    "mysql",
    "vagrant",
    "steam",
    "zabbix",
    "teamspeak",
)
# A user name that tries to accuse the office.
TRICK = "x from 192.0.2.5 port 22 ssh2"


@dataclass
class Story:
    """Lines in the making: `(time, program, process, message)`, and the account of who failed how often."""

    random: random.Random
    entries: list[tuple[datetime, str, int, str]] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    _pid: int = 4000

    def say(self, at: datetime, pid: int, message: str, program: str = "sshd") -> None:
        self.entries.append((at, program, pid, message))

    def connection(self) -> tuple[int, int]:
        """Return a new process id and a client port."""
        self._pid += self.random.randint(1, 9)
        return self._pid, self.random.randint(32768, 60999)

    def guess(self, at: datetime, source: str, user: str, *, exists: bool, tries: int = 1) -> None:
        """One connection with failed passwords; more than two equal lines are folded, as rsyslog does."""
        pid, port = self.connection()
        who = user if exists else f"invalid user {user}"
        if not exists:
            self.say(at, pid, f"Invalid user {user} from {source} port {port}")
            self.say(at, pid, "pam_unix(sshd:auth): check pass; user unknown")
        known = f"  user={user}" if exists else ""
        pam = f"logname= uid=0 euid=0 tty=ssh ruser= rhost={source}{known}"
        self.say(at, pid, f"pam_unix(sshd:auth): authentication failure; {pam}")
        failed = f"Failed password for {who} from {source} port {port} ssh2"
        self.say(at + timedelta(seconds=2), pid, failed)
        if tries > 2:
            at += timedelta(seconds=9)
            self.say(at, pid, f"message repeated {tries - 1} times: [ {failed}]")
            self.say(at, pid, f"PAM {tries - 1} more authentication failures; {pam}")
        elif tries == 2:
            self.say(at + timedelta(seconds=5), pid, failed)
        role = "authenticating" if exists else "invalid"
        left = f"Connection closed by {role} user {user} {source} port {port} [preauth]"
        self.say(at + timedelta(seconds=3 + tries), pid, left)
        self.failures[source] += tries

    def answer_wrongly(self, at: datetime, source: str, user: str) -> None:
        """One keyboard-interactive attempt, which sshd tells of twice."""
        pid, port = self.connection()
        self.say(at, pid, f"error: PAM: Authentication failure for {user} from {source}")
        self.say(at, pid, f"Failed keyboard-interactive/pam for {user} from {source} port {port} ssh2")
        self.failures[source] += 1

    def log_in(self, at: datetime, source: str, user: str, method: str, minutes: int) -> None:
        pid, port = self.connection()
        key = ": ED25519 SHA256:5W8nOGYVxgPJ0yGcMzYtnC5uLeE2xH9kZzVnbXbXQ3c" if method == "publickey" else ""
        self.say(at, pid, f"Accepted {method} for {user} from {source} port {port} ssh2{key}")
        self.say(at, pid, f"pam_unix(sshd:session): session opened for user {user}(uid=1000) by (uid=0)")
        end = at + timedelta(minutes=minutes)
        self.say(end, pid, f"Received disconnect from {source} port {port}:11: disconnected by user")
        self.say(end, pid, f"Disconnected from user {user} {source} port {port}")
        self.say(end, pid, f"pam_unix(sshd:session): session closed for user {user}")

    def call_and_leave(self, at: datetime, source: str) -> None:
        pid, port = self.connection()
        lines = (
            f"Did not receive identification string from {source} port {port}",
            f"Connection closed by {source} port {port} [preauth]",
            f"Unable to negotiate with {source} port {port}: no matching host key type found. "
            "Their offer: ssh-rsa [preauth]",
            f"banner exchange: Connection from {source} port {port}: invalid format",
        )
        self.say(at, pid, self.random.choice(lines))


def tell() -> Story:
    """Return the night's story, the same for every call."""
    story = Story(random.Random(SEED))
    pick = story.random
    for turn in range(26):
        at = START + timedelta(minutes=95, seconds=14 * turn)
        story.guess(
            at, GUESSER, pick.choice(["root", "root", "admin1"]), exists=True, tries=pick.randint(2, 6)
        )
    for turn, name in enumerate((*NAMES, TRICK)):
        story.guess(START + timedelta(minutes=40, seconds=31 * turn), ENUMERATOR, name, exists=False)
    for turn in range(9):
        at = START + timedelta(minutes=150, seconds=25 * turn)
        story.guess(at, INTRUDER, "deploy", exists=True, tries=pick.randint(1, 4))
    story.log_in(START + timedelta(minutes=156), INTRUDER, "deploy", "password", minutes=23)
    for turn in range(8):
        story.answer_wrongly(START + timedelta(minutes=200, seconds=20 * turn), V6_GUESSER, "root")
    for turn in range(12):
        story.guess(START + timedelta(minutes=5 + 27 * turn), PATIENT, "root", exists=True)
    for turn in range(7):
        story.guess(START + timedelta(minutes=60, seconds=60 * turn), OFFICE_JOB, "backup", exists=True)
    for source in SWEEPERS:
        at = START + timedelta(minutes=pick.randint(100, 260))
        story.guess(at, source, pick.choice(["root", "ubuntu"]), exists=True, tries=pick.randint(1, 2))
    _ordinary_night(story)
    story.entries.sort(key=lambda entry: entry[0])
    return story


def _ordinary_night(story: Story) -> None:
    pick = story.random
    story.guess(START + timedelta(minutes=71), FORGETFUL, "maria", exists=True, tries=2)
    story.log_in(START + timedelta(minutes=72), FORGETFUL, "maria", "password", minutes=30)
    for turn in range(24):
        at = START + timedelta(minutes=13 * turn, seconds=pick.randint(0, 59))
        user = pick.choice(["ana", "jo", "maria"])
        story.log_in(at, pick.choice(OFFICE_PEOPLE), user, "publickey", minutes=pick.randint(1, 12))
    for turn in range(28):
        story.call_and_leave(START + timedelta(minutes=11 * turn, seconds=7), CALLERS[turn % len(CALLERS)])
    for turn in range(10):
        at = START + timedelta(minutes=30 * turn)
        story.say(at, 900 + turn, "pam_unix(cron:session): session opened for user root", program="CRON")


def syslog_lines(story: Story) -> list[str]:
    """Return the story as rsyslog's traditional format writes it: local time, no year."""
    return [
        f"{at:%b} {at.day:2d} {at:%H:%M:%S} {HOST} {program}[{pid}]: {message}"
        for at, program, pid, message in story.entries
    ]


def iso_lines(story: Story) -> list[str]:
    """Return the story as a newer rsyslog and OpenSSH write it: ISO time with a zone, `sshd-session`."""
    zone = timezone(timedelta(hours=1))
    renamed = {"sshd": "sshd-session"}
    return [
        f"{at.astimezone(zone).isoformat(timespec='microseconds')} {HOST} "
        f"{renamed.get(program, program)}[{pid}]: {message}"
        for at, program, pid, message in story.entries
    ]


def _bytes(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def main() -> None:
    story = tell()
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "auth.log").write_bytes(_bytes(syslog_lines(story)))
    (FOLDER / "auth-iso.log.gz").write_bytes(gzip.compress(_bytes(iso_lines(story)), mtime=0))


if __name__ == "__main__":
    main()
