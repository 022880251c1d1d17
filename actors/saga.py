"""Compensations: what undoes the recorded actions of a turn that ends in failure, or is cancelled."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import TypeAdapter, ValidationError

from actors import values
from actors.functions import hints_of
from actors.retry import RetryPolicy
from bus.errors import InvalidPayload
from bus.registry import describe_validation
from storage.journal import JournalEntry

if TYPE_CHECKING:
    from actors.entries import Entries

COMPENSATE = "compensate"  # an entry: this will undo what was done before it
UNDO = "undo"  # an entry: a compensation has run
UNWIND = "unwind"  # an entry: the turn is given up, and nothing but its compensations runs from here on
CANCELLED = "cancelled"  # the reason of a turn whose task was cancelled
SKIPPED = "skipped"  # the reasons of one that somebody has ended by hand
DESTROYED = "destroyed"
UNWIND_AT = "#unwind"

COMPENSATION_RETRY = RetryPolicy()


class Arguments(msgspec.Struct, frozen=True):
    """As they are recorded: plain JSON values."""

    args: list[Any]
    named: dict[str, Any]


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """Why a turn is given up; `reason` is that of its dead letter, or `cancelled`, and `frames` say where. One that `leaves` undoes nothing, and
    one that `destroys` takes its agent's state along."""

    reason: str
    error: str
    failures: int
    frames: str = ""
    leaves: bool = False
    destroys: bool = False

    @property
    def is_by_hand(self) -> bool:
        return self.reason in (SKIPPED, DESTROYED)


@dataclass(frozen=True, kw_only=True)
class Compensation:
    """A function that undoes something, and the arguments that were recorded with it."""

    place: str
    name: str
    function: Callable[..., Any]
    recorded: str
    retry: RetryPolicy

    @property
    def undo_at(self) -> str:
        """The place of the entry that says that it has run."""
        return _undo_at(self.place)

    def arguments(self) -> tuple[list[Any], dict[str, Any]]:
        """What the function is called with, as its annotations say; raises InvalidPayload."""
        recorded = msgspec.json.decode(self.recorded, type=Arguments)
        try:
            return _typed(self.function, recorded)
        except ValidationError as error:
            raise InvalidPayload(
                f"The recorded arguments do not fit {self.name}: {describe_validation(error)}.",
                fix="Give what the annotations say.",
            ) from None


class Saga:
    """The compensations of one turn: those on record, and those that its handler has registered in this run."""

    __slots__ = ("_entries", "_registered")

    def __init__(self, entries: Entries) -> None:
        self._entries = entries
        self._registered: dict[str, Compensation] = {}  # by their places

    def register(self, compensation: Compensation) -> None:
        self._registered[compensation.place] = compensation

    @property
    def is_empty(self) -> bool:
        return not (self._registered or any(e.kind == COMPENSATE for e in self._entries))

    def lost(self) -> list[JournalEntry]:
        """Those on record that have not run, and that the handler has not registered when it ran again."""
        return [
            e
            for e in self._entries
            if e.kind == COMPENSATE and e.key not in self._registered and _undo_at(e.key) not in self._entries
        ]

    def in_order(self) -> list[Compensation]:
        """As they run: the last registered first."""
        numbers = {entry.key: entry.number for entry in self._entries}
        return sorted(self._registered.values(), key=lambda c: numbers[c.place], reverse=True)

    @property
    def ending(self) -> Ending | None:
        """What is on record of the turn's having been given up."""
        entry = self._entries.get(UNWIND_AT)
        return None if entry is None else _read_ending(entry)


def ending_of(entries: Sequence[JournalEntry]) -> Ending | None:
    """What is on record of a turn's having been given up: what was said last, unless that cannot be read."""
    said = next((entry for entry in reversed(entries) if entry.key == UNWIND_AT), None)
    with contextlib.suppress(msgspec.MsgspecError):
        return None if said is None else _read_ending(said)
    return None


def unwind_entry(number: int, ending: Ending) -> JournalEntry:
    value = msgspec.json.encode(ending).decode()
    return JournalEntry(
        number=number, key=UNWIND_AT, kind=UNWIND, name=ending.reason, ok=True, value=value, took_ms=0.0
    )


def _read_ending(entry: JournalEntry) -> Ending:
    return msgspec.json.decode(entry.value, type=Ending)


def outstanding(entries: Sequence[JournalEntry]) -> list[str]:
    """The compensations on record that have not run, by their names, as they would run: the last registered first."""
    ran = {entry.key for entry in entries if entry.kind == UNDO}
    return [e.name for e in reversed(entries) if e.kind == COMPENSATE and _undo_at(e.key) not in ran]


def _undo_at(place: str) -> str:
    return f"#undo:{place}"


def encode_arguments(arguments: tuple[Any, ...], named: dict[str, Any]) -> str:
    """JSON text; raises InvalidPayload for what JSON cannot carry."""
    return values.encode(
        {"args": arguments, "named": named}, "An argument", "Give JSON values or pydantic models."
    )


def _typed(function: Callable[..., Any], recorded: Arguments) -> tuple[list[Any], dict[str, Any]]:
    """Functions without a signature that can be read get plain JSON values."""
    hints = hints_of(function)
    if hints is None:
        return recorded.args, recorded.named
    try:
        bound = inspect.signature(function).bind(*recorded.args, **recorded.named)
    except (TypeError, ValueError):
        return recorded.args, recorded.named
    for name, value in bound.arguments.items():
        hint = hints.get(name, Any)
        match bound.signature.parameters[name].kind:
            case inspect.Parameter.VAR_POSITIONAL:
                bound.arguments[name] = tuple(_as(hint, each) for each in value)
            case inspect.Parameter.VAR_KEYWORD:
                bound.arguments[name] = {key: _as(hint, each) for key, each in value.items()}
            case _:
                bound.arguments[name] = _as(hint, value)
    return list(bound.args), bound.kwargs


def _as(hint: Any, value: Any) -> Any:
    return value if hint is Any else TypeAdapter(hint).validate_json(msgspec.json.encode(value))
