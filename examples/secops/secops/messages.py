"""What the agents tell each other. `log` is always the file's digest, SHA-256 in hex."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from callboard import message

from .finding import Finding
from .grouping import Likeness
from .policy import Grouping
from .report import Docket, LogFacts
from .response import Response
from .rules import Judgement
from .sweep import Suspect
from .watch import Sighting, Watch

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
TaskId = Annotated[str, Field(min_length=1, max_length=200)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


# -- from outside ------------------------------------------------------------------------------------


@message("ssh.lines.v1")
class SshLines(_Message):
    """Consecutive lines of a log, `first` the number of the first one. Its identity is digest and lines."""

    log: Digest
    first: int = Field(ge=1)
    texts: tuple[str, ...] = Field(min_length=1, max_length=1_000)

    @property
    def identity(self) -> str:
        return f"{self.log}:{self.first}-{self.first + len(self.texts) - 1}"


@message("ssh.log_ended.v1")
class LogEnded(_Message):
    """There is no line after number `lines`."""

    log: Digest
    lines: int = Field(ge=0)

    @property
    def identity(self) -> str:
        return f"{self.log}:end"


class CaseInput(_Message):
    """The input of a triage task: which log, under which name it is reported, how many lines it has."""

    log: Digest
    name: str = Field(min_length=1, max_length=1_000)
    lines: int = Field(ge=0)


# -- reading -----------------------------------------------------------------------------------------


@message("ssh.follow.v1")
class Follow(_Message):
    """Desk to reader: tell me each time when so many more lines were read, and have all judged at the end."""

    task: TaskId
    every: int = Field(ge=1)


@message("ssh.lines_read.v1")
class LinesRead(_Message):
    """Reader to desk."""

    lines: int


@message("ssh.log_read.v1")
class LogRead(_Message):
    """Reader to desk: that was all; so many clerks will report."""

    facts: LogFacts
    clerks: int


@message("ssh.not_followed.v1")
class NotFollowed(_Message):
    """Reader to desk: too many tasks wait for this log."""

    limit: int


@message("ssh.seen.v1")
class Seen(_Message):
    """Reader to watchman: what the log says of its source, in the order of its lines."""

    log: Digest
    sightings: tuple[Sighting, ...]


@message("ssh.enrolled.v1")
class Enrolled(_Message):
    """Reader to roster: sources that the log names, again or for the first time."""

    log: Digest
    sources: tuple[str, ...]


# -- judging -----------------------------------------------------------------------------------------


@message("ssh.wanted.v1")
class Wanted(_Message):
    """Reader to roster: the log is read, these tasks want the findings; `peers` rosters of its clerk are asked."""

    log: Digest
    tasks: tuple[TaskId, ...]
    peers: int = Field(ge=1)


@message("ssh.seal_all.v1")
class SealAll(_Message):
    """Roster to reader: tell the watchmen of these sources; each source with the size of its network."""

    log: Digest
    peers: dict[str, int]


@message("ssh.seal.v1")
class Seal(_Message):
    """Reader to watchman: nothing more comes from this log. `peers` sources of its network are asked.

    It comes from the reader, as what was seen does: messages keep their order between two agents only.
    """

    log: Digest
    peers: int = Field(ge=1)


@message("ssh.suspected.v1")
class Suspected(_Message):
    """Watchman to investigator: what its source is by itself; None when it no longer remembers the log."""

    log: Digest
    source: str
    suspect: Suspect | None
    peers: int = Field(ge=1)


@message("ssh.ruled.v1")
class Ruled(_Message):
    """Investigator to watchman: the sweep that its source took part in, if any."""

    log: Digest
    sweep: Judgement | None = None
    network: str | None = None


@message("ssh.judged.v1")
class Judged(_Message):
    """Watchman to responder: one source, judged alone and among its neighbours."""

    log: Digest
    watch: Watch
    judgement: Judgement
    network: str | None = None


@message("ssh.found.v1")
class Found(_Message):
    """Responder to roster: a finding with its proposed action."""

    log: Digest
    finding: Finding


@message("ssh.forgotten.v1")
class Forgotten(_Message):
    """Watchman to roster: too many logs ago."""

    log: Digest
    source: str


# -- reporting ---------------------------------------------------------------------------------------


@message("ssh.findings.v1")
class Findings(_Message):
    """Roster to clerk, of whose rosters `peers` report: all of its findings, and at most `left_out` more sources."""

    roster: int
    findings: tuple[Finding, ...]
    left_out: int = 0
    peers: int = Field(ge=1)


@message("ssh.gathered.v1")
class Gathered(_Message):
    """Clerk to reporter: what its rosters found."""

    clerk: int
    docket: Docket


@message("ssh.expect.v1")
class Expect(_Message):
    """Desk to reporter: the log's facts, how many clerks will report, and until when the task may take."""

    facts: LogFacts
    clerks: int
    deadline: float | None = None


@message("ssh.responding.v1")
class Responding(_Message):
    """Reporter to desk: all is judged; what is left may wait for people."""


@message("ssh.respond.v1")
class Respond(_Message):
    """Reporter asks responder: carry out what was proposed for a source."""

    finding: Finding


@message("ssh.responded.v1")
class Responded(_Message):
    """Responder answers reporter: what became of it."""

    response: Response


@message("ssh.compare.v1")
class Compare(_Message):
    """Reporter asks analyst: which sources are alike, by what each of them did, the gravest first."""

    by: Grouping
    texts: dict[str, str]


@message("ssh.compared.v1")
class Compared(_Message):
    """Analyst answers reporter: which are, or why nobody can say."""

    likeness: Likeness


@message("ssh.conclude.v1")
class Conclude(_Message):
    """Reporter to itself: what became of each block is known, and which sources are alike."""


@message("ssh.reported.v1")
class Reported(_Message):
    """Reporter to desk: the task is done."""


@message("ssh.look.v1")
class Look(_Message):
    """Desk to itself, by timer: does the case still move?"""
