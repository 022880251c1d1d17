"""What runs in Ray Serve, as the gateway sees it: played handles, since no unit test starts Ray."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator
from typing import Any

import pytest

from serve.embedding.embedder import EmbedRequest
from serve.gateway import GatewaySettings, ServedGateway
from serve.gateway.errors import ApiError
from serve.gateway.models_file import parse_models
from serve.generation.generator import Generated, GenerateRequest
from serve.local.settings import NO_GPU, BatchedSpec, GenerationSpec
from serve.reranking.reranker import ScoreRequest

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of Ray's own code, as it is imported
    import ray
    from ray import serve
    from ray.exceptions import ActorDiedError, RayTaskError
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
    from ray.serve.schema import LoggingConfig

    from serve import deployment
    from serve.local import replicas
    from serve.local.deployment import LocalModel, model_deployments
    from serve.local.remote import RemoteGenerator, remote_models
    from serve.local.replicas import EmbeddingReplica, GenerationReplica, RerankingReplica

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


def test_models_share_out_the_gpus_and_none_waits_for_one_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def given(there: float, *specs: str) -> list[tuple[str, float | None]]:
        """On which device each model is, and how much of a GPU Ray reserves for it."""
        monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0, "GPU": there})
        kinds = [
            f"{kind}: {spec}"
            for kind, spec in zip(("generation", "embedding", "reranking"), specs, strict=True)
        ]
        models = MODELS.replace(
            "embedding: {device: cpu}, reranking: {device: cpu}, generation: {device: cpu}", ", ".join(kinds)
        )
        found = model_deployments(parse_models(models), "INFO", LoggingConfig()).values()
        made = [one._bound_deployment for one in found]
        return [(one.init_args[2], (one.ray_actor_options or {}).get("num_gpus")) for one in made]

    assert given(0, "{}", "{device: cuda}", "{device: cpu}") == [
        ("cpu", None), (NO_GPU, None), ("cpu", None)
    ]  # fmt: skip
    assert given(1, "{gpus: 0.3}", "{device: cuda, gpus: 0.3, always: 2}", "{gpus: 0.2}") == [
        ("cuda", 0.3), ("cuda", 0.3), ("cpu", None)
    ]  # fmt: skip
    assert given(1, "{gpus: 0.1}", "{gpus: 0.2}", "{gpus: 0.7}") == [
        ("cuda", part) for part in (0.1, 0.2, 0.7)
    ]


async def test_a_model_that_wants_a_gpu_says_that_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("configure_logging", "prepare"):  # of a process of its own
        monkeypatch.setattr(replicas, name, lambda given: None)
    embedding = EmbeddingReplica("m", BatchedSpec(), NO_GPU, "INFO")
    reranking = RerankingReplica("m", BatchedSpec(), NO_GPU, "INFO")
    generation = GenerationReplica("m", GenerationSpec(), NO_GPU, "INFO")
    refused: list[Any] = [
        await embedding.embed(EmbedRequest(texts=("a",))),
        await reranking.rerank(ScoreRequest(query="a", documents=("a",))),
        *[one async for one in generation.generate(REQUEST)],
    ]
    for error in refused:
        assert (error.status, error.code) == (503, "model_not_loaded")
        assert "(`device: cuda`), and Ray has none left for it" in error.message


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
