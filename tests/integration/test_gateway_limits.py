"""What the gateway bounds: requests and tokens a minute, what is under way at once, and slow senders."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.integration.gateway import LOCAL_KEY, Clock, Stage
from tests.integration.gateway_calls import ASK, COST, ask, too_many, until_running
from tests.integration.upstreams import (
    chunks,
    completion,
    held,
    reply,
    then_silence,
)


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
