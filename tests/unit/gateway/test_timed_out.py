"""What a call that took too long says of its upstream: a connection that was not made has asked nobody."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from actors.secret import GivenSecrets
from serve.gateway.anthropic_upstream import AnthropicUpstream
from serve.gateway.errors import ApiError
from serve.gateway.models_file import TargetSpec, UpstreamSpec
from serve.gateway.openai_upstream import OpenAIUpstream
from serve.gateway.requests import read_chat

REQUEST = read_chat(b'{"model": "m", "messages": [{"role": "user", "content": "a"}]}')


@pytest.mark.parametrize("upstream", [OpenAIUpstream, AnthropicUpstream])
@pytest.mark.parametrize(
    ("met", "code"),
    [
        (httpx2.ConnectTimeout, "upstream_unreachable"),
        (httpx2.PoolTimeout, "upstream_unreachable"),
        (httpx2.ReadTimeout, "upstream_timeout"),
    ],
)
async def test_only_who_was_asked_is_too_slow(upstream: Any, met: Any, code: str) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        raise met("", request=request)

    kind: Any = "openai" if upstream is OpenAIUpstream else "anthropic"
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http:
        asked = upstream("u", UpstreamSpec(type=kind, api_key="K"), GivenSecrets({"K": "sk-x"}), http)
        target = TargetSpec(upstream="u", model="m")
        for stream in (False, True):
            with pytest.raises(ApiError) as caught:
                await (anext(asked.stream(target, REQUEST)) if stream else asked.chat(target, REQUEST))
            assert (caught.value.code, caught.value.unwell) == (code, True)
