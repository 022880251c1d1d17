"""Typed messages and their wire names."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from bus.complaints import in_plain_words, unfit_in_plain_words
from bus.errors import InvalidMessage, InvalidPayload, UnknownMessageType
from bus.limits import JSON_CONTAINERS
from bus.strict_json import strict_json

M = TypeVar("M", bound=BaseModel)

_WIRE_NAME = re.compile(r"[a-z][a-z0-9_-]*(\.[a-z][a-z0-9_-]*)*\.v[1-9][0-9]*")
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)  # one that does not end reaches to the end
_MALFORMED = "JSON is malformed: "  # before msgspec's reason, where what it is about has been said
_classes: dict[str, type[BaseModel]] = {}
_names: dict[type[BaseModel], str] = {}


def message(wire_name: str) -> Callable[[type[M]], type[M]]:
    """Declare a pydantic model as a message under a versioned name, such as `alert.raised.v1`.

    The model becomes frozen. Raises InvalidMessage when the name is malformed or taken by another class.
    """
    if not _WIRE_NAME.fullmatch(wire_name):
        raise InvalidMessage(
            f"{wire_name!r} is not a wire name.",
            fix="Use lower-case words and a version, as in alert.raised.v1.",
        )

    def declare(cls: type[M]) -> type[M]:
        taken = _classes.get(wire_name)
        if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
            raise InvalidMessage(
                f"{wire_name!r} is already the wire name of {taken.__module__}.{taken.__qualname__}.",
                fix="Give one of them another name or version.",
            )
        if not cls.model_config.get("frozen"):
            cls.model_config["frozen"] = True
            cls.model_rebuild(force=True)
        _classes[wire_name] = cls
        _names[cls] = wire_name
        return cls

    return declare


def forget_messages(modules: Collection[str]) -> None:
    """Free the wire names of the classes of these modules, whose code is not used in this process any more."""
    for wire_name, cls in list(_classes.items()):
        if cls.__module__ in modules:
            del _classes[wire_name]


def wire_name_of(cls: type[BaseModel]) -> str:
    """The wire name of a message class; raises UnknownMessageType for a class without @message."""
    name = _names.get(cls)
    if name is None:
        raise UnknownMessageType(
            f"{cls.__qualname__} has no wire name.", fix='Declare it with @message("some.name.v1").'
        )
    return name


def class_of(wire_name: str) -> type[BaseModel]:
    """The class of a wire name; raises UnknownMessageType."""
    try:
        return _classes[wire_name]
    except KeyError:
        raise UnknownMessageType(f"No message class is registered as {wire_name!r}.") from None


def encode_payload(model: BaseModel) -> str:
    """The model as JSON text that Postgres can hold; raises InvalidPayload."""
    try:
        text = strict_json(model.__pydantic_serializer__, model)
    except (PydanticSerializationError, UnicodeError, ValueError) as error:
        is_unfit = isinstance(error, PydanticSerializationError)
        words = unfit_in_plain_words(str(error)) if is_unfit else first_line(error)
        raise InvalidPayload(
            f"{type(model).__qualname__} cannot be written as JSON: {words}.",
            fix="Use field types that JSON can carry.",
        ) from error
    if "null" in text or "\\u0000" in text:
        refuse_unfit(model, text)
    refuse_too_many(text)
    return text


def encode_json(value: Any) -> str:
    """A JSON value as text that Postgres can hold; raises InvalidPayload."""
    try:
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidPayload(
            f"A value cannot be written as JSON: {first_line(error)}.",
            fix="Use JSON values and valid Unicode.",
        ) from None
    refuse_too_many(text)
    refuse_nul(text)
    return text


def read_json(text: str, what: str) -> Any:
    """The value of JSON text that somebody has typed, of which Postgres and every reader take each part: no NaN, no NUL,
    no half a character. Raises InvalidPayload, which says `what` it was to be."""
    refuse_too_many(text)
    try:
        value = msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:  # msgspec's own are among them
        raise InvalidPayload(
            f"{what} is not JSON: {first_line(error).removeprefix(_MALFORMED)}.",
            fix="Quote text twice: '\"yes\"'.",
        ) from None
    refuse_nul(text)
    return value


def decode_payload(wire_name: str, payload: str) -> BaseModel:
    """The message of a wire name and its JSON text; raises UnknownMessageType or InvalidPayload."""
    cls = class_of(wire_name)
    refuse_too_many(payload)
    try:
        return cls.__pydantic_validator__.validate_json(payload)  # type: ignore[no-any-return]
    except ValidationError as error:
        raise InvalidPayload(
            f"The payload does not fit {wire_name}: {describe_validation(error)}.",
            fix="Send what the class declares, or register a new version of the type.",
        ) from None


def refuse_unfit(model: BaseModel, json_text: str) -> None:
    """Raise InvalidPayload for what Postgres cannot hold, or JSON cannot carry, in a model's JSON text."""
    if "\\u0000" in json_text:
        refuse_nul(json_text)
    if "null" in json_text:
        refuse_non_finite(model)


