"""How `callboard run --input FILE` gets a file into a domain.

A domain may name a hook in domain.yaml, `input: module:function`:

    async def feed(path: str, publish: Publish, task_id: str) -> dict

It publishes what is in the file as events and returns the task's input; for the path `-` it reads `sys.stdin`. Without
one, the file's JSON is the task's input. What can be seen to be wrong by the first bytes of the file is said before
anything is started, where domain.yaml names a function for it, `input_check: module:function`:

    def check(path: str, head: bytes) -> None
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from actors.code_apart import code_apart, enter_code
from bus.errors import CallboardError, InvalidDomainFile, InvalidTask, Overloaded
from bus.registry import describe_validation, first_line
from callboard.cli.hooks import load_hook
from callboard.cli.input_file import in_words

if TYPE_CHECKING:
    from pydantic import BaseModel

    from actors.domain import DomainSpec
    from bus.events import EventStream, StreamState

_UNDER_WAY = 256  # events published and not acknowledged: JetStream syncs each, so one at a time is slow
_NEARLY_FULL = 0.9  # of what the domain may use of the stream; readers make room from half of it on
_LOOKS_TO_FULL = 64
_ROOM_WITHIN_S = 60.0  # a stream of which nothing leaves for so long has no reader
_LOOK_EVERY_S = 0.2


class Publisher:
    """Publishes events of one task, in order, many under way at once; `flush` waits for all of them."""

    def __init__(self, stream: EventStream, domain: str, task: str, tenant: str) -> None:
        from bus.event import TASK_HEADER, TENANT_HEADER

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
        from bus.event import TYPE_HEADER
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
    function = load_hook(hook)
    with _as_invalid_task(hook, path):
        given = await function(path, publisher, task)
    await publisher.flush()
    return given


def check_head(spec: DomainSpec, folder: Path, path: str, head: bytes) -> None:
    """Have the domain look at the first bytes of the file. Raises InvalidTask, InvalidDomainFile or what it says."""
    hook = spec.input_check
    assert hook is not None
    with code_apart():  # what runs is the stored copy of the code
        enter_code(spec.domain, (folder / spec.code).resolve())
        function = load_hook(hook)
        if inspect.iscoroutinefunction(function):
            raise InvalidDomainFile(
                f"{hook} is `async`, and nobody would wait for it.", fix="Write it with `def`."
            )
        with _as_invalid_task(hook, path):
            function(path, head)


@contextmanager
def _as_invalid_task(hook: str, path: str) -> Iterator[None]:
    try:
        yield
    except CallboardError:
        raise
    except OSError as error:
        raise InvalidTask(
            f"{in_words(path)} cannot be read: {error.strerror or error}.", fix="Name a readable file."
        ) from error
    except ValidationError as error:
        raise InvalidTask(
            f"{hook} could not take in {in_words(path)}: {describe_validation(error)}.", fix="Check the file."
        ) from error
    except Exception as error:
        raise InvalidTask(
            f"{hook} could not take in {in_words(path)}: {type(error).__name__}: {first_line(error).rstrip('.')}.",
            fix="Check the file, or the domain's function.",
        ) from error
