"""The circuit breaker's states, by a clock of the test's own."""

from __future__ import annotations

import pytest

from serve.gateway.breaker import Breaker, Ticket
from serve.gateway.errors import ApiError

UNWELL, WELL = ApiError("no", unwell=True), ApiError("no")


class Rig:
    def __init__(self) -> None:
        self.now = 0.0
        self.breaker = Breaker(lambda: self.now)

    def state(self) -> str:
        return self.breaker.state

    def enter(self) -> Ticket:
        ticket = self.breaker.enter()
        assert ticket is not None
        return ticket

    def end(self, ticket: Ticket, error: BaseException | None = None) -> None:
        if error is None:
            with ticket.settled():
                pass
            return
        with pytest.raises(type(error)), ticket.settled():
            raise error

    def open(self) -> None:
        for _ in range(5):
            self.end(self.enter(), UNWELL)
        assert self.state() == "open"


def test_a_success_in_between_keeps_it_closed() -> None:
    rig = Rig()
    for _ in range(4):
        rig.end(rig.enter(), UNWELL)
    rig.end(rig.enter())
    for _ in range(4):
        rig.end(rig.enter(), UNWELL)
    assert rig.state() == "closed"


def test_it_opens_for_thirty_seconds() -> None:
    rig = Rig()
    rig.open()
    rig.now = 29.9
    assert (rig.breaker.enter(), rig.state()) == (None, "open")
    rig.now = 30.0
    assert rig.state() == "half_open"


def test_half_open_it_lets_three_through_at_once_and_closes_after_three() -> None:
    rig = Rig()
    rig.open()
    rig.now = 30.0
    tickets = [rig.enter() for _ in range(3)]
    assert rig.breaker.enter() is None
    rig.end(tickets[0])
    assert rig.state() == "half_open"
    tickets.append(rig.enter())
    for ticket in tickets[1:3]:
        rig.end(ticket)
    assert rig.state() == "closed"
    rig.end(tickets[3], UNWELL)  # it began before that, and is one failure of none
    assert rig.state() == "closed"


def test_one_failed_trial_opens_it_anew() -> None:
    rig = Rig()
    rig.open()
    rig.now = 30.0
    first, second = rig.enter(), rig.enter()
    rig.end(first, UNWELL)
    assert (rig.state(), rig.breaker.opens_in_s) == ("open", 30.0)
    rig.end(second)  # too late to count
    assert rig.breaker.enter() is None


@pytest.mark.parametrize("error", [WELL, KeyboardInterrupt()])
def test_what_says_nothing_of_its_health_gives_the_place_back(error: BaseException) -> None:
    rig = Rig()
    for _ in range(10):
        rig.end(rig.enter(), error)
    assert rig.state() == "closed"
    rig.open()
    rig.now = 30.0
    for _ in range(10):
        rig.end(rig.enter(), error)
    assert rig.state() == "half_open"
