"""JSON schemas that clients send: bounded, and nothing outside them is read, whatever they refer to.

What is a schema is a library in Rust's to say, in microseconds; whether a value fits one is jsonschema's, whose keywords
are watched by a clock: a schema of a few hundred bytes can ask for more work than anybody has time for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import jsonschema_rs
import msgspec
from jsonschema import validators
from jsonschema.exceptions import ValidationError, best_match
from jsonschema.protocols import Validator
from referencing import Registry
from referencing.exceptions import Unresolvable

MAX_BYTES = 256 * 1024  # of all schemas of a request, as JSON; OpenAI takes about as much of one
MAX_DEPTH = 64  # of objects and lists within each other
MAX_PATTERN_TEXT = 4096  # characters: a pattern of 10,000 states looks at this many for half a second
MAX_UNIQUE = 1000  # entries, which jsonschema compares each with each
CHECK_S = 1.0  # of a thread's own time, for one value
_ITSELF_ALONE: Registry[Any] = Registry()  # the library's own would fetch what a `$ref` names, by any URL
_LONGEST_SHOWN = 200
_PATTERNS = jsonschema_rs.FancyRegexOptions(
    backtrack_limit=100_000, size_limit=1024 * 1024, dfa_size_limit=1024 * 1024
)
_KINDS: Mapping[str, Any] = {
    "json-schema.org/draft/2020-12/schema": validators.Draft202012Validator,
    "json-schema.org/draft/2019-09/schema": validators.Draft201909Validator,
    "json-schema.org/draft-07/schema": validators.Draft7Validator,
    "json-schema.org/draft-06/schema": validators.Draft6Validator,
    "json-schema.org/draft-04/schema": validators.Draft4Validator,
}
_NEWEST = next(iter(_KINDS))
_check_until: ContextVar[float] = ContextVar("check_until")
_Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


class UnusableSchema(ValueError):
    """It is a JSON schema, and no value can be held against it; its words are one sentence for people."""


class SchemaRoom:
    """For the schemas of one request."""

    def __init__(self) -> None:
        self._left = MAX_BYTES

    def admit(self, schema: dict[str, Any]) -> None:
        """Raises ValueError: it is too large or too deep, with the others, or no JSON schema."""
        if _is_deeper(schema, MAX_DEPTH):
            raise ValueError(
                f"is nested more than {MAX_DEPTH} deep; name its parts in `$defs`, and refer to them"
            )
        self._left -= len(msgspec.json.encode(schema))
        if self._left < 0:
            raise ValueError(
                f"the schemas of the request have more than {MAX_BYTES:,} bytes; send fewer tools, or smaller ones"
            )
        try:
            _described(_kind(schema)).validate(schema)
        except jsonschema_rs.ValidationError as error:
            place = "/".join(str(part) for part in error.instance_path) or "its top"
            raise ValueError(f"is no JSON schema, at {place}: {error.message[:_LONGEST_SHOWN]}") from None


def misfit(value: Any, schema: dict[str, Any]) -> ValidationError | None:
    """What does not fit best; None where all does. May take a while: not for an event loop. Raises UnusableSchema."""
    _refuse_what_cannot_be_watched(schema)
    # By `$schema` the library would go back to its own keywords at every `$ref`.
    bare = {name: part for name, part in schema.items() if name != "$schema"}
    started = _check_until.set(time.thread_time() + CHECK_S)
    try:
        errors = _watched_kind(_kind(schema))(bare, registry=_ITSELF_ALONE).iter_errors(value)
        found: ValidationError | None = best_match(errors)
        return found
    except Unresolvable as error:
        named = repr(error.ref[:_LONGEST_SHOWN]) if error.ref else "an anchor"
        raise UnusableSchema(f"it refers to {named}, which is not in it.") from None
    except UnusableSchema:
        raise
    except BaseException as error:
        # The registry is made of a library in Rust: one that meets the end of the stack panics, which is no Exception.
        if isinstance(error, RecursionError) or type(error).__name__ == "PanicException":
            raise UnusableSchema("it refers to itself without end.") from None
        if not isinstance(error, Exception):
            raise
        # It is a schema, but a `$ref` may lead to any of its values, and keywords trust theirs.
        raise UnusableSchema("it refers to a part of itself that is no schema.") from None
    finally:
        _check_until.reset(started)


def _kind(schema: Mapping[str, Any]) -> str:
    """By what it says that it is; the newest where that says nothing to us. What is no text is no schema's name."""
    named = schema.get("$schema")
    if not isinstance(named, str):
        return _NEWEST
    kind = named.partition("://")[2].removesuffix("#")
    return kind if kind in _KINDS else _NEWEST


