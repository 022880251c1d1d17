"""Amounts of money: decimal numbers, whose sums are what a person adds up on paper."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Annotated

import msgspec
from pydantic import PlainSerializer

PLACES = 12  # a price for a million tokens, in millionths of a dollar, is exact for one
_SMALLEST = Decimal(1).scaleb(-PLACES)
_TOO_LARGE = Decimal(10) ** 15

encode_numbers = msgspec.json.Encoder(decimal_format="number").encode
"""JSON in which decimals stand as numbers, with all their digits."""


def exact(amount: Decimal | float | str) -> Decimal:
    """An amount, rounded to PLACES: a float is what it is written as. Raises ValueError for what is none."""
    try:
        found = Decimal(str(amount)) if isinstance(amount, float) else Decimal(amount)
    except InvalidOperation:
        raise ValueError(f"{amount!r} is no amount") from None
    if not (found.is_finite() and abs(found) < _TOO_LARGE):
        raise ValueError(f"{amount!r} is no amount")
    is_fine = int(found.as_tuple().exponent) < -PLACES
    return found.quantize(_SMALLEST).normalize() if is_fine else found


def json_number(amount: Decimal) -> int | float:
    """For JSON that is no more added up: 15 digits of it, which a double carries."""
    return int(amount) if amount == amount.to_integral_value() else float(amount)


Amount = Annotated[Decimal, PlainSerializer(json_number, return_type=int | float, when_used="json")]
"""As a field of a pydantic model: a number in JSON."""


def figure(amount: Decimal | float) -> str:
    """An amount for people: `1,200`, `0.25`."""
    text = f"{Decimal(str(amount)):,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
