"""Tools: functions that agents call with `ctx.call`, with a schema, an effect, and what to do when nobody knows."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints, overload

from pydantic import BaseModel, ConfigDict, PydanticUserError, ValidationError, create_model
from pydantic.errors import PydanticSchemaGenerationError

from actors import values
from actors.approval import not_approvers
from actors.retry import NO_RETRY, RetryPolicy
from actors.secret import Secret
from bus.errors import InvalidPayload, InvalidTool
from bus.registry import describe_validation
from storage.ledger import Effect

IDEMPOTENCY_KEY = "idempotency_key"  # a parameter of this name is given the call's own key
DEFAULT_TIMEOUT_S = 60.0
_TAKEN = tuple(BaseModel.__dict__)  # pydantic would take fields of these names for its own


class Happened(NamedTuple):
    """What a verify function returns when the call has acted: its result."""

    result: Any = None


class NotHappened(NamedTuple):
    """What a verify function returns when the call has not acted. It may then be made again, once nothing of the
    process that made it can still act."""


Verdict = Happened | NotHappened | None  # None: one cannot tell, and a person decides
OnUnknown = Literal["ask", "fail"] | Callable[..., Awaitable[Verdict] | Verdict]
NeedsApproval = bool | Callable[..., bool]


class Injected(NamedTuple):
    """What a function is given beside the caller's arguments: secrets, by parameter, and the idempotency key."""

    secrets: dict[str, Secret]
    takes_key: bool


