"""Schemas that refer to something: to a part of themselves, to nothing, or to what is none of their business."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from serve.gateway import rules
from serve.gateway.json_schema import UnusableSchema, misfit
from serve.gateway.models_file import RuleSpec
from serve.gateway.requests import read_chat


def test_parts_of_itself_are_found() -> None:
    schema = {"$defs": {"word": {"type": "string"}}, "$ref": "#/$defs/word"}
    assert misfit("a", schema) is None
    error = misfit(1, schema)
    assert error is not None
    assert "is not of type 'string'" in error.message


def test_no_file_and_no_server_is_asked_for_what_it_refers_to(tmp_path: Path) -> None:
    there = tmp_path / "schema.json"
    there.write_text("true")
    with pytest.raises(UnusableSchema, match="which is not in it"):
        misfit(1, {"$ref": there.as_uri()})
    with pytest.raises(UnusableSchema, match=r"http://127\.0\.0\.1:9/"):  # unit tests cannot connect
        misfit(1, {"$ref": "http://127.0.0.1:9/"})


@pytest.mark.parametrize("schema", [{"$ref": "#/$defs/none"}, {"$dynamicRef": "#none"}, {"$ref": "#"}])
def test_what_leads_nowhere_is_said_and_no_rule_answers_it(schema: dict[str, Any]) -> None:
    with pytest.raises(UnusableSchema):
        misfit({}, schema)
    wanted = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    body = {"model": "m", "messages": [{"role": "user", "content": "a"}], "response_format": wanted}
    assert rules.answer_of([RuleSpec(answer={"a": 1})], read_chat(msgspec.json.encode(body))) is None
