"""What runs in Ray Serve, as the gateway sees it: played handles, since no unit test starts Ray."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator
from typing import Any

import pytest

from serve.gateway import GatewaySettings, ServedGateway
from serve.gateway.errors import ApiError
from serve.gateway.models_file import parse_models
from serve.generation.generator import Generated, GenerateRequest

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of Ray's own code, as it is imported
    from ray import serve
    from ray.exceptions import ActorDiedError, RayTaskError
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
    from ray.serve.schema import LoggingConfig

    from serve import deployment
    from serve.local.deployment import LocalModel, model_deployments
    from serve.local.remote import RemoteGenerator, remote_models

REQUEST = GenerateRequest(messages=({"role": "user", "content": "a"},))
MODELS = """
upstreams:
  here: {type: local, embedding: {device: cpu}, reranking: {device: cpu}, generation: {device: cpu}}
models:
  a: {targets: [{upstream: here, model: /m}]}
  b: {serves: embeddings, targets: [{upstream: here, model: /m}]}
  c: {serves: rerank, targets: [{upstream: here, model: /m}]}
  d: {targets: [{upstream: here, model: /m}]}
"""


class Handle:
    """Plays a handle of a deployment that gives these, one after the other."""

    def __init__(self, *gives: Any) -> None:
        self.gives = gives
        self.generate = self
        self.cancelled = False

    def options(self, *, stream: bool) -> Handle:
        assert stream
        return self

    def remote(self, request: Any) -> Handle:
        assert request is REQUEST
        return self

    def cancel(self) -> None:
        self.cancelled = True

    async def __aiter__(self) -> AsyncIterator[Any]:
        for one in self.gives:
            if isinstance(one, Exception) and not isinstance(one, ApiError):
                raise one
            yield one


def test_each_model_of_what_it_serves_has_one_deployment_with_a_name_of_its_own() -> None:
    found = model_deployments(parse_models(MODELS), "INFO", LoggingConfig())
    assert set(found) == {LocalModel(serves, "here", "/m") for serves in ("chat", "embeddings", "rerank")}
    names = {one._bound_deployment.name for one in found.values()}
    assert {name.partition("-")[0] for name in names} == {"chat", "embeddings", "rerank"}
    models = remote_models({one: Handle() for one in found})
    for kind in (models.embedders, models.rerankers, models.generators):
        assert list(kind) == [("here", "/m")]


def test_another_replica_comes_before_chats_are_refused() -> None:
    found = model_deployments(
        parse_models(MODELS.replace("generation: {device: cpu}", "generation: {device: cpu, sequences: 4}")),
        "INFO",
        LoggingConfig(),
    )
    wanted = {
        of.serves: one._bound_deployment._deployment_config.autoscaling_config.target_ongoing_requests
        for of, one in found.items()
    }
    assert wanted == {"chat": 4, "embeddings": 64, "rerank": 64}


async def test_pieces_come_as_they_were_given() -> None:
    given = [Generated(text="a"), Generated(finish="stop")]
    handle = Handle(*given)
    assert [piece async for piece in RemoteGenerator("m", handle).generate(REQUEST)] == given
    assert not handle.cancelled


async def test_who_goes_away_cancels_the_call() -> None:
    handle = Handle(Generated(text="a"), Generated(finish="stop"))
    pieces = RemoteGenerator("m", handle).generate(REQUEST)
    await anext(pieces)
    await pieces.aclose()
    assert handle.cancelled


def raised(there: BaseException) -> Exception:
    return RayTaskError("generate", "its traceback", there)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("given", "status", "code"),
    [
        (ApiError("no", status=400, code="some"), 400, "some"),
        (BackPressureError(num_queued_requests=1, max_queued_requests=1), 429, "rate_limit_exceeded"),
        (DeploymentUnavailableError("d"), 502, "upstream_unreachable"),  # type: ignore[arg-type]
        (ActorDiedError(), 502, "upstream_unreachable"),
        (raised(ValueError("no such thing\nat all")), 500, "model_failed"),
        (raised(asyncio.CancelledError()), 502, "upstream_unreachable"),
    ],
)
async def test_what_fails_there_is_an_error_here(given: Exception, status: int, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        async for _ in RemoteGenerator("m", Handle(given)).generate(REQUEST):
            pass
    assert (caught.value.status, caught.value.code) == (status, code)
    assert caught.value.unwell == (status == 502)
    assert "\n" not in caught.value.message


def test_who_is_to_end_has_two_minutes_also_where_one_answer_may_take_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stream goes on after `answer_s`, and so does a request that is made once more."""
    models = MODELS.replace("{type: local,", "{type: local, answer_s: 5,")
    given: list[Any] = []
    monkeypatch.setattr(serve, "run_many", lambda targets, **_: given.extend(targets))
    settings = GatewaySettings(key="k", models=models, models_path="")
    deployment._deploy(ServedGateway(settings=settings, secrets="", log_level="INFO", port=1))
    found = [one.target for one in given] + list(
        model_deployments(parse_models(models), "INFO", LoggingConfig()).values()
    )
    configured = [one._bound_deployment._deployment_config for one in found]
    assert [one.graceful_shutdown_timeout_s for one in configured] == [120] * 4
