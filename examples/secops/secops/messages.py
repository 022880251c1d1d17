"""What the agents tell each other. Wire names stand beside each model; `log` is always the file's digest."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from .finding import Finding
from .report import IncidentReport, LogFacts
from .rules import Judgement
from .watch import Sighting, Watch


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SshLine(_Message):
    """`ssh.line.v1`: one line of a log, an event from outside; its identity is digest and number."""

    log: str
    number: int
    text: str

    @property
    def identity(self) -> str:
        return f"{self.log}:{self.number}"


class SshLines(_Message):
    """`ssh.lines.v1`: consecutive lines of a log in one event; its identity is the first line's."""

    log: str
    first: int
    texts: tuple[str, ...]

    @property
    def identity(self) -> str:
        return f"{self.log}:{self.first}"


class LogEnded(_Message):
    """`ssh.log_ended.v1`: the last line has been sent; how many there were."""

    log: str
    name: str
    lines: int

    @property
    def identity(self) -> str:
        return f"{self.log}:end"


class Seen(_Message):
    """`ssh.seen.v1`: to a watchman: one line about its source."""

    log: str
    sighting: Sighting


class Seal(_Message):
    """`ssh.seal.v1`: to a watchman: nothing more comes from this log; say what you know."""

    log: str


class Watched(_Message):
    """`ssh.watched.v1`: a watchman's answer to the seal, to the investigator of its network."""

    log: str
    watch: Watch


class Judged(_Message):
    """`ssh.judged.v1`: to the responder: one source, judged alone and among its neighbours."""

    log: str
    watch: Watch
    judgement: Judgement
    network: str | None = None


class Found(_Message):
    """`ssh.found.v1`: to the reporter: a finding with its proposed action."""

    log: str
    finding: Finding


class Expect(_Message):
    """`ssh.expect.v1`: to the reporter: the log's facts, and how many findings will come."""

    facts: LogFacts
    findings: int


class Reported(_Message):
    """`ssh.reported.v1`: the result of the task."""

    report: IncidentReport
    markdown: str
