"""What the gateway keeps and shares, and its keys, which it does not."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest

from tests.integration.gateway import LOCAL_KEY, Front
from tests.integration.gateway_calls import ASK, COST, ask, until_running
from tests.integration.upstreams import (
    KEY,
    completion,
    embeddings,
    held,
    reply,
    silence,
    status,
)


async def test_an_equal_request_is_answered_from_memory_and_costs_nothing(front: Front) -> None:
    assert await ask(front) == ("miss", COST)
    assert await ask(front) == ("hit", "0")
    assert len(front.openai.asked) == 1


async def test_what_differs_in_anything_is_another_request(front: Front) -> None:
    await ask(front)
    other = [{"role": "user", "content": "Hello!"}]
    for fields in (
        {"model": "either"},
        {"messages": other},
        {"seed": 1},
        {"max_tokens": 5},
        {"user": "u"},
        {"extra_headers": {"X-Callboard-Tenant": "other"}},
        {"extra_headers": {"X-Callboard-Corpus": "2026-11"}},
        {"extra_body": {"min_p": 0.1}},
    ):
        assert (await ask(front, **fields))[0] == "miss"
    assert len(front.openai.asked) == 9


async def test_what_may_have_another_answer_each_time_is_asked_each_time(front: Front) -> None:
    for fields in ({"temperature": None}, {"temperature": 0.1}, {"n": 2}):
        for _ in range(2):
            assert (await ask(front, **fields))[0] == "miss"


async def test_embeddings_are_kept_and_errors_are_not(front: Front) -> None:
    front.openai.put_on(status(400), reply(embeddings([0.5])))
    with pytest.raises(openai.BadRequestError):
        await front.client.embeddings.create(model="vectors", input="a", encoding_format="float")
    for _ in range(2):
        found = await front.client.embeddings.create(model="vectors", input="a", encoding_format="float")
        assert found.data[0].embedding == [0.5]
    assert len(front.openai.asked) == 2


async def test_equal_requests_at_one_time_are_made_once(front: Front) -> None:
    front.openai.put_on(held(reply(completion())))
    asking = [asyncio.create_task(ask(front)) for _ in range(5)]
    await front.openai.arrived.wait()
    others = asyncio.create_task(ask(front, seed=1))
    while len(front.openai.asked) < 2:
        front.openai.arrived.clear()
        await front.openai.arrived.wait()
    front.openai.go_on.set()
    found = await asyncio.gather(*asking, others)
    assert sorted(how for how, _ in found) == ["miss", "miss", "shared", "shared", "shared", "shared"]
    assert len(front.openai.asked) == 2


async def test_a_call_that_is_shared_goes_on_until_the_last_client_has_gone(front: Front) -> None:
    front.openai.put_on(silence)
    first, second = asyncio.create_task(ask(front)), asyncio.create_task(ask(front, timeout=20))
    await front.openai.arrived.wait()
    await until_running(front, 2)
    first.cancel()
    await until_running(front, 1)
    assert not front.openai.gone.is_set()
    second.cancel()
    await asyncio.wait_for(front.openai.gone.wait(), 5)
    await asyncio.gather(first, second, return_exceptions=True)


async def test_who_comes_back_with_its_key_has_what_was_made_for_it(front: Front) -> None:
    """Also what may have another answer each time; whose key it is not pays for itself, or not at all."""
    mine, other = {"Idempotency-Key": "1"}, {"Idempotency-Key": "2"}
    free = {"temperature": 0.7}
    assert await ask(front, extra_headers=mine, **free) == ("miss", COST)
    assert await ask(front, extra_headers=mine, **free) == ("again", COST)
    assert await ask(front, extra_headers=other, **free) == ("miss", COST)
    assert await ask(front, extra_headers=mine, **free, seed=3) == ("miss", COST)
    assert (await ask(front, extra_headers=mine, **free, model="either"))[0] == "miss"
    assert await ask(front, extra_headers=mine) == ("miss", COST)
    assert await ask(front, extra_headers=mine) == ("again", COST)
    assert await ask(front, extra_headers=other) == ("hit", "0")
    assert len(front.openai.asked) == 5
    with pytest.raises(openai.BadRequestError, match="Idempotency-Key is no key"):
        await ask(front, extra_headers={"Idempotency-Key": "x" * 257})


async def test_a_call_with_a_key_goes_on_when_its_client_has_gone(front: Front) -> None:
    """What it costs is paid all the same; the client may have died, and comes back for the answer."""
    front.openai.put_on(held(reply(completion())))
    headers = {"Idempotency-Key": "1", "X-Callboard-Task": "desk/1"}
    asking = asyncio.create_task(ask(front, temperature=0.7, extra_headers=headers))
    await front.openai.arrived.wait()
    asking.cancel()
    await until_running(front, 0)
    back = asyncio.create_task(ask(front, temperature=0.7, extra_headers=headers))
    await until_running(front, 1)
    front.openai.go_on.set()
    assert await back == ("again", COST)
    assert len(front.openai.asked) == 1
    [account] = (await front.state())["accounts"]
    assert (account["requests"], account["cached"], account["cost_usd"]) == (1, 0, COST)


# -- secrets -------------------------------------------------------------------------------------------


async def test_no_key_is_in_a_log_or_an_answer(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(0):
        await ask(front)
        front.openai.put_on(status(500, error=f"key {KEY} broke it"))
        front.claude.put_on(status(500, error=f"key {KEY} broke it"))
        body = json.dumps({"model": "either", "messages": ASK}).encode()
        said = await front.post("/v1/chat/completions", body)
        wrong = await front.post("/v1/chat/completions", body, authorization="Bearer cb-wrong-key")
        state = json.dumps(await front.state())
    assert "[API_KEY] broke it" in said.text
    assert caplog.records
    for text in (caplog.text, said.text, wrong.text, state):
        assert KEY not in text
        assert LOCAL_KEY not in text
        assert "cb-wrong-key" not in text
