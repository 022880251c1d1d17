"""`callboard vllm` as a user starts it, in the environment of `make vllm`. Only the engine is played: here is no GPU."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import psutil
import pytest

from actors.secret import SecretFolder
from callboard.cli.running import UNAVAILABLE
from serve.gateway import GatewaySettings
from serve.gateway.app import Gateway
from tests.conftest import make_home
from tests.integration.gateway import LOCAL_KEY
from tests.integration.upstreams import serving

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / ".venv-vllm" / "bin" / "callboard"
ENGINE = "tests.integration.played_engine.PlayedEngine"
STARTS_WITHIN_S = (
    400.0  # vLLM and torch are imported in three processes, on machines that do other things as well
)
ENDS_WITHIN_S = 60.0
HELD_S = 3.0  # far longer than Serve takes to kill a copy that has no time to end

pytestmark = [pytest.mark.long, pytest.mark.vllm, pytest.mark.timeout(600)]

FILE = """
port: {port}
api_key: HOUSE_KEY
models:
  tiny: {{model: /models/tiny, sequences: 2, waiting: 2, context: 512, dtype: bfloat16, gpus: 0.5, drain_s: 30,
         engine: {{enable_auto_tool_choice: true, tool_call_parser: hermes, max_num_batched_tokens: 1024}}}}
"""
MODELS = """
upstreams:
  gpu: {{type: openai_compatible, base_url: "http://127.0.0.1:{port}/v1", api_key: HOUSE_KEY, retries: 0}}
models:
  house: {{targets: [{{upstream: gpu, model: tiny}}]}}
