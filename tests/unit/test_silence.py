"""Silence is what the coordinator has seen of it: beats that do not change from look to look."""

from __future__ import annotations

import pytest

from coordinators.silence import COUNTS_AT_MOST_S, SETTLED_AFTER_S, SILENT_AFTER_S, UNKNOWN_AFTER_S, Silence
from storage.placement import HostRow

NOTHING: frozenset[int] = frozenset()


def host(beat_at: float | None) -> HostRow:
    return HostRow(
        epoch=1, host="h", node="n", pid=1, code="", release="", owned=NOTHING, wanted=NOTHING, suspect=NOTHING, draining=False,
        ready=True, age_s=3600.0, silent_s=3600.0, beat_at=beat_at, lag_ms=None, blocked_by=None, backlog=0, agents=0,
        turns=0, rss_bytes=0,
    )  # fmt: skip


class Watch:
    """A coordinator that looks as it is told."""

    def __init__(self) -> None:
        self.now = 100.0
        self.silence = Silence(lambda: self.now)
        self.now += SETTLED_AFTER_S

    def look(self, after_s: float, beat_at: float | None, *, takes_s: float = 0.0) -> float | None:
        """Pause, read, and say for how long the host has been silent if that is too long."""
        self.now += after_s
        asked_at = self.now
        self.now += takes_s
        self.silence.look([host(beat_at)], asked_at=asked_at)
        return self.silence.of(host(beat_at))


def test_three_missed_beats_are_silence_whatever_the_servers_clock_says() -> None:
    watch = Watch()
    assert watch.look(0.25, 5.0) is None
    assert [watch.look(0.25, 5.0) for _ in range(3)] == [None] * 3
    assert watch.look(0.25, 5.0) == pytest.approx(1.0)
    assert watch.look(0.25, 5.25) is None


def test_the_time_that_a_look_takes_is_no_silence_of_the_hosts() -> None:
    watch = Watch()
    watch.look(0.25, 5.0)
    assert watch.look(0.25, 5.0, takes_s=30.0) is None
    assert watch.look(0.25, 5.0) is None


def test_a_coordinator_that_stood_still_has_seen_no_silence() -> None:
    watch = Watch()
    watch.look(0.25, 5.0)
    assert watch.look(60.0, 5.0) is None
    assert watch.look(0.25, 5.0) is None
    assert watch.look(SILENT_AFTER_S - COUNTS_AT_MOST_S, 5.0) is not None


def test_a_host_without_a_beat_is_unknown_for_a_while_also_after_it_had_one() -> None:
    watch = Watch()
    watch.look(0.25, 5.0)
    watch.look(0.5, 5.0)
    looks = [watch.look(0.5, None) for _ in range(1 + int(UNKNOWN_AFTER_S / 0.5))]
    assert looks == [None] * len(looks)
    assert watch.look(0.5, None) is not None


def test_hosts_get_time_to_come_back_after_postgres_was_away() -> None:
    watch = Watch()
    watch.look(0.25, 5.0)
    watch.silence.unsettle()
    looks = [watch.look(0.5, 5.0) for _ in range(3)]
    assert looks == [None] * 3
    assert watch.look(0.5, 5.0) is not None
