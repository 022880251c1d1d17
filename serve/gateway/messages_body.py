"""What of a request of Anthropic's Messages API a chat can carry; everything else is refused by its place in the request."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from serve.gateway.requests import MAX_MESSAGES, Listed, Name, Schema

# A whole number stays one: 0 and 0.0 are different requests to a cache that compares their letters.
_Share = Annotated[int | float, Field(ge=0, le=1)]


class _Closed(BaseModel):
    """What is not known here is refused, but for null, which says nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if value is not None}


class _Cacheable(_Closed):
    cache_control: Any = None


def _by_type(noun: str) -> Discriminator:
    """By its `type`. The alternatives are tagged with the noun, or they could be taken for fields of that name."""

    def tag(given: Any) -> str | None:
        kind = given.get("type") if isinstance(given, dict) else getattr(given, "type", None)
        return f"{kind} {noun}" if isinstance(kind, str) else None

    return Discriminator(tag)


class TextBlock(_Cacheable):
    type: Literal["text"]
    text: Annotated[str, Field(min_length=1)]


class Base64Source(_Closed):
    type: Literal["base64"]
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: str


class UrlSource(_Closed):
    type: Literal["url"]
    url: str = Field(pattern="^https?://", repr=False)


class ImageBlock(_Cacheable):
    type: Literal["image"]
    source: Annotated[
        Annotated[Base64Source, Tag("base64 source")] | Annotated[UrlSource, Tag("url source")],
        _by_type("source"),
    ]


class _Caller(_Closed):
    type: Literal["direct"]


class ToolUseBlock(_Cacheable):
    type: Literal["tool_use"]
    id: Annotated[str, Field(min_length=1)]
    name: Name
    input: dict[str, Any]
    caller: _Caller | None = None


_Part = Annotated[
    Annotated[TextBlock, Tag("text block")] | Annotated[ImageBlock, Tag("image block")], _by_type("block")
]


class ToolResultBlock(_Cacheable):
    type: Literal["tool_result"]
    tool_use_id: Annotated[str, Field(min_length=1)]
    content: str | Listed[_Part] = ""
    is_error: bool = False


_Said = Annotated[
    Annotated[TextBlock, Tag("text block")]
    | Annotated[ImageBlock, Tag("image block")]
    | Annotated[ToolResultBlock, Tag("tool_result block")],
    _by_type("block"),
]
_Answered = Annotated[
    Annotated[TextBlock, Tag("text block")] | Annotated[ToolUseBlock, Tag("tool_use block")],
    _by_type("block"),
]


class UserTurn(_Closed):
    role: Literal["user"]
    content: str | Annotated[Listed[_Said], Field(min_length=1)]

    @field_validator("content")
    @classmethod
    def _results_first(cls, content: str | list[_Said]) -> str | list[_Said]:
        are_results = [isinstance(block, ToolResultBlock) for block in content]
        if are_results != sorted(are_results, reverse=True):
            raise ValueError("tool_result blocks must come before all others")
        return content


class AssistantTurn(_Closed):
    role: Literal["assistant"]
    content: str | Annotated[Listed[_Answered], Field(min_length=1)]


class SystemTurn(_Closed):
    role: Literal["system"]
    content: str | Listed[TextBlock]


class MessagesTool(_Cacheable):
    type: Literal["custom"] = "custom"
    name: Name
    description: str | None = None
    input_schema: Schema
    strict: bool | None = None


class ToolChoice(_Closed):
    type: Literal["auto", "any", "none"]
    disable_parallel_tool_use: bool = False


class NamedToolChoice(_Closed):
    type: Literal["tool"]
    name: Name
    disable_parallel_tool_use: bool = False


class _Metadata(_Closed):
    user_id: str | None = None


class OutputFormat(_Closed):
    type: Literal["json_schema"]
    schema_: Schema = Field(alias="schema")


class _OutputConfig(_Closed):
    effort: str | None = None
    format: OutputFormat | None = None


class MessagesRequest(_Cacheable):
    """What of Anthropic's API a chat can carry."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    messages: Annotated[
        Listed[Annotated[UserTurn | AssistantTurn | SystemTurn, Field(discriminator="role")]],
        Field(min_length=1, max_length=MAX_MESSAGES),
    ]
    max_tokens: Annotated[int, Field(ge=1)]
    system: str | Listed[TextBlock] = ""
    stop_sequences: Listed[str] | None = None
    stream: bool = False
    temperature: _Share | None = None
    top_p: _Share | None = None
    top_k: int | None = None
    tools: Annotated[Listed[MessagesTool], Field(max_length=1024)] | None = None
    tool_choice: Annotated[ToolChoice | NamedToolChoice, Field(discriminator="type")] | None = None
    output_config: _OutputConfig = _OutputConfig()
    metadata: _Metadata = _Metadata()

    @field_validator("messages")
    @classmethod
    def _not_begun(
        cls, messages: list[UserTurn | AssistantTurn | SystemTurn]
    ) -> list[UserTurn | AssistantTurn | SystemTurn]:
        if isinstance(messages[-1], AssistantTurn):
            raise ValueError(
                "the last one must not be the assistant's: a chat's answer cannot be begun for it"
            )
        return messages
