"""Who wins a call for bids, and when it is settled."""

from __future__ import annotations

from actors.task_messages import TaskWork
from coordinators.tasks.auction import Auction


def auction(*candidates: str) -> Auction:
    return Auction(work=TaskWork(id="1", goal="go"), policy="contract_net", candidates=candidates)


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
