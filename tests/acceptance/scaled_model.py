"""A model whose replicas come and go with its requests, on real Ray Serve: the program of test_scaling.py, which gives it a Ray.

It prints what becomes of each request. In the place of the engine stands one that ends an answer when it is told to.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.config import ProxyLocation

from serve.gateway.errors import ApiError
from serve.gateway.models_file import parse_models
from serve.generation.generator import Generated, GenerateRequest
from serve.local import deployment
from serve.local.remote import RemoteGenerator
from serve.running import QUIET

_APPLICATION = "scaled"
_HELD_S = 3.0  # far longer than Serve takes to end a replica that has no time left
_MODELS = """
upstreams: {{here: {{type: local, generation: {{device: cpu, sequences: 2, replicas: 2, always: 1}}}}}}
models: {{held: {{targets: [{{upstream: here, model: {folder}}}]}}}}
"""


class Held:
    """Serves as serve.local.replicas.GenerationReplica: says its process, and the rest once a file of the request's name is
    there."""

    def __init__(self, model: str, spec: Any, device: str, log_level: str) -> None:
        self._folder = Path(model)

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Generated]:
        yield Generated(text=str(os.getpid()))
        while not (self._folder / request.messages[0]["content"]).exists():  # noqa: ASYNC110  (another process makes it)
            await asyncio.sleep(0.02)
        yield Generated(finish="stop")


class Asked:
    """A request: where it is worked on, and what has become of it."""

    def __init__(self, generator: RemoteGenerator, name: str) -> None:
        self._pieces = generator.generate(GenerateRequest(messages=({"role": "user", "content": name},)))
        self.name = name

    async def begin(self) -> str:
        return (await anext(self._pieces)).text

    async def end(self) -> str:
        try:
            return ", ".join([str(piece.finish) async for piece in self._pieces])
        except ApiError as error:
            return f"{error.code}"


async def main(folder: Path, generator: RemoteGenerator) -> None:
    def let(*names: str) -> None:
        for name in names:
            (folder / name).touch()

    first = [Asked(generator, name) for name in ("a", "b", "c")]
    [one] = {await asked.begin() for asked in first}
    await replicas("RUNNING", "RUNNING")
    last = Asked(generator, "d0")
    while await last.begin() == one:  # whoever asks hears of the other one a moment later
        let(last.name)
        await last.end()
        last = Asked(generator, f"d{int(last.name[1:]) + 1}")
    let("a", "b")
    assert [await asked.end() for asked in first[:2]] == ["stop"] * 2
    # One request is on each; one replica is enough for both, and the other is told to end.
    await replicas("RUNNING", "STOPPING")
    ends = [asyncio.create_task(asked.end()) for asked in (first[2], last)]
    for name in ("e", "f"):  # whoever comes meanwhile is answered
        let(name)
        asked = Asked(generator, name)
        await asked.begin()
        sys.stdout.write(f"{name}: {await asked.end()}\n")
    answered, _ = await asyncio.wait(ends, timeout=_HELD_S)
    assert not answered
    let("c", last.name)
    for name, end in zip(("c", "d"), ends, strict=True):
        sys.stdout.write(f"{name}: {await end}\n")
    await replicas("RUNNING")


async def replicas(*wanted: str) -> None:
    """Waits until they are in these states."""
    while True:
        status = await asyncio.to_thread(serve.status)
        [held] = status.applications[_APPLICATION].deployments.values()
        if sorted(state for state, number in held.replica_states.items() for _ in range(number)) == sorted(
            wanted
        ):
            return
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    given = Path(sys.argv[1])
    deployment._REPLICAS["chat"] = Held
    deployment._UP_AFTER_S = deployment._DOWN_AFTER_S = deployment._LOOK_BACK_S = 1.0
    ray.init(log_to_driver=False)
    serve.start(proxy_location=ProxyLocation.Disabled, logging_config=QUIET)
    [bound] = deployment.model_deployments(parse_models(_MODELS.format(folder=given)), "INFO", QUIET).values()
    handle = serve.run(bound, name=_APPLICATION, route_prefix=None)
    asyncio.run(main(given, RemoteGenerator("held", handle)))
