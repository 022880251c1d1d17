"""What authors subclass: an agent, its handlers and its state."""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, overload

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticSerializationError

from actors.retry import RetryPolicy
from actors.supervision import Supervision
from bus.address import require_word
from bus.complaints import unfit_in_plain_words
from bus.errors import CallboardError, InvalidPayload
from bus.registry import describe_validation, refuse_unfit, wire_name_of
from bus.strict_json import strict_json

if TYPE_CHECKING:
    from actors.context import Context

F = TypeVar("F", bound=Callable[..., Any])


class NoState(BaseModel):
    """The state of an agent that keeps none."""

    model_config = ConfigDict(extra="forbid")  # what a class with a state has stored is not dropped unsaid


class Agent:
    """A durable virtual actor. Subclass it, name its `kind`, and give it handlers.

    `State` is a pydantic model whose fields all have defaults; `self.state` is its instance, and what it
    holds when a handler ends is committed together with all that the handler has sent. Nothing else on the
    instance survives. Raise `schema_version` when the model changes, and let `upcast` bring old ones along.
    """

    kind: ClassVar[str]
    skills: ClassVar[tuple[str, ...]] = ()
    schema_version: ClassVar[int] = 1
    retry: ClassVar[RetryPolicy] = RetryPolicy()
    supervision: ClassVar[Supervision] = Supervision()

    State: ClassVar[type[BaseModel]] = NoState
    state: Any

    @classmethod
    def upcast(cls, state: dict[str, Any], from_version: int) -> dict[str, Any]:
        """Return an older state in today's shape; it is called when `schema_version` has grown."""
        return state

    async def on_created(self, ctx: Context) -> None:
        """Runs once, inside the agent's first turn, before its handler."""

    async def on_activated(self) -> None:
        """Runs each time the agent comes into memory; it may fill fields, but not change the state."""

    async def on_passivated(self) -> None:
        """Runs before an idle agent leaves memory; not after a crash."""

    async def on_paused(self, ctx: Context) -> None:
        """Runs inside the turn that pauses the agent."""

    async def on_resumed(self, ctx: Context) -> None:
        """Runs inside the turn that resumes the agent."""

    async def on_destroyed(self, ctx: Context) -> None:
        """Runs inside the turn that destroys the agent, before its state is deleted."""


@dataclass(frozen=True, kw_only=True)
class Handler:
    """One handler of a kind: which method, for which message class, with which policy."""

    method: str
    message: type[BaseModel]
    retry: RetryPolicy
    overtake: bool
    is_async: bool


@dataclass(frozen=True, kw_only=True)
class _Marked:
    query: bool
    retry: RetryPolicy | None = None
    overtake: bool = False


@overload
def handler(function: F) -> F: ...
@overload
def handler(*, retry: RetryPolicy | None = None, overtake: bool = False) -> Callable[[F], F]: ...


def handler(
    function: F | None = None, *, retry: RetryPolicy | None = None, overtake: bool = False
) -> F | Callable[[F], F]:
    """Mark a method as the handler of the message class that its first argument is annotated with.

    `retry` replaces the agent's policy; with `overtake` a message that waits for its next try gives up its
    place, and later messages may be handled before it. A plain `def` runs in a thread.
    """

    def mark(f: F) -> F:
        f.__callboard__ = _Marked(query=False, retry=retry, overtake=overtake)  # type: ignore[attr-defined]
        return f

    return mark(function) if function is not None else mark


def query(function: F) -> F:
    """Mark a read-only handler: it runs on a copy of the committed state, beside the mailbox, and answers."""
    function.__callboard__ = _Marked(query=True)  # type: ignore[attr-defined]
    return function