"""


class Running:
    """One for all tests here: it takes minutes to start."""

    def __init__(self, folder: Path) -> None:
        self.home, self.engine, self.port = folder / "home", folder / "engine", _free_port()
        self.engine.mkdir()
        self.file = folder / "vllm.yaml"
        self.file.write_text(FILE.format(port=self.port))

    def start(self, gpus: int) -> subprocess.Popen[str]:
        assert PROGRAM.exists(), "vLLM's environment is not there: run `make vllm` (Linux, some 9 GB)."
        environment = {
            "CALLBOARD_HOME": str(self.home),
            "RAY_OVERRIDE_RESOURCES": json.dumps({"GPU": gpus}),
            "RAYLLM_VLLM_ENGINE_CLS": ENGINE,
            "PLAYED_ENGINE": str(self.engine),
        }
        return subprocess.Popen(
            [PROGRAM, "vllm", self.file],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @property
    def key(self) -> str:
        return (self.home / "secrets" / "HOUSE_KEY").read_text()

    def client(self, http: httpx2.AsyncClient, key: str | None = None) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{self.port}/v1",
            api_key=key or self.key,
            max_retries=0,
            http_client=http,
            timeout=60,
        )

    async def appears(self, name: str) -> None:
        while not (self.engine / name).exists():  # noqa: ASYNC110  # another process writes it
            await asyncio.sleep(0.01)

    def survivors(self) -> list[str]:
        words = [" ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"])]
        return [one for one in words if str(self.home) in one]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    made = make_home()
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def vllm(folder: Path) -> Iterator[Running]:
    running = Running(folder)
    with running.start(gpus=1) as process:
        assert process.stdout is not None
        said = ""
        while "Ctrl-C" not in said:
            line = process.stdout.readline()
            assert line, f"it has ended: {said}"
            said += line
        assert f"vLLM serves tiny at http://127.0.0.1:{running.port}/v1" in said
        yield running
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        assert process.wait(ENDS_WITHIN_S) == 0, process.stdout.read()
    assert running.survivors() == []


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(trust_env=False) as client:
        yield client


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def chat(client: openai.AsyncOpenAI, words: str, **more: Any) -> Awaitable[Any]:
    found: Awaitable[Any] = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": words}], **more
    )
    return found


async def test_it_chats_in_one_piece_and_in_a_stream(vllm: Running, http: httpx2.AsyncClient) -> None:
    client = vllm.client(http)
    assert [model.id async for model in client.models.list()] == ["tiny"]
    assert (await chat(client, "one two")).choices[0].message.content == "one two"
    pieces = [piece.choices[0].delta.content async for piece in await chat(client, "one two", stream=True)]
    assert pieces == ["one ", "two ", None]


async def test_the_engine_is_given_what_the_file_says(vllm: Running) -> None:
    arguments = json.loads((vllm.engine / "arguments.json").read_text())
    assert arguments == {
        "model": "/models/tiny",
        "served_model_name": ["tiny"],
        "tensor_parallel_size": 1,
        "gpu_memory_utilization": 0.45,
        "dtype": "bfloat16",
        "max_model_len": 512,
        "max_num_seqs": 2,
        "max_num_batched_tokens": 1024,
        "generation_config": "vllm",
        "trust_remote_code": False,
        "enable_log_requests": False,
        "distributed_executor_backend": "ray",
    }


async def test_nothing_is_told_to_vllms_makers_and_an_answer_has_as_long_as_the_file_says(
    vllm: Running,
) -> None:
    environment = json.loads((vllm.engine / "environment.json").read_text())
    assert environment["VLLM_NO_USAGE_STATS"] == "1"
    assert environment["RAY_SERVE_LLM_ROUTER_HTTP_TIMEOUT"] == "600"  # Ray's ingress reads it there


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/docs", "/openapi.json"])
async def test_nothing_is_answered_without_the_key(
    vllm: Running, http: httpx2.AsyncClient, path: str
) -> None:
    for headers in ({}, {"authorization": "Bearer cb-of-somebody-else"}, {"authorization": vllm.key}):
        answer = await http.get(f"http://127.0.0.1:{vllm.port}{path}", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    with pytest.raises(openai.AuthenticationError):
        await chat(vllm.client(http, "cb-of-somebody-else"), "one")


async def test_past_those_that_may_wait_a_request_is_refused_and_told_when_to_come_back(
    vllm: Running, http: httpx2.AsyncClient
) -> None:
    client = vllm.client(http)
    held = []
    for name in ("hold-0", "hold-1"):
        held.append(asyncio.ensure_future(chat(client, f"{name} x")))
        await vllm.appears(f"{name}.begun")
    more = [asyncio.ensure_future(chat(client, f"hold-{number} x")) for number in range(2, 6)]
    refusals = asyncio.as_completed(more)
    for _ in range(2):
        with pytest.raises(openai.RateLimitError) as caught:
            await next(refusals)
        assert caught.value.response.headers["retry-after"] == "1"
    (vllm.engine / "go").touch()
    try:
        answers = await asyncio.gather(*held, *more, return_exceptions=True)
    finally:
        (vllm.engine / "go").unlink()
    assert sum(isinstance(answer, openai.RateLimitError) for answer in answers) == 2
    assert sum(not isinstance(answer, BaseException) for answer in answers) == 4


@pytest.mark.parametrize("stream", [False, True])
async def test_the_engine_hears_that_a_client_has_gone(
    vllm: Running, http: httpx2.AsyncClient, stream: bool
) -> None:
    name = f"hold-left-{stream}"

    async def ask() -> None:
        answer = await chat(vllm.client(http), f"{name} x", stream=stream)
        if stream:
            async for _ in answer:
                pass

    asked = asyncio.ensure_future(ask())
    await vllm.appears(f"{name}.begun")
    asked.cancel()
    await vllm.appears(f"{name}.gone")


async def test_the_gateway_reaches_it_as_a_compatible_server(vllm: Running) -> None:
    settings = GatewaySettings(key=LOCAL_KEY, models=MODELS.format(port=vllm.port))
    app = Gateway(settings, SecretFolder(vllm.home / "secrets")).app
    async with serving(app) as url, httpx2.AsyncClient(trust_env=False) as http:
        client = openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key=LOCAL_KEY, max_retries=0, http_client=http, timeout=60
        )
        found = await client.chat.completions.create(
            model="house", messages=[{"role": "user", "content": "one two"}]
        )
        assert (found.choices[0].message.content, found.usage and found.usage.total_tokens) == ("one two", 4)
        stream = await client.chat.completions.create(
            model="house", messages=[{"role": "user", "content": "one two"}], stream=True
        )
        said = [piece.choices[0].delta.content async for piece in stream if piece.choices]
        assert said == ["one ", "two ", None]


def test_a_second_one_on_the_same_folder_is_refused(vllm: Running) -> None:
    other = vllm.start(gpus=1)
    said, _ = other.communicate(timeout=STARTS_WITHIN_S)
    assert (other.returncode, "vLLM runs already with this data folder" in said) == (UNAVAILABLE, True), said


async def test_its_end_waits_for_what_is_under_way(vllm: Running, http: httpx2.AsyncClient) -> None:
    asked = asyncio.ensure_future(chat(vllm.client(http), "hold-end x"))
    await vllm.appears("hold-end.begun")
    os.kill(_pid_of(vllm), signal.SIGTERM)
    with pytest.raises(openai.APIError):  # new ones are refused while the old one is waited for
        await _ask_for_ever(vllm.client(http))
    answered, _ = await asyncio.wait((asked,), timeout=HELD_S)
    assert not answered
    (vllm.engine / "go").touch()
    assert (await asked).choices[0].message.content == "hold-end x"


async def _ask_for_ever(client: openai.AsyncOpenAI) -> None:
    while True:
        await chat(client, "late")


def _pid_of(vllm: Running) -> int:
    (found,) = [
        one.pid
        for one in psutil.process_iter(["cmdline"])
        if [str(PROGRAM), "vllm", str(vllm.file)] == (one.info["cmdline"] or [])[1:]
    ]
    return found


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    process = Running(tmp_path).start(gpus=0)
    said, _ = process.communicate(timeout=STARTS_WITHIN_S)
    assert (process.returncode, "take 0.5 GPUs, and Ray finds 0 on this machine" in said) == (
        UNAVAILABLE,
        True,
    ), said
