"""What clients may ask: OpenAI's requests, checked before any upstream sees them.

Each keeps its `body` as it came, which OpenAI's and compatible upstreams are given; fields that we do not know pass,
since compatible servers have some of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

import msgspec
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from bus.complaints import in_plain_words
from serve.gateway.errors import ApiError
from serve.gateway.json_schema import SchemaRoom

MAX_INPUTS = 2048  # OpenAI's own
MAX_MESSAGES = 100_000  # Anthropic's own
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,128}$")]
T = TypeVar("T")
# Up to the first that is wrong: a million complaints of one request would hold up all others, and take gigabytes.
Listed = Annotated[list[T], Field(fail_fast=True)]


class _Open(BaseModel):
    """Unknown fields pass."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, hide_input_in_errors=True)

    @property
    def extra(self) -> Mapping[str, Any]:
        return self.model_extra or {}


class Part(_Open):
    """A part of a message's content; which kinds there are is the upstream's to say, but for text."""

    type: str
    text: str | None = None

    @model_validator(mode="after")
    def _text_has_text(self) -> Self:
        if self.type == "text" and self.text is None:
            raise ValueError("a part of type text needs a text")
        return self


class FunctionCall(_Open):
    name: Name
    arguments: str


class ToolCall(_Open):
    id: Annotated[str, Field(min_length=1)]
    type: Literal["function"] = "function"
    function: FunctionCall


class SystemMessage(_Open):
    role: Literal["system", "developer"]
    content: str | Listed[Part]


class UserMessage(_Open):
    role: Literal["user"]
    content: str | Annotated[Listed[Part], Field(min_length=1)]


class AssistantMessage(_Open):
    role: Literal["assistant"]
    content: str | Listed[Part] | None = None
    tool_calls: Listed[ToolCall] | None = None


class ToolMessage(_Open):
    role: Literal["tool"]
    content: str | Listed[Part]
    tool_call_id: Annotated[str, Field(min_length=1)]


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


def _admitted(schema: dict[str, Any], info: ValidationInfo[SchemaRoom]) -> dict[str, Any]:
    info.context.admit(schema)
    return schema


Schema = Annotated[dict[str, Any], AfterValidator(_admitted)]


class Function(_Open):
    name: Name
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class Tool(_Open):
    type: Literal["function"]
    function: Function


class NamedFunction(_Open):
    name: Name


class NamedTool(_Open):
    type: Literal["function"]
    function: NamedFunction


class JsonSchema(_Open):
    name: Name
    schema_: Schema = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(_Open):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> Self:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("type json_schema needs a json_schema")
        return self


class StreamOptions(_Open):
    include_usage: bool = False


class ModelRequest(_Open):
    model: Annotated[str, Field(min_length=1, max_length=200)]
    _body: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def body(self) -> dict[str, Any]:
        return self._body


