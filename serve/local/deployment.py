"""A model that runs here as a Ray Serve deployment: its replicas start when it is asked, and end when nobody does."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Any, NamedTuple

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import LoggingConfig

from serve.gateway.models_file import ModelsFile, Serves
from serve.local.replicas import EmbeddingReplica, GenerationReplica, RerankingReplica
from serve.local.settings import NO_GPU, GenerationSpec, LocalSpec

ONGOING = 1024  # requests of a replica; how much they may be together is the batcher's to say
_QUEUED = 1024  # while the first replica starts
_BUSY = 64  # requests at once, after which another replica is started, where there may be one; for chats: their sequences
# For what a replica that is to end was asked before: it ends with the last of that. Whoever serves anew waits for it.
DRAIN_S = 120.0
_UP_AFTER_S, _DOWN_AFTER_S = 5.0, 60.0  # that there are too many requests for its replicas, or too few
_LOOK_BACK_S = 20.0  # over which they are averaged
_GRAIN = 1e-4  # of a GPU, Ray's own
_REPLICAS: dict[Serves, Any] = {
    "embeddings": EmbeddingReplica,
    "rerank": RerankingReplica,
    "chat": GenerationReplica,
}


class LocalModel(NamedTuple):
    """What a target names that runs here."""

    serves: Serves
    upstream: str
    model: str


def model_deployments(
    models: ModelsFile, log_level: str, logging_config: LoggingConfig
) -> dict[LocalModel, Any]:
    """Of each model that runs here, to be bound to what asks it; in the Ray that this process has joined."""
    found, gpus = {}, _Gpus()
    for serves, upstream, model in models.local_models():
        one, spec = LocalModel(serves, upstream, model), models.upstreams[upstream].local_spec(serves)
        found[one] = _deployment(one, spec, gpus.device_for(spec), log_level, logging_config)
    return found


class _Gpus:
    """Those of Ray, given to one model after the other: one that Ray has no room for would be waited for without end."""

    def __init__(self) -> None:
        self._left: float | None = None

    def device_for(self, spec: LocalSpec) -> str:
        if spec.device == "cpu":
            return "cpu"
        if self._left is None:
            there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
            self._left = there.get("GPU", 0.0)
        needed = max(1, spec.always) * spec.gpus
        if needed > self._left + _GRAIN:
            return "cpu" if spec.device == "auto" else NO_GPU
        self._left -= needed
        return "cuda"


def _deployment(
    one: LocalModel, spec: LocalSpec, device: str, log_level: str, logging_config: LoggingConfig
) -> Any:
    options: dict[str, Any] = {"num_cpus": spec.cpus}
    if device == "cuda":
        options["num_gpus"] = spec.gpus
    return serve.deployment(
        name=_name(one),
        max_ongoing_requests=ONGOING,
        max_queued_requests=_QUEUED,
        autoscaling_config=AutoscalingConfig(
            min_replicas=spec.always,
            initial_replicas=spec.always,
            max_replicas=max(spec.replicas, spec.always),
            target_ongoing_requests=spec.sequences if isinstance(spec, GenerationSpec) else _BUSY,
            upscale_delay_s=_UP_AFTER_S,
            downscale_delay_s=_DOWN_AFTER_S,
            downscale_to_zero_delay_s=spec.idle_s,
            look_back_period_s=_LOOK_BACK_S,
        ),
        ray_actor_options=options,
        health_check_period_s=10.0,
        health_check_timeout_s=60.0,  # importing torch holds the interpreter for seconds
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=DRAIN_S,
        max_constructor_retry_count=3,
        logging_config=logging_config,
    )(_REPLICAS[one.serves]).bind(one.model, spec, device, log_level)


def _name(one: LocalModel) -> str:
    """For people, and different for each: Serve's names hold no slashes."""
    words = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{one.upstream}-{one.model.rsplit('/', 1)[-1]}")[:60]
    return f"{one.serves}-{words}-{sha256(f'{one.upstream} {one.model}'.encode()).hexdigest()[:6]}"
