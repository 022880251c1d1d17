"""`callboard up`, without a server."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import callboard.cli.moved
import callboard.runtime
import storage.domains
from actors.domain import load_domain, read_domain
from callboard.cli.main import invoke
from tests.unit.test_code_apart import domain


class Cluster:
    """Takes domains in as the real one does, and stores nothing."""

    postgres = None
    joined = True

    def __init__(self, *, kept: bool) -> None:
        self.kept = kept
        self.kinds: list[str] = []
        self.left = False

    async def add_domain(self, folder: Path) -> Any:
        spec = read_domain(folder)
        self.kinds += load_domain(spec, folder).kinds
        return SimpleNamespace(name=spec.domain)

    async def ready(self, domain: str, **_: Any) -> None: ...


def install(monkeypatch: pytest.MonkeyPatch, cluster: Cluster) -> None:
    @contextlib.asynccontextmanager
    async def running(*_: Any, **__: Any) -> AsyncIterator[Cluster]:
        yield cluster
        cluster.left = True

    async def nothing(*_: Any) -> list[Any]:
        return []

    monkeypatch.setattr(callboard.runtime, "running_cluster", running)
    monkeypatch.setattr(callboard.cli.moved, "say_if_moved", nothing)
    monkeypatch.setattr(storage.domains, "all_domains", nothing)


def test_two_domains_with_code_of_the_same_names_are_both_taken_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cluster = Cluster(kept=True)
    install(monkeypatch, cluster)
    folders = [domain(tmp_path, "left", "lamp"), domain(tmp_path, "right", "rope")]
    assert invoke(["up", *map(str, folders)]) == 0
    assert cluster.kinds == ["lamp", "rope"]


def test_what_runs_detached_is_left_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Cluster(kept=True)
    install(monkeypatch, cluster)
    assert invoke(["up"]) == 0
    assert "Callboard runs already" in capsys.readouterr().out


def test_what_a_run_has_started_is_held_until_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Cluster(kept=False)
    install(monkeypatch, cluster)

    def press(text: str) -> None:
        if text == "Ctrl-C stops it.":
            assert not cluster.left
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("callboard.cli.up.note", press)
    assert invoke(["up"]) == 0
    assert cluster.left
