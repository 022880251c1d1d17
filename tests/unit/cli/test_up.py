"""`callboard up`, without a server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import callboard.cli.moved
import callboard.runtime
import callboard.watching
import storage.domains
from actors.domain import load_domain, read_domain
from bus.errors import ServiceUnavailable
from callboard.cli.main import invoke
from callboard.gateway import LocalGateway
from tests.unit.test_code_apart import domain


class Cluster:
    """Takes domains in as the real one does, and stores nothing."""

    postgres = None
    joined = True
    gateway: asyncio.Task[Any] | None = None
    gateway_fails = False

    def __init__(self, *, kept: bool) -> None:
        self.kept = kept
        self.kinds: list[str] = []
        self.left = False

    async def add_domain(self, folder: Path) -> Any:
        spec = read_domain(folder)
        self.kinds += load_domain(spec, folder).kinds
        return SimpleNamespace(name=spec.domain)

    async def ready(self, domain: str, **_: Any) -> None: ...

    async def serve(self) -> Any:
        if self.gateway_fails:
            raise ServiceUnavailable("It does not start.", fix="See its log.")
        return SimpleNamespace(base_url="http://127.0.0.1:1/v1")


def install(monkeypatch: pytest.MonkeyPatch, cluster: Cluster) -> None:
    @contextlib.asynccontextmanager
    async def running(*_: Any, gateway: Any, **__: Any) -> AsyncIterator[Cluster]:
        cluster.gateway = None if gateway is None else asyncio.create_task(cluster.serve())
        yield cluster
        cluster.left = True

    async def nothing(*_: Any) -> list[Any]:
        return []

    monkeypatch.setenv("CALLBOARD_MODELS", "/nowhere/models.yaml")
    monkeypatch.setattr(callboard.runtime, "running_cluster", running)

    async def watch(*_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(callboard.watching, "watch", watch)
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


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), r"Callboard runs already\."),
        (("left",), r"Callboard runs already; left is registered; its hosts were ready after \d+\.\d s\."),
        (("left", "right"), r".*; left, right are registered; their hosts were ready after \d+\.\d s\."),
    ],
)
def test_what_was_ready_before_is_told_apart_from_what_has_become_so(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    names: tuple[str, ...],
    said: str,
) -> None:
    install(monkeypatch, Cluster(kept=True))
    assert invoke(["up", "--without-gateway", *(str(domain(tmp_path, name, name)) for name in names)]) == 0
    assert re.fullmatch(said, capsys.readouterr().out.strip())


def test_what_runs_detached_is_left_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Cluster(kept=True)
    install(monkeypatch, cluster)
    assert invoke(["up"]) == 0
    assert "Callboard runs already" in capsys.readouterr().out


def test_it_says_where_models_are_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, Cluster(kept=True))
    assert invoke(["up", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"] == "http://127.0.0.1:1/v1"
    assert invoke(["up", "--json", "--without-gateway"]) == 0
    assert json.loads(capsys.readouterr().out)["models"] is None


def test_a_gateway_that_does_not_start_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Cluster(kept=True)
    cluster.gateway_fails = True
    install(monkeypatch, cluster)
    assert invoke(["up"]) == 0
    said = capsys.readouterr()
    assert "Warning: It does not start. See its log." in said.err
    assert "Callboard runs already" in said.out


def test_a_wrong_models_yaml_is_said_before_anything_is_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cluster = Cluster(kept=True)
    install(monkeypatch, cluster)
    wrong = tmp_path / "models.yaml"
    wrong.write_text("modles: {}")
    monkeypatch.setenv("CALLBOARD_MODELS", str(wrong))
    assert invoke(["up"]) == 1
    assert f"Error: {wrong}, line 1: modles: is not known (did you mean models?)." in capsys.readouterr().err
    assert not cluster.left


@pytest.mark.parametrize("option", [[], ["--without-gateway"]])
def test_a_home_of_somebody_elses_is_said_before_its_files_are_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, option: list[str]
) -> None:
    cluster = Cluster(kept=True)
    install(monkeypatch, cluster)
    monkeypatch.setenv("CALLBOARD_HOME", str(tmp_path))
    monkeypatch.setenv("CALLBOARD_MODELS", str(tmp_path))  # no file that could be read
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert invoke(["up", *option]) == 1
    assert f"Error: The data folder {tmp_path} belongs to another user" in capsys.readouterr().err
    assert not cluster.left


def test_whoever_wants_no_gateway_is_told_of_one_that_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, Cluster(kept=True))
    assert invoke(["up", "--without-gateway"]) == 0
    assert "gateway" not in capsys.readouterr().err
    monkeypatch.setattr(LocalGateway, "base_url", lambda self: "http://127.0.0.1:1/v1")
    assert invoke(["up", "--without-gateway"]) == 0
    assert "The model gateway at http://127.0.0.1:1/v1 goes on" in capsys.readouterr().err


def test_whoever_joins_what_ran_without_a_gateway_is_told_that_it_gets_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Cluster(kept=True)
    install(monkeypatch, cluster)
    assert invoke(["up"]) == 0
    assert "This Callboard ran without a model gateway; it gets one now." in capsys.readouterr().err
    monkeypatch.setattr(LocalGateway, "base_url", lambda self: "http://127.0.0.1:1/v1")
    assert invoke(["up"]) == 0
    assert "gateway" not in capsys.readouterr().err
    monkeypatch.undo()
    install(monkeypatch, cluster)
    cluster.joined = False
    assert invoke(["up"]) == 0
    assert "gateway" not in capsys.readouterr().err


def test_a_key_that_a_model_lacks_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    install(monkeypatch, Cluster(kept=True))
    models = tmp_path / "models.yaml"
    models.write_text(
        "upstreams: {openai: {type: openai, api_key: OPENAI_API_KEY}}\n"
        "models: {small: {targets: [{upstream: openai, model: gpt-5-mini}]}}\n"
    )
    monkeypatch.setenv("CALLBOARD_MODELS", str(models))
    monkeypatch.setenv("CALLBOARD_SECRETS", str(tmp_path))
    assert invoke(["up"]) == 0
    said = (
        "Warning: small: The upstream openai has no key: The secret OPENAI_API_KEY cannot be read: "
        f"No such file or directory. Write it to {tmp_path / 'OPENAI_API_KEY'}, with mode 600.\n"
    )
    assert said in capsys.readouterr().err
    assert invoke(["up", "--without-gateway"]) == 0
    assert "OPENAI_API_KEY" not in capsys.readouterr().err


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


def test_whoever_wants_no_gateway_misses_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, Cluster(kept=True))
    monkeypatch.setenv("CALLBOARD_HOME", str(tmp_path))
    missed = tmp_path / "gateway.failed.json"
    missed.write_text("{}")
    assert invoke(["up"]) == 0
    assert missed.exists()
    assert invoke(["up", "--without-gateway"]) == 0
    assert not missed.exists()
