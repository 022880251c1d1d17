"""Event ids that JetStream is to forget."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from nats.js.api import StreamConfig

from bus import events
from bus.events import EventStream
from bus.nats import NatsTransport


class Stream:
    """A JetStream that looks through its ids when the window changes; the first time by the window of before."""

    def __init__(self) -> None:
        self.config = StreamConfig(
            max_bytes=-1, max_msgs_per_subject=-1, duplicate_window=events.DUPLICATE_WINDOW_S
        )
        self.windows: list[float] = []
        self.ids: set[str] = set()

    async def stream_info(self, name: str) -> Any:
        state = SimpleNamespace(last_seq=0, bytes=0, subjects={})
        return SimpleNamespace(config=self.config, state=state, created="now")

    async def update_stream(self, config: StreamConfig) -> None:
        if self.windows and config.duplicate_window != self.windows[-1]:
            self.ids.clear()
        self.windows.append(config.duplicate_window or 0.0)

    async def purge_stream(self, name: str, *, subject: str) -> None:
        pass

    async def publish(self, subject: str, data: bytes, *, headers: dict[str, str]) -> Any:
        id_ = headers["Nats-Msg-Id"]
        known = id_ in self.ids
        self.ids.add(id_)
        return SimpleNamespace(duplicate=known)


async def test_a_jetstream_that_has_looked_by_the_window_of_before_looks_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "_FORGOTTEN_WITHIN_S", 2.0)
    stream = EventStream(NatsTransport())
    jetstream: Any = Stream()
    stream._js = jetstream
    await stream.purge("test")
    assert jetstream.windows[-1] == events.DUPLICATE_WINDOW_S
