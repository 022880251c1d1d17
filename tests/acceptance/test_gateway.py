"""The model gateway as `callboard up` serves it: behind Ray Serve, with the official SDK in front."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import anthropic
import httpx2
import msgspec
import openai
import psutil
import pytest

from callboard.bench import made_up_model
from callboard.ray_head import RayHead
from callboard.services import running_endpoints
from callboard.settings import Settings
from storage.connect import connect
from tests import tiny_models
from tests.acceptance.program import PROGRAM, Program
from tests.acceptance.test_readme import block
from tests.growth import Growth
from tests.integration.cli import until
from tests.integration.upstreams import (
    KEY,
    Played,
    chunks,
    completion,
    held,
    openai_stream,
    reply,
    serving,
    then_silence,
)

pytestmark = pytest.mark.timeout(180)
EMBEDS = "all-MiniLM-L6-v2"  # as the README has it
ASK: Any = [{"role": "user", "content": "Hello"}]
MODELS = """\
upstreams:
  house: {{type: openai_compatible, base_url: "{url}/v1", api_key: HOUSE_KEY, silence_s: 60}}
  here: {{type: local, embedding: {{dtype: float32}}}}  # the numbers of the library
models:
  all-MiniLM-L6-v2: {{serves: embeddings, targets: [{{upstream: here, model: sentence-transformers/all-MiniLM-L6-v2}}]}}
  small: {{targets: [{{upstream: house, model: qwen3, price: {{input: 0.25, output: 2}}}}]}}
