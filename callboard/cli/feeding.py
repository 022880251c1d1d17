"""How `callboard run --input FILE` gets a file into a domain.

A domain may name a hook in domain.yaml, `input: module:function`:

    async def feed(path: str, publish: Publish, task_id: str) -> dict

It publishes what is in the file as events and returns the task's input. Without one, the file's JSON is the
task's input.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import stat
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from bus.errors import CallboardError, InvalidDomainFile, InvalidTask, Overloaded
from bus.registry import describe_validation, first_line

if TYPE_CHECKING:
    from pydantic import BaseModel

    from bus.events import EventStream, StreamState

STANDARD_INPUT = "-"
_LOOKED_AT = 8192  # bytes of a file; text has no NUL in them
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd: text inside
_UNDER_WAY = 256  # events published and not acknowledged: JetStream syncs each, so one at a time is slow
_NEARLY_FULL = 0.9  # of what the domain may use of the stream; readers make room from half of it on
_LOOKS_TO_FULL = 64
_ROOM_WITHIN_S = 60.0  # a stream of which nothing leaves for so long has no reader
_LOOK_EVERY_S = 0.2


def check_input(path: str, *, binary: bool = False) -> None:
    """Raise InvalidTask now for a file that could not be taken in later: missing, unreadable, empty, or binary
    where text is wanted. A pipe is not looked into: what is read from it is gone.
    """
    if path == STANDARD_INPUT:
        return
    try:
        if os.path.isdir(path):
            raise InvalidTask(f"{path} is a folder.", fix="Name a file.")
        if not stat.S_ISREG(os.stat(path).st_mode):
            return
        with open(path, "rb") as file:
            start = file.read(_LOOKED_AT)
    except OSError as error:
        raise InvalidTask(f"{path} cannot be read: {error.strerror}.", fix="Name a readable file.") from None
    if not start:
        raise InvalidTask(f"{path} is empty.", fix="Name a file with something in it.")
    if b"\0" in start and not binary and not start.startswith(_COMPRESSED):
        raise InvalidTask(
            f"{path} is not text.", fix="Name a text file, or say `binary_input: true` in domain.yaml."
        )


class Publisher:
    """Publishes events of one task, in order, many under way at once; `flush` waits for all of them."""

    def __init__(self, stream: EventStream, domain: str, task: str, tenant: str) -> None:
        from bus.events import TASK_HEADER, TENANT_HEADER

        self._stream = stream
        self._domain = domain
        self._headers = {TASK_HEADER: task, TENANT_HEADER: tenant}
        self._under_way: set[asyncio.Task[Any]] = set()
        self._failed: BaseException | None = None
        self._room: StreamState | None = None
        self._since_look = 0.0  # how much of what the domain may use has been published since
        self.published = 0

    async def __call__(
        self, name: str, payload: BaseModel | dict[str, Any], *, key: str | None = None
    ) -> None:
        """Publish one event; `key` is its identity: it is accepted once, for as long as keys are remembered.

        Raises Overloaded when the stream stays full, InvalidPayload.
        """
        from bus.events import TYPE_HEADER
        from bus.registry import encode_json, encode_payload, wire_name_of

        headers = dict(self._headers)
        if isinstance(payload, dict):
            text = encode_json(payload)
        else:
            text = encode_payload(payload)
            headers[TYPE_HEADER] = wire_name_of(type(payload))
        data = text.encode()
        if self._room is None or self._since_look > 1 / _LOOKS_TO_FULL:
            self._room = await self._wait_for_room()
            self._since_look = 0.0
        self._since_look += self._room.share(len(data), 1)
        task = asyncio.create_task(
            self._stream.publish(self._domain, name, data, message_id=key, headers=headers)
        )
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        self.published += 1
        # The first one alone: it makes the connection's reply subscription, which the others would pass by.
        while self._under_way and (self.published == 1 or len(self._under_way) >= _UNDER_WAY):
            await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        self._raise()

    @property
    def acknowledged(self) -> int:
        """How many events the stream has."""
        return self.published - len(self._under_way)

    async def flush(self) -> None:
        while self._under_way:
            await asyncio.wait(self._under_way)
        self._raise()

    async def _wait_for_room(self) -> StreamState:
        """An event that the stream refuses would come after those behind it: so none is sent to a full one."""
        least, since = float("inf"), time.monotonic()
        while (state := await self._stream.state(self._domain)).fill > _NEARLY_FULL:
            if state.fill < least:
                least, since = state.fill, time.monotonic()
            elif time.monotonic() - since > _ROOM_WITHIN_S:
                raise Overloaded(
                    "The stream of events is full, and nothing leaves it.",
                    retry_after_s=_ROOM_WITHIN_S,
                    fix="`callboard doctor` says which domain does not read its events. Then feed the file again: "
                    "what was taken in is not taken in twice.",
                )
            await asyncio.sleep(_LOOK_EVERY_S)
        return state

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and task.exception() is not None and self._failed is None:
            self._failed = task.exception()

    def _raise(self) -> None:
        if self._failed is not None:
            raise self._failed


async def feed(hook: str, path: str, publisher: Publisher, task: str) -> Any:
    """Bring the file in and return the task's input. Raises InvalidTask, InvalidDomainFile or what the hook says."""
    function = _load(hook)
    try:
        given = await function(path, publisher, task)
    except CallboardError:
        raise
    except OSError as error:
        raise InvalidTask(
            f"{path} cannot be read: {error.strerror or error}.", fix="Name a readable file."
        ) from error
    except ValidationError as error:
        raise InvalidTask(
            f"{hook} could not take in {path}: {describe_validation(error)}.", fix="Check the file."
        ) from error
    except Exception as error:
        raise InvalidTask(
            f"{hook} could not take in {path}: {type(error).__name__}: {first_line(error).rstrip('.')}.",
            fix="Check the file, or the domain's `input` function.",
        ) from error
    await publisher.flush()
    return given


def _load(hook: str) -> Callable[[str, Publisher, str], Awaitable[Any]]:
    module, _, name = hook.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InvalidDomainFile(f"`input: {hook}` cannot be imported: {error}.") from error
    return function  # type: ignore[no-any-return]


def read_json(path: str) -> Any:
    """The JSON in a file or in standard input; raises InvalidTask."""
    try:
        text = sys.stdin.read() if path == STANDARD_INPUT else Path(path).read_text(encoding="utf-8")
        return json.loads(text)
    except OSError as error:
        raise InvalidTask(f"{path} cannot be read: {error.strerror}.", fix="Name a readable file.") from None
    except UnicodeDecodeError:
        raise InvalidTask(f"{path} is not text in UTF-8.", fix="The input of a task is JSON.") from None
    except (ValueError, RecursionError) as error:
        raise InvalidTask(f"{path} is not JSON: {error}.", fix="The input of a task is JSON.") from None
