"""Whether the hosts of a domain get further, as whoever waits for them sees it."""

from __future__ import annotations

from dataclasses import replace

from callboard.advance import Advance
from storage.placement import HostRow
from tests.unit.test_full_cluster import host


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def new(epoch: int, *, ready: bool = True, owned: int = 0) -> HostRow:
    return replace(host(epoch, ready=ready, owned=owned), code="new")


def still_after(*looks: list[HostRow]) -> list[float]:
    """A look every second; how long nothing had changed at each."""
    clock, found = Clock(), []
    advance = Advance(clock)
    for hosts in looks:
        clock.now += 1.0
        advance.look("shop", "new", hosts)
        found.append(advance.still_for_s)
    return found


OLD = [host(1, owned=4), host(2, owned=4)]


def test_each_host_that_is_replaced_is_an_advance() -> None:
    assert still_after(
        OLD,
        OLD[1:],
        [*OLD[1:], new(3, ready=False)],
        [*OLD[1:], new(3)],
        [new(3), new(4, ready=False)],
        [new(3, owned=8), new(4)],
        [new(3, owned=8), new(4)],
    ) == [1, 0, 0, 0, 0, 0, 1]


def test_hosts_that_come_and_go_again_and_again_are_none() -> None:
    comes, goes = [*OLD, new(3, ready=False)], OLD
    assert still_after(goes, comes, goes, comes, goes, comes) == [1, 0, 1, 2, 3, 4]


def test_what_another_domain_gets_done_counts_and_seeing_it_first_does_not() -> None:
    clock = Clock()
    advance = Advance(clock)
    for hosts in ([], OLD, [new(3)]):
        clock.now += 1.0
        advance.look("shop", "new", OLD)
        advance.look("other", "new", hosts)
    assert advance.still_for_s == 0.0
    clock.now += 1.0
    advance.look("third", "new", OLD)
    assert advance.still_for_s == 1.0
