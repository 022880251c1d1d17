"""Amounts of money: what they are rounded to, and how they are written."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from actors.task_messages import LimitReached
from bus.amount import encode_numbers, exact, json_number
from bus.task_limits import TaskLimits


def test_a_float_is_the_number_that_it_is_written_as() -> None:
    assert exact(0.1) + exact(0.2) == exact("0.3") == Decimal("0.3")


def test_what_is_finer_than_its_places_is_rounded() -> None:
    assert exact(Decimal(2) / 3) == Decimal("0.666666666667")
    assert exact("1e-13") == 0
    assert str(exact("0.00045")) == "0.00045"


@pytest.mark.parametrize("none", ["", "many", "nan", "inf", "1e15", float("nan")])
def test_what_is_no_amount_is_refused(none: str | float) -> None:
    with pytest.raises(ValueError, match="is no amount"):
        exact(none)


def test_in_json_it_is_a_number() -> None:
    assert encode_numbers([Decimal("0.1234567890123456789")]) == b"[0.1234567890123456789]"
    assert [json_number(Decimal(n)) for n in ("3", "3.0", "0.3")] == [3, 3, 0.3]
    limits = TaskLimits(tokens=5, cost=Decimal("0.3"))
    assert limits.to_json() == '{"tokens":5,"cost":0.3}'
    assert TaskLimits.model_validate_json(limits.to_json()) == limits
    reached = LimitReached(limit="steps", used=Decimal(3), allowed=Decimal("2.5"))
    assert json.loads(reached.model_dump_json()) == {"limit": "steps", "used": 3, "allowed": 2.5}
