"""vLLM's models in the Ray that this process has joined, on loopback."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import ray
from ray import serve

from bus.errors import ServiceUnavailable
from serve.route import wait_for_route
from serve.running import HOST, QUIET, start_serve, wait_until_running
from serve.vllm.settings import VllmFile, parse_vllm

APPLICATION = "callboard-vllm"
_LOGS = "vllm/last-logs/serve of the data folder"
_LOOK_EVERY_S = 1.0  # a look costs Serve some, and a model takes minutes to load


@dataclass(frozen=True, kw_only=True)
class ServedVllm:
    """`text` is that of vllm.yaml, which people find at `path`."""

    text: str
    path: str
    key: str = field(repr=False)


def serve_vllm(served: ServedVllm) -> None:
    """Returns once they answer, which may take minutes. Raises ServiceUnavailable, InvalidModelsFile."""
    # ray.serve.llm brings vLLM and torch along.
    from serve.vllm.application import vllm_application

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    file = parse_vllm(served.text, served.path)
    _check_gpus(file)
    application = vllm_application(file, served.key)
    start_serve(file.port)
    target = serve.RunTarget(application, name=APPLICATION, route_prefix="/", logging_config=QUIET)
    serve.run_many([target], wait_for_applications_running=False)
    wait_until_running(APPLICATION, "vLLM", log=_LOGS, look_every_s=_LOOK_EVERY_S)
    wait_for_route(HOST, file.port, "vLLM")


def end_vllm() -> None:
    """What is under way has as long as vllm.yaml says."""
    serve.delete(APPLICATION)


def _check_gpus(file: VllmFile) -> None:
    """Raises ServiceUnavailable: Ray would wait for more of them for ever."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    there, needed = resources.get("GPU", 0.0), file.gpus()
    if there < needed:
        raise ServiceUnavailable(
            f"These models take {needed:g} GPUs, and Ray finds {there:g} on this machine.",
            fix="Check what `nvidia-smi` says, and gpus, tensor_parallel and always in vllm.yaml.",
        )
