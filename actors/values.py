"""What the journal keeps of results and errors: JSON text, and back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import msgspec
from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from actors.functions import hints_of, name_of
from bus.errors import InvalidPayload
from bus.registry import (
    decode_payload,
    describe_validation,
    encode_payload,
    first_line,
    refuse_nul,
    wire_name_of,
)

MAX_ERROR = 2_000  # characters of an error's words


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What an ask was answered with: a message with its wire name, or a plain JSON value."""

    payload: msgspec.Raw
    type: str | None = None


class Error(msgspec.Struct, frozen=True, kw_only=True):
    type: str
    message: str


def encode(value: Any, what: str = "A result", fix: str = "Return JSON values or pydantic models.") -> str:
    """The value as JSON text that Postgres can hold; raises InvalidPayload, which says `what` it was to be."""
    try:
        text = to_json(value, inf_nan_mode="constants").decode()
        msgspec.json.decode(text)  # what has become no JSON was NaN or infinity
    except (
        PydanticSerializationError,
        msgspec.DecodeError,
        UnicodeError,
        ValueError,
        RecursionError,
    ) as error:
        is_malformed = type(error) is msgspec.DecodeError
        words = "NaN and infinity are no JSON" if is_malformed else first_line(error)
        raise InvalidPayload(
            f"{what} cannot be written as JSON: {words}.",
            fix=fix,
        ) from None
    refuse_nul(text)
    return text


def decode(text: str, function: Callable[..., Any]) -> Any:
    """The recorded result as the function's annotation says; raises InvalidPayload."""
    adapter = _adapter(function)
    if adapter is None:
        return msgspec.json.decode(text)
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        raise InvalidPayload(
            f"The recorded result does not fit what {name_of(function)} returns: {describe_validation(error)}.",
            fix="Return what the annotation says.",
        ) from None


def encode_answer(value: Any) -> str:
    """What an ask or a promise is answered with; raises InvalidPayload."""
    if isinstance(value, BaseModel):
        payload, wire_name = encode_payload(value), wire_name_of(type(value))
    else:
        payload, wire_name = encode(value), None
    return msgspec.json.encode(Answer(payload=msgspec.Raw(payload.encode()), type=wire_name)).decode()


def decode_answer(text: msgspec.Raw) -> Any:
    """The message, or the plain JSON value; raises UnknownMessageType or InvalidPayload."""
    answer = msgspec.json.decode(text, type=Answer)
    if answer.type is None:
        return msgspec.json.decode(answer.payload)
    return decode_payload(answer.type, bytes(answer.payload).decode())


def encode_error(error: BaseException, hide: Callable[[str], str] = str) -> str:
    text = storable(first_line(error, hide))
    return msgspec.json.encode(Error(type=type(error).__name__, message=text[:MAX_ERROR])).decode()


def storable(words: str) -> str:
    """Words of whatever origin, as Postgres can hold them."""
    return words.encode(errors="backslashreplace").decode().replace("\0", "\\0")


def error_line(text: str) -> str:
    error = msgspec.json.decode(text, type=Error)
    return f"{error.type}: {error.message}"


def error_clause(text: str) -> str:
    """The same within a sentence, which has a full stop of its own."""
    return error_line(text).rstrip(".")


def _adapter(function: Callable[..., Any]) -> TypeAdapter[Any] | None:
    try:
        return _adapter_of(function)
    except TypeError:  # a function that cannot be a key, as a partial of a list
        return _make_adapter(function)


def _make_adapter(function: Callable[..., Any]) -> TypeAdapter[Any] | None:
    annotation = (hints_of(function) or {}).get("return", Any)
    if annotation is Any:
        return None
    try:
        return TypeAdapter(annotation)
    except PydanticUserError as error:
        raise InvalidPayload(
            f"What {name_of(function)} returns cannot be read as its annotation says: {first_line(error)}",
            fix="Annotate it with JSON values or pydantic models.",
        ) from None


_adapter_of = functools.lru_cache(maxsize=1_024)(_make_adapter)
