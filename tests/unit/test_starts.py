"""Hosts that fail to start are started again after pauses that grow, for each digest of code by itself."""

from __future__ import annotations

import pytest

from coordinators.starts import PAUSES_S, START_WITHIN_S, Starts


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_pauses_grow_until_a_host_of_that_code_is_ready() -> None:
    clock = Clock()
    starts = Starts(clock)
    for pause in (*PAUSES_S, PAUSES_S[-1]):
        assert starts.may_start("new")
        assert starts.failed("new", started_at=clock.now) == pytest.approx(pause)
        clock.now += pause - 0.1 if pause else 0.0
        assert starts.may_start("new") == (pause == 0)
        clock.now += 0.1
    starts.succeeded("old")
    assert starts.failed("new", started_at=clock.now) == PAUSES_S[-1]
    starts.succeeded("new")
    assert starts.may_start("new")
    assert starts.failed("new", started_at=clock.now) == PAUSES_S[0]


def test_hosts_that_were_started_together_and_fail_are_one_failure() -> None:
    clock = Clock()
    starts = Starts(clock)
    clock.now = 1.0
    assert [starts.failed("new", started_at=0.5) for _ in range(4)] == [PAUSES_S[0]] * 4
    clock.now = 2.0
    assert starts.failed("new", started_at=1.5) == PAUSES_S[1]


def test_other_code_may_be_started_at_once() -> None:
    clock = Clock()
    starts = Starts(clock)
    starts.failed("broken", started_at=0.0)
    clock.now = 0.1
    starts.failed("broken", started_at=0.1)
    assert not starts.may_start("broken")
    assert starts.may_start("mended")


def test_each_start_that_failed_gives_the_next_twice_the_time_up_to_a_limit() -> None:
    clock = Clock()
    starts = Starts(clock)
    given = []
    for _ in range(5):
        given.append(starts.within_s("slow"))
        clock.now += 1_000
        starts.failed("slow", started_at=clock.now)
    assert given == [START_WITHIN_S * times for times in (1, 2, 4, 8, 8)]
    assert starts.within_s("other") == START_WITHIN_S
    starts.succeeded("slow")
    assert starts.within_s("slow") == START_WITHIN_S
