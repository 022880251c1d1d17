"""What a command starts for itself is stopped with its last user, the hosts drained first; what it joined stays."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bus.errors import DataFolderError, ServiceUnavailable
from callboard import runtime
from callboard.ray_head import RayHead
from callboard.ray_process import RayProcess
from callboard.services import Endpoints
from callboard.settings import Settings

ENDPOINTS = Endpoints(
    postgres_url="p", nats_url="nats://me:secret@127.0.0.1:4223", embedded_postgres=True, embedded_nats=True
)
ELSEWHERE = "127.0.0.1:6379"


class World:
    """What commands find and do, without a server: nothing runs at first."""

    def __init__(self) -> None:
        self.ray_runs = self.coordinators_run = self.services_run = False
        self.nats_was_at: int | None = None
        self.coordinators_fail = self.ray_stops_badly = False
        self.waits = asyncio.Event()  # for calls, until these have ended
        self.calls_ended: asyncio.Event | None = None
        self.did: list[str] = []
        self.said: list[str] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = self

        class Services:
            endpoints = ENDPOINTS

            def __init__(self) -> None:
                self.nats_was_at = world.nats_was_at
                self.started_here = not world.services_run
                world.services_run = True

        class Head:
            started_here = False

            def running(self) -> int | None:
                return 1 if world.ray_runs else None

            def unrecorded(self) -> int | None:
                return None

            def authenticate(self) -> None: ...

            async def start(self) -> str:
                self.started_here = not world.ray_runs
                world.ray_runs = True
                return "own"

            async def while_running(self, work: Any) -> Any:
                return await work

            async def stop(self) -> bool:
                if world.ray_runs:
                    world.did.append("ray stopped")
                world.ray_runs = world.coordinators_run = False
                if world.ray_stops_badly:
                    raise OSError("its logs are gone")
                return True

        class Joined:
            async def leave(self) -> None: ...

            async def __aenter__(self) -> Joined:
                return self

            async def __aexit__(self, *error: object) -> None: ...

        class Events:
            async def ensure(self, **settings: Any) -> None: ...

        class Found:
            joined = kept = True
            postgres = gateway = None
            events = Events()

        @contextlib.asynccontextmanager
        async def connected(*_: Any) -> AsyncIterator[Found]:
            yield Found()

        async def ensure_services(_: Settings) -> Services:
            return Services()

        async def stop_instance(_: Settings) -> bool:
            if world.services_run:
                world.did.append("services stopped")
            world.services_run = False
            return True

        async def start_in_ray(*arguments: Any) -> bool:
            if world.coordinators_fail:
                raise ServiceUnavailable("Ray failed to start master.")
            if not world.coordinators_run:
                await arguments[-1]()
                await asyncio.sleep(0)  # others get a turn
                world.did.append("started")
                world.coordinators_run = True
                return True
            return False

        async def leave_cleanly(*_: Any, waits_for_calls: bool, end_coordinators: Any) -> None:
            if world.calls_ended is not None:
                world.waits.set()
                await world.calls_ended.wait()
            world.did.append("hosts drained")

        async def end_in_ray(postgres: Any, address: str, leave: Any) -> bool:
            await leave()
            world.did.append(f"actors ended at {address}")
            world.coordinators_run = False
            return True

        async def process() -> Joined:
            return Joined()

        async def nothing(*_: Any) -> None: ...

        def endpoints(_: Settings) -> Endpoints | None:
            return ENDPOINTS if world.services_run else None

        for name, replacement in {
            "ray_head": lambda _: Head(), "ensure_services": ensure_services, "connected": connected,
            "start_in_ray": start_in_ray, "end_in_ray": end_in_ray, "leave_cleanly": leave_cleanly,
            "keep_services": nothing, "check_ray": nothing, "join_ray": nothing, "_migrate": nothing, "wake_all_domains": nothing, "find_instance": endpoints,
            "running_endpoints": endpoints, "stop_instance": stop_instance,
        }.items():  # fmt: skip
            monkeypatch.setattr(runtime, name, replacement)
        monkeypatch.setattr(RayProcess, "start", process)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    world.install(monkeypatch)
    return world


class Commands:
    """Commands of one home."""

    def __init__(self, world: World, home: Path, ray_address: str | None = None) -> None:
        self.world = world
        self.settings = Settings(home=home, ray_address=ray_address)

    def __call__(self, *, detach: bool = False) -> contextlib.AbstractAsyncContextManager[Any]:
        return runtime.running_cluster(self.settings, detach=detach, progress=self.world.said.append)

    async def down(self) -> bool:
        return await runtime.stop_cluster(self.settings)


@pytest.fixture
def command(world: World, tmp_path: Path) -> Commands:
    return Commands(world, tmp_path)


STOPPED = ["hosts drained", "ray stopped", "services stopped"]


async def test_publishers_are_told_that_nats_has_moved(world: World, command: Commands) -> None:
    async with command():
        assert not any("NATS is taken" in line for line in world.said)
    world.nats_was_at = 4222
    async with command():
        pass
    assert (
        "port 4222 of NATS is taken; from now on it is at 4223, and publishers need the new NATS_URL: `callboard events --url`"
        in world.said
    )


@pytest.fixture
def real_token(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    """Ray's token is made as it is in earnest; Ray is not started."""
    monkeypatch.setattr(runtime, "ray_head", lambda settings: RayHead(folder=settings.home / "ray"))
    monkeypatch.setattr(RayHead, "start", _no_ray)
    for variable in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(variable, "")  # so that what is set now is undone


