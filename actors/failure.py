"""The words for a turn's failure."""

from __future__ import annotations

import traceback

from bus.errors import InvalidMessage, InvalidPayload, NoHandler, UnknownKind
from bus.registry import first_line

EXPIRED = "expired"  # of a dead letter whose message was past its deadline
_FRAMES = 5  # the last ones, which are the author's


def describe(error: Exception) -> str:
    """One line that Postgres can store, whatever the author's error says: no NUL, no lone surrogates."""
    text = f"{type(error).__name__}: {first_line(error)}"
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\0")


def frames_of(error: Exception) -> str:
    """Where it was raised, for a log, in lines of their own: without the words of what is behind it, which may be secret."""
    frames = traceback.format_tb(error.__traceback__, limit=-_FRAMES)
    return "".join(["\n", *frames]).rstrip()


def reason_of(error: Exception) -> str:
    """The reason of a dead letter, by the error that its turn failed with."""
    if isinstance(error, NoHandler):
        return "no_handler"
    if isinstance(error, UnknownKind):
        return "unknown_kind"
    if isinstance(error, InvalidPayload):
        return "invalid_payload"
    if isinstance(error, InvalidMessage):
        return "invalid_message"
    return "failed"
