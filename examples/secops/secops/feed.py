"""How a log comes into the domain: its lines as events, cut the same way each time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from pydantic import BaseModel

from .lines import Line, name_of, open_log, refuse_binary
from .messages import CaseInput, LogEnded, SshLines

EVENT = "sshd"
MAX_LINES = 100
# Far below what NATS carries in one message (1 MiB), and below the size at which payloads are stored apart.
MAX_BYTES = 128 * 1024


class Publish(Protocol):
    """What `callboard run` gives: publish one event under the identity `key`; many are under way at once."""

    async def __call__(self, name: str, payload: BaseModel, *, key: str | None = None) -> None: ...


def check(path: str, head: bytes) -> None:
    """Raise BinaryInput, before anything is started, for a file whose first bytes are no log's."""
    refuse_binary(head, name_of(path))


async def feed(path: str, publish: Publish, task_id: str) -> dict[str, Any]:
    """Publish a log's lines and its end; return the input of the task that triages it.

    `path` is a file, plain or gzip, or `-` for standard input. Nothing is published before the whole input has
    been found readable. Raises UnreadableInput, EmptyInput, BinaryInput or InputTooLarge.
    """
    opening = open_log(path)
    log = await asyncio.to_thread(opening.__enter__)
    try:
        lines = 0
        for batch in batches(log.digest, log):
            await publish(EVENT, batch, key=batch.identity)
            lines += len(batch.texts)
        ended = LogEnded(log=log.digest, lines=lines)
        await publish(EVENT, ended, key=ended.identity)
    finally:
        opening.__exit__(None, None, None)
    return CaseInput(log=log.digest, name=log.name, lines=lines).model_dump()


def batches(digest: str, lines: Iterable[Line]) -> Iterator[SshLines]:
    """Cut consecutive lines into events by count and size."""
    first, texts, size = 1, list[str](), 0
    for line in lines:
        more = len(json.dumps(line.text))
        if texts and (len(texts) == MAX_LINES or size + more > MAX_BYTES):
            yield SshLines(log=digest, first=first, texts=tuple(texts))
            first, texts, size = line.number, [], 0
        texts.append(line.text)
        size += more
    if texts:
        yield SshLines(log=digest, first=first, texts=tuple(texts))
