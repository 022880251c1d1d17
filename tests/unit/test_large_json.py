"""How many lists and objects one JSON text may have, deep or flat; brackets within strings are none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from bus.errors import InvalidPayload
from bus.limits import JSON_CONTAINERS
from bus.registry import decode_payload, encode_json, encode_payload, message, read_json


@message("tests.large.v1")
class Large(BaseModel):
    x: Any = None


def _read(text: str) -> Any:
    return read_json(text, "It")


def _decode(text: str) -> Any:
    decoded = decode_payload("tests.large.v1", f'{{"x":{text}}}')
    assert isinstance(decoded, Large)
    return decoded.x


@pytest.mark.parametrize("read", [_read, _decode])
@pytest.mark.parametrize("unit", ["[]", "{}", "[" * 100 + "]" * 100])
def test_a_text_with_too_many_is_refused_before_anything_is_made_of_it(
    read: Callable[[str], Any], unit: str
) -> None:
    count = 2 * JSON_CONTAINERS // (len(unit) // 2)
    with pytest.raises(InvalidPayload, match="lists and objects"):
        read(f"[{','.join([unit] * count)}]")


@pytest.mark.parametrize("read", [_read, _decode])
@pytest.mark.parametrize(
    "text", ["[{" * JSON_CONTAINERS, 'a \\"[' * JSON_CONTAINERS], ids=["plain", "quoted"]
)
def test_brackets_in_text_do_not_count(read: Callable[[str], Any], text: str) -> None:
    assert len(read(f'["{text}"]')) == 1


@pytest.mark.parametrize("write", [encode_json, lambda value: encode_payload(Large(x=value))])
def test_what_nobody_would_read_is_not_written(write: Callable[[Any], str]) -> None:
    with pytest.raises(InvalidPayload, match="lists and objects"):
        write([[]] * (JSON_CONTAINERS + 1))


@pytest.mark.parametrize("start", ['"', '"\\'])
def test_a_string_that_does_not_end_is_looked_through_once(start: str) -> None:
    """A search that began anew at each quote would take minutes: the test's time limit ends it."""
    with pytest.raises(InvalidPayload, match="is not JSON"):
        _read("[" + start + '\\"[' * 1_000_000)
