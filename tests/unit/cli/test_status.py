"""The tables of `callboard status` keep names and figures on one line at 80 columns."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from callboard.cli.standing import DomainStanding
from callboard.cli.status import domain_table, host_table
from storage.inspect import HostView

NOW = datetime.now(UTC)
DOMAIN = DomainStanding(
    domain="support", partitions=64, kinds=["clerk"], home="/srv/desk", code="c", state="active",
    updated_at=NOW, hosts=2, backlog=120_000, timers=3, open_turns=7, agents=100_000, dead_letters=3,
    open_tasks=120, stuck_tasks=12, unowned=[], events_waiting=1_234,
)  # fmt: skip
HOST = HostView(
    domain="support", epoch=1, host="support-da15d3fb", node="n", pid=4_123_456, release="1.0",
    owned=list(range(64)), wanted=[], suspect=[], draining=False, started_at=NOW, ready=True, ended_at=None,
    ended_why=None, silent_s=0.1, lag_ms=1.0, blocked_by=None, backlog=12_345, agents=300, turns=2_031_100,
    rss_bytes=120 * 2**20,
)  # fmt: skip


def lines(shown: Any) -> list[str]:
    text = io.StringIO()
    Console(file=text, width=80, markup=False, highlight=False).print(shown)
    return text.getvalue().splitlines()


def test_a_domain_is_one_line_at_80_columns() -> None:
    *_, last = lines(domain_table([DOMAIN], [HOST]))
    assert " ".join(last.split()) == "support 1 64/64 1,234 120,000 100,000 120 12 3"


def test_a_host_is_one_line_at_80_columns() -> None:
    *_, last = lines(host_table([HOST]))
    assert " ".join(last.split()) == "support-da15d3fb 4123456 ready 64 12,345 2,031,100 120 MiB 100 ms"
