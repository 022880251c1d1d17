"""Whether those whom domain.yaml sends something to are there, and take it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from pydantic import AliasChoices, AliasPath, BaseModel, RootModel

from actors.task_messages import TASK_KIND
from bus.errors import InvalidDomainFile
from bus.meant import closest, did_you_mean

if TYPE_CHECKING:
    from actors.agent import AgentType
    from actors.event_spec import EventSpec


def require_kind(what: str, target: str, kinds: Collection[str]) -> str:
    """The kind in a target (`kind/key`); raises InvalidDomainFile for one that the domain does not have."""
    kind = target.partition("/")[0]
    if kind not in kinds:
        own = [name for name in kinds if name != TASK_KIND]  # that one is Callboard's
        raise InvalidDomainFile(
            f"{what} to {target}, which is no kind of the domain.",
            fix=did_you_mean(kind, own) or f"It has {', '.join(own)}.",
        )
    return kind


def require_handler(what: str, wire_name: str, kind: AgentType) -> None:
    """Raise InvalidDomainFile where the kind has no handler for the message."""
    if wire_name not in kind.handlers:
        known = f"It has some for {', '.join(sorted(kind.handlers)) or 'nothing'}."
        meant = closest(wire_name, kind.handlers)
        raise InvalidDomainFile(
            f"{what} {wire_name}, for which {kind.kind} has no handler.",
            fix=known if meant is None else f"{known} Did you mean {meant}?",
        )


def check_events(events: tuple[EventSpec, ...], kinds: Mapping[str, AgentType]) -> None:
    """Raise InvalidDomainFile for an event that could only become a dead letter."""
    seen: set[tuple[str, str]] = set()
    for event in events:
        what = f"The event {event.name}"
        if (event.name, event.type) in seen:
            raise InvalidDomainFile(
                f"{what} of type {event.type} is there twice.",
                fix="One agent gets it; let that one send it on.",
            )
        seen.add((event.name, event.type))
        kind = kinds[require_kind(f"{what} goes", event.to, kinds)]
        require_handler(f"{what} has the type", event.type, kind)
        require_fields(f"{what} goes to {event.to}", event.type, kind, event.fields)


def require_fields(what: str, wire_name: str, kind: AgentType, fields: Iterable[str]) -> None:
    """Raise InvalidDomainFile for a field that the kind's message of that name does not have."""
    known = _fields(kind.handlers[wire_name].message)
    if known is None:
        return
    for field in fields:
        if field not in known:
            raise InvalidDomainFile(
                f"{what}, and {wire_name} has no field {field!r}.",
                fix=did_you_mean(field, known) or f"It has {', '.join(sorted(known)) or 'none'}.",
            )


def _fields(message: type[BaseModel]) -> set[str] | None:
    """What its data may call its fields; None where it takes others as well, or is what a validator makes of it."""
    before = (each.info.mode != "after" for each in message.__pydantic_decorators__.model_validators.values())
    if message.model_config.get("extra") == "allow" or issubclass(message, RootModel) or any(before):
        return None
    by_name = message.model_config.get("populate_by_name") or message.model_config.get("validate_by_name")
    known: set[str] = set()
    for name, field in message.model_fields.items():
        alias = field.validation_alias
        known.update(_first_words(alias))
        if alias is None or by_name:
            known.add(name)
    return known


def _first_words(alias: str | AliasPath | AliasChoices | None) -> set[str]:
    if isinstance(alias, AliasChoices):
        return {word for choice in alias.choices for word in _first_words(choice)}
    if isinstance(alias, AliasPath):
        return {str(alias.path[0])}
    return set() if alias is None else {alias}