class AgentType:
    """What the turn loop knows of an agent class, worked out once."""

    def __init__(self, cls: type[Agent]) -> None:
        self.cls = cls
        self.kind = require_word(cls.kind, "kind")
        if (
            not 0 <= cls.schema_version < 2**31
        ):  # in 32 bits on every turn, also on that which gives a message up
            raise CallboardError(
                f"{cls.__qualname__}.schema_version is {cls.schema_version}.",
                fix="Count it up from 1 with each change.",
            )
        if needed := [name for name, field in cls.State.model_fields.items() if field.is_required()]:
            raise CallboardError(
                f"{cls.__qualname__}.State has no default for: {', '.join(needed)}.",
                fix="Give each one: an agent begins with them, before its first message.",
            )
        self.handlers: dict[str, Handler] = {}
        self.queries: dict[str, Handler] = {}
        for name, function in inspect.getmembers(cls, callable):
            marked = getattr(function, "__callboard__", None)
            if marked is not None:
                self._add(name, function, marked)
        self.has_activated_hook = cls.on_activated is not Agent.on_activated
        self.has_passivated_hook = cls.on_passivated is not Agent.on_passivated
        self._state_class = cls.State
        self._serializer = cls.State.__pydantic_serializer__
        self._load = cls.State.__pydantic_validator__.validate_json

    def _add(self, name: str, function: Callable[..., Any], marked: _Marked) -> None:
        table = self.queries if marked.query else self.handlers
        retry = self.cls.retry if marked.retry is None else marked.retry
        if not isinstance(retry, RetryPolicy):
            raise CallboardError(
                f"{self.cls.__qualname__}.{name} has retry={retry!r}.",
                fix="Write retry = RetryPolicy(attempts=3).",
            )
        for message in _message_classes(self.cls, name, function):
            wire_name = wire_name_of(message)
            if wire_name in table:
                raise CallboardError(
                    f"{self.cls.__qualname__} handles {wire_name} twice.",
                    fix="Keep one handler for each message.",
                )
            table[wire_name] = Handler(
                method=name,
                message=message,
                retry=retry,
                overtake=marked.overtake,
                is_async=inspect.iscoroutinefunction(function),
            )

    def new_state(self) -> BaseModel:
        try:
            return self._state_class()
        except ValidationError as error:
            raise InvalidPayload(
                f"A new {self.cls.__qualname__}.State cannot be made: {describe_validation(error)}.",
                fix="Give it defaults that its own validation takes.",
            ) from None

    def load_state(self, text: str, schema_version: int) -> BaseModel:
        """The state from its stored JSON; raises InvalidPayload when it does not fit the class, or is of newer code: what
        that has added would be dropped unsaid."""
        if schema_version > self.cls.schema_version:
            raise InvalidPayload(
                f"The stored state is of schema_version {schema_version}, and {self.cls.__qualname__} knows those up to "
                f"{self.cls.schema_version}.",
                fix="Run the newer code, or raise schema_version above it and write upcast().",
            )
        try:
            if schema_version == self.cls.schema_version:
                return self._load(text)  # type: ignore[no-any-return]
            return self._state_class.model_validate(self.cls.upcast(json.loads(text), schema_version))
        except ValidationError as error:
            raise InvalidPayload(
                f"The stored state does not fit {self.cls.__qualname__}.State: {describe_validation(error)}.",
                fix="Raise schema_version and write upcast().",
            ) from None

    def dump_state(self, state: BaseModel) -> str:
        """Raises InvalidPayload for what could not be loaded again."""
        try:
            text = strict_json(self._serializer, state)
        except PydanticSerializationError as error:
            raise InvalidPayload(
                f"The state of {self.cls.__qualname__} does not fit its model: {unfit_in_plain_words(str(error))}.",
                fix="Assign what the field's type allows; validate_assignment in the model's config finds it early.",
            ) from None
        if "null" in text or "\\u0000" in text:
            refuse_unfit(state, text)
        return text


_types: dict[type[Agent], AgentType] = {}


def agent_type(cls: type[Agent]) -> AgentType:
    """The compiled form of an agent class; raises CallboardError when its handlers are declared wrongly."""
    if cls not in _types:
        _types[cls] = AgentType(cls)
    return _types[cls]


def _message_classes(
    cls: type[Agent], name: str, function: Callable[..., Any]
) -> tuple[type[BaseModel], ...]:
    parameters = [p for p in inspect.signature(function).parameters if p != "self"]
    try:
        hints = typing.get_type_hints(function)
    except NameError as error:
        raise CallboardError(
            f"The annotations of {cls.__qualname__}.{name} cannot be read: {error}.",
            fix="Import the message class at the module's top level.",
        ) from None
    annotation = hints.get(parameters[0]) if parameters else None
    options = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    for option in options:
        if not (isinstance(option, type) and issubclass(option, BaseModel)):
            raise CallboardError(
                f"The first argument of {cls.__qualname__}.{name} is not annotated with a message class.",
                fix="Write it as `async def on_event(self, event: SomeMessage, ctx: Context)`.",
            )
    return options


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)
