"""Moments: seconds since 1970, UTC."""

from __future__ import annotations

from bus.errors import InvalidMessage

LAST_MOMENT = 253_402_300_799.0  # the end of the year 9999: Postgres knows later ones, and whoever reads them here does not


def require_moment(at: float) -> float:
    """The same; raises InvalidMessage for what is none, or too far away."""
    if not -LAST_MOMENT <= at <= LAST_MOMENT:
        raise InvalidMessage(
            f"{at} is no time, or one that never comes.", fix="Give one before the year 10,000, or none."
        )
    return at