class ChatRequest(ModelRequest):
    messages: Annotated[Listed[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: str | Listed[str] | None = None
    tools: Annotated[Listed[Tool], Field(min_length=1, max_length=1024)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    seed: int | None = None
    user: str | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether the client of a stream has asked for its last chunk, the one with the tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.tools is None and isinstance(self.tool_choice, NamedTool):
            raise ValueError("tool_choice names a tool, and there are no tools")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream: true")
        return self


class EmbeddingsRequest(ModelRequest):
    input: str | Listed[str] | Listed[int] | Listed[Listed[int]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None

    @property
    def count(self) -> int:
        """How many embeddings answer it: a list of numbers is one text, in tokens."""
        return 1 if isinstance(self.input, str) or isinstance(self.input[0], int) else len(self.input)

    @field_validator("input")
    @classmethod
    def _neither_empty_nor_endless(cls, given: Any) -> Any:
        if not given:
            raise ValueError("must not be empty")
        if isinstance(given, list) and not isinstance(given[0], int):
            if len(given) > MAX_INPUTS:
                raise ValueError(f"has {len(given):,} entries; {MAX_INPUTS:,} are allowed in one request")
            for number, one in enumerate(given):
                if not one:
                    raise ValueError(f"entry {number} is empty")
        return given


class Document(_Open):
    text: Annotated[str, Field(min_length=1)]


class RerankRequest(ModelRequest):
    """As Cohere and Jina have it, since OpenAI has none."""

    query: Annotated[str, Field(min_length=1)]
    documents: Annotated[
        Listed[Annotated[str, Field(min_length=1)] | Document], Field(min_length=1, max_length=MAX_INPUTS)
    ]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = False


R = TypeVar("R", bound=ModelRequest)
M = TypeVar("M", bound=BaseModel)


def read_json(content: bytes) -> dict[str, Any]:
    """Raises ApiError for what is no JSON object in UTF-8."""
    try:
        data = msgspec.json.decode(content)
    except UnicodeDecodeError:
        raise ApiError("The request is no UTF-8.", code="invalid_utf8") from None
    except RecursionError:
        raise _nested_too_deeply() from None
    except msgspec.DecodeError as error:
        raise ApiError(f"The request is not JSON: {str(error).rstrip('.')}.", code="invalid_json") from None
    if not isinstance(data, dict):
        raise ApiError("The request must be a JSON object.", code="invalid_json")
    return data


def read_chat(content: bytes) -> ChatRequest:
    """Raises ApiError with the place of the first thing that is wrong."""
    return _checked(ChatRequest, read_json(content))


def read_embeddings(content: bytes) -> EmbeddingsRequest:
    """Raises ApiError with the place of the first thing that is wrong."""
    return _checked(EmbeddingsRequest, read_json(content))


def embeddings_request(model: str, texts: list[str]) -> EmbeddingsRequest:
    """Of the gateway's own."""
    return _checked(EmbeddingsRequest, {"model": model, "input": texts})


def read_rerank(content: bytes) -> RerankRequest:
    """Raises ApiError with the place of the first thing that is wrong."""
    return _checked(RerankRequest, read_json(content))


def without(request: R, names: Iterable[str]) -> R:
    """The request without these parameters. Raises ApiError when the rest does not go together."""
    left_out = set(names).intersection(request.body)
    if not left_out:
        return request
    return _checked(type(request), {name: v for name, v in request.body.items() if name not in left_out})


def chat_request(body: dict[str, Any]) -> ChatRequest:
    """Of a body that the gateway has made. Raises ApiError as `read_chat` does."""
    return _checked(ChatRequest, body)


def validated(
    cls: type[M], body: dict[str, Any], say: Callable[[Mapping[str, Any]], str] = in_plain_words
) -> M:
    """`say` words one of pydantic's complaints. Raises ApiError with the place of the first thing that is wrong."""
    try:
        return cls.model_validate(body, context=SchemaRoom())
    except ValidationError as error:
        met = [
            (_place(one["loc"], body), say(one))
            for one in error.errors(include_input=False, include_url=False)
        ]
    except RecursionError:
        raise _nested_too_deeply() from None
    # Of the alternatives of a union the one that was got furthest with is the one that was meant.
    place, words = max(met, key=lambda one: len(one[0]))
    param = _written(place)
    raise ApiError(f"{param}: {words}." if param else f"{words}.", param=param or None)


def _nested_too_deeply() -> ApiError:
    return ApiError("The request's JSON is nested too deeply.", code="invalid_json")


def _checked(cls: type[R], body: dict[str, Any]) -> R:
    request = validated(cls, body)
    request._body = body
    return request


def _place(where: tuple[int | str, ...], body: Any) -> tuple[int | str, ...]:
    """A place in the request: pydantic names the alternatives of unions in between."""
    found: list[int | str] = []
    for part in where:
        inside = part in body if isinstance(body, dict) else isinstance(body, list) and isinstance(part, int)
        if inside:
            body = body[part]
        elif part is not where[-1] or not isinstance(body, dict):
            continue
        found.append(part)
    return tuple(found)


def _written(place: tuple[int | str, ...]) -> str:
    """As OpenAI writes it: `messages[0].content`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")
