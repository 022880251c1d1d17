"""The gateway as a Ray Serve application, on loopback. Serve's defaults are for something else: all is said here."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.serve.config import BackpressureConfig, HTTPOptions, ProxyLocation
from ray.serve.schema import ApplicationStatus, LoggingConfig

from actors.ray_host import configure_logging
from actors.secret import SecretFolder
from bus.errors import ServiceUnavailable
from serve.gateway import ServedGateway, parse_models
from serve.gateway.environment import forget_sdk_settings
from serve.local.deployment import DRAIN_S, LocalModel, model_deployments
from serve.route import wait_for_route

if TYPE_CHECKING:
    from starlette.applications import Starlette

APPLICATION = "callboard-gateway"
HOST = "127.0.0.1"
_SPARE = 1024  # beyond what the gateway takes at once, for bodies that arrive: it is the gateway that refuses
_QUEUED = 256
_KEEP_ALIVE_S = 90
_STARTS = 3
_LOOK_EVERY_S = 0.1
_QUIET = LoggingConfig(encoding="TEXT", log_level="WARNING", enable_access_log=False)


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
        starting = thread.submit(_start_serve, served.port)
        while not (starting.done() or serve_runs()):
            wait([starting], _LOOK_EVERY_S)
        if starting.done():
            starting.result()
        _deploy(served)
        _wait_for_replica()
        starting.result()
    wait_for_route(HOST, served.port)


def _start_serve(port: int) -> None:
    """Returns once the proxy listens, or has been found to run."""
    serve.start(
        proxy_location=ProxyLocation.HeadOnly,
        http_options=HTTPOptions(
            host=HOST,
            port=port,
            root_path="",
            request_timeout_s=None,  # the gateway's own limits are those of models.yaml
            keep_alive_timeout_s=_KEEP_ALIVE_S,
        ),
        logging_config=_QUIET,
    )


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
        logging_config=_QUIET,
    )(serve.ingress()(GatewayReplica))
    application = serve.RunTarget(
        deployment.bind(served, model_deployments(models, served.log_level, _QUIET)),
        name=APPLICATION,
        route_prefix="/",
        logging_config=_QUIET,
    )
    serve.run_many([application], wait_for_applications_running=False)  # it would look once a second


def _wait_for_replica() -> None:
    """Raises ServiceUnavailable."""
    while (found := serve.status().applications[APPLICATION]).status is not ApplicationStatus.RUNNING:
        if found.status is ApplicationStatus.DEPLOY_FAILED:
            reason = found.message.strip().splitlines() or ["it does not say why"]
            raise ServiceUnavailable(
                f"The model gateway does not start in Ray: {reason[0].rstrip('.')}.",
                fix="See its log in the Ray dashboard.",
            )
        time.sleep(_LOOK_EVERY_S)
