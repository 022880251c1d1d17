"""An embedding model as a Ray Serve deployment: its replicas start when it is asked, and end when nobody does."""

from __future__ import annotations

import os
import re
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import LoggingConfig

from actors.ray_host import configure_logging
from serve.embedding.embedder import Embedded, EmbedRequest
from serve.embedding.environment import prepare
from serve.embedding.settings import EmbeddingSpec
from serve.gateway.errors import ApiError

if TYPE_CHECKING:
    from serve.embedding.encoder_protocol import Encoder

ONGOING = 1024  # requests of a replica; how much they may be together is the batcher's to say
_QUEUED = 1024  # while the first replica starts
_BUSY = 64  # requests at once, after which another replica is started, where there may be one


class EmbeddingReplica:
    """The process of a model. What is wrong with a request or the model is answered, not raised: Serve would log each."""

    def __init__(self, model: str, spec: EmbeddingSpec, device: str, log_level: str) -> None:
        configure_logging(log_level)
        prepare(os.environ)
        from serve.embedding.service import EmbeddingService

        def load() -> Encoder:
            from serve.embedding.encoder import SentenceEncoder

            return SentenceEncoder(model, spec, device)

        self._service = EmbeddingService(model, spec, load)

    async def embed(self, request: EmbedRequest) -> Embedded | ApiError:
        try:
            return await self._service.embed(request)
        except ApiError as error:
            return error

    def check_health(self) -> None:
        self._service.check()


def embedding_deployment(
    upstream: str, model: str, spec: EmbeddingSpec, log_level: str, logging_config: LoggingConfig
) -> Any:
    """To be bound to what asks it; in the Ray that this process has joined."""
    device = _device(spec)
    options: dict[str, Any] = {"num_cpus": spec.cpus}
    if device == "cuda":
        options["num_gpus"] = spec.gpus
    return serve.deployment(
        name=_name(upstream, model),
        max_ongoing_requests=ONGOING,
        max_queued_requests=_QUEUED,
        autoscaling_config=AutoscalingConfig(
            min_replicas=spec.always,
            initial_replicas=spec.always,
            max_replicas=max(spec.replicas, spec.always),
            target_ongoing_requests=_BUSY,
            upscale_delay_s=5.0,
            downscale_delay_s=60.0,
            downscale_to_zero_delay_s=spec.idle_s,
            look_back_period_s=10.0,
        ),
        ray_actor_options=options,
        health_check_period_s=10.0,
        health_check_timeout_s=60.0,  # importing torch holds the interpreter for seconds
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=30.0,
        max_constructor_retry_count=3,
        logging_config=logging_config,
    )(EmbeddingReplica).bind(model, spec, device, log_level)


def _device(spec: EmbeddingSpec) -> str:
    if spec.device != "auto":
        return spec.device
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return "cuda" if there.get("GPU", 0.0) >= spec.gpus else "cpu"


def _name(upstream: str, model: str) -> str:
    """For people, and different for each: Serve's names hold no slashes."""
    words = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{upstream}-{model.rsplit('/', 1)[-1]}")[:60]
    return f"embedding-{words}-{sha256(f'{upstream} {model}'.encode()).hexdigest()[:6]}"
