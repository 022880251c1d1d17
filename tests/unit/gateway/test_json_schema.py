"""Schemas that refer to something: to a part of themselves, to nothing, or to what is none of their business; and schemas
that ask for more work than anybody has time for."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from serve.gateway import rules
from serve.gateway.errors import ApiError
from serve.gateway.json_schema import CHECK_S, MAX_BYTES, MAX_DEPTH, MAX_UNIQUE, UnusableSchema, misfit
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


@pytest.mark.parametrize(
    "part",
    [5, "a", [1], {"type": "objekt"}, {"required": 5}, {"minimum": "a"}, {"pattern": "("}, {"anyOf": 5}],
)
def test_a_reference_to_what_is_no_schema_is_the_clients_matter(part: Any) -> None:
    schema = {"default": part, "items": {"$ref": "#/default"}}
    with pytest.raises(UnusableSchema, match="no schema"):
        misfit(["text", 1, {}], schema)


@pytest.mark.parametrize("depth", range(40))
def test_the_end_of_the_stack_is_an_answer_wherever_it_is_met(depth: int) -> None:
    """Also in a library in Rust, whose panic is no Exception: where that is goes by the depth of the caller."""
    endless = {"not": {"$ref": "#/$defs/a"}, "$defs": {"a": {"anyOf": [{"$ref": "#"}]}}}

    def held(further: int) -> None:
        if further:
            held(further - 1)
        else:
            misfit({}, endless)

    with pytest.raises(UnusableSchema, match="without end"):
        held(depth)


def doubled(levels: int) -> dict[str, Any]:
    """Each part refers twice to the next: what they are together doubles with every level."""
    parts: dict[str, Any] = {
        f"p{at}": {"anyOf": [{"$ref": f"#/$defs/p{at + 1}"}] * 2} for at in range(levels)
    }
    return {"$defs": {**parts, f"p{levels}": {"type": "string"}}, "$ref": "#/$defs/p0"}


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


EVIL = "^(a+)+$"
TEXT = "a" * 40 + "!"  # at which Python's own patterns would be for hours


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"pattern": EVIL}, TEXT),
        ({"patternProperties": {EVIL: True}, "additionalProperties": False}, {TEXT: 1}),
        ({"additionalProperties": False, "patternProperties": {EVIL: {"type": "string"}}}, {TEXT: 1}),
        ({"propertyNames": {"pattern": EVIL}}, {TEXT: 1}),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "items": {"$ref": "#/definitions/a"},
          "definitions": {"a": {"pattern": EVIL}}}, [TEXT]),
    ],
)  # fmt: skip
def test_a_pattern_takes_a_time_that_goes_by_the_texts_length(schema: dict[str, Any], value: Any) -> None:
    assert misfit(value, schema) is not None


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (doubled(40), 1),
        ({"$schema": "https://json-schema.org/draft/2020-12/schema", **doubled(40)}, 1),
        ({"anyOf": [{"items": {"$ref": "#"}, "minItems": 1}] * 2}, nested(40)),
    ],
)
def test_a_schema_that_multiplies_itself_is_given_up_in_time(schema: dict[str, Any], value: Any) -> None:
    began = time.thread_time()
    with pytest.raises(UnusableSchema, match="takes too long"):
        misfit(value, schema)
    assert time.thread_time() - began < CHECK_S + 1


@pytest.mark.parametrize(
    ("schema", "value", "words"),
    [
        ({"anyOf": [{"$schema": "http://json-schema.org/draft-07/schema#"}]}, 1, "only its top may"),
        ({"unevaluatedProperties": False, "patternProperties": {"a": True}}, {}, "use one of them"),
        ({"uniqueItems": True}, list(range(MAX_UNIQUE + 1)), "uniqueItems"),
        ({"pattern": "a"}, "b" * 5000, "4,096 characters or fewer"),
        ({"pattern": "((a{1000}){1000}){1000}"}, "b", "too large"),
    ],
)
def test_what_the_clock_cannot_watch_is_refused(schema: dict[str, Any], value: Any, words: str) -> None:
    with pytest.raises(UnusableSchema, match=words):
        misfit(value, schema)


def test_patterns_that_look_around_and_properties_beside_patterns_are_held_as_ever() -> None:
    assert misfit("ab", {"pattern": "^(?=a)ab$"}) is None
    assert misfit("ab", {"pattern": "^(?!a)ab$"}) is not None
    schema = {"properties": {"a": True}, "patternProperties": {"^x": {"type": "integer"}}}
    fits = {"a": 1, "x1": 2}
    assert misfit(fits, {**schema, "additionalProperties": False}) is None
    assert misfit({**fits, "b": 3}, {**schema, "additionalProperties": False}) is not None
    assert misfit({**fits, "b": 3}, {**schema, "additionalProperties": {"type": "integer"}}) is None
    wrong = misfit({"x1": "two"}, schema)
    assert wrong is not None
    assert wrong.json_path == "$.x1"
    assert misfit([1, 1], {"uniqueItems": True}) is not None


def asking(*schemas: dict[str, Any]) -> bytes:
    tools = [
        {"type": "function", "function": {"name": f"f{at}", "parameters": schema}}
        for at, schema in enumerate(schemas)
    ]
    return msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": "a"}], "tools": tools})


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels - 1):
        schema = {"not": schema}
    return schema


@pytest.mark.parametrize(
    ("schemas", "param", "words"),
    [
        ([deep(MAX_DEPTH + 1)], "tools[0].function.parameters", "nested more than 64 deep; name its parts"),
        ([{"title": "a" * MAX_BYTES}], "tools[0].function.parameters", "more than 262,144 bytes; send fewer"),
        ([{"title": "a" * (MAX_BYTES // 3)}] * 3, "tools[2].function.parameters", "262,144 bytes"),
        ([{"pattern": 5}], "tools[0].function.parameters", "is no JSON schema, at pattern"),
        (
            [{"properties": {"a": {"required": 1}}}],
            "tools[0].function.parameters",
            "at properties/a/required",
        ),
    ],
)
def test_schemas_have_bounds_together(schemas: list[Any], param: str, words: str) -> None:
    with pytest.raises(ApiError) as caught:
        read_chat(asking(*schemas))
    assert (caught.value.status, caught.value.param) == (400, param)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "schema",
    [
        {"pattern": r"(?i)^alert"},
        {"pattern": r"^(?P<year>\d{4})$"},
        {"pattern": r"^[\w-\.]+@([\w-]+\.)+[\w-]{2,4}$"},
        {"patternProperties": {r"\Ax\Z": True}},
        {"$ref": "#/$defs/Page[int]", "$defs": {"Page[int]": {"type": "object"}}},
        {"$id": "my schema"},
    ],
)
def test_dialects_of_patterns_and_references_are_the_upstreams_matter(schema: dict[str, Any]) -> None:
    tools = read_chat(asking(schema)).tools or []
    assert [tool.function.parameters for tool in tools] == [schema]


def test_what_is_within_the_bounds_is_read_fast_and_asks_nobody() -> None:
    large: dict[str, Any] = {
        "$schema": "http://127.0.0.1:9/own",  # unit tests cannot connect
        "anyOf": [{"type": "string", "pattern": "^(?=a)"} for _ in range(4000)],
    }
    content = asking(deep(MAX_DEPTH), large)
    began = time.thread_time()
    assert len(read_chat(content).tools or ()) == 2
    assert time.thread_time() - began < 0.5  # seconds; 4 where each is looked at in Python
