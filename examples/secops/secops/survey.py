"""Reading a log in order: a sighting from each line, and the facts about the whole."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from .record import Kind, Record
from .report import LineCounts, LogFacts, Period
from .sshd import parse_line
from .stamp import Timeline
from .watch import Sighting


class Survey(BaseModel):
    """What must be remembered between two lines of one log; a model, so that an agent can keep it.

    Lines come in file order: the year of a year-less time stamp follows from the lines before it.
    """

    timeline: Timeline = Field(default_factory=Timeline)
    lines: LineCounts = LineCounts()
    first: datetime | None = None
    last: datetime | None = None

    def read(self, number: int, text: str) -> Sighting | None:
        """Return what the line says of its source; None when it says nothing of anybody."""
        record = parse_line(text)
        self.lines = _counted(self.lines, record)
        if record is None:
            return None
        at = self.timeline.place(record.stamp)
        if at is not None:
            self.first = min(self.first or at, at)
            self.last = max(self.last or at, at)
        return Sighting.of(record, line=number, at=at)

    def facts(self, name: str, digest: str) -> LogFacts:
        """Return the facts about the lines read so far."""
        period = Period(first=self.first, last=self.last, has_year=self.timeline.has_years)
        return LogFacts(name=name, digest=digest, lines=self.lines, period=period)


def _counted(lines: LineCounts, record: Record | None) -> LineCounts:
    if record is None:
        return lines.model_copy(update={"total": lines.total + 1})
    failed = record.witness is not None
    return LineCounts(
        total=lines.total + 1,
        sshd=lines.sshd + 1,
        failures=lines.failures + failed,
        accepted=lines.accepted + (record.kind is Kind.ACCEPTED),
        unattributed=lines.unattributed + (failed and record.source is None),
    )
