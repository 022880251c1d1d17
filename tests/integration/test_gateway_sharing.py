"""What the gateway keeps, shares, counts and bounds."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import openai
import pytest

from tests.integration.gateway import LOCAL_KEY, Clock, Front, Stage
from tests.integration.upstreams import (
    KEY,
    anthropic_stream,
    chunks,
    completion,
    embeddings,
    events,
    held,
    message,
    openai_stream,
    reply,
    silence,
    status,
    then_silence,
)

ASK: Any = [{"role": "user", "content": "Hello"}]
TEXT = {"type": "text", "text": "Hello"}
WORDS = {"type": "text", "text": "y" * 40}
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


# -- the cache -----------------------------------------------------------------------------------------


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


# -- the accounts --------------------------------------------------------------------------------------


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


# -- the limits ----------------------------------------------------------------------------------------


async def too_many(front: Front, **fields: Any) -> tuple[str, str]:
    with pytest.raises(openai.RateLimitError) as caught:
        await ask(front, **fields)
    assert caught.value.code == "rate_limit_exceeded"
    return re.split(r"gateway(?: by this tenant)?: ", caught.value.message)[1], caught.value.response.headers[
        "retry-after"
    ]


async def test_requests_a_minute(stage: Stage) -> None:
    clock = Clock()
    async with stage.front(more="limits: {requests_per_minute: 2}", clock=clock) as front:
        front.openai.put_on(reply(completion()))
        for _ in range(2):
            await ask(front)
        said, wait = await too_many(front)
        assert (said.partition(".")[0], wait) == ("2 requests a minute are used up", "30")
        clock.now += 30
        await ask(front)
        await too_many(front)


async def test_tokens_a_minute_are_known_afterwards_and_waited_for_then(stage: Stage) -> None:
    clock = Clock()
    async with stage.front(more="limits: {tokens_per_minute: 1000}", clock=clock) as front:
        front.openai.put_on(reply(completion()))
        await ask(front)  # 1,100
        said, wait = await too_many(front, seed=1)
        assert (said.partition(".")[0], wait) == ("1,000 tokens a minute are used up", "7")
        clock.now += 7
        await ask(front, seed=1)


async def test_a_stream_that_was_left_has_spent_what_it_has_said(stage: Stage) -> None:
    clock = Clock()
    async with stage.front(more="limits: {tokens_per_minute: 1000}", clock=clock) as front:
        said: list[Any] = [
            {"content": "o" * 8000},
            {"tool_calls": [{"index": 0, "function": {"arguments": "x" * 400}}]},
        ]
        front.openai.put_on(then_silence(chunks(*said, reason=None, usage=False)), reply(completion()))
        stream = await front.client.chat.completions.create(model="small", messages=ASK, stream=True)
        async for chunk in stream:
            if chunk.choices[0].delta.tool_calls:
                break
        await stream.close()
        await front.openai.gone.wait()
        await until_running(front, 0)
        _, wait = await too_many(front)  # 2,100 and the question's 2 of 1,000, at 1,000 a minute
        assert wait == "67"
        clock.now += 67
        await ask(front)


async def test_a_tenant_that_has_used_up_its_share_leaves_room_for_the_others(stage: Stage) -> None:
    clock = Clock()
    limits = "limits: {requests_per_minute: 4, tenant: {requests_per_minute: 2}}"
    async with stage.front(more=limits, clock=clock) as front:
        front.openai.put_on(reply(completion()))
        busy, calm = ({"X-Callboard-Tenant": name} for name in ("busy", "calm"))
        for _ in range(2):
            await ask(front, extra_headers=busy)
        for _ in range(5):  # what is refused takes nothing from anybody
            said, wait = await too_many(front, extra_headers=busy)
            assert wait == "30"
        assert said == (
            "2 requests a minute are used up. Try again later, or raise `limits.tenant` in models.yaml."
        )
        await ask(front, extra_headers=calm)
        await ask(front)
        said, _ = await too_many(front, extra_headers={"X-Callboard-Tenant": "late"})
        assert said == "4 requests a minute are used up. Try again later, or raise `limits` in models.yaml."
        clock.now += 30
        await ask(front, extra_headers=busy)


async def test_tokens_of_a_tenant_are_its_own_matter(stage: Stage) -> None:
    clock = Clock()
    async with stage.front(more="limits: {tenant: {tokens_per_minute: 1000}}", clock=clock) as front:
        front.openai.put_on(reply(completion()))
        busy = {"X-Callboard-Tenant": "busy"}
        await ask(front, extra_headers=busy)  # 1,100
        said, wait = await too_many(front, seed=1, extra_headers=busy)
        assert (said.partition(".")[0], wait) == ("1,000 tokens a minute are used up", "7")
        await ask(front)
        clock.now += 7
        await ask(front, seed=1, extra_headers=busy)


async def test_requests_of_a_tenant_at_once(stage: Stage) -> None:
    async with stage.front(more="limits: {tenant: {concurrent: 1}}") as front:
        front.openai.put_on(held(reply(completion())))
        first = asyncio.create_task(ask(front))
        await until_running(front, 1)
        assert await too_many(front, seed=1) == (
            "1 requests are under way. Try again later, or raise `limits.tenant` in models.yaml.",
            "1",
        )
        other = asyncio.create_task(ask(front, extra_headers={"X-Callboard-Tenant": "other"}))
        await until_running(front, 2)
        front.openai.go_on.set()
        assert [await first, await other] == [("miss", COST)] * 2
        await ask(front, seed=1)  # its place is free again


async def test_who_sends_slowly_takes_no_place_from_the_others(stage: Stage) -> None:
    async with stage.front(more="limits: {concurrent: 1}") as front:
        front.openai.put_on(reply(completion()))
        slow = Slow()
        sending = asyncio.create_task(stage(slow.scope, slow.receive, slow.send))
        await slow.waits.wait()
        assert await ask(front) == ("miss", COST)
        slow.rest.set_result(None)
        await sending
        assert slow.status == 200


async def test_a_body_that_never_ends_is_not_waited_for(stage: Stage) -> None:
    async with stage.front(more="limits: {body_s: 0.05}") as front:
        slow = Slow()
        await stage(slow.scope, slow.receive, slow.send)
        assert (slow.status, slow.error["code"]) == (408, "request_timeout")
        assert "raise `limits.body_s` in models.yaml" in slow.error["message"]
        assert (await front.state())["running"] == 0
        assert front.openai.asked == []


class Slow:
    """A client that sends its headers and a byte, and the rest when it is told to."""

    def __init__(self) -> None:
        self.waits = asyncio.Event()
        self.rest = asyncio.get_running_loop().create_future()
        self.status = 0
        self._parts = [b"{", json.dumps({"model": "small", "messages": ASK, "seed": 9}).encode()[1:]]
        self._said = b""
        self.scope: Any = {
            "type": "http",
            "method": "POST",
            "path": "/v1/chat/completions",
            "headers": [(b"authorization", f"Bearer {LOCAL_KEY}".encode())],
            "query_string": b"",
        }

    async def receive(self) -> Any:
        if not self._parts:
            return await asyncio.get_running_loop().create_future()
        if len(self._parts) == 1:
            self.waits.set()
            await self.rest
        part = self._parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(self._parts)}

    async def send(self, message: Any) -> None:
        self.status = message.get("status", self.status)
        self._said += message.get("body", b"")

    @property
    def error(self) -> Any:
        return json.loads(self._said)["error"]


async def test_requests_at_once(stage: Stage) -> None:
    async with stage.front(more="limits: {concurrent: 1}") as front:
        front.openai.put_on(held(reply(completion())))
        first = asyncio.create_task(ask(front))
        await front.openai.arrived.wait()
        assert (await too_many(front, seed=1))[1] == "1"
        front.openai.go_on.set()
        await first
        await ask(front, seed=1)


async def test_bytes_of_all_bodies_at_once(stage: Stage) -> None:
    async with stage.front(more="limits: {bytes: 10000}") as front:
        front.openai.put_on(held(reply(completion())))
        first = asyncio.create_task(ask(front, user="x" * 6000))
        await front.openai.arrived.wait()
        said, wait = await too_many(front, user="y" * 6000)
        assert said.startswith("requests of 6,")
        assert wait == "1"
        front.openai.go_on.set()
        await first
        await ask(front, user="y" * 6000)


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
