"""What is wrong with a value, in plain words: pydantic's are for programmers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "there is no such field",
    "string_type": "must be text",
    "string_too_short": "must be {min_length} or more characters long",
    "string_too_long": "must be {max_length} or fewer characters long",
    "string_pattern_mismatch": "must match {pattern}",
    "bytes_type": "must be bytes",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "decimal_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "none_required": "must be empty",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "set_type": "must be a list",
    "too_short": "must have {min_length} or more entries",
    "too_long": "must have {max_length} or fewer entries",
    "json_invalid": "is not JSON: {error}",
    "json_type": "must be JSON text",
    "datetime_type": "must be a time such as 2026-01-31T12:00:00Z",
    "datetime_parsing": "must be a time such as 2026-01-31T12:00:00Z",
    "datetime_from_date_parsing": "must be a time such as 2026-01-31T12:00:00Z",
    "timezone_aware": "must be a time with its zone, such as 2026-01-31T12:00:00Z",
    "uuid_parsing": "must be a UUID",
    "uuid_type": "must be a UUID",
    "path_type": "must be a path",
    "union_tag_not_found": "its {discriminator} is missing",
    "union_tag_invalid": "its {discriminator} must be one of {expected_tags}",
}

_UNFIT = re.compile(
    r"Expected `([^`\[]+).*?\[field_name='([^']+)', .*, input_type=([\w.]+)\]\)?$", re.MULTILINE
)


def unfit_in_plain_words(complaint: str) -> str:
    """What pydantic says of a value that it cannot write, on one line: the field, what it must be and what it holds, without
    the value, which may be secret."""
    found = _UNFIT.findall(complaint)
    if not found:
        first, *_ = complaint.strip().splitlines() or ["a value cannot be written"]
        return first.rstrip(" :")[:300]  # the lines after it quote values
    expected, field, held = found[0]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"{field} must be {expected}, and holds {held}{more}"


def in_plain_words(complaint: Mapping[str, Any]) -> str:
    """One entry of ValidationError.errors() without its place; a validator's own words as they are."""
    words = _WORDS.get(complaint["type"])
    if words is None:
        text = str(complaint["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
        return text.replace("Input should be", "must be").rstrip(".")
    return words.format_map(complaint.get("ctx", {}))
