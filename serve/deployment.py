"""The gateway as a Ray Serve application, on loopback. Serve's defaults are for something else: all is said here."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.serve.config import BackpressureConfig

from actors.ray_host import configure_logging
from actors.secret import SecretFolder
from serve.gateway import ServedGateway, parse_models
from serve.gateway.environment import forget_sdk_settings
from serve.local.deployment import DRAIN_S, LocalModel, model_deployments
from serve.route import wait_for_route
from serve.running import HOST, QUIET, start_serve, wait_until_running

if TYPE_CHECKING:
    from starlette.applications import Starlette

APPLICATION = "callboard-gateway"
_SPARE = 1024  # beyond what the gateway takes at once, for bodies that arrive: it is the gateway that refuses
_QUEUED = 256
_STARTS = 3
_LOOK_EVERY_S = 0.1


class GatewayReplica:
    """The process of the gateway."""

    def __init__(self, served: ServedGateway, models: Mapping[LocalModel, Any]) -> None:
        configure_logging(served.log_level)
        self._served = served
        self._models = models  # handles

    def __serve_build_asgi_app__(self) -> Starlette:
        # Imported here, because it brings the SDKs along, which who deploys it has no need of.
        from serve.gateway.app import Gateway
        from serve.gateway.telemetry_settings import telemetry_from
        from serve.local.remote import remote_models

        forget_sdk_settings()
        secrets = SecretFolder(Path(self._served.secrets))
        return Gateway(
            self._served.settings,
            secrets,
            local=remote_models(self._models),
            telemetry=telemetry_from(os.environ),
        ).app


def serve_runs() -> bool:
    """Whether Ray Serve runs, on whatever port, in the Ray that this process has joined."""
    return bool(serve.status().proxies)


def serve_gateway(served: ServedGateway) -> None:
    """Serve it in the Ray that this process has joined, also in the place of one that runs there.

    Returns once it answers. Raises ServiceUnavailable.
    """
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    # Its proxy and the replica are two processes that import Ray, each on one core: they start side by side.
    with ThreadPoolExecutor(1) as thread:
        starting = thread.submit(start_serve, served.port)
        while not (starting.done() or serve_runs()):
            wait([starting], _LOOK_EVERY_S)
        if starting.done():
            starting.result()
        _deploy(served)
        wait_until_running(APPLICATION, "The model gateway")
        starting.result()
    wait_for_route(HOST, served.port)


def _deploy(served: ServedGateway) -> None:
    models = parse_models(served.settings.models)
    concurrent = models.limits.concurrent
    deployment = serve.deployment(
        name="gateway",
        num_replicas=1,  # its limits, counts and breakers are in its memory
        max_ongoing_requests=concurrent + _SPARE,
        max_queued_requests=_QUEUED,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        ray_actor_options={"num_cpus": 0},
        health_check_period_s=10.0,
        health_check_timeout_s=30.0,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=DRAIN_S,
        max_surge_percent=100,  # the next one answers before this one is told to end
        max_constructor_retry_count=_STARTS,
        logging_config=QUIET,
    )(serve.ingress()(GatewayReplica))
    application = serve.RunTarget(
        deployment.bind(served, model_deployments(models, served.log_level, QUIET)),
        name=APPLICATION,
        route_prefix="/",
        logging_config=QUIET,
    )
    serve.run_many([application], wait_for_applications_running=False)  # it would look once a second
