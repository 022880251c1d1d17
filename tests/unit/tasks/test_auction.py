"""Who wins a call for bids, and when it is settled."""

from __future__ import annotations

from actors.task_messages import TaskWork
from coordinators.tasks.auction import MAX_CALLS, STOOD_STILL_S, Auction


def auction(*candidates: str) -> Auction:
    return Auction(
        work=TaskWork(id="1", goal="go"), policy="contract_net", candidates=candidates, within_s=2.0
    )


def test_the_highest_bid_wins() -> None:
    sale = auction("a", "b", "c")
    sale.bids = {"a": 1.0, "b": 3.0, "c": 2.0}
    assert sale.winner() == "b"


def test_among_equal_bids_the_first_by_name_wins_whatever_came_first() -> None:
    sale = auction("a", "b", "c")
    sale.bids = {"c": 3.0, "b": 3.0, "a": 1.0}
    assert sale.winner() == "b"


def test_without_bids_nobody_wins() -> None:
    assert auction("a").winner() is None


def test_it_is_settled_when_all_have_bid_or_declined() -> None:
    sale = auction("a", "b")
    sale.bids["a"] = 1.0
    assert not sale.is_settled
    sale.declined.append("b")
    assert sale.is_settled


def test_it_awaits_each_candidate_once_and_nobody_else() -> None:
    sale = auction("a", "b", "c")
    sale.bids["a"] = 1.0
    sale.declined.append("b")
    assert [name for name in "abcd" if sale.awaits(name)] == ["c"]


def test_a_bid_deadline_was_held_up_when_it_comes_late_and_nobody_has_bid_so_often_at_most() -> None:
    sale = auction("a", "b")
    sale.bid_by, late = 100.0, 100.1 + STOOD_STILL_S
    assert sale.was_held_up(late)
    assert not sale.was_held_up(100.1)
    sale.calls = MAX_CALLS
    assert not sale.was_held_up(late)
    sale.calls, sale.bids = 1, {"a": 1.0}
    assert not sale.was_held_up(late)
