"""What an attached `up` says and how it ends, with a head and a keeper's log that tests write."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from bus.errors import ServiceUnavailable
from callboard import watching


class Head:
    """Lives for so many looks, writes a line to the keeper's log at each, and was then stopped."""

    def __init__(self, log: Path, *lines: str, died: bool = False) -> None:
        self.log, self.lines, self.died = log, list(lines), died

    async def require_alive(self) -> bool:
        if not self.lines:
            if self.died:
                raise ServiceUnavailable("Ray's head has ended, gcs_server first.")
            return False
        with self.log.open("a") as file:
            file.write(self.lines.pop(0))
        return True


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LOOK_EVERY_S", 0)


async def test_it_passes_on_what_the_keeper_says_from_now_on_in_whole_lines(tmp_path: Path) -> None:
    (tmp_path / "keeper.log").write_text("of last week\n")
    said: list[str] = []
    head: Any = Head(tmp_path / "keeper.log", "NATS had ", "died\nPostgres", " had died\n")
    await watching.watch(tmp_path, head, said.append)
    assert said == ["NATS had died", "Postgres had died", "Another command has stopped Callboard."]


async def test_it_ends_with_an_error_when_rays_head_has_died(tmp_path: Path) -> None:
    said: list[str] = []
    head: Any = Head(tmp_path / "keeper.log", "one\n", died=True)
    with pytest.raises(ServiceUnavailable, match="gcs_server first"):
        await watching.watch(tmp_path, head, said.append)
    assert said == ["one"]


async def test_in_a_ray_of_somebody_elses_it_ends_once_the_services_were_stopped(tmp_path: Path) -> None:
    endpoints = {"postgres_url": "", "nats_url": "", "embedded_postgres": True, "embedded_nats": True}
    record = tmp_path / "instance.json"
    record.write_text(json.dumps({"endpoints": endpoints, "started_at": 1.0}))
    log = tmp_path / "keeper.log"
    log.write_text("")
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        record.unlink(missing_ok=True)

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(watching.watch(tmp_path, None, say))
        await asyncio.sleep(0)  # it has begun, and passes on what is said from now on
        log.write_text("Postgres had died\n")
    assert said == ["Postgres had died", "Another command has stopped Callboard."]