@lru_cache
def _described(kind: str) -> jsonschema_rs.Validator:
    """What schemas of a kind are like. It holds no schema of a client, and so fetches nothing that one names.

    Whether a text is a pattern or a URI is left open: patterns are written in many dialects (pydantic hands on those of
    Rust and Python), references often without escapes, and the upstream has the word.
    """
    described = {"$ref": _KINDS[kind].META_SCHEMA.get("$id") or _KINDS[kind].META_SCHEMA["id"]}
    return jsonschema_rs.validator_for({"$schema": described["$ref"], **described}, offline=True)


@lru_cache
def _watched_kind(kind: str) -> type[Validator]:
    standard = _KINDS[kind]
    own = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties(standard.VALIDATORS["additionalProperties"]),
        "uniqueItems": _unique_items(standard.VALIDATORS["uniqueItems"]),
    }
    keywords = {name: _watched(keyword) for name, keyword in {**standard.VALIDATORS, **own}.items()}
    found: type[Validator] = validators.extend(standard, keywords)  # type: ignore[no-untyped-call]
    return found


def _watched(keyword: _Keyword) -> _Keyword:
    def watched(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[ValidationError] | None:
        if time.thread_time() > _check_until.get():
            raise UnusableSchema("that takes too long; let it refer less often to its own parts.")
        return keyword(validator, wanted, value, schema)

    return watched


def _pattern(validator: Any, pattern: str, value: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(value, str) and not _is_found(pattern, value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Any], value: Any, schema: Any
) -> Iterator[ValidationError]:
    if isinstance(value, dict):
        for pattern, below in patterns.items():
            for name, part in value.items():
                if _is_found(pattern, name):
                    yield from validator.descend(part, below, path=name, schema_path=pattern)


def _additional_properties(standard: _Keyword) -> _Keyword:
    """The library's own, for what no pattern is for."""

    def keyword(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[ValidationError] | None:
        if not isinstance(value, dict):
            return None
        patterns = schema.get("patternProperties", ())
        rest = {
            name: part
            for name, part in value.items()
            if not any(_is_found(pattern, name) for pattern in patterns)
        }
        return standard(validator, wanted, rest, {"properties": schema.get("properties", {})})

    return keyword


def _unique_items(standard: _Keyword) -> _Keyword:
    def keyword(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[ValidationError] | None:
        if wanted and isinstance(value, list) and len(value) > MAX_UNIQUE:
            raise UnusableSchema(f"uniqueItems is for {MAX_UNIQUE:,} entries or fewer.")
        return standard(validator, wanted, value, schema)

    return keyword


def _is_found(pattern: str, text: str) -> bool:
    """In a time that goes by the text's length; where that cannot be promised, within so many steps back."""
    if len(text) > MAX_PATTERN_TEXT:
        raise UnusableSchema(f"a pattern is for {MAX_PATTERN_TEXT:,} characters or fewer.")
    return _compiled(pattern).is_valid(text)


@lru_cache(maxsize=16)  # each up to the size limit, and as much again while it is at work
def _compiled(pattern: str) -> jsonschema_rs.Validator:
    try:
        return jsonschema_rs.Draft202012Validator(
            {"pattern": pattern}, offline=True, pattern_options=_PATTERNS
        )
    except jsonschema_rs.ValidationError:
        raise UnusableSchema(
            f"the pattern {pattern[:_LONGEST_SHOWN]!r} is too large, or no schema's."
        ) from None


def _refuse_what_cannot_be_watched(schema: dict[str, Any]) -> None:
    """Raises UnusableSchema for what the library would look at with its own keywords, and Python's patterns."""
    names = set[str]()
    for part in _parts(schema):
        if isinstance(part, dict):
            names.update(part)
            if part is not schema and isinstance(part.get("$schema"), str):
                raise UnusableSchema("a part of it says what kind of schema it is; only its top may.")
    if {"unevaluatedProperties", "patternProperties"} <= names:
        raise UnusableSchema("it has unevaluatedProperties beside patternProperties; use one of them.")


def _parts(schema: dict[str, Any]) -> Iterator[Any]:
    waiting: list[Any] = [schema]
    while waiting:
        part = waiting.pop()
        yield part
        if isinstance(part, dict | list):
            waiting.extend(part.values() if isinstance(part, dict) else part)


def _is_deeper(part: Any, levels: int) -> bool:
    """Whether more than so many objects and lists are within each other."""
    row = [part]
    for _ in range(levels + 1):
        row = [one for one in row if isinstance(one, dict | list)]
        if not row:
            return False
        row = [one for box in row for one in (box.values() if isinstance(box, dict) else box)]
    return True
