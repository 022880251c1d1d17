"""Anthropic's Messages API behind OpenAI's requests and answers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Iterator

import anthropic
import httpx2
from anthropic.types import Message

from actors.secret import Secrets, redact
from bus.registry import first_line
from serve.gateway.anthropic_reply import Chunks, completion
from serve.gateway.anthropic_request import to_anthropic
from serve.gateway.anthropic_words import STATUSES
from serve.gateway.errors import ApiError, malformed
from serve.gateway.models_file import TargetSpec, UpstreamSpec
from serve.gateway.requests import ChatRequest, EmbeddingsRequest, RerankRequest
from serve.gateway.secret import key_of
from serve.gateway.upstream import Json, refused, timed_out, unreachable

ANTHROPIC = "https://api.anthropic.com"


class AnthropicUpstream:
    """Implements serve.gateway.upstream.Upstream with the official SDK, whose own retries are off."""

    def __init__(self, name: str, spec: UpstreamSpec, secrets: Secrets, http: httpx2.AsyncClient) -> None:
        self._name = name
        self._spec = spec
        self._secrets = secrets
        self._http = http
        self._whole = httpx2.Timeout(spec.answer_s, connect=spec.connect_s)
        self._piecemeal = httpx2.Timeout(spec.silence_s, connect=spec.connect_s)

    async def chat(self, target: TargetSpec, request: ChatRequest) -> Json:
        call = to_anthropic(target, request)
        with self._reading(target) as client:
            message = await client.messages.create(**call, stream=False, timeout=self._whole)
        if not isinstance(message, Message) or not isinstance(message.content, list):
            raise malformed(self._name, "it is no message")
        try:
            return completion(message)
        except (AttributeError, TypeError):  # the SDK builds what it is given, whatever is missing
            raise malformed(self._name, "its message is not as its API says") from None

    async def stream(self, target: TargetSpec, request: ChatRequest) -> AsyncGenerator[Json]:
        call = to_anthropic(target, request)
        chunks = Chunks()
        with self._reading(target) as client:
            events = await client.messages.create(**call, stream=True, timeout=self._piecemeal)
            async with events:
                async for event in events:
                    try:
                        made = list(chunks.of(event))
                    except (AttributeError, TypeError):
                        raise malformed(self._name, "an event is not as its API says") from None
                    for chunk in made:
                        yield chunk
        if not chunks.ended:
            raise unreachable(self._name)

    async def embed(self, target: TargetSpec, request: EmbeddingsRequest) -> Json:
        raise AssertionError("models.yaml lets no embeddings come here")

    async def rerank(self, target: TargetSpec, request: RerankRequest) -> Json:
        raise AssertionError("models.yaml lets nothing to rerank come here")

    @contextlib.contextmanager
    def _reading(self, target: TargetSpec) -> Iterator[anthropic.AsyncAnthropic]:
        """A client with the key as it is now; its errors become ours."""
        key = key_of(self._name, self._spec, self._secrets) or ""
        client = anthropic.AsyncAnthropic(
            api_key=key,
            base_url=self._spec.base_url or ANTHROPIC,
            max_retries=0,
            http_client=self._http,
            open_telemetry=False,
        )
        try:
            yield client
        except anthropic.APITimeoutError as error:
            raise timed_out(self._name, error.__cause__) from None
        except anthropic.APIStatusError as error:
            raise self._refused(target, error, key) from None
        except anthropic.APIResponseValidationError:
            raise malformed(self._name, "it is not as its API says") from None
        except anthropic.APIConnectionError:
            raise unreachable(self._name) from None
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise malformed(self._name, "it is not JSON") from None
        except httpx2.TimeoutException as error:
            raise timed_out(self._name, error) from None
        except httpx2.HTTPError:
            raise unreachable(self._name) from None

    def _refused(self, target: TargetSpec, error: anthropic.APIStatusError, key: str) -> ApiError:
        status = error.status_code
        if status < 400:  # told within a stream, whose answer began well
            status = STATUSES.get(error.type or "", 500)
        said = Exception(error.api_message or error.message)
        words = first_line(said, lambda text: redact(text, [("API_KEY", key)]))
        return refused(self._name, target.model, status, error.response.headers, error.type, words)
