"""References to promises: who has one may resolve it."""

from __future__ import annotations

from uuid import UUID

from bus.address import Address, parse_address
from bus.errors import InvalidAddress


def promise_ref(owner: str | Address, promise: str) -> str:
    return f"{owner}#{promise}"


def split_ref(ref: str) -> tuple[Address, str]:
    """The owner and the id of a promise; raises InvalidAddress."""
    owner, _, promise = ref.rpartition("#")
    try:
        return parse_address(owner), str(UUID(promise))
    except (InvalidAddress, ValueError):
        raise InvalidAddress(f"{ref!r} is no promise.", fix="Hand on what `Promise.ref` says.") from None
