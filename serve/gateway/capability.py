"""What a request asks of a model, and which of a model's targets can do it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from serve.gateway.errors import ApiError
from serve.gateway.requests import ChatRequest, ModelRequest

if TYPE_CHECKING:
    from serve.gateway.models_file import TargetSpec

Capability = Literal["tools", "json_schema", "images", "audio", "files"]
_PARTS: dict[str, Capability] = {"image_url": "images", "input_audio": "audio", "file": "files"}
_PARAMETERS: dict[Capability, str] = {"tools": "tools", "json_schema": "response_format"}


def asked_of(request: ModelRequest) -> set[Capability]:
    """What not every model that chats can do."""
    return set(_asked(request)) if isinstance(request, ChatRequest) else set()


def able(targets: Sequence[TargetSpec], request: ModelRequest) -> list[TargetSpec]:
    """Those that can answer it, in their order; `drop` leaves out what its target need not do."""
    asked = asked_of(request)
    return [target for target in targets if not _missing(target, asked)]


def not_able(targets: Sequence[TargetSpec], request: ModelRequest) -> ApiError:
    asked = asked_of(request)
    lacking = "; ".join(
        f"{target.upstream} {target.model} lacks {', '.join(sorted(_missing(target, asked)))}"
        for target in targets
    )
    return ApiError(
        f"No target of the model {request.model!r} can do what is asked: {lacking}.",
        fix="Leave that out, ask another model, or give this one a target in models.yaml that can.",
        code="not_supported",
    )


def _missing(target: TargetSpec, asked: set[Capability]) -> set[Capability]:
    return {one for one in asked.intersection(target.lacks) if _PARAMETERS.get(one) not in target.drop}


def _asked(request: ChatRequest) -> Iterator[Capability]:
    if request.tools:
        yield "tools"
    if request.response_format is not None and request.response_format.type == "json_schema":
        yield "json_schema"
    for message in request.messages:
        if not isinstance(message.content, str):
            yield from (_PARTS[part.type] for part in message.content or () if part.type in _PARTS)
