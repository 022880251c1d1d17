"""What the fault tests tell at the end of a run of pytest, in whichever of its workers they ran: a plugin of pytest."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator

import pytest

from tests.faults.chronicle import Chronicle, Run, summary

CHRONICLE = pytest.StashKey[Chronicle]()
"""What a test writes, kept with it."""

_TOLD = "chronicle"  # the property of a report that has it, as JSON: a worker's report comes to pytest in plain values


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" and CHRONICLE in item.stash:
        report.user_properties.append((_TOLD, json.dumps(vars(item.stash[CHRONICLE]))))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    from tests.faults.faults import BY_NAME

    runs = []
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            told = dict(report.user_properties).get(_TOLD)
            if isinstance(told, str):
                runs.append(
                    Run(_name(report), report.duration, _read(told), _reason(report) if report.failed else "")
                )
    if runs:
        terminalreporter.section("fault runs")
        for line in summary(runs, BY_NAME):
            terminalreporter.line(line)


def _name(report: pytest.TestReport) -> str:
    """Without the group that a worker puts behind it."""
    return report.nodeid.partition("@")[0]


def _read(told: str) -> Chronicle:
    found = json.loads(told)
    return Chronicle(**found | {"fired": Counter(found["fired"])})


def _reason(report: pytest.TestReport) -> str:
    """What was wrong: the count of complaints, and the first one."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(report.longrepr)
    return ": ".join(str(text).strip().splitlines()[:2])
