"""The rules, one function per verdict. The first that holds decides; the README shows them as a table."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from .thresholds import Thresholds
from .verdict import Severity, Verdict
from .watch import Login, Watch

# An attacker guesses these; a key or a ticket is not found by guessing.
_GUESSABLE = ("password", "keyboard-interactive", "none")


class Judgement(BaseModel):
    """A verdict, its severity, and the sentence that says why."""

    model_config = ConfigDict(frozen=True)

    verdict: Verdict
    severity: Severity
    why: str


def judge(watch: Watch, limits: Thresholds) -> Judgement:
    """Judge one source by itself; `sweep.find_sweeps` then looks at its neighbours."""
    for rule in (_compromised, _enumeration, _brute_force, _noise):
        judgement = rule(watch, limits)
        if judgement is not None:
            return judgement
    return Judgement(verdict=Verdict.CLEAN, severity=Severity.LOW, why="No failed authentication.")


def suspicious_logins(watch: Watch, limits: Thresholds) -> list[Login]:
    """Return the accepted logins that followed enough failures of the same source."""
    return [
        login
        for login in watch.logins
        if login.failures_before >= limits.compromise_failures
        or login.users_before >= limits.compromise_users
    ]


def _compromised(watch: Watch, limits: Thresholds) -> Judgement | None:
    logins = suspicious_logins(watch, limits)
    if not logins:
        return None
    guessed = [login for login in logins if login.method.startswith(_GUESSABLE)]
    login = (guessed or logins)[0]
    return Judgement(
        verdict=Verdict.COMPROMISED,
        severity=Severity.CRITICAL if guessed else Severity.HIGH,
        why=f"A login was accepted ({login.method}) after {plural(login.failures_before, 'failure')} "
        f"for {plural(login.users_before, 'user name')} from the same source.",
    )


def _enumeration(watch: Watch, limits: Thresholds) -> Judgement | None:
    users = len(watch.users)
    listed = sum(watch.users.values())
    if users < limits.enumeration_users or listed > users * limits.enumeration_tries:
        return None
    high = users >= limits.high_users or watch.failures >= limits.high_failures
    many = f"{users} or more user names" if watch.unlisted else f"{users} user names"
    return Judgement(
        verdict=Verdict.ENUMERATION,
        severity=Severity.HIGH if high else Severity.MEDIUM,
        why=f"{many} were tried with {plural(watch.failures, 'failure')}, "
        f"{listed / users:.1f} for each on average.",
    )


def _brute_force(watch: Watch, limits: Thresholds) -> Judgement | None:
    fast = watch.peak >= limits.brute_force_peak
    if not fast and watch.failures < limits.brute_force_slow:
        return None
    pace = f"up to {watch.peak} within {limits.window_s // 60} minutes" if fast else "slowly, but many"
    return Judgement(
        verdict=Verdict.BRUTE_FORCE,
        severity=Severity.HIGH if watch.failures >= limits.high_failures else Severity.MEDIUM,
        why=f"{plural(watch.failures, 'failure')} for {plural(len(watch.users), 'user name')}, {pace}.",
    )


def _noise(watch: Watch, limits: Thresholds) -> Judgement | None:
    if watch.failures == 0:
        return None
    return Judgement(
        verdict=Verdict.NOISE,
        severity=Severity.LOW,
        why=f"{plural(watch.failures, 'failure')} for {plural(len(watch.users), 'user name')}: "
        "below every threshold.",
    )


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
