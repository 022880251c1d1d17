"""The words for a turn's failure."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

from bus.errors import InvalidMessage, InvalidPayload, NoHandler, StepFailed, UnknownKind
from bus.registry import first_line

EXPIRED = "expired"  # of a dead letter whose message was past its deadline
_FRAMES = 5  # the last ones
_LIBRARIES = tuple(
    f"{folder}/"
    for folder in (
        *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")),
        *(Path(__file__).parents[1] / room for room in ("bus", "storage", "actors")),
    )
)


def describe(error: Exception) -> str:
    """One line that Postgres can store, whatever the author's error says: no NUL, no lone surrogates."""
    return _storable(f"{type(error).__name__}: {first_line(error)}")


def frames_of(error: Exception) -> str:
    """Where it was raised, for a log, in lines of their own: without the words of what is behind it, which may be secret."""
    return "".join(["\n", *traceback.format_list(_frames(error))]).rstrip()


def places_of(error: Exception, folder: Path | None) -> str:
    """The same for a dead letter, where a line of code may say too much: lines of `file:line in function`, the files of the
    domain's folder as they are called there. What runs is a copy of that folder, which says nothing to its author."""
    copy = "" if folder is None else f"{folder}/"
    return _storable(
        "\n".join(
            f"{frame.filename.removeprefix(copy)}:{frame.lineno} in {frame.name}" for frame in _frames(error)
        )
    )


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The last ones that are the author's; where none is, those of the library."""
    frames = [*traceback.extract_tb(error.__traceback__)]
    while isinstance(error, StepFailed) and error.__cause__ is not None:  # within the step's function
        error = error.__cause__
        frames += traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_LIBRARIES)]
    return (own or frames)[-_FRAMES:]


def _storable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\0")


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
