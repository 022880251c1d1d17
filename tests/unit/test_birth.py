"""Whether an ended host's process is gone is known by what the machine counts, whatever its clock says."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from actors import birth
from actors.birth import born, machine, was_here
from coordinators import ray_actors
from coordinators.gone import Process, has_ended
from coordinators.ray_actors import ClusterSettings, RayLauncher


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_a_process_is_the_same_for_as_long_as_it_lives(process: subprocess.Popen[bytes]) -> None:
    was = born(process.pid)
    assert was is not None
    process.send_signal(signal.SIGSTOP)  # it may wake up
    assert not has_ended(process.pid, was)
    process.kill()
    process.wait()
    assert has_ended(process.pid, was)


def test_what_is_left_of_a_process_has_ended(process: subprocess.Popen[bytes]) -> None:
    was = born(process.pid)
    assert was is not None
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie from here on
    assert has_ended(process.pid, was)


def test_another_process_of_the_same_number_is_not_taken_for_it(process: subprocess.Popen[bytes]) -> None:
    mine = born(os.getpid())
    assert mine is not None
    assert has_ended(process.pid, mine)


# -- of an earlier Ray ----------------------------------------------------------------------------------


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> RayLauncher:
    """Of a Ray whose node here has another name than the one before it had."""
    monkeypatch.setattr(ray_actors, "_node", lambda: "after")
    pool: Any = None
    return RayLauncher(ClusterSettings(postgres_url="", nats_url="", namespace=""), pool, "shop")


async def test_a_host_that_an_earlier_ray_has_started_here_is_known_to_be_gone(
    launcher: RayLauncher, process: subprocess.Popen[bytes]
) -> None:
    was = born(process.pid)
    assert was is not None
    host = Process("before", None, machine(), process.pid, was)
    process.send_signal(signal.SIGSTOP)
    assert not await launcher.is_gone(host)
    process.kill()
    process.wait()
    assert await launcher.is_gone(host)


async def test_where_machines_cannot_be_told_apart_the_node_itself_is_asked(
    launcher: RayLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    another, asked = "ab" * 28, []

    class Look:
        def options(self, *, scheduling_strategy: Any, **more: object) -> Look:
            asked.append(scheduling_strategy.node_id)
            return self

        async def remote(self, node: str, process: Process) -> bool:
            return node == process.node

    monkeypatch.setattr(ray_actors, "machine", lambda: "")  # as on a system other than Linux
    monkeypatch.setattr(ray, "remote", lambda function: Look())
    assert await launcher.is_gone(Process(another, None, "", 1, "then"))
    assert asked == [another]


class Machine:
    """A machine that the test makes: its start, its names, and the container in which it is looked at."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        folder.mkdir()
        for name in ("boot", "id"):
            monkeypatch.setattr(birth, {"boot": "_BOOT", "id": "_MACHINE"}[name], folder / name)
        monkeypatch.setattr(birth, "_NETWORK", folder / "net")
        monkeypatch.setattr(birth, "_NUMBERS", folder / "ns")
        self.is_now()

    def is_now(
        self, *, boot: str = "first", id: str = "m1", card: str | None = "02:01", container: str | None = None
    ) -> str:
        """What `machine` says of it then."""
        (self._folder / "boot").write_text(f"{boot}\n")
        (self._folder / "id").write_text(f"{id}\n")
        address = self._folder / "net" / "eth0" / "address"
        (address.parent / "device").mkdir(parents=True, exist_ok=True)
        address.write_text(f"{card}\n")
        if card is None:
            (address.parent / "device").rmdir()
        (self._folder / "ns").unlink(missing_ok=True)
        (self._folder / "ns").symlink_to(f"pid:[{container or 4026531836}]")
        machine.cache_clear()
        return machine()


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    yield Machine(tmp_path / "machine", monkeypatch)
    machine.cache_clear()


def test_what_ran_before_a_machine_was_started_again_is_known_to_be_its_own(made: Machine) -> None:
    on = made.is_now()
    assert was_here(on, "first 123")
    made.is_now(boot="second")
    assert was_here(on, "first 123")


@pytest.mark.parametrize(
    "other", [{"id": "m2"}, {"card": "02:02"}, {"container": "4026532111"}], ids=["id", "card", "container"]
)
def test_another_machine_or_container_is_not_taken_for_it(made: Machine, other: dict[str, str]) -> None:
    on = made.is_now()
    for boot in ("first", "second"):
        made.is_now(boot=boot, **other)
        assert not was_here(on, "first 123")


@pytest.mark.parametrize(
    "alike", [{"id": ""}, {"card": None}, {"container": "4026532111"}], ids=["id", "card", "container"]
)
def test_containers_that_look_the_same_on_two_machines_are_not_one(
    made: Machine, alike: dict[str, str | None]
) -> None:
    on = made.is_now(**alike)  # type: ignore[arg-type]
    assert was_here(on, "first 123")
    made.is_now(boot="of another machine", **alike)  # type: ignore[arg-type]
    assert not was_here(on, "first 123")


def test_where_nothing_is_known_of_a_machine_nobody_was_here(made: Machine) -> None:
    assert not was_here("", "first 123")
