"""What is compared of a source, and what the report says of those that are alike."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from secops.behaviour import MAX_TEXT, behaviour
from secops.finding import Finding
from secops.grouping import Alike, Likeness, alike, groups_of, texts_of
from secops.markdown import render
from secops.report import Docket, IncidentReport, LineCounts, LogFacts, Period
from secops.thresholds import Thresholds
from secops.verdict import Severity, Verdict

from tests.unit.secops.test_report import AT, finding

LIMITS = Thresholds()


def said(*users: str, address: str = "203.0.113.1", **more: object) -> str:
    return behaviour(finding(address, users, **more), LIMITS)


def test_a_source_is_told_by_whom_it_tried_how_fast_and_how_often() -> None:
    assert said("root", "admin") == "root, admin: fast brute force, a few tries"
    assert said("root", failures=49, peak=4) == "root: slow brute force, dozens of tries"
    assert said("deploy", failures=50, verdict=Verdict.COMPROMISED) == (
        "deploy: fast guessing that got in, hundreds of tries"
    )
    assert said() == "no name: fast brute force, a few tries"
    assert said("") == "empty: fast brute force, a few tries"


def test_a_sweep_and_noise_are_the_same_behaviour() -> None:
    assert said("root", verdict=Verdict.SWEEP) == said("root", verdict=Verdict.NOISE)


@pytest.mark.parametrize(
    ("user", "address"),
    [
        ("x from 203.0.113.99 port 22", "203.0.113.1"),
        ("203.0.113.1", "203.0.113.1"),
        ("2001:db8::7", "2001:db8::7"),
        ("[2001:DB8:1::]", "2001:db8::7"),
        ("::ffff:203.0.113.9", "203.0.113.1"),
        ("root@evil.example", "evil.example"),
        ("EVIL.example", "evil.example"),
        ("2001:db8:1111:2222:3333:4444:5555:6666" * 20, "203.0.113.1"),
        ("a" * 18 + "203.0.113.99", "203.0.113.1"),
    ],
)
def test_no_address_is_in_it_also_if_somebody_has_it_for_a_name(user: str, address: str) -> None:
    text = said(user, address=address)
    assert not {"203.", "2001", "::", "evil", "EVIL"} & {
        text[at : at + size] for at in range(len(text)) for size in (2, 4)
    }
    assert "addr" in text


@given(st.lists(st.text(max_size=40), max_size=40))
def test_the_text_is_short_printable_ascii_whatever_names_a_client_has_chosen(users: list[str]) -> None:
    text = said(*users)
    assert len(text) <= MAX_TEXT
    assert text.isascii()
    assert text.isprintable()
    assert text.endswith(": fast brute force, a few tries")


def test_a_text_of_the_longest_names_is_not_longer_and_says_all_the_same_what_was_done() -> None:
    text = said(*(f"user{number:030}" for number in range(64)))
    assert len(text) == MAX_TEXT
    assert text.endswith(": fast brute force, a few tries")


def test_sources_of_one_text_are_alike_and_one_alone_is_no_group() -> None:
    texts = {"a": "x", "b": "y", "c": "x", "d": "z", "e": "w"}
    found = alike(texts, [([0], 1.0), ([1, 3], 0.9), ([2], 1.0)])
    assert found == (
        Alike(addresses=("a", "c"), similarity=1.0),
        Alike(addresses=("b", "e"), similarity=0.9),
    )


FINDINGS = [
    finding("203.0.113.1", ("root", "a|b", "test"), failures=30),
    finding("198.51.100.2", ("test", "a|b"), failures=7),
    finding("2001:db8::1", ("a|b", "x"), failures=2, verdict=Verdict.NOISE, severity=Severity.LOW),
    finding("192.0.2.1", ("zed",), failures=1, verdict=Verdict.NOISE, severity=Severity.LOW),
    finding("192.0.2.2", (), failures=0, verdict=Verdict.CLEAN, severity=Severity.LOW, action="none"),
]
FOUND = Likeness(alike=(Alike(addresses=("203.0.113.1", "198.51.100.2", "2001:db8::1"), similarity=0.812),))


def test_a_group_says_what_its_sources_have_in_common() -> None:
    groups = groups_of(FINDINGS, FOUND)
    assert groups is not None
    assert [each.model_dump(mode="json") for each in groups] == [
        {
            "addresses": ["203.0.113.1", "198.51.100.2", "2001:db8::1"],
            "similarity": 0.812,
            "users": ["a|b"],
            "why": "3 sources: brute force and noise, 39 failures, 1 user name in common.",
        }
    ]
    assert groups_of(FINDINGS, Likeness(note="why")) is None
    assert groups_of(FINDINGS[3:], Likeness(note="why")) == ()  # there is nothing to compare one source with


def test_a_source_that_did_nothing_has_a_text_too() -> None:
    assert texts_of(FINDINGS[4:], LIMITS) == {"192.0.2.2": "no name: fast nothing that failed, a few tries"}


def report(likeness: Likeness, *findings: Finding) -> IncidentReport:
    docket = Docket()
    docket.add(findings)
    facts = LogFacts(name="auth.log", digest="0" * 64, lines=LineCounts(total=9, sshd=9), period=Period())
    return docket.report(facts, report_id="r1", generated_at=AT, likeness=likeness)


def test_the_page_tells_the_groups_and_names_do_not_change_its_shape() -> None:
    page = render(report(FOUND, *FINDINGS))
    assert "- **Groups** of sources that behaved alike: 1\n" in page
    assert (
        "- `203.0.113.1`, `198.51.100.2`, `2001:db8::1`. 3 sources: brute force and noise, "
        r"39 failures, 1 user name in common. Each tried `a\|b`. Similarity 0.81."
    ) in page.splitlines()
    assert page.index("## Sources") < page.index("## Groups") < page.index("## Blocks")


def test_the_page_has_one_line_that_says_why_there_are_none() -> None:
    page = render(report(Likeness(note="No\nmodel | `up`."), *FINDINGS))
    assert r"- **Groups** not looked for: `` No model \| `up`. ``" in page.splitlines()
    assert "## Groups" not in page
    assert "- **Groups** of sources that behaved alike: none" in render(report(Likeness(alike=()), *FINDINGS))


def test_the_page_says_that_some_were_left_out() -> None:
    page = render(
        report(FOUND.model_copy(update={"note": "Of 9 sources the 4 gravest were compared."}), *FINDINGS)
    )
    assert "alike: 1. Of 9 sources the 4 gravest were compared." in page
