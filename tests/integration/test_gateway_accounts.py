"""What the gateway counts: tokens and money, for whom they were spent, however a call ends."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from tests.integration.gateway import Clock, Front, Stage
from tests.integration.gateway_calls import ASK, COST, ask, too_many, until_running
from tests.integration.upstreams import (
    anthropic_stream,
    chunks,
    completion,
    events,
    message,
    openai_stream,
    reply,
    silence,
    status,
    then_silence,
)

TEXT = {"type": "text", "text": "Hello"}
WORDS = {"type": "text", "text": "y" * 40}


async def test_tokens_and_money_are_counted_for_whom_they_were_spent(front: Front) -> None:
    task = {"X-Callboard-Task": "secops/1", "X-Callboard-Agent": "secops/triage/a"}
    await ask(front, extra_headers=task)
    await ask(front, extra_headers=task)
    front.openai.put_on(openai_stream(chunks({"content": "Hello"})))
    async for _ in await front.client.chat.completions.create(model="small", messages=ASK, stream=True):
        pass
    front.openai.put_on(status(400))
    with pytest.raises(openai.BadRequestError):
        await ask(front, seed=2)
    front.claude.put_on(reply(message(TEXT)), anthropic_stream(events((TEXT, []))))
    await front.client.chat.completions.create(model="claude", messages=ASK)
    async for _ in await front.client.chat.completions.create(model="claude", messages=ASK, stream=True):
        pass
    paid, plain, claude = (await front.state())["accounts"]
    assert paid == {
        "tenant": "default",
        "task": "secops/1",
        "agent": "secops/triage/a",
        "model": "small",
        "requests": 2,
        "failed": 0,
        "cached": 1,
        "given_up": 0,
        "input_tokens": 1000,
        "output_tokens": 100,
        "unpriced": 0,
        "cost_usd": COST,
    }
    assert (plain["task"], plain["requests"], plain["failed"], plain["cost_usd"]) == (None, 1, 1, COST)
    assert (claude["input_tokens"], claude["output_tokens"], claude["unpriced"]) == (2420, 200, 2)


async def test_a_stream_that_was_left_is_counted_without_a_price(front: Front) -> None:
    front.openai.put_on(then_silence(chunks({"content": "Hel"}, reason=None, usage=False)))
    stream = await front.client.chat.completions.create(model="small", messages=ASK, stream=True)
    async for _ in stream:
        break
    await stream.close()
    await front.openai.gone.wait()
    [account] = (await front.state())["accounts"]
    assert (account["requests"], account["unpriced"]) == (1, 1)
    assert (account["input_tokens"], account["output_tokens"]) == (
        2,
        1,
    )  # by the letters of `Hello` and `Hel`


@pytest.mark.parametrize(
    "fields", [{}, {"temperature": 0.7}, {"stream": True}], ids=["kept", "not kept", "stream"]
)
async def test_what_is_left_before_its_answer_is_counted_by_what_was_asked(stage: Stage, fields: Any) -> None:
    """The upstream has it, and nobody will hear what it makes of it, nor what that costs."""
    clock = Clock()
    async with stage.front(more="limits: {tokens_per_minute: 1000}", clock=clock) as front:
        front.openai.put_on(silence, reply(completion()))
        words = [{"role": "user", "content": "x" * 6000}, {"role": "system", "content": [WORDS]}]
        asking = asyncio.create_task(ask(front, messages=words, **fields))
        await front.openai.arrived.wait()
        asking.cancel()
        await asyncio.wait([asking])
        await front.openai.gone.wait()
        await until_running(front, 0)
        [account] = (await front.state())["accounts"]
        assert (account["requests"], account["failed"], account["given_up"]) == (0, 0, 1)
        assert (account["input_tokens"], account["output_tokens"]) == (1510, 0)
        assert (account["unpriced"], account["cost_usd"]) == (1, "0")
        said, wait = await too_many(front)  # 1,510 of 1,000, at 1,000 a minute
        assert (said.partition(".")[0], wait) == ("1,000 tokens a minute are used up", "31")
        clock.now += 31
        await ask(front)


async def test_what_an_upstream_was_too_slow_for_is_counted_for_each_try(stage: Stage) -> None:
    async with stage.front(times="answer_s: 0.05, retries: 1") as front:
        front.openai.put_on(silence)
        for asked in (ask(front), front.client.embeddings.create(model="vectors", input=["x" * 40, "y"])):
            with pytest.raises(openai.InternalServerError):
                await asked
        chat, vectors = (await front.state())["accounts"]
        assert (chat["failed"], chat["given_up"], chat["input_tokens"]) == (1, 2, 4)
        assert (vectors["failed"], vectors["given_up"], vectors["input_tokens"]) == (1, 2, 22)


async def test_a_stream_that_is_silent_from_its_beginning_is_counted_as_well(stage: Stage) -> None:
    async with stage.front(times="answer_s: 5, silence_s: 0.05, retries: 1") as front:
        front.openai.put_on(silence)
        front.claude.put_on(silence)
        for model in ("small", "claude"):
            with pytest.raises(openai.InternalServerError, match="has not answered in time"):
                await front.client.chat.completions.create(model=model, messages=ASK, stream=True)
        for account in (await front.state())["accounts"]:
            assert (account["failed"], account["given_up"], account["input_tokens"]) == (1, 2, 4)


async def test_what_never_reached_an_upstream_is_not_counted(stage: Stage) -> None:
    """Somebody waits for another try, and leaves."""
    async with stage.front() as front:
        front.openai.put_on(status(429, retry_after="9"))
        asking = asyncio.create_task(ask(front))
        await front.openai.arrived.wait()
        while not (await front.state())["errors"]:
            pass
        asking.cancel()
        await asyncio.wait([asking])
        await until_running(front, 0)
        assert (await front.state())["accounts"] == []


async def test_what_runs_for_nothing_has_cost_nothing_also_where_it_was_left(stage: Stage) -> None:
    free = "free: {targets: [{upstream: openai, model: gpt-5-mini, price: {input: 0}}]}"
    async with stage.front(more="  " + free, times="answer_s: 0.05, retries: 0") as front:
        front.openai.put_on(silence)
        with pytest.raises(openai.InternalServerError):
            await ask(front, model="free")
        [account] = (await front.state())["accounts"]
        assert (account["given_up"], account["unpriced"], float(account["cost_usd"])) == (1, 0, 0)
