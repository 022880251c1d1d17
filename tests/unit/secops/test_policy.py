"""The policy: read strictly, and never a block that would hurt ourselves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from secops.errors import PolicyError
from secops.policy import Policy, load_policy
from secops.rulebook import POLICY_NAME, name_of
from secops.verdict import Severity, Verdict


@pytest.fixture(scope="module")
def policy(example: Path) -> Policy:
    return load_policy(example / "policy.yaml")


@pytest.mark.parametrize(
    ("verdict", "severity", "expected"),
    [
        (Verdict.COMPROMISED, Severity.CRITICAL, "escalate"),
        (Verdict.BRUTE_FORCE, Severity.HIGH, "block 24h"),
        (Verdict.BRUTE_FORCE, Severity.MEDIUM, "block 1h"),
        (Verdict.SWEEP, Severity.LOW, "watch"),
        (Verdict.NOISE, Severity.LOW, "none"),
    ],
)
def test_a_verdict_has_its_action(
    policy: Policy, verdict: Verdict, severity: Severity, expected: str
) -> None:
    assert policy.propose("203.0.113.1", verdict, severity).text == expected


@pytest.mark.parametrize(
    "source",
    [
        "10.1.2.3",
        "127.0.0.1",
        "192.168.0.1",
        "172.31.255.255",
        "100.64.0.1",
        "169.254.1.1",
        "0.0.0.0",
        "::1",
        "fe80::1%eth0",
        "2001:db8::1%eth0",
        "fd00::1",
        "::ffff:10.0.0.1",
        "192.0.2.9",
        "mail.example.org",
    ],
)
def test_a_protected_source_is_escalated_and_never_blocked(policy: Policy, source: str) -> None:
    proposal = policy.propose(source, Verdict.BRUTE_FORCE, Severity.HIGH)
    assert proposal.text == "escalate"
    assert proposal.why.startswith("Not blocked: ")


@pytest.mark.parametrize("source", ["203.0.113.1", "2001:db8::1", "192.0.2.16", "11.0.0.0", "172.32.0.0"])
def test_any_other_address_is_blocked(policy: Policy, source: str) -> None:
    assert policy.propose(source, Verdict.BRUTE_FORCE, Severity.HIGH).text == "block 24h"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("version: 1", "version: 2", "version"),
        ("version: 1", "version: 1\nextra: 1", "extra"),
        ("version: 1", "version: 1\nversion: 1", "twice"),
        ("hours: 24", "hour: 24", "hour"),
        ("hours: 24", "hours: '24'", "hours"),
        ("hours: 24", "hours: 0", "hours"),
        ("    hours: 24", "    hours: 24\n    hours: 2", "twice"),
        ("    hours: 24\n", "", "hours"),
        ("action: watch", "action: watch\n    hours: 3", "hours"),
        ("action: watch", "action: shout", "action"),
        ("action: watch", "action: null", "write none"),
        ("verdict: sweep", "verdict: storm", "verdict"),
        ("severity: [high, critical]", "severity: []", "severity"),
        ("severity: [high, critical]", "severity: [critical]", "no rule for"),
        ("severity: [high, critical]", "severity: [medium, high, critical]", "two rules"),
        ("network: 192.0.2.0/28", "network: 192.0.2.1/28", "network"),
        ("why: the office's own addresses", "why: ''", "why"),
        ("similarity: 0.85", "similarity: 0", "similarity"),
        ("similarity: 0.85", "similarity: .nan", "similarity"),
        ("sources: 200", "sources: 257", "sources"),
        ("sources: 200", "sources: 200, more: 1", "more"),
        ("texts: 64", "texts: 0", "texts"),
        ("within_s: 60", "within_s: .inf", "within_s"),
        ("rules:", "rules: [", "not valid YAML"),
        ("rules:", "rulez:", "rules"),
        ("version: 1", "version: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("version: 1", "? [a, b]\n: 1", "not valid YAML"),
    ],
)
def test_a_wrong_policy_is_refused(example: Path, tmp_path: Path, old: str, new: str, told: str) -> None:
    text = (example / "policy.yaml").read_text("utf-8")
    assert old in text
    (tmp_path / "policy.yaml").write_text(text.replace(old, new, 1), "utf-8")
    with pytest.raises(PolicyError, match=told) as caught:
        load_policy(tmp_path / "policy.yaml")
    assert "\n" not in str(caught.value)


def test_a_policy_may_do_without_groups_and_is_the_same_for_blocks(example: Path, tmp_path: Path) -> None:
    text = (example / "policy.yaml").read_text("utf-8")
    (tmp_path / "policy.yaml").write_text(re.sub(r"(?m)^grouping:.*\n", "", text), "utf-8")
    without = load_policy(tmp_path / "policy.yaml")
    assert without.grouping is None
    assert name_of(without) == POLICY_NAME
    assert f"`{POLICY_NAME}`" in (example / "README.md").read_text("utf-8")


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b"just text"])
def test_a_file_that_is_no_policy_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "policy.yaml").write_bytes(content)
    with pytest.raises(PolicyError):
        load_policy(tmp_path / "policy.yaml")


def test_a_missing_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="No such file"):
        load_policy(tmp_path / "policy.yaml")
