"""What a host that cannot run tells its coordinator."""

from __future__ import annotations

import os
from typing import Any

import pytest

from actors import ray_host
from actors.ray_host import HostActor
from bus.errors import InvalidDomainFile, ServiceUnavailable


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (InvalidDomainFile("colour: is not known.", fix="Mend it."), "colour: is not known. Mend it."),
        (ServiceUnavailable("NATS is away."), None),
        (ValueError("a bug"), None),
    ],
)
def test_it_says_why_it_refuses_the_domains_code_and_nothing_that_may_pass(
    monkeypatch: pytest.MonkeyPatch, error: Exception, told: str | None
) -> None:
    async def run_incarnation(*given: object, **more: object) -> str:
        raise error

    monkeypatch.setattr(ray_host, "run_incarnation", run_incarnation)
    monkeypatch.setattr(ray_host, "configure_logging", lambda level: None)
    monkeypatch.setattr(ray_host, "LINGER_S", 0.0)
    monkeypatch.setattr(os, "_exit", lambda code: None)
    nothing: Any = None
    actor = HostActor(nothing, (), nothing, "info")
    assert actor.wait_until_ended() == told
    actor._thread.join()
