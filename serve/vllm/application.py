"""The Serve application of vLLM's models. Imports ray.serve.llm, whose defaults (a queue without end) are for something else."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.llm._internal.serve.core.configs.openai_api_models import to_model_metadata
from ray.serve.config import BackpressureConfig
from ray.serve.llm import LLMConfig, ModelLoadingConfig, build_llm_deployment

from bus.errors import InvalidModelsFile
from serve.running import QUIET
from serve.vllm.ingress import ingress
from serve.vllm.settings import VllmFile, VllmModelSpec

if TYPE_CHECKING:
    from ray.serve import Application

_STARTS = 3
_SPARE = 64  # requests that arrive or are refused, beyond those that the models take


def vllm_application(file: VllmFile, key: str) -> Application:
    """In the Ray that this process has joined. Raises InvalidModelsFile for an argument that vLLM does not know."""
    configs = {name: llm_config(name, spec) for name, spec in file.models.items()}
    deployments = {name: _deployment(name, config) for name, config in configs.items()}
    front = serve.deployment(
        name="front",
        num_replicas=1,  # of several, each would have queues of its own
        max_ongoing_requests=sum(map(_taken, file.models.values())) + _SPARE,
        max_queued_requests=_SPARE,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        ray_actor_options={"num_cpus": 0},
        health_check_period_s=10.0,
        health_check_timeout_s=30.0,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=max(spec.drain_s for spec in file.models.values()),
        max_constructor_retry_count=_STARTS,
        logging_config=QUIET,
    )(ingress(key))
    return front.bind(
        llm_deployments=deployments,
        model_cards={name: to_model_metadata(name, config) for name, config in configs.items()},
    )


def llm_config(name: str, spec: VllmModelSpec) -> LLMConfig:
    """Of one model, with all that Ray or vLLM would else choose for itself and that has to do with limits."""
    return LLMConfig(
        model_loading_config=ModelLoadingConfig(model_id=name, model_source=spec.model),
        llm_engine="vLLM",
        engine_kwargs={
            # What a request leaves unsaid is OpenAI's, as with the other engine, not what the model's makers suggest.
            "generation_config": "vllm",
            "trust_remote_code": False,
            "enable_log_requests": False,
            **spec.engine,
            "tensor_parallel_size": spec.tensor_parallel,
            "gpu_memory_utilization": spec.memory,
            "dtype": spec.dtype,
            "max_num_seqs": spec.sequences,
            **({} if spec.context is None else {"max_model_len": spec.context}),
        },
        placement_group_config={
            "bundle_per_worker": {"GPU": spec.gpus, "CPU": spec.cpus},
            "strategy": "PACK",
        },
        deployment_config=_options(name, spec),
        log_engine_metrics=True,
    )


def _options(name: str, spec: VllmModelSpec) -> dict[str, Any]:
    return {
        "name": _deployment_name(name),
        "max_ongoing_requests": spec.sequences,
        "max_queued_requests": spec.waiting,
        "backpressure_config": {"status_code": 429, "retry_after_s": 1},
        "autoscaling_config": {
            "min_replicas": spec.always,
            "initial_replicas": spec.always,
            "max_replicas": spec.most,
            "target_ongoing_requests": spec.sequences,
            "upscale_delay_s": 5.0,
            "downscale_delay_s": 60.0,
            "downscale_to_zero_delay_s": spec.idle_s,
            "look_back_period_s": 20.0,
        },
        "ray_actor_options": {"num_cpus": 0},  # beside its first worker
        "health_check_period_s": spec.health_s,
        "health_check_timeout_s": spec.health_timeout_s,
        "graceful_shutdown_wait_loop_s": 0.1,
        "graceful_shutdown_timeout_s": spec.drain_s,
        "max_constructor_retry_count": 1,  # what keeps a model from loading does so again, after minutes
        "logging_config": QUIET.model_dump(),
    }


def _deployment(name: str, config: LLMConfig) -> Any:
    try:
        return build_llm_deployment(config)
    except ValueError as error:
        raise InvalidModelsFile(
            f"vllm.yaml: models.{name}: {str(error).rstrip('.')}.", fix="Correct it, and start it again."
        ) from error


def _taken(spec: VllmModelSpec) -> int:
    return spec.most * spec.sequences + spec.waiting


def _deployment_name(model: str) -> str:
    """For people, and different for each: Serve's names hold no slashes."""
    words = re.sub(r"[^A-Za-z0-9.-]+", "-", model.rsplit("/", 1)[-1])[:60]
    return f"{words}-{sha256(model.encode()).hexdigest()[:6]}"
