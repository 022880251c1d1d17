"""What spans say of an error, where content is to stay out of them."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from serve.gateway.errors import ApiError
from serve.gateway.models_file import TargetSpec
from serve.gateway.requests import read_chat
from serve.gateway.telemetry import Telemetry, UpstreamAt

ASK = read_chat(b'{"model": "m", "messages": [{"role": "user", "content": "a"}]}')


@pytest.mark.parametrize("content", [False, True])
def test_the_words_of_an_error_are_content(content: bool) -> None:
    kept, tracers = InMemorySpanExporter(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(kept))
    telemetry = Telemetry(tracers, MeterProvider(), content=content)
    with (
        pytest.raises(ApiError),
        telemetry.request("/v1/chat/completions", {}),
        telemetry.operation(UpstreamAt("callboard", {}), TargetSpec(upstream="u", model="m"), ASK),
    ):
        raise ApiError(
            "at $.a, 'what the model has said' is not of type 'boolean'.", code="model_answer_invalid"
        )
    spans = kept.get_finished_spans()
    assert [(span.attributes or {})["error.type"] for span in spans] == ["model_answer_invalid"] * 2
    assert ["has said" in "".join(span.to_json()) for span in spans] == [content] * 2
