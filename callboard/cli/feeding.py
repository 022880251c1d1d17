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
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bus.errors import CallboardError, InvalidDomainFile, InvalidTask

if TYPE_CHECKING:
    from pydantic import BaseModel

    from bus.events import EventStream

STANDARD_INPUT = "-"
_UNDER_WAY = 256  # events published and not acknowledged: JetStream syncs each, so one at a time is slow


def check_readable(path: str) -> None:
    """Raise InvalidTask now for a file that could not be read later."""
    if path == STANDARD_INPUT:
        return
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise InvalidTask(f"{path} cannot be read: {error.strerror}.", fix="Name a readable file.") from None


class Publisher:
    """Publishes events of one task, in order, many under way at once; `flush` waits for all of them."""

    def __init__(self, stream: EventStream, domain: str, task: str, tenant: str) -> None:
        from bus.events import TASK_HEADER, TENANT_HEADER

        self._stream = stream
        self._domain = domain
        self._headers = {TASK_HEADER: task, TENANT_HEADER: tenant}
        self._under_way: set[asyncio.Task[Any]] = set()
        self._failed: BaseException | None = None
        self.published = 0

    async def __call__(
        self, name: str, payload: BaseModel | dict[str, Any], *, key: str | None = None
    ) -> None:
        """Publish one event; `key` is its identity: it is accepted once in 30 days."""
        from bus.events import TYPE_HEADER
        from bus.registry import encode_payload, wire_name_of

        headers = dict(self._headers)
        if isinstance(payload, dict):
            text = json.dumps(payload, ensure_ascii=False)
        else:
            text = encode_payload(payload)
            headers[TYPE_HEADER] = wire_name_of(type(payload))
        task = asyncio.create_task(
            self._stream.publish(self._domain, name, text.encode(), message_id=key, headers=headers)
        )
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        self.published += 1
        # The first one alone: it makes the connection's reply subscription, which the others would pass by.
        while self._under_way and (self.published == 1 or len(self._under_way) >= _UNDER_WAY):
            await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        self._raise()

    async def flush(self) -> None:
        while self._under_way:
            await asyncio.wait(self._under_way)
        self._raise()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and task.exception() is not None and self._failed is None:
            self._failed = task.exception()

    def _raise(self) -> None:
        if self._failed is not None:
            raise self._failed


async def feed(hook: str | None, path: str | None, publisher: Publisher, task: str) -> Any:
    """Bring the file in and return the task's input. Raises InvalidTask, InvalidDomainFile or what the hook says."""
    if path is None:
        return {}
    if hook is None:
        return await asyncio.to_thread(_read_json, path)
    function = _load(hook)
    try:
        given = await function(path, publisher, task)
    except CallboardError:
        raise
    except OSError as error:
        raise InvalidTask(
            f"{path} cannot be read: {error.strerror or error}.", fix="Name a readable file."
        ) from error
    except Exception as error:
        raise InvalidTask(
            f"{hook} could not take in {path}: {type(error).__name__}: {error}.",
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


def _read_json(path: str) -> Any:
    try:
        text = sys.stdin.read() if path == STANDARD_INPUT else Path(path).read_text(encoding="utf-8")
        return json.loads(text)
    except OSError as error:
        raise InvalidTask(f"{path} cannot be read: {error.strerror}.", fix="Name a readable file.") from None
    except UnicodeDecodeError:
        raise InvalidTask(f"{path} is not text in UTF-8.", fix="The input of a task is JSON.") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise InvalidTask(f"{path} is not JSON: {error}.", fix="The input of a task is JSON.") from None
