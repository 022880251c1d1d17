"""Spans and metrics of calls of models, by the in-memory exporters of OpenTelemetry's SDK; and what is sent over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve.gateway.telemetry import Telemetry
from serve.gateway.telemetry_settings import telemetry_from
from tests.integration.gateway import Front, Stage
from tests.integration.upstreams import anthropic_stream as claude_stream
from tests.integration.upstreams import (
    chunks,
    completion,
    embeddings,
    events,
    openai_stream,
    reply,
    serving,
    status,
    then_silence,
)

ASK: Any = [{"role": "user", "content": "the secret question"}]
TRACE = "0af7651916cd43dd8448eb211c80319c"


class Told:
    """What was recorded."""

    def __init__(self, *, content: bool = False) -> None:
        self._spans = InMemorySpanExporter()
        self._metrics = InMemoryMetricReader()
        tracers = TracerProvider()
        tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self.telemetry = Telemetry(tracers, MeterProvider([self._metrics]), content=content)

    def calls(self) -> list[ReadableSpan]:
        return [span for span in self._spans.get_finished_spans() if span.kind is SpanKind.CLIENT]

    def requests(self) -> list[ReadableSpan]:
        return [span for span in self._spans.get_finished_spans() if span.kind is SpanKind.SERVER]

    def metrics(self) -> dict[str, list[Any]]:
        data = self._metrics.get_metrics_data()
        assert data is not None
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def everything(self) -> str:
        return "".join(span.to_json() for span in self._spans.get_finished_spans()) + str(self.metrics())


@contextlib.asynccontextmanager
async def told(stage: Stage, **how: Any) -> AsyncIterator[tuple[Front, Told]]:
    told = Told(**how)
    async with stage.front(telemetry=told.telemetry) as front:
        yield front, told


async def ask(front: Front, model: str = "small", **more: Any) -> Any:
    return await front.client.chat.completions.create(model=model, messages=ASK, **more)


async def test_a_chat_is_a_span_with_the_names_of_the_conventions(stage: Stage) -> None:
    async with told(stage) as (front, recorded):
        front.openai.put_on(reply(completion()))
        trace = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "x-callboard-task": "desk/1"}
        await ask(front, temperature=0.5, max_tokens=9, seed=3, stop=["x"], extra_headers=trace)
        [call], [request] = recorded.calls(), recorded.requests()
        assert call.name == "chat gpt-5-mini"
        attributes = dict(call.attributes or {})
        port = attributes.pop("server.port")
        assert f":{port}" in stage.openai_url
        assert attributes == {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "gpt-5-mini",
            "gen_ai.request.temperature": 0.5,
            "gen_ai.request.max_tokens": 9,
            "gen_ai.request.seed": 3,
            "gen_ai.request.stop_sequences": ("x",),
            "gen_ai.response.model": "gpt-5-mini-2025-08-07",
            "gen_ai.response.id": "chatcmpl-1",
            "gen_ai.response.finish_reasons": ("stop",),
            "gen_ai.usage.input_tokens": 1000,
            "gen_ai.usage.output_tokens": 100,
            "server.address": "127.0.0.1",
        }
        assert call.parent is not None
        assert call.parent.span_id == request.context.span_id
        assert f"{call.context.trace_id:032x}" == TRACE
        assert dict(request.attributes or {})["callboard.task"] == "desk/1"
        found = recorded.metrics()
        assert [
            (point.attributes["gen_ai.token.type"], point.sum) for point in found["gen_ai.client.token.usage"]
        ] == [("input", 1000), ("output", 100)]
        [duration] = found["gen_ai.client.operation.duration"]
        assert (duration.count, duration.attributes["gen_ai.provider.name"]) == (1, "openai")
        assert "secret question" not in recorded.everything()
        assert "Hello" not in recorded.everything()


async def test_a_stream_is_told_when_it_has_ended_with_what_it_has_taken(stage: Stage) -> None:
    async with told(stage) as (front, recorded):
        front.openai.put_on(openai_stream(chunks({"content": "Hel"}, {"content": "lo"})))
        async for _ in await ask(front, stream=True):
            pass
        front.claude.put_on(
            claude_stream(events(({"type": "text", "text": ""}, [{"type": "text_delta", "text": "Hi"}])))
        )
        async for _ in await ask(front, "claude", stream=True):
            pass
        first, second = (dict(call.attributes or {}) for call in recorded.calls())
        assert (first["gen_ai.usage.output_tokens"], first["gen_ai.response.finish_reasons"]) == (
            100,
            ("stop",),
        )
        assert first["gen_ai.request.stream"] is True
        assert second["gen_ai.provider.name"] == "anthropic"
        assert second["gen_ai.usage.input_tokens"] == 1210
        assert second["gen_ai.usage.cache_read.input_tokens"] == 200
        assert sum(p.count for p in recorded.metrics()["gen_ai.client.operation.time_to_first_chunk"]) == 2


async def test_who_goes_away_ends_the_span(stage: Stage) -> None:
    async with told(stage) as (front, recorded):
        front.openai.put_on(then_silence(chunks({"content": "Hel"}, reason=None, usage=False)))
        stream = await ask(front, stream=True)
        await anext(aiter(stream))
        await stream.close()
        await asyncio.wait_for(front.openai.gone.wait(), 20)
        while not recorded.calls():
            await asyncio.to_thread(lambda: None)
        [call] = recorded.calls()
        assert call.end_time is not None


async def test_each_try_is_a_call_with_its_error(stage: Stage) -> None:
    async with told(stage) as (front, recorded):
        front.openai.put_on(status(500, error="the key is sk-1"), reply(completion()))
        await ask(front)
        failed, well = recorded.calls()
        assert (failed.status.status_code, dict(failed.attributes or {})["error.type"]) == (
            StatusCode.ERROR,
            "upstream_failed",
        )
        assert well.status.status_code is StatusCode.UNSET
        assert failed.context.trace_id == well.context.trace_id
        with pytest.raises(openai.APIStatusError):
            await ask(front, "unset")  # without a key it was not asked
        counted = recorded.metrics()["gen_ai.client.operation.duration"]
        assert {point.attributes.get("error.type") for point in counted} >= {None, "upstream_failed"}


async def test_embeddings_have_their_names_and_an_answer_from_the_cache_calls_nobody(stage: Stage) -> None:
    async with told(stage) as (front, recorded):
        front.openai.put_on(reply(embeddings([0.5, 1.0])))
        for _ in range(2):
            await front.client.embeddings.create(
                model="vectors", input="secret text", dimensions=2, encoding_format="float"
            )
        [call] = recorded.calls()
        attributes = dict(call.attributes or {})
        assert call.name == "embeddings text-embedding-3-small"
        assert attributes["gen_ai.embeddings.dimension.count"] == 2
        assert attributes["gen_ai.usage.input_tokens"] == 8
        assert len(recorded.requests()) == 2
        assert "secret text" not in recorded.everything()


async def test_content_stands_there_only_where_it_is_asked_for(stage: Stage) -> None:
    async with told(stage, content=True) as (front, recorded):
        front.openai.put_on(reply(completion()))
        await ask(front)
        [call] = recorded.calls()
        attributes = dict(call.attributes or {})
        asked, said = (json.loads(str(attributes[f"gen_ai.{way}.messages"])) for way in ("input", "output"))
        assert asked == [{"role": "user", "parts": [{"type": "text", "content": "the secret question"}]}]
        assert said == [{"role": "assistant", "parts": [{"type": "text", "content": "Hello"}]}]


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_SERVICE_NAME": "x"},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        {"OTEL_TRACES_EXPORTER": "zipkin"},
    ],
)
def test_nothing_is_recorded_where_no_exporter_is_set(environment: dict[str, str]) -> None:
    assert telemetry_from(environment) is None


async def test_what_is_recorded_goes_where_the_environment_says(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: dict[str, bytes] = {}

    async def collector(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = b""
        more = True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        received[scope["path"]] = body
        await Response(b"", 200, media_type="application/x-protobuf")(scope, receive, send)

    async with serving(collector) as url:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_EXPORTER_OTLP_COMPRESSION": "none"}
        for name, value in {**environment, "NO_PROXY": "127.0.0.1"}.items():
            monkeypatch.setenv(name, value)
        telemetry = telemetry_from(environment)
        async with stage.front(telemetry=telemetry) as front:
            front.openai.put_on(reply(completion()))
            await ask(front)
        # The gateway's end has sent the rest.
        assert b"chat gpt-5-mini" in received["/v1/traces"]
        assert b"callboard-gateway" in received["/v1/traces"]
        assert b"gen_ai.client.token.usage" in received["/v1/metrics"]
        assert b"secret question" not in received["/v1/traces"]
