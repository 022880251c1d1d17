"""Where telemetry goes, by OpenTelemetry's own variables. Without any of them nothing is recorded, and nothing sent."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    MetricExporter,
    MetricReader,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

from serve.gateway.telemetry import Telemetry

_logger = logging.getLogger("callboard.gateway")
_SERVICE = "callboard-gateway"  # where OTEL_SERVICE_NAME says nothing
_TRUE = ("true", "1", "span_only", "span_and_event")


def telemetry_from(environment: Mapping[str, str]) -> Telemetry | None:
    """None where no exporter is set. The exporters read their own variables: endpoints, headers, certificates."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    traces, metrics = (_exporter(environment, signal) for signal in ("TRACES", "METRICS"))
    if traces is None and metrics is None:
        return None
    resource = Resource.create(
        None if "service.name" in _resource(environment) else {"service.name": _SERVICE}
    )
    # Ours alone, and not the process's: Ray has a provider of its own there.
    tracers = TracerProvider(resource=resource)
    if traces is not None:
        tracers.add_span_processor(BatchSpanProcessor(_span_exporter(traces)))
    readers: list[MetricReader] = []
    if metrics is not None:
        readers.append(PeriodicExportingMetricReader(_metric_exporter(metrics)))
    meters = MeterProvider(readers, resource=resource)

    def close() -> None:
        tracers.shutdown()
        meters.shutdown()

    content = environment.get("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "").lower() in _TRUE
    return Telemetry(tracers, meters, content=content, close=close)


def _exporter(environment: Mapping[str, str], signal: str) -> str | None:
    """`otlp` or `console`; None for neither. An endpoint alone is enough."""
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    named = environment.get(f"OTEL_{signal}_EXPORTER", "").strip()
    found = named or ("otlp" if any(environment.get(name) for name in endpoints) else "none")
    if found == "none":
        return None
    if found not in ("otlp", "console"):
        _logger.warning(
            "OTEL_%s_EXPORTER=%s is not known here, and nothing is sent: use otlp or console.", signal, found
        )
        return None
    if found == "otlp" and "grpc" in (
        environment.get("OTEL_EXPORTER_OTLP_PROTOCOL", ""),
        environment.get(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", ""),
    ):
        _logger.warning("OTLP goes over HTTP here (port 4318), and nothing is sent: unset the protocol grpc.")
        return None
    return found


def _resource(environment: Mapping[str, str]) -> str:
    named = environment.get("OTEL_SERVICE_NAME")
    return "service.name" if named else environment.get("OTEL_RESOURCE_ATTRIBUTES", "")


def _span_exporter(kind: str) -> SpanExporter:
    if kind == "console":
        return ConsoleSpanExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


def _metric_exporter(kind: str) -> MetricExporter:
    if kind == "console":
        return ConsoleMetricExporter()
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    return OTLPMetricExporter()