limits: {{concurrent: 4, bytes: 67108864}}
"""
MIB = 1024 * 1024
LARGE = 8 * MIB  # letters of a request
AT_ONCE, FLOOD = 100, 600  # requests: 800 MB at a time, and 4.8 GB in all
# At most, whatever comes in all: Serve's proxy and its side of a replica take in what the clients have under way, however
# little of it the gateway reads. The proxy was seen at 210 to 1,210 MiB (at 1,640 after 24 GB), the replica at 310 to 470, of
# which 64 are bodies that it accepts, and some are 4 requests that are read, written anew and on their way; without limits
# at 970.
MOST_OF_PROXY, MOST_OF_REPLICA = 3 * AT_ONCE * LARGE, 700 * MIB
TEXTS = ["A host that stops answering is not a host that has died.", "Ein Wort."]
# The first numbers of what `encode` gives, of sentence-transformers 6.2 on a CPU.
VECTORS = [[0.04328, -0.02595, 0.05411, -0.00946], [0.02322, 0.14172, -0.00835, 0.02043]]


class Served:
    """The gateway of the shared program, and the server behind it."""

    def __init__(self, program: Program, played: Played, secret: Path) -> None:
        self.program = program
        self.played = played
        self.secret = secret
        self.models_file = program.home / "models.yaml"
        self.base_url = json.loads(program("gateway", "--json").stdout)["base_url"]
        self.key = program("gateway", "--key").stdout.strip()

    def client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=self.base_url, api_key=self.key, max_retries=0, timeout=30)


@pytest.fixture(scope="module")
async def served(program: Program) -> AsyncIterator[Served]:
    played = Played()
    async with serving(played) as url:
        secret = configure(program, MODELS.format(url=url))
        said = (await asyncio.to_thread(program, "up", "--detach")).stdout
        served = Served(program, played, secret)
        assert f"; models at {served.base_url}" in said
        yield served


def configure(program: Program, models: str) -> Path:
    (program.home / "models.yaml").write_text(models)
    secret = program.home / "secrets" / "HOUSE_KEY"
    secret.parent.mkdir(mode=0o700, exist_ok=True)
    secret.write_text(KEY)
    return secret


async def test_what_the_readme_asks_is_answered(served: Served) -> None:
    served.played.put_on(reply(completion()))
    names: dict[str, Any] = {
        "client": openai.OpenAI(base_url=served.base_url, api_key=served.key, timeout=30)
    }
    await asyncio.to_thread(exec, compile(block("python", "chat ="), "README.md", "exec"), names)
    names["client"].close()
    assert names["chat"].choices[0].message.content == "Hello"


async def test_what_the_readme_asks_in_anthropics_form_is_answered(served: Served) -> None:
    served.played.put_on(reply(completion()), openai_stream(chunks({"content": "Hel"}, {"content": "lo"})))
    here = f'"{served.base_url.removesuffix("/v1")}"'
    code = block("python", "from anthropic").replace('"http://127.0.0.1:8417"', here)
    names: dict[str, Any] = {"key": served.key}
    await asyncio.to_thread(exec, compile(code, "README.md", "exec"), names)
    names["claude"].close()
    assert names["message"].content[0].text == "Hello"
    async with (
        anthropic.AsyncAnthropic(base_url=served.base_url.removesuffix("/v1"), api_key=served.key) as gateway,
        gateway.messages.stream(model="small", max_tokens=9, messages=ASK) as stream,
    ):
        assert await stream.get_final_text() == "Hello"


async def test_a_model_of_models_yaml_answers_through_ray_serve(served: Served) -> None:
    served.played.fresh()
    async with served.client() as gateway:
        await answers(gateway, served.played)
        await leaves(gateway, served.played)
        await floods(gateway, served.played)


async def test_a_model_that_runs_here_starts_when_it_is_asked_and_gives_what_its_library_gives(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served.client() as gateway:
        found = await gateway.with_options(timeout=110).embeddings.create(model=EMBEDS, input=TEXTS)
        assert [one.embedding[:4] for one in found.data] == [pytest.approx(one, abs=1e-4) for one in VECTORS]
        assert (len(found.data[0].embedding), found.usage.total_tokens) == (384, 21)
        with pytest.raises(openai.BadRequestError, match=r"input\[1\] has more than 256 tokens"):
            await gateway.embeddings.create(model=EMBEDS, input=["short", "long " * 300])
    monkeypatch.setenv("CALLBOARD_HOME", str(served.program.home))
    monkeypatch.setenv("PATH", f"{PROGRAM.parent}:{os.environ['PATH']}")
    first = block("python", "from openai").replace("http://127.0.0.1:8417/v1", served.base_url)
    names: dict[str, Any] = {}
    for code in (first, block("python", "vectors =")):
        await asyncio.to_thread(exec, compile(code, "README.md", "exec"), names)
    names["client"].close()
    assert [len(one.embedding) for one in names["answer"].data] == [384, 384]
    assert [
        pytest.approx(1, abs=1e-4) == sum(x * x for x in one.embedding) for one in names["vectors"].data
    ] == [True, True]


async def test_a_flood_of_large_requests_is_refused_and_memory_is_bounded(served: Served) -> None:
    """Of the gateway's replica, and of Serve's proxy before it."""
    served.played.fresh()
    served.played.put_on(held(reply(completion())))
    headers = {"authorization": f"Bearer {served.key}", "content-type": "application/json"}
    body = msgspec.json.encode({"model": "small", "messages": [{"role": "user", "content": "x" * LARGE}]})
    url = f"{served.base_url}/chat/completions"
    async with httpx2.AsyncClient(
        timeout=60, trust_env=False, limits=httpx2.Limits(max_connections=None)
    ) as http:

        async def send() -> httpx2.Response:
            return await http.post(url, content=body, headers=headers)

        proxy, replica = map(Growth, processes_of(urlsplit(served.base_url).port))
        with proxy, replica:
            waiting = {asyncio.create_task(send()) for _ in range(AT_ONCE)}
            refused = 0
            while refused < FLOOD:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for one in done:
                    answer = one.result()
                    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
                    assert answer.json()["error"]["code"] == "rate_limit_exceeded"
                    refused += 1
                    waiting.add(asyncio.create_task(send()))
        served.played.go_on.set()
        answers = await asyncio.gather(*waiting)
    assert sum(answer.status_code == 200 for answer in answers) >= 4
    assert proxy.most < MOST_OF_PROXY, f"{proxy.most / MIB:.0f} MiB"
    assert replica.most < MOST_OF_REPLICA, f"{replica.most / MIB:.0f} MiB"


def processes_of(port: int | None) -> tuple[psutil.Process, psutil.Process]:
    """Serve's proxy that listens there, and the gateway's replica beside it."""
    [pid] = {
        one.pid
        for one in psutil.net_connections("tcp")
        if one.laddr and one.laddr.port == port and one.status == psutil.CONN_LISTEN
    }
    proxy = psutil.Process(pid)
    [replica] = [
        one
        for one in psutil.Process(proxy.ppid()).children()
        if "ServeReplica:callboard-gateway:gateway" in one.cmdline()[0]
    ]
    return proxy, replica


def test_the_command_line_knows_where_it_is_and_how_it_does(served: Served) -> None:
    program = served.program
    assert json.loads(program("status", "--json").stdout)["services"]["models"] == served.base_url
    state = json.loads(program("gateway", "--json").stdout)
    assert (state["upstreams"], state["running"]) == ({"house": "closed", "here": "closed"}, 0)
    [account] = [one for one in state["accounts"] if one["task"] == "desk/1"]
    assert (account["requests"], account["cost_usd"]) == (1, "0.00045")
    assert "house: qwen3" in program("gateway").stdout


def test_its_key_is_its_owners_alone_and_stands_nowhere_else(served: Served) -> None:
    """Nor does the upstream's: not in the data folder, and not in what Ray has written."""
    folders = [served.program.home, RayHead(folder=served.program.home / "ray")._temp]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert any(path.name.startswith("replica_callboard-gateway") for path in files)
    keys = [served.key.encode(), KEY.encode()]
    found = [path for path in files if any(key in path.read_bytes() for key in keys)]
    key_file = served.program.home / "gateway.key"
    assert sorted(found) == sorted([key_file, served.secret])
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600


