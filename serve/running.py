"""Ray Serve on loopback, and an application of ours in it. Serve's defaults are for something else: all is said here."""

from __future__ import annotations

import time

from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.schema import ApplicationStatus, LoggingConfig

from bus.errors import ServiceUnavailable
from serve.start_failure import reason

HOST = "127.0.0.1"
QUIET = LoggingConfig(encoding="TEXT", log_level="WARNING", enable_access_log=False)
_KEEP_ALIVE_S = 90


def start_serve(port: int) -> None:
    """Returns once the proxy listens, or has been found to run."""
    serve.start(
        proxy_location=ProxyLocation.HeadOnly,
        http_options=HTTPOptions(
            host=HOST,
            port=port,
            root_path="",
            request_timeout_s=None,  # the application's own limits hold
            keep_alive_timeout_s=_KEEP_ALIVE_S,
        ),
        logging_config=QUIET,
    )


def wait_until_running(
    application: str, what: str, *, log: str = "the Ray dashboard", look_every_s: float = 0.1
) -> None:
    """However long its replicas take to start. Raises ServiceUnavailable once they have failed to; `log`: where more is."""
    while (found := serve.status().applications[application]).status is not ApplicationStatus.RUNNING:
        if found.status is ApplicationStatus.DEPLOY_FAILED:
            raised = [one.message for one in found.deployments.values() if one.status == "DEPLOY_FAILED"]
            raise ServiceUnavailable(
                f"{what} does not start in Ray: {reason(found.message, raised)}.",
                fix=f"See its log in {log}.",
            )
        time.sleep(look_every_s)