@pytest.mark.usefixtures("real_token")
@pytest.mark.parametrize("umask", [0o000, 0o077])
async def test_the_data_folder_has_its_own_mode_whatever_the_umask_also_when_rays_token_comes_first(
    world: World, tmp_path: Path, umask: int
) -> None:
    home = tmp_path / "parent" / "home"
    before = os.umask(umask)
    try:
        with pytest.raises(ServiceUnavailable, match="no Ray here"):
            async with Commands(world, home)():
                pass
    finally:
        os.umask(before)
    assert (home / "ray" / "auth_token").exists()
    assert stat.S_IMODE(home.stat().st_mode) == (0o711 if os.geteuid() == 0 else 0o700)
    assert stat.S_IMODE(home.parent.stat().st_mode) == 0o755


@pytest.mark.usefixtures("real_token")
async def test_a_data_folder_that_cannot_be_made_is_said(world: World) -> None:
    with pytest.raises(DataFolderError, match=r"/proc/none cannot be made: No such file.*Set CALLBOARD_HOME"):
        async with Commands(world, Path("/proc/none"))():
            pass
    assert world.did == []


async def _no_ray(_: RayHead) -> str:
    raise ServiceUnavailable("There is no Ray here.")


async def test_what_a_command_started_is_stopped_at_its_end_the_hosts_first(
    world: World, command: Commands
) -> None:
    async with command() as cluster:
        assert (cluster.joined, cluster.kept) == (False, False)
    assert world.did == ["started", *STOPPED]


async def test_of_two_commands_the_last_one_stops_what_the_first_one_started(
    world: World, command: Commands
) -> None:
    async with contextlib.AsyncExitStack() as second:
        async with command():
            cluster = await second.enter_async_context(command())
            assert (cluster.joined, cluster.kept) == (True, False)
        assert world.did == ["started"]
        assert world.said[-1].startswith("Another command uses this Callboard")
        assert "`callboard down`" in world.said[-1]
    assert world.did == ["started", *STOPPED]


async def test_of_commands_that_start_at_once_one_starts_it(world: World, command: Commands) -> None:
    together = asyncio.Barrier(5)

    async def work() -> bool:
        async with command() as cluster:
            await together.wait()
            joined: bool = cluster.joined
        return joined

    assert sorted(await asyncio.gather(*(work() for _ in range(5)))) == [False, True, True, True, True]
    assert world.did == ["started", *STOPPED]


