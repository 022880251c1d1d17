"""Calls of a gateway by the tests of what it keeps, counts and bounds."""

from __future__ import annotations

import re
from typing import Any

import openai
import pytest

from tests.integration.gateway import Front

ASK: Any = [{"role": "user", "content": "Hello"}]
COST = "0.00045"  # of 1,000 tokens at 0.25 and 100 at 2 dollars a million


async def ask(front: Front, **fields: Any) -> tuple[str, str | None]:
    """From where an answer came, and what it has cost."""
    raw = await front.client.chat.completions.with_raw_response.create(
        **{"model": "small", "messages": ASK, "temperature": 0, **fields}
    )
    assert raw.parse().choices[0].message.content == "Hello"
    return raw.headers["x-callboard-cache"], raw.headers.get("x-callboard-cost-usd")


async def until_running(front: Front, number: int) -> None:
    """Each look is a request of its own, so nothing spins."""
    while (await front.state())["running"] != number:
        pass


async def too_many(front: Front, **fields: Any) -> tuple[str, str]:
    """What a refused request was one too many of, and when to try again."""
    with pytest.raises(openai.RateLimitError) as caught:
        await ask(front, **fields)
    assert caught.value.code == "rate_limit_exceeded"
    return re.split(r"gateway(?: by this tenant)?: ", caught.value.message)[1], caught.value.response.headers[
        "retry-after"
    ]
