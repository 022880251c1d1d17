"""What clients send, read."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from serve.gateway.errors import ApiError
from serve.gateway.requests import read_chat

ASK = [{"role": "user", "content": "Hello"}]


def refused(read: Any, **body: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(msgspec.json.encode({"model": "m", **body}))
    return caught.value


@pytest.mark.parametrize("named", [5, ["https://json-schema.org/draft/2020-12/schema"]])
def test_a_schema_that_names_its_kind_with_no_text_is_refused(named: Any) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"$schema": named}}}
    error = refused(read_chat, messages=ASK, response_format=schema)
    assert (error.status, error.param) == (400, "response_format.json_schema.schema")