class Bound(NamedTuple):
    """Arguments of one call, checked. `text` is what the ledger has of them: JSON, no secrets."""

    values: dict[str, Any]
    text: str

    @property
    def digest(self) -> str:
        return sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class Tool:
    """A function that agents may call. Called itself, it calls the function: for tests, and for other tools.

    `schema` is what a model is told of it: name, description, and the parameters as JSON Schema. Secrets and the
    idempotency key are not among them.
    """

    function: Callable[..., Any]
    name: str
    description: str
    effect: Effect
    timeout_s: float
    retry: RetryPolicy
    requires_approval: NeedsApproval
    approvers: tuple[str, ...]
    approval_timeout_s: float | None
    on_unknown: OnUnknown
    injected: Injected
    injected_to_verify: Injected
    arguments: type[BaseModel]

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.function(*arguments, **named)

    @property
    def schema(self) -> dict[str, Any]:
        parameters = self.arguments.model_json_schema()
        parameters.pop("title", None)
        return {"name": self.name, "description": self.description, "parameters": parameters}

    def bind(self, arguments: Sequence[Any], named: dict[str, Any]) -> Bound:
        """Check the arguments of a call; raises InvalidPayload for what does not fit or is no JSON."""
        names = list(self.arguments.model_fields)
        if len(arguments) > len(names):
            raise InvalidPayload(
                f"The tool {self.name} takes {len(names)} arguments; {len(arguments)} were given.",
                fix=f"Its parameters are: {', '.join(names) or 'none'}.",
            )
        given = dict(zip(names, arguments, strict=False))
        twice = given.keys() & named.keys()
        if twice:
            raise InvalidPayload(
                f"The tool {self.name} was given {', '.join(sorted(twice))} twice.", fix="Give it once."
            )
        try:
            model = self.arguments.model_validate({**given, **named})
        except ValidationError as error:
            raise InvalidPayload(
                f"The tool {self.name} cannot be called so: {describe_validation(error)}.",
                fix=f"Its parameters are: {', '.join(names) or 'none'}.",
            ) from None
        try:
            text = values.encode(model, "An argument")
        except InvalidPayload as error:
            raise InvalidPayload(
                f"An argument of the tool {self.name} cannot be recorded: {error.message}",
                fix="Give JSON values or pydantic models.",
            ) from None
        return Bound({name: getattr(model, name) for name in names}, text)

    def needs_approval(self, bound: Bound) -> bool:
        if callable(self.requires_approval):
            return bool(self.requires_approval(**bound.values))
        return self.requires_approval


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...
@overload
def tool(
    *,
    effect: Literal["pure", "idempotent", "at_most_once"] = ...,
    name: str | None = ...,
    timeout: float = ...,
    retry: RetryPolicy = ...,
    requires_approval: NeedsApproval = ...,
    approvers: Sequence[str] = ...,
    approval_timeout: float | None = ...,
    on_unknown: OnUnknown = ...,
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    effect: Literal["pure", "idempotent", "at_most_once"] = "at_most_once",
    name: str | None = None,
    timeout: float = DEFAULT_TIMEOUT_S,
    retry: RetryPolicy = NO_RETRY,
    requires_approval: NeedsApproval = False,
    approvers: Sequence[str] = (),
    approval_timeout: float | None = None,
    on_unknown: OnUnknown = "ask",
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a function a tool: `await ctx.call(function, ...)`.

    effect: `pure` (nothing outside changes), `idempotent` (the callee honours the `idempotency_key` that the function
        takes as a parameter of that name: several calls act once) or `at_most_once`, which is also what is assumed.
    timeout: seconds for one attempt. After it, what an `at_most_once` call did is unknown.
    retry: which failures are tried again. An `at_most_once` call has failed only if it raises NotDone, or `on_unknown` has
        found out that it has not acted; any other error leaves its outcome unknown, since the callee may have acted
        before it broke.
    requires_approval: True, or a function of the same arguments that says so. `approvers` may approve (anybody, if
        there are none), and every person may deny, for `approval_timeout` seconds; after that it counts as refused.
    on_unknown: `ask` a person, `fail` with EffectUnknown, or a function of the same arguments that looks at the world
        and returns Happened(result), NotHappened() or None. One that raises is asked again a few times; then, as with None,
        a person decides, and is shown why.

    A parameter annotated `Annotated[str, Secret("NAME")]` is given that secret, and the caller does not give it; so is one
    of the function that finds out. Raises InvalidTool.
    """

    def make(function: Callable[..., Any]) -> Tool:
        return _make(
            function, effect, name, timeout, retry, requires_approval, approvers, approval_timeout, on_unknown
        )  # fmt: skip

    return make if function is None else make(function)


def _make(
    function: Callable[..., Any],
    effect: str,
    name: str | None,
    timeout: float,
    retry: RetryPolicy,
    requires_approval: NeedsApproval,
    approvers: Sequence[str],
    approval_timeout: float | None,
    on_unknown: OnUnknown,
) -> Tool:
    called: str = name or str(getattr(function, "__name__", type(function).__name__))
    if effect not in tuple(Effect):
        raise InvalidTool(
            f"The tool {called} has the effect {effect!r}.", fix=f"One of: {', '.join(Effect)}."
        )
    for what, seconds in (("timeout", timeout), ("approval_timeout", approval_timeout)):
        if seconds is not None and not (seconds > 0 and math.isfinite(seconds)):
            raise InvalidTool(
                f"The tool {called} has a {what} of {seconds} s.", fix="Give a positive number."
            )
    if not isinstance(retry, RetryPolicy):
        raise InvalidTool(
            f"The tool {called} has retry={retry!r}.", fix="Write retry=RetryPolicy(attempts=3)."
        )
    if (why := not_approvers(approvers)) is not None:
        raise InvalidTool(f"The tool {called} can ask nobody so: {why}.", fix="Give a list of names.")
    if inspect.iscoroutinefunction(requires_approval):
        raise InvalidTool(
            f"The function that says whether {called} needs approval is async.",
            fix="Decide by the arguments alone; what has to be looked up is an argument from a step.",
        )
    if not callable(on_unknown) and on_unknown not in ("ask", "fail"):
        raise InvalidTool(
            f"The tool {called} has on_unknown={on_unknown!r}.", fix="One of: ask, fail, or a function."
        )
    visible, injected = _parameters(called, function)
    to_verify = Injected({}, takes_key=False)
    if callable(on_unknown):
        taken, to_verify = _parameters(f"{called} (on_unknown)", on_unknown)
        if taken.keys() != visible.keys():
            raise InvalidTool(
                f"The function that finds out what {called} has done takes other arguments.",
                fix=f"Give it these: {', '.join(visible) or 'none'}.",
            )
    if effect == Effect.IDEMPOTENT and not injected.takes_key:
        raise InvalidTool(
            f"The tool {called} is idempotent and takes no {IDEMPOTENCY_KEY}.",
            fix=f"Add a parameter {IDEMPOTENCY_KEY}: str and hand it to the callee, or say effect='at_most_once'.",
        )
    try:
        arguments = create_model(called, __config__=ConfigDict(extra="forbid"), **visible)
        arguments.model_json_schema()
    except (PydanticUserError, PydanticSchemaGenerationError, NameError) as error:
        raise InvalidTool(
            f"A parameter of the tool {called} has no schema: {str(error).splitlines()[0]}",
            fix="Annotate it with JSON values or pydantic models.",
        ) from None
    return Tool(
        function=function, name=called, description=inspect.getdoc(function) or "", effect=Effect(effect),
        timeout_s=timeout, retry=retry, requires_approval=requires_approval, approvers=tuple(approvers),
        approval_timeout_s=approval_timeout, on_unknown=on_unknown, injected=injected, injected_to_verify=to_verify,
        arguments=arguments,
    )  # fmt: skip


def _parameters(called: str, function: Callable[..., Any]) -> tuple[dict[str, Any], Injected]:
    """The fields of what the caller gives, and what the function is given besides."""
    visible: dict[str, Any] = {}
    secrets: dict[str, Secret] = {}
    takes_key = False
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise InvalidTool(
            f"The annotations of the tool {called} cannot be read: {error}.", fix="Import what they name."
        ) from None
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise InvalidTool(
                f"The tool {called} has the parameter {parameter}, which has no schema.",
                fix="Give each parameter a name and an annotation.",
            )
        hint = hints.get(parameter.name, Any)
        secret = _secret_of(hint)
        if secret is not None:
            secrets[parameter.name] = secret
        elif parameter.name == IDEMPOTENCY_KEY:
            takes_key = True
        elif parameter.name.startswith("_") or parameter.name in _TAKEN:
            raise InvalidTool(
                f"A parameter of the tool {called} cannot be called {parameter.name}.", fix="Rename it."
            )
        else:
            visible[parameter.name] = hint, ... if parameter.default is parameter.empty else parameter.default
    return visible, Injected(secrets, takes_key)


def _secret_of(hint: Any) -> Secret | None:
    if get_origin(hint) is None or not hasattr(hint, "__metadata__"):
        return None
    return next((extra for extra in get_args(hint)[1:] if isinstance(extra, Secret)), None)