def refuse_too_many(json_text: str) -> None:
    """Raise InvalidPayload for more lists and objects than anybody is to make of one text. It need not be JSON."""
    if len(json_text) <= 2 * JSON_CONTAINERS or _openings(json_text) <= JSON_CONTAINERS:
        return
    if _openings(_STRING.sub("", json_text)) > JSON_CONTAINERS:
        raise InvalidPayload(
            f"The payload has more than {JSON_CONTAINERS:,} lists and objects.",
            fix="Send it in parts, or as text.",
        )


def _openings(text: str) -> int:
    return text.count("[") + text.count("{")


def refuse_nul(json_text: str) -> None:
    """Raise InvalidPayload if any text in the JSON holds NUL, which Postgres cannot query or index."""
    if "\\u0000" in json_text and _holds_nul(msgspec.json.decode(json_text)):
        raise InvalidPayload(
            "The payload holds text with a NUL character (\\u0000).",
            fix="Remove it or encode it, as base64 for one.",
        )


def refuse_non_finite(model: BaseModel) -> None:
    """Raise InvalidPayload if the model holds NaN or infinity, which its JSON text has as null."""
    if model.model_config.get("ser_json_inf_nan", "null") != "null":
        return
    if _holds_non_finite(model.__pydantic_serializer__.to_python(model)):
        raise InvalidPayload(
            f"{type(model).__qualname__} holds a number that is not finite, which JSON cannot carry.",
            fix="Use None where there is no number.",
        )


def describe_validation(error: ValidationError, data: Any = None) -> str:
    """The first complaint of a ValidationError on one line, without the input, which may be secret. With the `data` an entry
    of a list goes by its name."""
    first = error.errors(include_input=False, include_url=False)[0]
    where = place_in(first["loc"], data) or "the whole"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where}: {in_plain_words(first)}{more}"


def place_in(place: Sequence[int | str], data: Any) -> str:
    """A place in words. An entry of a list goes by its `name` in the data, unless it has none or it is that which is wrong."""
    words = []
    for depth, part in enumerate(place):
        data = _part_of(data, part)
        name = data.get("name") if isinstance(part, int) and isinstance(data, dict) else None
        is_known = isinstance(name, str) and place[depth + 1 : depth + 2] != ("name",)
        words.append(str(name) if is_known else str(part))
    return ".".join(words)


def _part_of(data: Any, part: int | str) -> Any:
    if isinstance(data, dict):
        return data.get(part)
    return data[part] if isinstance(data, list) and isinstance(part, int) and part < len(data) else None


def first_line(error: BaseException, hide: Callable[[str], str] = str) -> str:
    """An error's words, on one line and not too long. `hide` takes out of all of them what nobody is to see."""
    try:
        text = hide(str(error)).strip()
    except Exception:  # an author's error whose own words fail
        return "it cannot be put into words"
    return text.splitlines()[0][:300] if text else type(error).__name__


def _holds_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any("\0" in key or _holds_nul(item) for key, item in value.items())
    if isinstance(value, list):
        return any(_holds_nul(item) for item in value)
    return False


def _holds_non_finite(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(_holds_non_finite(item) for item in value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return any(_holds_non_finite(item) for item in value)
    return False
