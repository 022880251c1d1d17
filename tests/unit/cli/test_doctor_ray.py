"""What the doctor says of a Ray that Callboard has not started."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bus.errors import ServiceUnavailable
from callboard.doctor import deployment, examine_ray


class Process:
    """Stands for callboard.ray_process.RayProcess; what `join` does is set by the test."""

    ended = 0

    @classmethod
    async def start(cls) -> Process:
        return cls()

    async def __aenter__(self) -> Process:
        return self

    async def __aexit__(self, *error: object) -> None:
        type(self).ended += 1

    async def join(self) -> None:
        """Ray lets it in."""

    async def call(self, name: str, **arguments: Any) -> Any:
        if name == "join":
            assert arguments["address"] == "192.0.2.7:6379"
            return await self.join()
        return [{"Alive": True}, {"Alive": True}, {"Alive": False}]


@pytest.fixture(autouse=True)
def ray(monkeypatch: pytest.MonkeyPatch) -> type[Process]:
    async def answers(address: str) -> None:
        """Something listens there."""

    class Fresh(Process):
        ended = 0

    monkeypatch.setattr(deployment, "RayProcess", Fresh)
    monkeypatch.setattr(deployment, "check_ray", answers)
    return Fresh


async def test_a_ray_that_takes_this_process_is_good(ray: type[Process]) -> None:
    found = await examine_ray("192.0.2.7:6379")
    assert found.status == "good"
    assert found.detail == "192.0.2.7:6379 answers with 2 nodes, and the same releases of Ray and Python"
    assert ray.ended == 1


async def test_one_of_another_release_is_said_in_its_own_words(
    ray: type[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(self: Process) -> None:
        raise ServiceUnavailable("Version mismatch: Ray 2.9 there, 2.60 here.", fix="Install the same.")

    monkeypatch.setattr(ray, "join", refuse)
    found = await examine_ray("192.0.2.7:6379")
    assert (found.status, found.detail) == ("fail", "Version mismatch: Ray 2.9 there, 2.60 here.")
    assert found.mend == "Install the same."
    assert ray.ended == 1


async def test_one_that_never_answers_a_join_is_given_up(
    ray: type[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(self: Process) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(ray, "join", hang)
    monkeypatch.setattr(deployment, "RAY_JOINED_WITHIN_S", 0.05)
    found = await examine_ray("192.0.2.7:6379")
    assert found.status == "fail"
    assert "has not let this process in" in found.detail
    assert ray.ended == 1
