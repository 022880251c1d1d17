"""models.yaml: which models the gateway offers, and which upstreams answer for them. Read strictly."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, field_validator, model_validator

from serve.gateway.capability import Capability
from serve.local.settings import DEFAULT_MODEL, BatchedSpec, GenerationSpec, LocalSpec
from serve.strict_yaml import Place, Strict, StrictFile, meant, parse_strictly, read_text

_SECRET = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,100}")
_PATH = re.compile(r"/?[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}")

Serves = Literal["chat", "embeddings", "rerank"]

EXAMPLE = """upstreams:
  openai: {type: openai, api_key: OPENAI_API_KEY}
models:
  small: {targets: [{upstream: openai, model: gpt-5-mini}]}
"""
# Where there is no models.yaml.
DEFAULT = f"""upstreams:
  local: {{type: local}}
models:
  {DEFAULT_MODEL.rsplit("/", maxsplit=1)[-1]}:
    serves: embeddings
    targets: [{{upstream: local, model: {DEFAULT_MODEL}}}]
"""


class UpstreamSpec(Strict):
    """A server that answers, or what runs here. `api_key` is the name of a secret, never the key itself; times are seconds."""

    type: Literal["local", "openai", "anthropic", "openai_compatible"]
    base_url: str | None = Field(default=None, repr=False)
    api_key: str | None = None
    connect_s: float = Field(default=5.0, gt=0, le=60)
    answer_s: float = Field(default=120.0, gt=0, le=3600)  # to the whole answer, or to a stream's first event
    silence_s: float = Field(default=60.0, gt=0, le=3600)  # to a stream's first event, and between two
    retries: int = Field(default=2, ge=0, le=10)
    retry_after_s: float = Field(default=10.0, ge=0, le=300)  # a longer Retry-After is not waited for
    rerank_path: str | None = (
        None  # below the base_url, `rerank` where unset: compatible servers differ in it
    )
    embedding: BatchedSpec | None = None  # how models that run here do
    reranking: BatchedSpec | None = None
    generation: GenerationSpec | None = None

    @field_validator("api_key")
    @classmethod
    def _names_a_secret(cls, name: str | None) -> str | None:
        # A key pasted in here is not repeated.
        if name is not None and (not _SECRET.fullmatch(name) or name.startswith("sk-")):
            raise ValueError("is the name of a secret such as OPENAI_API_KEY, not the key itself")
        return name

    @field_validator("base_url")
    @classmethod
    def _is_a_url(cls, url: str | None) -> str | None:
        if url is not None:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("must look like https://host:port/v1")
            if parts.username or parts.password:
                raise ValueError("must not hold a password; name a secret as api_key")
        return url

    @field_validator("rerank_path")
    @classmethod
    def _is_a_path(cls, path: str | None) -> str | None:
        if path is not None and not _PATH.fullmatch(path):
            raise ValueError("must be a path below the base_url, such as rerank")
        return path

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> UpstreamSpec:
        for name in ("embedding", "reranking", "generation"):
            if getattr(self, name) is not None and self.type != "local":
                raise ValueError(f"{name} is for an upstream of type local")
        if self.rerank_path is not None and self.type != "openai_compatible":
            raise ValueError("rerank_path is for an upstream of type openai_compatible")
        if self.type == "local":
            if self.base_url is not None or self.api_key is not None:
                raise ValueError("an upstream of type local has no base_url and no api_key")
            return self
        if self.type == "openai_compatible" and self.base_url is None:
            raise ValueError("an upstream of type openai_compatible needs a base_url")
        if self.type != "openai_compatible" and self.api_key is None:
            raise ValueError(f"an upstream of type {self.type} needs an api_key, the name of a secret")
        return self

    def local_spec(self, serves: Serves) -> LocalSpec:
        """Of an upstream of type `local`."""
        if serves == "chat":
            return self.generation or GenerationSpec()
        return (self.reranking if serves == "rerank" else self.embedding) or BatchedSpec()


class PriceSpec(Strict):
    """US dollars for a million tokens, where genai-prices does not know the model, or knows it wrong."""

    input: float = Field(ge=0)
    output: float = Field(default=0.0, ge=0)


class TargetSpec(Strict):
    """A model of an upstream, under the name that it has there."""

    upstream: str
    model: Annotated[str, Field(min_length=1, max_length=200)]
    max_tokens: int = Field(default=4096, ge=1)  # for Anthropic, which wants one, where the request says none
    drop: tuple[
        str, ...
    ] = ()  # parameters of requests that are left out for this model, which would refuse them
    lacks: tuple[Capability, ...] = ()  # what of a chat it cannot do: such a request goes to another target
    price: PriceSpec | None = None

    @field_validator("drop")
    @classmethod
    def _may_be_left_out(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        needed = {"model", "messages", "input", "stream", "stream_options"}.intersection(names)
        if needed:
            raise ValueError(f"{', '.join(sorted(needed))} cannot be left out of a request")
        return names


class RuleSpec(Strict):
    """An answer for when no upstream can be reached. `match`: a regular expression that is looked for in what the user has
    said last; without one it is for whatever was said. An answer that is no text is sent as JSON."""

    match: str | None = None
    answer: Annotated[str, Field(min_length=1)] | dict[str, Any]

    @field_validator("match")
    @classmethod
    def _is_a_pattern(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"is no regular expression: {error}") from None
        return pattern

    @cached_property
    def pattern(self) -> re.Pattern[str] | None:
        return None if self.match is None else re.compile(self.match)


class SimilarSpec(Strict):
    """Answers to questions that were asked before in other words. `by`: a model of this file that serves embeddings.
    `threshold`: the cosine from which on two questions may be one; `categories` has others, by the client's
    X-Callboard-Category, null for never. `shadow`: the share of them that is asked for all the same, and compared."""

    by: str
    threshold: float = Field(default=0.95, ge=0.5, le=1)
    categories: dict[str, Annotated[float, Field(ge=0.5, le=1)] | None] = Field(default_factory=dict)
    shadow: float = Field(default=0.05, ge=0, le=1)
    answers: int = Field(default=1000, ge=1, le=10_000)  # that are kept in memory


class ModelSpec(Strict):
    """A name that clients ask for. Its targets are tried in order: the file's, the cheapest or the fastest first."""

    serves: Serves = "chat"
    strategy: Literal["fixed", "cost", "latency"] = "fixed"
    targets: Annotated[tuple[TargetSpec, ...], Field(min_length=1, max_length=16)]
    rules: tuple[RuleSpec, ...] = ()  # of one that chats: the first that matches answers
    similar: SimilarSpec | None = None  # of one that chats

    @model_validator(mode="after")
    def _some_things_are_for_chats(self) -> ModelSpec:
        for name in ("rules", "similar"):
            if getattr(self, name) and self.serves != "chat":
                raise ValueError(f"{name} is for a model that serves chat")
        if self.serves != "chat" and any(target.lacks for target in self.targets):
            raise ValueError("lacks is for targets of a model that serves chat")
        return self


