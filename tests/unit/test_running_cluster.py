"""Whoever stops the services has first drained what uses them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from callboard import runtime
from callboard.services import Endpoints
from callboard.settings import Settings


class World:
    """What a command finds and does, without a server."""

    def __init__(self) -> None:
        self.ray_runs = True
        self.coordinators_run = True
        self.services_run = True
        self.ray_stops_badly = False
        self.did: list[str] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = self
        endpoints = Endpoints(postgres_url="p", nats_url="n", embedded_postgres=True, embedded_nats=True)

        class Services:
            def __init__(self) -> None:
                self.endpoints = endpoints
                self.started_here = not world.services_run

            async def stop(self) -> None:
                if self.started_here:
                    world.did.append("services stopped")

        class Head:
            @property
            def started_here(self) -> bool:
                return not world.ray_runs

            def running(self) -> int | None:
                return 1 if world.ray_runs else None

            async def stop(self) -> bool:
                world.did.append("ray stopped")
                if world.ray_stops_badly:
                    raise OSError("its logs are gone")
                return True

        class Joined:
            async def leave(self) -> None: ...

            async def __aenter__(self) -> Joined:
                return self

            async def __aexit__(self, *error: object) -> None: ...

        class Events:
            async def ensure(self) -> None: ...

        class Found:
            joined = True
            postgres = None
            events = Events()

        @contextlib.asynccontextmanager
        async def connected(*_: Any) -> AsyncIterator[Found]:
            yield Found()

        async def ensure_services(_: Settings) -> Services:
            return Services()

        async def start_in_ray(*_: Any) -> bool:
            return not world.coordinators_run

        async def leave_cleanly(_: Any) -> None:
            world.did.append("hosts drained")

        async def end_in_ray(postgres: Any, address: str, leave: Any) -> bool:
            await leave()
            world.did.append(f"actors ended at {address}")
            return True

        async def address_of(settings: Settings, _: Any) -> str:
            return settings.ray_address or "own"

        async def process(*_: Any) -> Joined:
            return Joined()

        async def nothing(*_: Any) -> None: ...

        for name, replacement in {
            "ray_head": lambda _: Head(), "ensure_services": ensure_services, "_connected": connected,
            "start_in_ray": start_in_ray, "end_in_ray": end_in_ray, "_leave_cleanly": leave_cleanly,
            "_ray_address": address_of, "_ray_process": process, "_migrate": nothing, "wake_all_domains": nothing,
        }.items():  # fmt: skip
            monkeypatch.setattr(runtime, name, replacement)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    world.install(monkeypatch)
    return world


async def run(home: Path, ray_address: str | None) -> bool:
    async with runtime.running_cluster(Settings(home=home, ray_address=ray_address)) as cluster:
        return cluster.joined


@pytest.mark.parametrize("ray_address", [None, "127.0.0.1:6379"])
async def test_coordinators_of_an_earlier_run_are_ended_before_the_services_that_this_one_started(
    world: World, tmp_path: Path, ray_address: str | None
) -> None:
    world.services_run = False
    assert not await run(tmp_path, ray_address)
    assert world.did == ["hosts drained", f"actors ended at {ray_address or 'own'}", "services stopped"]


@pytest.mark.parametrize("ray_address", [None, "127.0.0.1:6379"])
async def test_what_was_joined_is_left_as_it_was(
    world: World, tmp_path: Path, ray_address: str | None
) -> None:
    assert await run(tmp_path, ray_address)
    assert world.did == []


async def test_what_was_started_in_a_ray_of_somebody_else_is_ended_and_ray_stays(
    world: World, tmp_path: Path
) -> None:
    world.coordinators_run = world.services_run = False
    assert not await run(tmp_path, "127.0.0.1:6379")
    assert world.did == ["hosts drained", "actors ended at 127.0.0.1:6379", "services stopped"]


async def test_a_ray_of_its_own_is_stopped_between_the_hosts_and_the_services(
    world: World, tmp_path: Path
) -> None:
    world.ray_runs = world.coordinators_run = world.services_run = False
    assert not await run(tmp_path, None)
    assert world.did == ["hosts drained", "ray stopped", "services stopped"]


async def test_the_services_are_stopped_where_stopping_ray_has_failed(world: World, tmp_path: Path) -> None:
    world.ray_runs = world.coordinators_run = world.services_run = False
    world.ray_stops_badly = True
    with pytest.raises(OSError, match="its logs are gone"):
        await run(tmp_path, None)
    assert world.did == ["hosts drained", "ray stopped", "services stopped"]