async def test_its_answers_are_in_postgres_whose_password_is_nowhere_in_ray(served: Served) -> None:
    served.played.fresh()
    served.played.put_on(reply(completion()))
    endpoints = running_endpoints(Settings(home=served.program.home))
    assert endpoints is not None
    db = await connect(endpoints.postgres_url, application="callboard-test")

    async def is_stored() -> bool:
        return bool(await db.fetchval("select exists (select from model_answers where tenant = 'postgres')"))

    async with served.client() as gateway:
        headers = {"X-Callboard-Tenant": "postgres"}
        await gateway.chat.completions.create(
            model="small", messages=ASK, temperature=0, extra_headers=headers
        )
    await until(is_stored)
    await db.close()
    password = urlsplit(endpoints.postgres_url).password
    assert password
    temporary = RayHead(folder=served.program.home / "ray")._temp
    files = [path for path in temporary.rglob("*") if path.is_file()]
    assert [path for path in files if unquote(password).encode() in path.read_bytes()] == []


def test_a_wrong_models_yaml_is_said_and_what_runs_goes_on(served: Served) -> None:
    right = served.models_file.read_text()
    served.models_file.write_text("upstreams: {}\nmodles: {}\n")
    said = served.program("up", "--detach", code=1).stderr.strip()
    served.models_file.write_text(right)
    assert said == (
        f"Error: {served.models_file}, line 2: modles: is not known (did you mean models?). "
        "Correct it, and start Callboard again."
    )
    assert "house: qwen3" in served.program("gateway").stdout


@pytest.mark.long
async def test_another_models_yaml_replaces_it_at_the_same_place_and_the_same_does_not(
    served: Served,
) -> None:
    served.played.fresh()
    served.played.put_on(reply(completion()))
    async with served.client() as gateway:
        await gateway.chat.completions.create(model="small", messages=ASK)
        await asyncio.to_thread(served.program, "up", "--detach")
        state = json.loads((await asyncio.to_thread(served.program, "gateway", "--json")).stdout)
        assert state["accounts"] != []  # it has not been started anew
        configure(served.program, served.models_file.read_text().replace("small:", "tiny:"))
        await asyncio.to_thread(served.program, "up", "--detach")
        assert [model.id async for model in gateway.models.list()] == [EMBEDS, "tiny"]
        with pytest.raises(
            openai.NotFoundError, match=f"There is no model 'small' here; there are {EMBEDS}, tiny"
        ):
            await gateway.chat.completions.create(model="small", messages=ASK)


