"""The report: what a client chose cannot change how it looks, and order does not matter."""

from __future__ import annotations

import random
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from secops.escape import code, visible
from secops.finding import Finding
from secops.markdown import render
from secops.report import Docket, IncidentReport, LineCounts, LogFacts, Period, build_report
from secops.verdict import Severity, Verdict

AT = datetime(2024, 1, 1, tzinfo=UTC)


def finding(address: str = "203.0.113.1", users: tuple[str, ...] = ("root",), **more: object) -> Finding:
    fields: dict[str, object] = {
        "address": address,
        "failures": 6,
        "users": users,
        "users_complete": True,
        "verdict": Verdict.BRUTE_FORCE,
        "severity": Severity.MEDIUM,
        "why": "6 failures.",
        "evidence": (1, 2, 3, 7),
        "evidence_total": 4,
        "action": "block 1h",
        "action_why": "Because.",
        "accepted": 0,
        "peak": 6,
        "first_at": AT,
        "last_at": AT,
    }
    return Finding.model_validate({**fields, **more})


def report(*findings: Finding, sshd: int = 9, name: str = "auth.log") -> IncidentReport:
    facts = LogFacts(name=name, digest="0" * 64, lines=LineCounts(total=9, sshd=sshd), period=Period())
    return build_report(facts, findings, report_id="r1", generated_at=AT)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("root", "`root`"),
        ("", "(empty)"),
        ("a`b", "`` a`b ``"),
        ("``", "``` `` ```"),
        ("a|b", r"`a\|b`"),
        ("a\x1b[31mb", r"`a\x1b[31mb`"),
        ("a\nb", r"`a\x0ab`"),
        ("\u202eroot\u200b", r"`\u202eroot\u200b`"),
        (" root", "`␠root`"),
        ("  ", "`␠␠`"),
        ("x" * 99, f"`{'x' * 63}…`"),
    ],
)
def test_a_name_is_shown_as_what_it_is(text: str, shown: str) -> None:
    assert code(text) == shown


@given(st.text())
def test_no_name_leaves_its_code_span_or_its_line(text: str) -> None:
    shown = code(text)
    assert shown.isprintable()
    if shown == "(empty)":
        return
    fence = re.match("`+", shown)
    assert fence is not None
    inner = shown[len(fence[0]) : -len(fence[0])]
    assert shown.endswith(fence[0])
    assert fence[0] not in re.findall("`+", inner)
    assert not re.search(r"(?<!\\)\|", inner)


@given(st.text())
def test_visible_text_has_no_control_character(text: str) -> None:
    assert visible(text).isprintable()


@given(st.text(), st.text())
def test_no_name_changes_the_shape_of_the_page(user: str, name: str) -> None:
    shape = [line[:4] for line in render(report(finding())).splitlines()]
    page = render(report(finding(users=(user,)), name=name))
    assert [line[:4] for line in page.splitlines()] == shape


def test_the_gravest_comes_first_whatever_the_order() -> None:
    findings = [
        finding("2001:db8::1"),
        finding("203.0.113.10"),
        finding("203.0.113.9"),
        finding("a.example"),
        finding("203.0.113.2", failures=9),
        finding("203.0.113.3", severity=Severity.CRITICAL, verdict=Verdict.COMPROMISED),
        finding("203.0.113.4", severity=Severity.LOW, verdict=Verdict.CLEAN, failures=0),
    ]
    expected = [
        "203.0.113.3",
        "203.0.113.2",
        "203.0.113.9",
        "203.0.113.10",
        "2001:db8::1",
        "a.example",
        "203.0.113.4",
    ]
    for seed in range(5):
        shuffled = random.Random(seed).sample(findings, len(findings))
        assert [each.address for each in report(*shuffled).addresses] == expected


@pytest.mark.parametrize("seed", range(20))
def test_a_full_report_keeps_the_gravest_whatever_the_order(seed: int) -> None:
    rng = random.Random(seed)
    findings = [
        finding(f"203.0.113.{number}", failures=number, users=("u" * rng.randrange(300),))
        for number in range(1, 60)
    ]
    docket = Docket()
    for each in rng.sample(findings, len(findings)):
        docket.add([each], limit=10_000)
    at_once = Docket()
    at_once.add(findings, limit=10_000)
    assert docket == at_once
    assert [each.failures for each in docket.findings] == list(range(59, 59 - len(docket.findings), -1))
    assert 0 < docket.left_out == len(findings) - len(docket.findings)
    assert docket.failures == sum(range(1, 60))
    assert sum(docket.sizes) <= 10_000


def test_the_json_has_the_promised_keys() -> None:
    document = report(finding()).model_dump(mode="json")
    entry = document["addresses"][0]
    promised = {"address", "failures", "users", "verdict", "severity", "evidence", "action"}
    assert promised <= entry.keys()
    assert entry["verdict"] == "brute_force"
    assert entry["evidence"] == [1, 2, 3, 7]
    assert IncidentReport.model_validate_json(report(finding()).model_dump_json()) == report(finding())


def test_the_page_says_it_when_there_is_nothing_to_say() -> None:
    assert "no line of sshd" in render(report(sshd=0)).splitlines()[0]
    assert "no line of sshd" not in render(report(finding())).splitlines()[0]
    quiet = finding(verdict=Verdict.CLEAN, severity=Severity.LOW, failures=0)
    assert "**No failed authentication.**" in render(report(quiet))


def test_evidence_is_shown_as_ranges() -> None:
    assert "lines 1-3, 7 (4 in all)" in render(report(finding()))
