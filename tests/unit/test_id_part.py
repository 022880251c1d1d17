"""Ids as people give them."""

from __future__ import annotations

import pytest

from storage.id_part import id_part, several

WHOLE = "01a2014d-1e25-71c0-8611-728c03a04afa"


@pytest.mark.parametrize(
    ("given", "digits", "is_end"),
    [
        (WHOLE, WHOLE.replace("-", ""), False),
        (WHOLE.upper(), WHOLE.replace("-", ""), False),
        ("01a2014d-1e", "01a2014d1e", False),
        ("a04afa", "a04afa", False),
        ("…a04afa", "a04afa", True),
        ("...a04afa", "a04afa", True),
        (" domain#…A04AFA ", "a04afa", True),
    ],
)
def test_both_ends_of_an_id_are_understood(given: str, digits: str, is_end: bool) -> None:
    found = id_part(given)
    assert found is not None
    assert found[:2] == (digits, is_end)
    assert found.is_whole == (len(digits) == 32)
    assert (found.first.hex, found.last.hex) == (digits.ljust(32, "0"), digits.ljust(32, "f"))


@pytest.mark.parametrize("given", ["", "a04", "…a04", "a04g", WHOLE + "0", "…", "%", "a04afa…"])
def test_what_is_no_part_of_an_id_is_none(given: str) -> None:
    assert id_part(given) is None


def test_some_of_many_candidates_are_named() -> None:
    assert several("01a2", ["a", "b"]) == "Several ids begin or end with 01a2: a, b."
    assert several("01a2", [*"abcdef"]) == "Several ids begin or end with 01a2: a, b, c, d, e and others."
