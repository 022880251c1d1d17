"""Agents' way to the gateway: real HTTP, a real gateway, and a server that plays the upstream."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from actors.model_gateway import GatewayClient
from actors.models import ModelRequest
from bus.errors import ModelFailed, ModelUnavailable
from tests.integration.gateway import Front
from tests.integration.upstreams import silence, status

ASK = {"model": "small", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture
async def client(front: Front, tmp_path: Path) -> AsyncIterator[GatewayClient]:
    async with front.agents_client(tmp_path) as client:
        yield client


def request(**fields: Any) -> ModelRequest:
    given = {
        "path": "chat/completions",
        "body": ASK,
        "key": "k",
        "tenant": "default",
        "agent": "desk/clerk/\u00fc%",
    }
    return ModelRequest(**{**given, **fields})


async def test_an_answer_with_what_it_has_used_and_for_whom(client: GatewayClient, front: Front) -> None:
    made = await client.make(request(task="desk/7"))
    assert made.body["choices"][0]["message"]["content"] == "Hello"
    assert (made.tokens, made.cost) == (1100, Decimal("0.00045"))
    again = await client.make(request(task="desk/7"))
    assert (again.tokens, again.cost) == (
        1100,
        Decimal("0.00045"),
    )  # whoever asks again has not charged it yet
    assert len(front.openai.asked) == 1
    [account] = (await front.state())["accounts"]
    assert (account["agent"], account["task"]) == ("desk/clerk/\u00fc%", "desk/7")


async def test_what_somebody_else_has_paid_for_is_free(client: GatewayClient) -> None:
    body = {**ASK, "temperature": 0}
    await client.make(request(body=body))
    other = await client.make(request(body=body, key="l"))
    assert (other.tokens, other.cost) == (0, Decimal(0))


@pytest.mark.parametrize("agent", ["desk/clerk/" + "\u00fc" * 200, "desk/clerk/a b\nc"])
async def test_an_agents_key_may_have_any_characters(client: GatewayClient, agent: str) -> None:
    await client.make(request(agent=agent))


async def test_a_refusal_is_final_and_what_is_away_is_not(
    client: GatewayClient, front: Front, tmp_path: Path
) -> None:
    with pytest.raises(ModelFailed, match="There is no model 'none' here") as caught:
        await client.make(request(body={**ASK, "model": "none"}))
    assert type(caught.value) is ModelFailed
    front.openai.put_on(status(429, **{"retry-after": "60"}))
    with pytest.raises(ModelUnavailable):
        await client.make(request(key="l"))
    (tmp_path / "gateway.json").write_text(json.dumps({"port": 9}))
    with pytest.raises(ModelUnavailable, match="cannot be reached: ConnectError"):
        await client.make(request(key="m"))
    (tmp_path / "gateway.json").unlink()
    with pytest.raises(ModelUnavailable, match="No model gateway was started here"):
        await client.make(request(key="n"))


async def test_the_key_is_read_from_a_file_of_its_owner_alone(client: GatewayClient, tmp_path: Path) -> None:
    (tmp_path / "gateway.key").chmod(0o644)
    with pytest.raises(ModelFailed, match="can be read by others"):
        await client.make(request())


async def test_one_that_does_not_answer_in_time(client: GatewayClient, front: Front) -> None:
    front.openai.put_on(silence)
    with pytest.raises(ModelFailed, match=r"not answered within 0.2 s.*timeout"):
        await client.make(request(timeout_s=0.2))
