"""How much a task may use, with all the tasks that it starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bus.amount import Amount
from bus.errors import InvalidTask
from bus.registry import describe_validation

WALL = "wall_s"


class TaskLimits(BaseModel):
    """None is no limit. They are those of the whole tree: what its children use counts for the task at the top."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hops: int | None = Field(default=None, ge=1)
    """Messages that agents send each other for it."""
    asks: int | None = Field(default=None, ge=1)
    """Asks in flight at once."""
    steps: int | None = Field(default=None, ge=1)
    """Recorded steps and calls of tools."""
    wall_s: float | None = Field(default=None, gt=0)
    """Seconds from its assignment to its end."""
    tokens: int | None = Field(default=None, ge=1)
    """What is charged with `ctx.charge`."""
    cost: Amount | None = Field(default=None, gt=0, max_digits=15)
    """The same, in whatever currency the domain charges."""

    def to_json(self) -> str:
        """Those that are set, as numbers."""
        return self.model_dump_json(exclude_none=True)


NO_LIMITS = TaskLimits()


def read_limits(texts: Iterable[str]) -> TaskLimits:
    """Limits written as NAME=NUMBER; raises InvalidTask."""
    return limits_of(dict(map(_read_limit, texts)))


def limits_of(given: Mapping[str, object]) -> TaskLimits:
    """Limits by their names; raises InvalidTask."""
    try:
        return TaskLimits.model_validate(given)
    except ValidationError as error:
        raise InvalidTask(f"The limits are none of a task: {describe_validation(error)}.") from None


def _read_limit(text: str) -> tuple[str, Decimal]:
    name, given, value = text.partition("=")
    try:
        number = Decimal(value)
    except InvalidOperation:
        number = Decimal(-1)
    if name in TaskLimits.model_fields and given and (number.is_nan() or not number > 0):
        raise InvalidTask(f"{text!r} limits nothing.", fix="Give a number above 0.")
    if name not in TaskLimits.model_fields or not given:
        raise InvalidTask(
            f"{text!r} is no limit of a task.",
            fix=f"Write NAME=NUMBER, with one of {', '.join(TaskLimits.model_fields)}.",
        )
    return name, number