class SharedCacheSpec(Strict):
    """What of it is in Postgres as well, where a restart does not lose it and another gateway finds it."""

    bytes: int = Field(default=256 * 1024 * 1024, ge=0, le=1024**5)  # 0 keeps nothing there
    answers: int = Field(default=100_000, ge=1, le=1024**3)


class CacheSpec(Strict):
    """Equal requests that can only have equal answers: embeddings, and chats with a temperature of 0."""

    bytes: int = Field(default=64 * 1024 * 1024, ge=0)  # of memory; 0 keeps nothing, also not in Postgres
    ttl_s: float = Field(default=3600.0, gt=0)
    stale_s: float = Field(default=86_400.0, ge=0)  # after that it is given when no upstream can be reached
    shared: SharedCacheSpec = SharedCacheSpec()


class ShareSpec(Strict):
    """What each tenant may ask of it, so that one of them leaves room for the others. Unset is without a limit."""

    concurrent: int | None = Field(default=None, ge=1)
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)


class LimitSpec(Strict):
    """Past these a client gets a 429 with Retry-After, a 413 for `body_bytes`, a 408 for `body_s`. Unset is without a limit."""

    concurrent: int = Field(default=256, ge=1, le=2048)
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    body_bytes: int = Field(default=32 * 1024 * 1024, ge=1024, le=256 * 1024 * 1024)  # of one request
    body_s: float = Field(default=30.0, gt=0, le=600)  # from a request's headers to the end of its body
    bytes: int = Field(default=256 * 1024 * 1024, ge=1024)  # of all requests that are under way
    tenant: ShareSpec = ShareSpec()


