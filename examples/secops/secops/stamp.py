"""Time stamps of log lines, with and without a year, on one line of time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel

# Year-less logs start in this nominal year: a leap year, so that Feb 29 exists in it.
NOMINAL_YEAR = 2000
_HALF_YEAR = timedelta(days=183)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH = {name: number for number, name in enumerate(_MONTHS, start=1)}

_SYSLOG = re.compile(r"([A-Z][a-z]{2}) ([ \d]?\d) (\d\d):(\d\d):(\d\d)(?:\.(\d{1,6})\d*)?")
_ISO = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d{1,6})\d*)?(Z|[+-]\d\d:?\d\d)?", re.ASCII | re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """A line's own time. `at` is in UTC; without `has_year` its year is the nominal one."""

    at: datetime
    has_year: bool


def read_syslog(text: str) -> Stamp | None:
    """Read `Dec 10 06:55:46` (RFC 3164), taken as UTC since it names no zone."""
    match = _SYSLOG.fullmatch(text)
    if match is None:
        return None
    month, day, hour, minute, second, fraction = match.groups()
    try:
        at = datetime(
            NOMINAL_YEAR, _MONTH[month], int(day), int(hour), int(minute), min(int(second), 59), tzinfo=UTC
        )
    except (KeyError, ValueError):
        return None
    return Stamp(at=at + _fraction(fraction), has_year=False)


def read_iso(text: str) -> Stamp | None:
    """Read an ISO 8601 or RFC 5424 time stamp; one without a zone is taken as UTC."""
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    day, time, fraction, zone = match.groups()
    try:
        at = datetime.fromisoformat(f"{day}T{time}{(zone or 'Z').upper()}").astimezone(UTC)
        return Stamp(at=at + _fraction(fraction), has_year=True)
    except (ValueError, OverflowError):
        return None


def _fraction(digits: str | None) -> timedelta:
    return timedelta(microseconds=int(digits.ljust(6, "0"))) if digits else timedelta()


class Timeline(BaseModel):
    """Puts the stamps of one log, in file order, on one line of time that survives new year.

    A year-less stamp gets the year that brings it nearest to the latest time seen so far. A line without a
    readable stamp takes that latest time. It is a model so that an agent can keep it in its state.
    """

    latest: datetime | None = None
    has_years: bool = True

    def place(self, stamp: Stamp | None) -> datetime | None:
        """Return the line's time in UTC; None as long as no line had a readable stamp."""
        if stamp is None:
            return self.latest
        at = stamp.at if stamp.has_year else self._nearest(stamp.at)
        self.has_years = self.has_years and stamp.has_year
        if self.latest is None or at > self.latest:
            self.latest = at
        return at

    def _nearest(self, nominal: datetime) -> datetime:
        if self.latest is None:
            return nominal
        at = _in_year(nominal, self.latest.year)
        ahead = at - self.latest  # half a year beyond the first or the last one there is no time
        if ahead < -_HALF_YEAR:
            return _in_year(nominal, self.latest.year + 1)
        if ahead > _HALF_YEAR and self.latest.year > 1:
            return _in_year(nominal, self.latest.year - 1)
        return at


def _in_year(at: datetime, year: int) -> datetime:
    try:
        return at.replace(year=year)
    except ValueError:
        # Feb 29 in a year that has none (a year-less log over a leap day), or past year 9999.
        return at.replace(year=min(year, 9999), day=28) + timedelta(days=1)
