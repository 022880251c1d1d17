"""What a model that chats and runs here refuses, or cannot do."""

from __future__ import annotations

from serve.gateway.errors import ApiError, unsupported


def too_long(model: str, prompt: int, answer: int | None, longest: int) -> ApiError:
    asked = f"{prompt:,} tokens of messages" + (
        f" and {answer:,} of the answer" if answer is not None else ""
    )
    return ApiError(
        f"{model} holds {longest:,} tokens together; there are {asked}.",
        fix="Send fewer messages" + (", or ask for a shorter answer." if answer is not None else "."),
        code="context_length_exceeded",
        param="messages" if answer is None or prompt >= longest else "max_tokens",
    )


def far_too_long(model: str, size: int, longest: int) -> ApiError:
    return ApiError(
        f"{model} holds {longest:,} tokens, which {size:,} bytes of messages and tools cannot be.",
        fix="Send fewer messages.",
        code="context_length_exceeded",
        param="messages",
    )


def too_many(model: str, open_: int, wait_s: float) -> ApiError:
    return ApiError(
        f"{model} has {open_:,} requests before this one.",
        fix="Try again later.",
        status=429,
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        retry_after_s=min(60.0, max(1.0, wait_s)),
        elsewhere=True,
    )


def bad_messages(model: str, why: str) -> ApiError:
    return ApiError(
        f"messages: the template of {model} refuses them: {why.rstrip('.')}.",
        param="messages",
        elsewhere=True,
    )


def bad_schema(why: str) -> ApiError:
    return ApiError(
        f"response_format: no answer can be held against the schema: {why}", param="response_format"
    )


def no_tools(model: str) -> ApiError:
    return unsupported("tools", f"{model} was given no words for them (its template has no <tool_call>)")


def does_not_fit(model: str, why: str) -> ApiError:
    return _wrong(f"{model} has not answered with JSON that fits the schema: {why}")


def no_call(model: str) -> ApiError:
    return _wrong(f"{model} has begun the call of a tool and written none that can be read.")


def _wrong(message: str) -> ApiError:
    return ApiError(
        message,
        fix="Ask again, or ask a larger model.",
        status=502,
        kind="upstream_error",
        code="model_answer_invalid",
        elsewhere=True,
    )
