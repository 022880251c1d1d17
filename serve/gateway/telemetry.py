"""Spans and metrics of OpenTelemetry's GenAI conventions: one span for each call of an upstream, in the trace of its request.

The names stand here as they are written: the package that had them as constants has given them up, and moved them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from serve.gateway.accounts import Usage, usage_of
from serve.gateway.errors import ApiError
from serve.gateway.models_file import TargetSpec, UpstreamSpec
from serve.gateway.requests import ChatRequest, EmbeddingsRequest, ModelRequest
from serve.gateway.upstream import Json

SCOPE = "callboard.gateway"
_DURATIONS_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
_PORTS = {"http": 80, "https": 443}
Operation = Literal["chat", "embeddings", "rerank"]


class Telemetry:
    """`content`: messages and answers stand in the spans."""

    def __init__(
        self,
        tracers: TracerProvider,
        meters: MeterProvider,
        *,
        content: bool = False,
        close: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        meter = meters.get_meter(SCOPE)
        self._tracer = tracers.get_tracer(SCOPE)
        self._content = content
        self._clock = clock
        self.close = close  # sends what waits, and blocks
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration", "s", "GenAI operation duration.",
            explicit_bucket_boundaries_advisory=_DURATIONS_S,
        )  # fmt: skip
        self._first_chunk = meter.create_histogram(
            "gen_ai.client.operation.time_to_first_chunk", "s", "Time to receive the first chunk.",
            explicit_bucket_boundaries_advisory=_DURATIONS_S,
        )  # fmt: skip
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage", "{token}", "Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )  # fmt: skip

    @contextlib.contextmanager
    def request(self, route: str, headers: Mapping[str, str]) -> Iterator[None]:
        """One of a client, in its own trace where it names one (`traceparent`)."""
        parent = TraceContextTextMapPropagator().extract(headers)
        said = {
            f"callboard.{name}": headers.get(f"x-callboard-{name}") for name in ("tenant", "task", "agent")
        }
        attributes = {
            "http.request.method": "POST",
            "http.route": route,
            **{name: value for name, value in said.items() if value is not None},
        }
        with self._tracer.start_as_current_span(
            f"POST {route}", parent, SpanKind.SERVER, attributes,
            record_exception=False, set_status_on_exception=False,
        ) as span:  # fmt: skip
            try:
                yield
            except BaseException as error:
                self._fail(span, error)
                raise

    @contextlib.contextmanager
    def operation(
        self, upstream: UpstreamAt, target: TargetSpec, request: ModelRequest
    ) -> Iterator[OperationSpan]:
        """One call of an upstream; whatever it raises is its error."""
        name = _operation(request)
        common = {
            "gen_ai.operation.name": name,
            "gen_ai.provider.name": upstream.provider,
            "gen_ai.request.model": target.model,
            **upstream.server,
        }
        # Not the current one: a stream is read in whatever context its reader has.
        span = self._tracer.start_span(
            f"{name} {target.model}",
            kind=SpanKind.CLIENT,
            attributes={**common, **_asked(request), **(_said_to(request) if self._content else {})},
        )
        began = self._clock()
        found = OperationSpan(span, self._content, lambda: self._clock() - began)
        error: str | None = None
        try:
            yield found
        except GeneratorExit:  # nobody reads it any more, and nothing is wrong
            raise
        except BaseException as raised:
            error = self._fail(span, raised)
            raise
        finally:
            found.end()
            span.end()
            if found.model is not None:
                common["gen_ai.response.model"] = found.model
            self._measure(found, common, error, self._clock() - began)

    def _fail(self, span: Span, raised: BaseException) -> str:
        """Its type. An error's words may be a model's or an upstream's, about what was said: they are content."""
        error = (raised.code if isinstance(raised, ApiError) else None) or type(raised).__name__
        words = str(raised) if self._content and isinstance(raised, ApiError) else None
        span.set_status(Status(StatusCode.ERROR, words))
        span.set_attribute("error.type", error)
        return error

    def _measure(
        self, found: OperationSpan, common: dict[str, Any], error: str | None, took_s: float
    ) -> None:
        failed = {} if error is None else {"error.type": error}
        self._duration.record(took_s, {**common, **failed})
        if found.first_chunk_s is not None:
            self._first_chunk.record(found.first_chunk_s, common)
        if found.usage is not None:
            self._tokens.record(found.usage.input, {**common, "gen_ai.token.type": "input"})
            if common["gen_ai.operation.name"] == "chat":
                self._tokens.record(found.usage.output, {**common, "gen_ai.token.type": "output"})