class ModelsFile(StrictFile):
    upstreams: dict[str, UpstreamSpec] = Field(default_factory=dict)
    models: dict[str, ModelSpec] = Field(default_factory=dict)
    cache: CacheSpec = CacheSpec()
    limits: LimitSpec = LimitSpec()

    def local_models(self) -> Iterator[tuple[Serves, str, str]]:
        """What it serves, upstream and model of each target that runs here, once."""
        targets = {
            (model.serves, target.upstream, target.model): None
            for model in self.models.values()
            for target in model.targets
        }
        return (one for one in targets if self.upstreams[one[1]].type == "local")

    def complaint(self) -> tuple[Place, str] | None:
        for section, names in (("upstreams", self.upstreams), ("models", self.models)):
            for name in names:
                if not _NAME.fullmatch(name):
                    return (section, name), "is no name: use letters, digits and . _ : / -"
        for name, model in self.models.items():
            for number, target in enumerate(model.targets):
                place = ("models", name, "targets", number, "upstream")
                upstream = self.upstreams.get(target.upstream)
                if upstream is None:
                    return place, f"there is no upstream {target.upstream!r}" + meant(
                        target.upstream, self.upstreams
                    )
                if (why := _cannot(model.serves, upstream)) is not None:
                    return place, why
            if model.similar is not None and (why := self._cannot_compare(model.similar.by)) is not None:
                return ("models", name, "similar", "by"), why
        return None

    def _cannot_compare(self, by: str) -> str | None:
        model = self.models.get(by)
        if model is None:
            return f"there is no model {by!r}" + meant(by, self.models)
        return None if model.serves == "embeddings" else f"{by} serves {model.serves}, not embeddings"


def _cannot(serves: Serves, upstream: UpstreamSpec) -> str | None:
    if serves == "embeddings" and upstream.type == "anthropic":
        return "Anthropic has no embeddings"
    if serves == "rerank" and upstream.type not in ("local", "openai_compatible"):
        return "who reranks is an upstream of type local or openai_compatible"
    return None


_MODELS: dict[Place, type[BaseModel]] = {
    (): ModelsFile,
    ("upstreams", "*"): UpstreamSpec,
    ("upstreams", "*", "embedding"): BatchedSpec,
    ("upstreams", "*", "reranking"): BatchedSpec,
    ("upstreams", "*", "generation"): GenerationSpec,
    ("models", "*"): ModelSpec,
    ("models", "*", "targets", "*"): TargetSpec,
    ("models", "*", "targets", "*", "price"): PriceSpec,
    ("models", "*", "rules", "*"): RuleSpec,
    ("models", "*", "similar"): SimilarSpec,
    ("cache",): CacheSpec,
    ("cache", "shared"): SharedCacheSpec,
    ("limits",): LimitSpec,
    ("limits", "tenant"): ShareSpec,
}


def read_models(path: Path) -> str:
    """The text of a models.yaml that is right, or DEFAULT where there is none. Raises InvalidModelsFile."""
    text = read_text(path, default=DEFAULT)
    parse_models(text, str(path))
    return text


def parse_models(text: str, name: str = "models.yaml") -> ModelsFile:
    """Raises InvalidModelsFile, which names the line."""
    return parse_strictly(text, name, ModelsFile, _MODELS)
