"""The whole job without agents: on the bundled sample, and on a real log where one is at hand."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import pytest
from secops.lines import open_log
from secops.markdown import render
from secops.policy import load_policy
from secops.report import IncidentReport
from secops.survey import Survey
from secops.triage import triage

Run = Callable[[Path], IncidentReport]

# What fail2ban's standard `sshd` filter finds in loghub's OpenSSH_2k.log, the most active first.
REAL = (
    "183.62.140.253 187.141.143.180 103.99.0.122 112.95.230.3 5.188.10.180 185.190.58.151 123.235.32.19 "
    "106.5.5.195 119.4.203.64 5.36.59.76 52.80.34.196 60.2.12.12 103.207.39.16 103.207.39.212 104.192.3.34 "
    "173.234.31.186 183.136.162.51 195.154.37.122 202.100.179.208 88.147.143.242 103.207.39.165 175.102.13.6 "
    "181.214.87.4 191.210.223.172"
)


@pytest.fixture(scope="module")
def run(example: Path) -> Run:
    policy = load_policy(example / "policy.yaml")

    def go(path: Path) -> IncidentReport:
        with open_log(path) as log:
            return triage(log, policy, report_id="r", generated_at=datetime(2024, 1, 1, tzinfo=UTC))

    return go


@pytest.fixture(scope="module")
def sample(example: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_sample", example / "make_sample.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_sample"] = module
    spec.loader.exec_module(module)
    return module


def failures(report: IncidentReport) -> dict[str, int]:
    return {each.address: each.failures for each in report.addresses if each.failures}


def test_the_accused_are_those_that_failed(run: Run, sample: ModuleType, example: Path) -> None:
    path = os.environ.get("CALLBOARD_OPENSSH_LOG")
    if path is None:
        assert failures(run(example / "sample" / "auth.log")) == dict(sample.tell().failures)
        return
    report = run(Path(path))
    found = failures(report)
    # Every `Failed password|none`, five-fold where a line says so, is one failure and nothing else is:
    # in this log each `Invalid user` comes with one.
    assert sorted(found) == sorted(REAL.split())
    assert sorted(found, key=lambda each: -found[each])[:3] == REAL.split()[:3]
    assert (found["183.62.140.253"], found["187.141.143.180"], found["103.99.0.122"]) == (286, 80, 46)
    assert (found["5.36.59.76"], found["181.214.87.4"]) == (6, 1)
    clean = {each.address for each in report.addresses if each.verdict == "clean"}
    assert {"119.137.62.142", "177.79.82.136", "194.190.163.22"} <= clean
    numbered = Path(path).read_text("utf-8").splitlines()
    for each in report.addresses:
        assert all(each.address in numbered[line - 1] for line in each.evidence)


@pytest.mark.parametrize("name", ["auth.log", "auth-iso.log.gz"])
def test_the_sample_is_judged_as_it_was_meant(run: Run, sample: ModuleType, example: Path, name: str) -> None:
    report = run(example / "sample" / name)
    assert {each.address: each.verdict for each in report.addresses} == sample.VERDICTS
    assert failures(report) == dict(sample.tell().failures)
    actions = {each.address: each.action for each in report.addresses}
    assert actions[sample.INTRUDER] == "escalate"
    assert actions[sample.OFFICE_JOB] == "escalate"
    assert actions[sample.GUESSER] == "block 24h"
    assert len(render(report)) > 1000


def test_both_samples_tell_the_same_story(run: Run, example: Path) -> None:
    syslog, iso = (run(example / "sample" / name) for name in ("auth.log", "auth-iso.log.gz"))
    times = {"first_at", "last_at", "logins"}
    assert [each.model_dump(exclude=times) for each in syslog.addresses] == [
        each.model_dump(exclude=times) for each in iso.addresses
    ]
    assert (syslog.log.period.has_year, iso.log.period.has_year) == (False, True)


def test_the_sample_files_are_what_their_generator_writes(sample: ModuleType, example: Path) -> None:
    story = sample.tell()
    assert (example / "sample" / "auth.log").read_text("utf-8").splitlines() == sample.syslog_lines(story)
    zipped = (example / "sample" / "auth-iso.log.gz").read_bytes()
    assert gzip.decompress(zipped).decode().splitlines() == sample.iso_lines(story)


def test_a_log_gives_the_same_report_every_time(run: Run, example: Path) -> None:
    one, other = (run(example / "sample" / "auth.log").model_dump_json() for _ in range(2))
    assert one == other
    assert len(json.loads(one)["addresses"]) > 20


def test_a_survey_can_be_stored_between_any_two_lines(example: Path) -> None:
    straight, stored = Survey(), Survey()
    with open_log(example / "sample" / "auth.log") as log:
        for line in log:
            expected = straight.read(line.number, line.text)
            stored = Survey.model_validate_json(stored.model_dump_json())
            assert stored.read(line.number, line.text) == expected
    assert stored == straight


def test_a_log_without_sshd_accuses_nobody(run: Run, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("Failed password for root from 192.0.2.1 port 22 ssh2\nhello\n", "utf-8")
    report = run(tmp_path / "log")
    assert report.addresses == ()
    assert (report.log.lines.total, report.log.lines.sshd) == (2, 0)