class OperationSpan:
    """What an upstream answers, told to the span of its call."""

    def __init__(self, span: Span, content: bool, took_s: Callable[[], float]) -> None:
        self._span = span
        self._content = content
        self._took_s = took_s
        self._finishes: list[str] = []
        self._text = ""
        self.model: str | None = None
        self.usage: Usage | None = None
        self.first_chunk_s: float | None = None

    def answered(self, body: Json) -> Json:
        self._hear(body, "message")
        return body

    def heard(self, chunk: Json) -> None:
        """One chunk of a stream."""
        if self.first_chunk_s is None:
            self.first_chunk_s = self._took_s()
        self._hear(chunk, "delta")

    def end(self) -> None:
        found: dict[str, Any] = {"gen_ai.response.model": self.model}
        if self._finishes:
            found["gen_ai.response.finish_reasons"] = self._finishes
        if self.first_chunk_s is not None:
            found["gen_ai.response.time_to_first_chunk"] = self.first_chunk_s
        if self.usage is not None:
            found["gen_ai.usage.input_tokens"] = self.usage.input
            found["gen_ai.usage.output_tokens"] = self.usage.output
            if self.usage.cached:
                found["gen_ai.usage.cache_read.input_tokens"] = self.usage.cached
        if self._content and self._text:
            found["gen_ai.output.messages"] = _messages([("assistant", self._text)])
        self._span.set_attributes({name: value for name, value in found.items() if value is not None})

    def _hear(self, body: Json, part: str) -> None:
        if isinstance(model := body.get("model"), str):
            self.model = model
        if isinstance(said := body.get("id"), str):
            self._span.set_attribute("gen_ai.response.id", said)
        self.usage = usage_of(body) or self.usage
        choices = body.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            if isinstance(finish := choice.get("finish_reason"), str):
                self._finishes.append(finish)
            message = choice.get(part)
            if self._content and isinstance(message, dict) and isinstance(message.get("content"), str):
                self._text += message["content"]


@dataclass(frozen=True)
class UpstreamAt:
    """How an upstream is named in spans."""

    provider: str
    server: Mapping[str, str | int]

    @classmethod
    def of(cls, name: str, spec: UpstreamSpec) -> UpstreamAt:
        """A compatible server is named by its upstream: whose models it has nobody knows."""
        known = {"local": "callboard", "openai": "openai", "anthropic": "anthropic"}
        server: dict[str, str | int] = {}
        if spec.base_url is not None:
            parts = urlsplit(spec.base_url)
            server = {
                "server.address": parts.hostname or "",
                "server.port": parts.port or _PORTS[parts.scheme],
            }
        return cls(known.get(spec.type, name), server)


def _operation(request: ModelRequest) -> Operation:
    if isinstance(request, ChatRequest):
        return "chat"
    return "embeddings" if isinstance(request, EmbeddingsRequest) else "rerank"


def _asked(request: ModelRequest) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if isinstance(request, ChatRequest):
        found = {
            "gen_ai.request.max_tokens": request.max_completion_tokens or request.max_tokens,
            "gen_ai.request.temperature": request.temperature,
            "gen_ai.request.top_p": request.top_p,
            "gen_ai.request.seed": request.seed,
            "gen_ai.request.stop_sequences": [request.stop]
            if isinstance(request.stop, str)
            else request.stop,
            "gen_ai.request.choice.count": request.n if (request.n or 1) > 1 else None,
            "gen_ai.request.stream": True if request.stream else None,
        }
        if request.response_format is not None:
            found["gen_ai.output.type"] = "text" if request.response_format.type == "text" else "json"
    elif isinstance(request, EmbeddingsRequest):
        found = {
            "gen_ai.request.encoding_formats": [request.encoding_format],
            "gen_ai.embeddings.dimension.count": request.dimensions,
        }
    return {name: value for name, value in found.items() if value is not None}


def _said_to(request: ModelRequest) -> dict[str, str]:
    if not isinstance(request, ChatRequest):
        return {}
    said: list[tuple[str, str]] = []
    for message in request.messages:
        content = message.content
        text = content if isinstance(content, str) else "".join(part.text or "" for part in content or ())
        said.append((message.role, text))
    return {"gen_ai.input.messages": _messages(said)}


def _messages(said: list[tuple[str, str]]) -> str:
    found = [{"role": role, "parts": [{"type": "text", "content": text}]} for role, text in said]
    return msgspec.json.encode(found).decode()
