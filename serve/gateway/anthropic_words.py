"""What Anthropic's API calls things that OpenAI's calls otherwise, for both directions."""

from __future__ import annotations

from collections.abc import Mapping

# Why an answer has ended. Of several that are one to OpenAI, the first is what it is told as.
FINISH_REASONS: Mapping[str, str] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
STOP_REASONS: Mapping[str, str] = {
    finish: stop for stop, finish in reversed(list(FINISH_REASONS.items()))
}  # the first wins
# Kinds of errors, and the HTTP status of each.
STATUSES: Mapping[str, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_KINDS = {status: kind for kind, status in STATUSES.items()} | {503: "overloaded_error"}


def kind_of(status: int) -> str:
    """Of an error with that HTTP status."""
    return _KINDS.get(status, "api_error" if status >= 500 else "invalid_request_error")
