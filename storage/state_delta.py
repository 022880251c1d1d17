"""What has changed in a large state, so that a history need not hold all of it each time. Byte for byte: the state's
hash stands beside it, and what is put together again must have it."""

from __future__ import annotations

from json.encoder import JSONEncoder

import msgspec


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a state that are new or different, and those that are gone."""

    set: dict[str, msgspec.Raw]
    drop: list[str]


_quote = JSONEncoder(ensure_ascii=False).encode
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def between(old: str, new: str) -> str | None:
    """The delta from one state's JSON text to another's; None where one could not lead to exactly that text."""
    if not (old.startswith("{") and new.startswith("{")):
        return None
    before, after = _fields(old), _fields(new)
    changed = {
        name: value
        for name, value in after.items()
        if name not in before or bytes(before[name]) != bytes(value)
    }
    gone = [name for name in before if name not in after]
    delta = Delta(set=changed, drop=gone)
    return msgspec.json.encode(delta).decode() if applied(old, delta) == new else None


def applied(state: str, delta: Delta) -> str:
    """The state after the delta: fields keep their places, new ones come last."""
    fields = _fields(state)
    for name in delta.drop:
        fields.pop(name, None)
    fields.update(delta.set)
    return "{" + ",".join(f"{_quote(name)}:{bytes(value).decode()}" for name, value in fields.items()) + "}"
