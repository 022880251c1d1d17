"""A models.yaml that changes while models are asked: what is under way ends, and whoever comes meanwhile is answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import psutil
import pytest

from callboard.bench import made_up_model
from tests.acceptance.program import Program
from tests.acceptance.test_gateway import ASK, configure, processes_of
from tests.integration.upstreams import Played, chunks, completion, held, openai_stream, reply, serving

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]
MODELS = """\
upstreams:
  house: {{type: openai_compatible, base_url: "{url}/v1", api_key: HOUSE_KEY}}
  here: {{type: local}}
models:
  small: {{targets: [{{upstream: house, model: qwen3}}]}}
  {name}: {{targets: [{{upstream: here, model: {folder}}}]}}
  chatter: {{targets: [{{upstream: here, model: {folder}}}]}}
"""
SLOW: Any = {"user": "slow"}  # answered when the test lets them be
LONG: Any = {"model": "chatter", "max_tokens": 300, "temperature": 0, "stream": True}
STREAMS = 3  # at any time


async def test_what_is_under_way_ends_and_whoever_comes_is_answered(program: Program, tmp_path: Path) -> None:
    folder = await asyncio.to_thread(made_up_model.make, tmp_path / "chatter", context=2048)
    played = Played()
    played.put_on(by_who_asks)
    async with serving(played) as url:
        configure(program, MODELS.format(url=url, name="before", folder=folder))
        await asyncio.to_thread(program, "up", "--detach")
        base_url = json.loads(program("gateway", "--json").stdout)["base_url"]
        key = program("gateway", "--key").stdout.strip()
        async with openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=170) as client:
            proxy, _ = processes_of(urlsplit(base_url).port)
            raylet = psutil.Process(proxy.ppid())
            before = [await whole_stream(client, **LONG), replicas(raylet)]
            slow = [
                asyncio.create_task(client.chat.completions.create(model="small", messages=ASK, **SLOW)),
                asyncio.create_task(whole_stream(client, model="small", stream=True, **SLOW)),
            ]
            async with under_load(client) as answered:
                configure(program, MODELS.format(url=url, name="after", folder=folder))
                up = asyncio.create_task(asyncio.to_thread(program, "up", "--detach"))
                names, beside = ["before"], 0
                while "after" not in names:
                    assert not up.done()
                    starts = len(replicas(raylet, "gateway")) == 2
                    names = [model.id async for model in client.models.list()]
                    beside += starts and "before" in names
                assert beside > 2  # the old one answers until the new one does
                assert not any(one.done() for one in slow)  # it is told to end, and has not answered them yet
                played.go_on.set()
                assert [(await slow[0]).choices[0].message.content, await slow[1]] == ["late", "late"]
                await up
                after = [await whole_stream(client, **LONG), replicas(raylet)]
    assert after[0] == before[0]
    assert set(after[1]).isdisjoint(before[1])  # the gateway's, and that of the model that has not changed
    assert (len(before[1]), len(after[1])) == (2, 2)
    assert answered["small"] > 10
    assert set(answered["chatter"]) == {before[0]}


async def by_who_asks(played: Played, receive: Any, send: Any) -> None:
    asked = played.asked[-1].body
    if "user" not in asked:
        part = reply(completion())
    elif asked.get("stream"):
        part = held(openai_stream(chunks({"content": "late"})))
    else:
        part = held(reply(completion("late")))
    await part(played, receive, send)


@contextlib.asynccontextmanager
async def under_load(client: openai.AsyncOpenAI) -> AsyncIterator[Any]:
    """What has been answered while the block ran. Raises what a client met."""
    answered: Any = {"small": 0, "chatter": []}
    over = asyncio.Event()

    async def ask() -> None:
        while not over.is_set():
            await client.chat.completions.create(model="small", messages=ASK)
            answered["small"] += 1

    async def listen() -> None:
        while not over.is_set():
            answered["chatter"].append(await whole_stream(client, **LONG))

    async with asyncio.TaskGroup() as tasks:
        for work in (ask, *[listen] * STREAMS):
            tasks.create_task(work())
        yield answered
        over.set()


async def whole_stream(client: openai.AsyncOpenAI, **fields: Any) -> str:
    """What it has said. A stream that is cut raises."""
    said, finish = "", None
    async for chunk in await client.chat.completions.create(messages=ASK, **fields):
        said += chunk.choices[0].delta.content or ""
        finish = chunk.choices[0].finish_reason or finish
    assert finish is not None
    return said


def replicas(raylet: psutil.Process, name: str = "") -> list[int]:
    """The processes of the gateway (`gateway`) and of models."""
    found = []
    for one in raylet.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if one.cmdline()[0].startswith(f"ray::ServeReplica:callboard-gateway:{name}"):
                found.append(one.pid)
    return found
