"""OpenAI, and every server that speaks its API: requests pass as they came, but for the model's name and OpenAI's `max_tokens`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Iterator

import httpx2
import msgspec
import openai

from actors.secret import Secrets, redact
from bus.registry import first_line
from serve.gateway.errors import ApiError, malformed
from serve.gateway.models_file import TargetSpec, UpstreamSpec
from serve.gateway.requests import ChatRequest, EmbeddingsRequest, RerankRequest
from serve.gateway.secret import key_of
from serve.gateway.upstream import Json, refused, timed_out, unreachable

OPENAI = "https://api.openai.com/v1"
_RERANK_PATH = "rerank"  # as vLLM, Jina and others have it
_NO_KEY = "none"  # the SDK wants one, also for a server that asks for none


class OpenAIUpstream:
    """Implements serve.gateway.upstream.Upstream with the official SDK, whose own retries are off."""

    def __init__(self, name: str, spec: UpstreamSpec, secrets: Secrets, http: httpx2.AsyncClient) -> None:
        self._name = name
        self._spec = spec
        self._secrets = secrets
        self._http = http
        self._whole = httpx2.Timeout(spec.answer_s, connect=spec.connect_s)
        self._piecemeal = httpx2.Timeout(spec.silence_s, connect=spec.connect_s)

    async def chat(self, target: TargetSpec, request: ChatRequest) -> Json:
        with self._reading(target) as client:
            body = self._chat_body(target, request)
            body.pop("stream", None)
            answer = await client.chat.completions.with_raw_response.create(
                model=target.model, messages=[], extra_body=body, timeout=self._whole
            )
            completion = self._decoded(answer.http_response.content)
        choices = completion.get("choices")
        if not isinstance(choices, list) or not choices:
            raise malformed(self._name, "it holds no choices")
        return completion

    async def stream(self, target: TargetSpec, request: ChatRequest) -> AsyncGenerator[Json]:
        options = {**(request.body.get("stream_options") or {}), "include_usage": True}
        body = {**self._chat_body(target, request), "stream": True, "stream_options": options}
        open_choices = set(range(request.n or 1))
        with self._reading(target) as client:
            chunks = await client.chat.completions.create(
                model=target.model, messages=[], stream=True, extra_body=body, timeout=self._piecemeal
            )
            async with chunks:
                async for chunk in chunks:
                    try:
                        data = chunk.model_dump(mode="json", exclude_unset=True, warnings=False)
                        open_choices -= _ended(data)
                    except (AttributeError, TypeError):  # the SDK builds what it is given, whatever it is
                        raise malformed(self._name, "a chunk is not as its API says") from None
                    yield data
        if open_choices:  # the SDK takes the end of a connection for the end of a stream
            raise unreachable(self._name)

    async def embed(self, target: TargetSpec, request: EmbeddingsRequest) -> Json:
        with self._reading(target) as client:
            # Said also where the client has not: the SDK would ask for base64.
            body = {**request.body, "model": target.model, "encoding_format": request.encoding_format}
            answer = await client.embeddings.with_raw_response.create(
                model=target.model,
                input="",
                encoding_format=request.encoding_format,
                extra_body=body,
                timeout=self._whole,
            )
            found = self._decoded(answer.http_response.content)
        data = found.get("data")
        if not isinstance(data, list) or not all(
            isinstance(one, dict) and "embedding" in one for one in data
        ):
            raise malformed(self._name, "it holds no embeddings")
        if len(data) != request.count:
            raise malformed(self._name, f"it holds {len(data)} embeddings, not {request.count}")
        return found

    async def rerank(self, target: TargetSpec, request: RerankRequest) -> Json:
        with self._reading(target) as client:
            answer = await client.post(
                "/" + (self._spec.rerank_path or _RERANK_PATH).removeprefix("/"),
                cast_to=httpx2.Response,
                body={**request.body, "model": target.model},
                options={"timeout": self._whole},
            )
            found = self._decoded(answer.content)
        results = found.get("results")
        if not isinstance(results, list) or not all(_is_rank(one, len(request.documents)) for one in results):
            raise malformed(self._name, "it holds no ranks of the documents")
        return found

    def _chat_body(self, target: TargetSpec, request: ChatRequest) -> Json:
        """OpenAI's newer models refuse `max_tokens`, and many compatible servers know nothing else."""
        body = {**request.body, "model": target.model}
        if self._spec.type == "openai" and "max_completion_tokens" not in body and "max_tokens" in body:
            body["max_completion_tokens"] = body.pop("max_tokens")
        return body

    def _decoded(self, content: bytes) -> Json:
        found = msgspec.json.decode(content)
        if not isinstance(found, dict):
            raise malformed(self._name, "it is no JSON object")
        return found

    @contextlib.contextmanager
    def _reading(self, target: TargetSpec) -> Iterator[openai.AsyncOpenAI]:
        """A client with the key as it is now; its errors become ours."""
        key = key_of(self._name, self._spec, self._secrets)
        client = openai.AsyncOpenAI(
            api_key=key or _NO_KEY,
            base_url=self._spec.base_url or OPENAI,
            max_retries=0,
            http_client=self._http,
        )
        try:
            yield client
        except openai.APITimeoutError as error:
            raise timed_out(self._name, error.__cause__) from None
        except openai.APIStatusError as error:
            code = error.code if isinstance(error.code, str) else None
            raise refused(
                self._name,
                target.model,
                error.status_code,
                error.response.headers,
                code,
                _words(error.body, error.message, key),
            ) from None
        except openai.APIResponseValidationError:
            raise malformed(self._name, "it is not as its API says") from None
        except openai.APIConnectionError:
            raise unreachable(self._name) from None
        except openai.APIError as error:  # told within a stream
            raise self._failed_midway(error, key) from None
        except (json.JSONDecodeError, msgspec.DecodeError, UnicodeDecodeError):
            raise malformed(self._name, "it is not JSON") from None
        except httpx2.TimeoutException as error:
            raise timed_out(self._name, error) from None
        except httpx2.HTTPError:
            raise unreachable(self._name) from None

    def _failed_midway(self, error: openai.APIError, key: str | None) -> ApiError:
        return refused(self._name, "", 500, {}, None, _words(error.body, error.message, key))


def _is_rank(one: object, documents: int) -> bool:
    if not isinstance(one, dict):
        return False
    index, score = one.get("index"), one.get("relevance_score")
    return isinstance(index, int) and 0 <= index < documents and isinstance(score, int | float)


def _ended(chunk: Json) -> set[int]:
    """The places of the answers that end with it. Raises AttributeError or TypeError for what is no chunk."""
    choices = chunk.get("choices") or ()
    return {choice.get("index", 0) for choice in choices if choice.get("finish_reason") is not None}


def _words(body: object, message: str, key: str | None) -> str:
    """The upstream's own words on one line, without its key."""
    said = body.get("message") if isinstance(body, dict) else None
    words = Exception(said if isinstance(said, str) and said else message)
    return first_line(words, lambda text: redact(text, [("API_KEY", key or "")]))
