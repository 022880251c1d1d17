"""A server that plays OpenAI and Anthropic, in both their wire formats, with the faults that a test asks for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

Json = dict[str, Any]
Part = Callable[["Played", Receive, Send], Awaitable[None]]
KEY = "sk-the-key-of-the-upstream"


@dataclass(frozen=True)
class Asked:
    """A request that has come in."""

    path: str
    headers: dict[str, str]
    body: Json


class Played:
    """Answers requests with the parts that were put on, in order; the last one is played again and again."""

    def __init__(self) -> None:
        self.fresh()

    def fresh(self) -> None:
        """As if nothing had been asked yet."""
        self.asked: list[Asked] = []
        self.parts: list[Part] = []
        self.gone = asyncio.Event()  # a client has gone away before it had its answer
        self.arrived = asyncio.Event()
        self.go_on = asyncio.Event()

    def put_on(self, *parts: Part) -> None:
        self.parts = list(parts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        request = Request(scope, receive)
        self.asked.append(Asked(request.url.path, dict(request.headers), json.loads(await request.body())))
        self.arrived.set()
        if request.headers.get("authorization") != f"Bearer {KEY}":  # so do both SDKs
            part = status(401, error="Incorrect API key provided: sk-th*****eam.")
        else:
            part = self.parts.pop(0) if len(self.parts) > 1 else self.parts[0]
        await part(self, receive, send)


# -- parts ---------------------------------------------------------------------------------------------


def reply(body: Json, **headers: str) -> Part:
    return _respond(JSONResponse(body, headers=headers))


def text(content: str, *, code: int = 200) -> Part:
    return _respond(Response(content, code, media_type="application/json"))


def status(code: int, *, error: str = "no", kind: str = "some_error", **headers: str) -> Part:
    """An error in the form of both: Anthropic's has `type: error` around it."""
    body = {"type": "error", "error": {"message": error, "type": kind, "param": None, "code": kind}}
    return _respond(JSONResponse(body, code, headers={k.replace("_", "-"): v for k, v in headers.items()}))


def openai_stream(chunks: Iterable[Json | str], *, done: bool = True, cut: bool = False) -> Part:
    frames = [f"data: {c if isinstance(c, str) else json.dumps(c)}\n\n" for c in chunks]
    return _stream(frames + ["data: [DONE]\n\n"] * done, cut)


def anthropic_stream(events: Iterable[Json], *, cut: bool = False) -> Part:
    frames = [f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events]
    return _stream(frames, cut)


async def silence(played: Played, receive: Receive, send: Send) -> None:
    """No answer, until the client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass
    played.gone.set()


def held(part: Part) -> Part:
    """The same once the test lets it go on."""

    async def play(played: Played, receive: Receive, send: Send) -> None:
        await played.go_on.wait()
        await part(played, receive, send)

    return play


def then_silence(chunks: Iterable[Json]) -> Part:
    """The beginning of a stream, and nothing more until the client goes away."""

    async def play(played: Played, receive: Receive, send: Send) -> None:
        await _head(send)
        for chunk in chunks:
            await _write(send, f"data: {json.dumps(chunk)}\n\n")
        await silence(played, receive, send)

    return play


def _respond(response: ASGIApp) -> Part:
    async def play(played: Played, receive: Receive, send: Send) -> None:
        await response({"type": "http"}, receive, send)

    return play


def _stream(frames: list[str], cut: bool) -> Part:
    async def play(played: Played, receive: Receive, send: Send) -> None:
        await _head(send)
        for frame in frames:
            await _write(send, frame)
        if cut:
            raise ConnectionAbortedError("the test cuts this stream")
        await send({"type": "http.response.body", "body": b""})

    return play


async def _head(send: Send) -> None:
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def _write(send: Send, frame: str) -> None:
    await send({"type": "http.response.body", "body": frame.encode(), "more_body": True})


# -- what OpenAI says ----------------------------------------------------------------------------------


def completion(content: str | None = "Hello", *, tool_calls: list[Json] | None = None, **more: Any) -> Json:
    message: Json = {"role": "assistant", "content": content, "refusal": None}
    if tool_calls is not None:
        message["tool_calls"] = tool_calls
    reason = "tool_calls" if tool_calls else "stop"
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-5-mini-2025-08-07",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
        **more,
    }


def chunks(*deltas: Json, reason: str | None = "stop", usage: bool = True) -> list[Json]:
    """A stream's chunks with these deltas, a finish reason and the usage, as OpenAI sends them."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-5-mini"}

    def chunk(delta: Json, finish: str | None) -> Json:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**head, "choices": [choice], "usage": None}

    made = [chunk({"role": "assistant", "content": ""}, None), *(chunk(delta, None) for delta in deltas)]
    if reason is not None:
        made.append(chunk({}, reason))
    if usage:
        tokens = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
        made.append({**head, "choices": [], "usage": tokens})
    return made


def embeddings(*vectors: list[float] | str) -> Json:
    data = [{"object": "embedding", "index": n, "embedding": v} for n, v in enumerate(vectors)]
    usage = {"prompt_tokens": 8, "total_tokens": 8}
    return {"object": "list", "data": data, "model": "text-embedding-3-small", "usage": usage}


# -- what Anthropic says -------------------------------------------------------------------------------


def message(*content: Json, stop: str = "end_turn") -> Json:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5",
        "content": list(content),
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 1000,
            "output_tokens": 100,
            "cache_read_input_tokens": 200,
            "cache_creation_input_tokens": 10,
        },
    }


def events(*blocks: tuple[Json, list[Json]], stop: str = "end_turn") -> list[Json]:
    """A stream's events: each block as it starts, with its deltas."""
    start = {**message(), "stop_reason": None}
    start["usage"] = {**start["usage"], "output_tokens": 1}
    made: list[Json] = [{"type": "message_start", "message": start}, {"type": "ping"}]
    for index, (block, deltas) in enumerate(blocks):
        made.append({"type": "content_block_start", "index": index, "content_block": block})
        made += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        made.append({"type": "content_block_stop", "index": index})
    usage = {"output_tokens": 100}
    ended = {"stop_reason": stop, "stop_sequence": None}
    made.append({"type": "message_delta", "delta": ended, "usage": usage})
    return [*made, {"type": "message_stop"}]


# -- serving -------------------------------------------------------------------------------------------


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # they are the tests'


@contextlib.asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[str]:
    """An application on loopback; its URL."""
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1)
    server = _Server(config)
    # With its protocol, or asyncio leaves Nagle's algorithm on, which costs 40 ms an answer.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        running = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running