@pytest.mark.long
async def test_a_reranker_that_runs_here_ranks(served: Served, tmp_path: Path) -> None:
    folder = await asyncio.to_thread(tiny_models.cross_encoder, tmp_path / "ranker")
    ranks = f"models:\n  ranks: {{serves: rerank, targets: [{{upstream: here, model: {folder}}}]}}"
    configure(served.program, served.models_file.read_text().replace("models:", ranks))
    await asyncio.to_thread(served.program, "up", "--detach")
    body = {"model": "ranks", "query": "dogs", "documents": ["cats", "dogs and cats"]}
    async with served.client() as gateway:
        found = await gateway.post("/rerank", cast_to=object, body=body, options={"timeout": 170})
    assert isinstance(found, dict)
    assert {one["index"] for one in found["results"]} == {0, 1}
    assert found["results"][0]["relevance_score"] > found["results"][1]["relevance_score"]


@pytest.mark.long
async def test_a_model_that_runs_here_chats_and_stops_for_who_goes_away(
    served: Served, tmp_path: Path
) -> None:
    folder = await asyncio.to_thread(made_up_model.make, tmp_path / "chatter", context=2048)
    chatter = f"models:\n  chatter: {{targets: [{{upstream: here, model: {folder}}}]}}"
    configure(served.program, served.models_file.read_text().replace("models:", chatter))
    await asyncio.to_thread(served.program, "up", "--detach")
    async with served.client() as gateway:
        asked: Any = {"model": "chatter", "messages": ASK, "temperature": 0}
        whole = await gateway.with_options(timeout=170).chat.completions.create(**asked, max_tokens=20)
        assert whole.usage is not None
        assert (whole.usage.completion_tokens, whole.choices[0].finish_reason) == (20, "length")
        stream = await gateway.chat.completions.create(**asked, max_tokens=20, stream=True)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(pieces) == whole.choices[0].message.content
        # More than its cache has room for, if those who have gone away were still worked for.
        for _ in range(24):
            stream = await gateway.chat.completions.create(**asked, max_tokens=1900, stream=True, seed=1)
            await anext(aiter(stream))
            await stream.close()
        assert (await gateway.chat.completions.create(**asked, max_tokens=20)).choices == whole.choices


async def answers(gateway: openai.AsyncOpenAI, played: Played) -> None:
    played.put_on(reply(completion()), openai_stream(chunks({"content": "Hel"}, {"content": "lo"})))
    whole = await gateway.chat.completions.create(
        model="small", messages=ASK, extra_headers={"X-Callboard-Task": "desk/1"}
    )
    assert whole.choices[0].message.content == "Hello"
    stream = await gateway.chat.completions.create(model="small", messages=ASK, stream=True)
    received = [chunk.choices[0].delta.content async for chunk in stream]
    assert received == ["", "Hel", "lo", None]  # piece by piece


async def leaves(gateway: openai.AsyncOpenAI, played: Played) -> None:
    """A client that goes away ends its call at the upstream, through Serve's proxy."""
    played.fresh()
    played.put_on(then_silence(chunks({"content": "Hel"}, reason=None, usage=False)))
    stream = await gateway.chat.completions.create(model="small", messages=ASK, stream=True)
    async for _ in stream:
        break
    await stream.close()
    await asyncio.wait_for(played.gone.wait(), 10)


async def floods(gateway: openai.AsyncOpenAI, played: Played) -> None:
    """More than it takes at once gets a 429 with Retry-After; the others their answers."""
    played.fresh()
    played.put_on(held(reply(completion())))
    asking = [
        asyncio.create_task(gateway.chat.completions.create(model="small", messages=ASK)) for _ in range(12)
    ]
    refused, waiting = await asyncio.wait(asking, timeout=20, return_when=asyncio.FIRST_COMPLETED)
    while len(refused) < 8:
        more, waiting = await asyncio.wait(waiting, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        assert more
        refused |= more
    for task in refused:
        error = task.exception()
        assert isinstance(error, openai.RateLimitError)
        assert error.response.headers["retry-after"] == "1"
    played.go_on.set()
    assert len(await asyncio.gather(*waiting)) == 4
