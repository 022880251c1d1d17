"""An event that a domain takes from outside, as domain.yaml lists it; and what parts of that file have in common."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from bus.address import require_word
from bus.errors import InvalidAddress

_EVENT = re.compile(r"[a-z][a-z0-9_-]*")
_FIELD = re.compile(r"\{([a-z_][a-z0-9_]*)\}")


class Strict(BaseModel):
    """A part of domain.yaml."""

    # JSON, as which Postgres keeps the file, has no infinity: the file could not be read again.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def require_target(value: str, placeholder: str) -> str:
    kind, slash, key = value.partition("/")
    if not slash or not key:
        raise ValueError(f"write it as kind/key, where the key may hold {placeholder}")
    require_plain_word(kind, "kind")
    return value


def require_plain_word(value: str, what: str) -> str:
    try:
        return require_word(value, what)
    except InvalidAddress as error:  # pydantic names the field of a ValueError
        raise ValueError(error.message.rstrip(".")) from None


class EventSpec(Strict):
    """Which agent gets an event: `to` is `kind/key`, in which `{field}` stands for a field of the payload.

    With `shared` it begins work for whichever tasks want it: no end or pause of the one that has fed it stops that.
    """

    name: str
    type: str
    to: str
    shared: bool = False

    @field_validator("name")
    @classmethod
    def _is_a_word(cls, value: str) -> str:
        if not _EVENT.fullmatch(value):
            raise ValueError("must be a word of lower-case letters, digits, - and _")
        return value

    @field_validator("to")
    @classmethod
    def _is_a_target(cls, value: str) -> str:
        return require_target(value, "{field}")

    @property
    def fields(self) -> list[str]:
        """The names in `to` that stand for fields of the payload."""
        return _FIELD.findall(self.to)

    def target(self, payload: dict[str, Any]) -> str:
        """`kind/key` for a payload; raises KeyError when a field is missing."""
        return _FIELD.sub(lambda found: str(payload[found[1]]), self.to)