async def test_what_is_detached_stays_and_a_command_that_joins_it_leaves_it(
    world: World, command: Commands
) -> None:
    async with command(detach=True):
        pass
    async with command() as cluster:
        assert (cluster.joined, cluster.kept) == (True, True)
    assert world.did == ["started"]
    assert await command.down()
    assert world.did == ["started", *STOPPED]


async def test_an_instance_of_a_run_that_is_then_detached_stays(world: World, command: Commands) -> None:
    async with command(), command(detach=True):
        pass
    assert world.did == ["started"]


async def test_a_detached_start_that_fails_is_stopped_whole(world: World, command: Commands) -> None:
    world.coordinators_fail = True
    with pytest.raises(ServiceUnavailable, match="Ray failed"):
        async with command(detach=True):
            pass
    assert world.did == STOPPED
    assert not world.services_run
    assert not world.ray_runs


async def test_a_command_that_fails_to_join_stops_nothing_of_who_is_at_work(
    world: World, command: Commands
) -> None:
    async with command():
        world.coordinators_fail = True
        with pytest.raises(ServiceUnavailable, match="Ray failed"):
            async with command():
                pass
        assert world.did == ["started"]


async def test_what_was_stopped_while_somebody_used_it_is_not_stopped_again(
    world: World, command: Commands
) -> None:
    async with command():
        assert await command.down()
        async with command(detach=True):
            pass
    assert world.did == ["started", *STOPPED, "started"]


async def test_services_that_are_missing_from_a_detached_instance_come_back_and_stay(
    world: World, command: Commands
) -> None:
    async with command(detach=True):
        pass
    world.services_run = False
    async with command():
        pass
    assert world.did == ["started"]
    assert world.services_run


async def test_a_command_that_only_looks_at_stored_data_stops_no_services_that_a_run_has_joined(
    world: World, command: Commands
) -> None:
    async with contextlib.AsyncExitStack() as second:
        async with runtime.running_services(command.settings):
            await second.enter_async_context(command())
        assert world.did == ["started"]
    assert world.did == ["started", *STOPPED]
    async with runtime.running_services(command.settings):
        pass
    assert world.did == ["started", *STOPPED, "services stopped"]


async def test_in_a_ray_of_somebody_else_what_was_started_is_ended_and_ray_stays(
    world: World, tmp_path: Path
) -> None:
    command = Commands(world, tmp_path, ELSEWHERE)
    async with command(), command():
        pass
    assert world.did == ["started", "hosts drained", f"actors ended at {ELSEWHERE}", "services stopped"]


async def test_coordinators_that_were_started_from_elsewhere_are_left(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "external_endpoints", lambda _: ENDPOINTS)
    world.coordinators_run = True
    async with Commands(world, tmp_path, ELSEWHERE)() as cluster:
        assert cluster.kept
    assert world.did == []


async def test_the_services_are_stopped_where_stopping_ray_has_failed(
    world: World, command: Commands
) -> None:
    world.ray_stops_badly = True
    with pytest.raises(OSError, match="its logs are gone"):
        async with command():
            pass
    assert world.did == ["started", *STOPPED]


async def test_whoever_waits_for_calls_no_longer_leaves_all_that_these_need(
    world: World, command: Commands
) -> None:
    async with command(detach=True):
        pass
    world.calls_ended = asyncio.Event()
    waiting = asyncio.create_task(command.down())
    await world.waits.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert world.services_run
    assert world.ray_runs
    world.calls_ended.set()
    assert await command.down()
    assert world.did[-3:] == STOPPED


async def test_a_ray_that_cannot_be_joined_is_said_once_also_where_it_cannot_be_stopped_for_that(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> Any:
        raise ServiceUnavailable(f"Ray at {ELSEWHERE} does not answer.")

    monkeypatch.setattr(runtime, "check_ray", away)
    monkeypatch.setattr(runtime, "end_in_ray", away)
    with pytest.raises(ServiceUnavailable, match="does not answer"):
        async with Commands(world, tmp_path, ELSEWHERE)():
            pass
    assert not [line for line in world.said if "does not answer" in line]
