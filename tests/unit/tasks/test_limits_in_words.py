"""Limits of tasks as people write and read them."""

from __future__ import annotations

from decimal import Decimal

import pytest

from bus.amount import figure
from bus.errors import InvalidTask
from bus.task_limits import TaskLimits, read_limits


def test_limits_are_written_as_name_and_number() -> None:
    assert read_limits(["tokens=10_000", "cost=0.5", "wall_s=90"]) == TaskLimits(
        tokens=10_000, cost=Decimal("0.5"), wall_s=90
    )
    assert read_limits([]).to_json() == "{}"


@pytest.mark.parametrize(
    "wrong", ["tokens", "tokens=", "tokens=0", "tokens=many", "time=5", "steps=1.5", "cost=nan"]
)
def test_what_is_no_limit_is_refused(wrong: str) -> None:
    with pytest.raises(InvalidTask):
        read_limits([wrong])


def test_figures_are_for_people() -> None:
    assert [figure(n) for n in (1200, 0.25, 3.0, 1234.5)] == ["1,200", "0.25", "3", "1,234.5"]
    assert [figure(Decimal(n)) for n in ("1E+3", "0.00000045", "1.000000000001")] == [
        "1,000",
        "0.00000045",
        "1.000000000001",
    ]
