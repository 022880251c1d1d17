"""Who is asked first: as the file has it, the cheapest, or the fastest of late."""

from __future__ import annotations

from decimal import Decimal

from serve.gateway.models_file import ModelSpec, TargetSpec
from serve.gateway.order import Order

A, B, C = (TargetSpec(upstream="u", model=name) for name in "abc")


class Rig:
    def __init__(self, **prices: int) -> None:
        self.now = 0.0
        self.order = Order(
            lambda target: Decimal(prices[target.model]) if target.model in prices else None, lambda: self.now
        )

    def asked(self, strategy: str) -> str:
        model = ModelSpec.model_validate({"strategy": strategy, "targets": (A, B, C)})
        return "".join(target.model for target in self.order.of(model))


def test_as_the_file_has_it() -> None:
    rig = Rig(a=3, b=2, c=1)
    rig.order.took(A, 9.0)
    assert rig.asked("fixed") == "abc"


def test_the_cheapest_first_and_those_without_a_price_last() -> None:
    assert Rig(a=3, b=2, c=1).asked("cost") == "cba"
    assert Rig(c=1).asked("cost") == "cab"
    assert Rig().asked("cost") == "abc"


def test_the_fastest_first_and_before_it_who_is_not_known() -> None:
    rig = Rig()
    rig.order.took(A, 2.0)
    assert rig.asked("latency") == "bca"
    rig.order.took(B, 3.0)
    rig.order.took(C, 1.0)
    assert rig.asked("latency") == "cab"


def test_one_slow_answer_of_many_changes_little() -> None:
    rig = Rig()
    for target, seconds in ((A, 1.0), (B, 2.0), (C, 3.0)):
        rig.order.took(target, seconds)
    rig.order.took(A, 4.0)  # a mean of 1.6
    assert rig.asked("latency") == "abc"
    for _ in range(5):
        rig.order.took(A, 4.0)
    assert rig.asked("latency") == "bca"


def test_what_was_a_minute_ago_says_nothing() -> None:
    rig = Rig()
    for target, seconds in ((A, 9.0), (B, 1.0), (C, 2.0)):
        rig.order.took(target, seconds)
    assert rig.asked("latency") == "bca"
    rig.now = 59.0
    rig.order.took(B, 1.0)
    rig.order.took(C, 2.0)
    rig.now = 60.0
    assert rig.asked("latency") == "abc"
    rig.order.took(A, 5.0)
    assert rig.asked("latency") == "bca"
