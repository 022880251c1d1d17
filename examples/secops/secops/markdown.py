"""The incident report as a page for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from .escape import code
from .finding import Finding
from .report import IncidentReport
from .response import Outcome, Response
from .rules import plural
from .verdict import Severity, Verdict

_MARK = {Severity.CRITICAL: "🔴", Severity.HIGH: "🟠", Severity.MEDIUM: "🟡", Severity.LOW: "⚪"}
_TITLE = {
    Verdict.COMPROMISED: "Compromised",
    Verdict.ENUMERATION: "Enumeration",
    Verdict.BRUTE_FORCE: "Brute force",
    Verdict.SWEEP: "Sweep",
    Verdict.NOISE: "Noise",
    Verdict.CLEAN: "Clean",
}
_SHOWN = 8
_RANGES_SHOWN = 12
_COMMENT_SHOWN = 200
_PLACE_SHOWN = 300
_NOTE_SHOWN = 300


def render(report: IncidentReport) -> str:
    """Return the page. What clients chose (user and host names, the file's name) stands in code spans."""
    blocks = [
        f"# SSH incident report: {report.highest if report.log.lines.sshd else 'no line of sshd'}",
        _summary(report),
        _facts(report),
        *_table(report),
        *_groups(report),
        *_blocks(report),
        *_details(report),
        f"---\nReport {code(report.id)}, generated {_time(report.generated_at, True)}. "
        "Blocks are entries in a file that nothing loads by itself; every other action is a proposal.",
    ]
    return "\n\n".join(blocks) + "\n"


def _summary(report: IncidentReport) -> str:
    accused = [each for each in report.addresses if each.verdict is not Verdict.CLEAN]
    if report.log.lines.sshd == 0:
        return "**The log holds no line of sshd.** Nothing can be said about logins from it."
    if not accused:
        return "**No failed authentication.**"
    told = [f"{_TITLE[v].lower()} {report.verdicts[v]}" for v in Verdict if report.verdicts[v]]
    actions: dict[str, int] = {}
    for each in accused:
        actions[each.action] = actions.get(each.action, 0) + 1
    proposed = ", ".join(f"{action} {count}" for action, count in sorted(actions.items()))
    outcomes = ", ".join(
        f"{outcome.words} {report.responses[outcome]}" for outcome in Outcome if report.responses[outcome]
    )
    return (
        f"**{plural(report.failures, 'failed authentication')} from {plural(len(accused), 'source')}.** "
        f"Sources by verdict: {', '.join(told)}. By proposed action: {proposed}. By outcome: {outcomes or 'none'}."
    )


def _facts(report: IncidentReport) -> str:
    log = report.log
    years = "" if log.period.has_year else " (the log names no year)"
    unclear = f", {log.lines.unattributed} not attributable" if log.lines.unattributed else ""
    period = (
        f"{_time(log.period.first, log.period.has_year)} to {_time(log.period.last, log.period.has_year)}"
    )
    left_out = (
        f"\n- **Left out** at most {plural(report.left_out, 'further source')}: more than a report can hold"
    )
    return "\n".join(
        (
            f"- **Log** {code(log.name)}, SHA-256 {code(log.digest)}",
            f"- **Period** {period}{years}",
            f"- **Lines** {log.lines.total}, by sshd {log.lines.sshd}; {log.lines.failures} tell of a failure"
            f"{unclear}, {plural(log.lines.accepted, 'accepted login')}{left_out if report.left_out else ''}",
            f"- **Groups** {_grouped(report)}",
        )
    )


def _table(report: IncidentReport) -> Iterator[str]:
    rows = [each for each in report.addresses if each.verdict is not Verdict.CLEAN]
    if not rows:
        return
    yield "## Sources"
    yield "The gravest first; where two are alike, the one with more failures."
    lines = [
        "| | Source | Verdict | Failures | Action | Outcome |",  # at 80 columns an address is shown whole
        "|---|---|---|--:|---|---|",
    ]
    lines += [
        f"| {_MARK[each.severity]} {each.severity} | {code(each.address)} | {_TITLE[each.verdict]} "
        f"| {each.failures} | {each.action} | {_outcome(each)} |"
        for each in rows
    ]
    yield "\n".join(lines)


def _grouped(report: IncidentReport) -> str:
    note = _plain(report.groups_note)
    if report.groups is None:
        return f"not looked for: {code(note, limit=_NOTE_SHOWN)}"
    found = f"of sources that behaved alike: {len(report.groups) or 'none'}"
    return f"{found}. {note}" if note else found


def _groups(report: IncidentReport) -> Iterator[str]:
    if not report.groups:
        return
    yield "## Groups"
    yield "Sources that behaved alike, which may be one campaign."
    yield "\n".join(
        f"- {_some(each.addresses)}. {_plain(each.why)} "
        + (f"Each tried {_some(each.users)}. " if each.users else "")
        + f"Similarity {each.similarity:.2f}."
        for each in report.groups
    )


def _blocks(report: IncidentReport) -> Iterator[str]:
    """Who has decided what about each block, and whether it was carried out."""
    blocks = [(each, each.response) for each in report.addresses if each.block_hours is not None]
    if not blocks:
        return
    yield "## Blocks"
    yield "\n".join(
        f"- {code(each.address)} for {plural(each.block_hours or 0, 'hour')}: {_story(response)}"
        for each, response in blocks
        if response is not None
    )
    if places := sorted({response.place for _, response in blocks if response and response.place}):
        yield "Where they stand: " + "; ".join(code(place, limit=_PLACE_SHOWN) for place in places) + "."


def _story(response: Response) -> str:
    """One block's line: the decision, then what was done."""
    if response.decided_by is not None:
        said = f", {code(response.comment, limit=_COMMENT_SHOWN)}" if response.comment else ""
        verb = "denied" if response.outcome is Outcome.DENIED else "approved"
        decision = f"{verb} by {code(response.decided_by)} at {_time(response.decided_at, True)}{said}"
    else:
        decision = "" if response.needed_approval else "no approval needed"
    match response.outcome:
        case Outcome.EXECUTED:
            extended = _time(response.extended_from, True) if response.extended_from else ""
            done = "**executed**, " + (f"extended from {extended} " if extended else "")
            done += f"until {_time(response.blocked_until, True)}"
        case Outcome.STANDS:
            done = f"**already blocked**, until {_time(response.blocked_until, True)}, which is later"
        case Outcome.PROPOSED:
            decision, done = "", "**proposed** only: the report has more blocks than are carried out"
        case Outcome.FAILED:
            done = f"**failed**: {code(response.error, limit=_COMMENT_SHOWN)}"
        case Outcome.TIMED_OUT:
            done = "**timed out**: nobody decided in time"
        case Outcome.DENIED:
            done = "**not executed**"
    earlier = ""
    has_acted = response.outcome in (Outcome.EXECUTED, Outcome.STANDS)
    if not has_acted and response.blocked_until is not None:
        earlier = f"**blocked by an earlier task** until {_time(response.blocked_until, True)}"
    return "; ".join(part for part in (decision, done, earlier) if part)


def _outcome(each: Finding) -> str:
    return "" if each.response is None else each.response.outcome.words


def _details(report: IncidentReport) -> Iterator[str]:
    grave = [each for each in report.addresses if each.severity is not Severity.LOW]
    if not grave:
        return
    yield "## What happened"
    told: set[str] = set()
    for each in grave:
        if each.network is None:
            yield _heading(each, each.address)
            yield "\n".join(_detail(each, report.log.period.has_year))
        elif each.network not in told:
            told.add(each.network)
            members = [one for one in report.addresses if one.network == each.network]
            yield _heading(each, each.network)
            yield "\n".join(_sweep_detail(members))


def _heading(each: Finding, name: str) -> str:
    return f"### {_MARK[each.severity]} {code(name)}: {_TITLE[each.verdict].lower()}, {each.severity}"


def _sweep_detail(members: list[Finding]) -> Iterator[str]:
    lines = sorted({line for each in members for line in each.evidence})
    yield f"- {members[0].why}"
    yield f"- **Addresses** {_some([each.address for each in members])}"
    yield f"- **Users** {_some(sorted({user for each in members for user in each.users})) or 'none named'}"
    yield f"- **Evidence** lines {_ranges(lines)} ({sum(each.evidence_total for each in members)} in all)"
    yield f"- **Proposed** {members[0].action} each. {_plain(members[0].action_why)}"


def _detail(each: Finding, has_year: bool) -> Iterator[str]:
    yield f"- {each.why}"
    if each.first_at and each.last_at:
        yield f"- **When** {_time(each.first_at, has_year)} to {_time(each.last_at, has_year)}"
    for login in each.logins:
        yield f"- **Login** as {code(login.user)} at {_time(login.at, has_year)}, line {login.line}"
    others = "" if each.users_complete else ", others not listed"
    yield f"- **Users** {_some(each.users) or 'none named'}{others}"
    yield f"- **Evidence** lines {_ranges(each.evidence)} ({each.evidence_total} in all)"
    yield f"- **Proposed** {each.action}. {_plain(each.action_why)}"


def _some(texts: Sequence[str]) -> str:
    shown = ", ".join(code(text) for text in texts[:_SHOWN])
    return f"{shown} and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else shown


def _plain(text: str) -> str:
    return " ".join(text.split())


def _time(at: datetime | None, has_year: bool) -> str:
    if at is None:
        return "unknown"
    return at.strftime("%Y-%m-%d %H:%M:%SZ" if has_year else "%b %d %H:%M:%S")


def _ranges(lines: Sequence[int]) -> str:
    """Write `1, 2, 3, 7` as `1-3, 7`."""
    runs: list[list[int]] = []
    for line in lines:
        if runs and runs[-1][1] == line - 1:
            runs[-1][1] = line
        else:
            runs.append([line, line])
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in runs]
    if len(texts) > _RANGES_SHOWN:
        half = _RANGES_SHOWN // 2
        texts = [*texts[:half], "…", *texts[-half:]]
    return ", ".join(texts)
