"""In whose form a client is answered. In the gateway every answer and every error has OpenAI's, until it is written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from serve.gateway.errors import ApiError
from serve.gateway.upstream import Json


class Dialect(Protocol):
    """Each may raise ApiError for an answer that it has no form for."""

    def answer(self, body: Json) -> Json: ...

    def refusal(self, error: ApiError) -> Json: ...

    def frames(self, chunks: AsyncIterator[Json]) -> AsyncIterator[bytes]:
        """A whole stream, with what says that it has ended well."""
        ...

    def cut(self, error: ApiError) -> bytes:
        """The last frame of a stream that has not."""
        ...


class OpenAIDialect:
    def answer(self, body: Json) -> Json:
        return body

    def refusal(self, error: ApiError) -> Json:
        return error.body()

    async def frames(self, chunks: AsyncIterator[Json]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            yield frame(chunk)
        yield b"data: [DONE]\n\n"

    def cut(self, error: ApiError) -> bytes:
        return frame(self.refusal(error))


OPENAI = OpenAIDialect()


def frame(data: Json) -> bytes:
    """A server-sent event without a name."""
    return b"data: " + msgspec.json.encode(data) + b"\n\n"
