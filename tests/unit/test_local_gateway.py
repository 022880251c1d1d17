"""When a gateway is served, where, and what is remembered of it; Ray is played."""

from __future__ import annotations

import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bus.errors import InvalidModelsFile, ServiceUnavailable
from callboard import gateway
from callboard.doctor import examine_gateway
from callboard.gateway import FIRST_PORT, LocalGateway
from callboard.ray_head import RayHead
from callboard.settings import Settings
from serve.gateway import ServedGateway


class Ray:
    """Implements what is used of callboard.ray_process.RayProcess."""

    def __init__(self) -> None:
        self.serve_runs = False
        self.fails = False
        self.tried: list[int] = []
        self.served: list[ServedGateway] = []
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    async def call(self, name: str, **arguments: Any) -> Any:
        if name == "serve_runs":
            return self.serve_runs
        assert name == "serve_gateway"
        self.serve_runs = True
        self.tried.append(arguments["served"].port)
        if self.meanwhile is not None:
            await self.meanwhile()
        if self.fails:
            raise ServiceUnavailable("It does not start.")
        self.served.append(arguments["served"])
        return None


class Rig:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.settings = Settings(home=home)
        self.ray = Ray()
        self.head: int | None = 4711
        self.listens = True
        self.said: list[str] = []
        self.postgres_url = "postgresql://callboard:its-password@127.0.0.1/callboard"

    async def serve(self) -> int:
        found = await LocalGateway(self.settings).serve(self.ray, self.postgres_url, self.said.append)  # type: ignore[arg-type]
        return found.port


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    rig = Rig(tmp_path)

    async def listens(port: int) -> bool:
        return rig.listens

    monkeypatch.setattr(RayHead, "running", lambda self: rig.head)
    monkeypatch.setattr(gateway, "_listens", listens)
    monkeypatch.setattr("callboard.port.is_answered", lambda port: False)
    monkeypatch.setattr(gateway, "FIRST_PORT", free_port())
    return rig


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_it_is_served_once_with_its_key_models_and_secrets(rig: Rig) -> None:
    (rig.home / "models.yaml").write_text("limits: {concurrent: 7}\n")
    port = await rig.serve()
    assert await rig.serve() == port == gateway.FIRST_PORT
    [served] = rig.ray.served
    assert served.settings.key == (rig.home / "gateway.key").read_text()
    assert served.settings.models == "limits: {concurrent: 7}\n"
    assert served.settings.models_path == str(rig.home / "models.yaml")
    assert (served.secrets, served.port) == (str(rig.home / "secrets"), port)
    assert served.settings.postgres_url == rig.postgres_url
    seen = repr(served) + (rig.home / "gateway.json").read_text()
    for secret in (served.settings.key, "its-password"):
        assert secret not in seen
    local = LocalGateway(rig.settings)
    assert local.base_url() == local.address().base_url == f"http://127.0.0.1:{port}/v1"
    assert local.address().key == served.settings.key
    assert served.settings.key not in repr(local.address())


async def test_it_is_replaced_at_its_place_when_models_yaml_has_changed(rig: Rig) -> None:
    port = await rig.serve()
    (rig.home / "models.yaml").write_text("cache: {bytes: 0}\n")
    with socket.socket() as taken:  # by Serve itself
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert rig.said == []
        assert await rig.serve() == port
    assert len(rig.ray.served) == 2
    assert rig.said == ["models.yaml has changed: the model gateway is served anew"]


async def test_a_change_that_was_not_served_and_is_taken_back_is_not_what_is_served(rig: Rig) -> None:
    """Its replacement has failed, or was interrupted, and Serve may have begun with it."""
    port = await rig.serve()
    (rig.home / "models.yaml").write_text("cache: {bytes: 0}\n")
    rig.ray.fails = True
    with pytest.raises(ServiceUnavailable):
        await rig.serve()
    assert LocalGateway(rig.settings).address().port == port  # the one before may still answer
    rig.ray.fails = False
    (rig.home / "models.yaml").unlink()
    assert await rig.serve() == port
    assert [served.settings.models for served in rig.ray.served] == [rig.ray.served[0].settings.models] * 2
    assert len(rig.said) == 1


async def test_it_is_replaced_when_postgres_is_another(rig: Rig) -> None:
    port = await rig.serve()
    rig.postgres_url += "_restored"
    assert await rig.serve() == port
    assert [served.settings.postgres_url for served in rig.ray.served][1] == rig.postgres_url
    assert rig.said == [
        "what it is started with, a model's folder, or Callboard's release, has changed: the model gateway is served anew"
    ]


async def test_it_is_replaced_when_a_model_was_trained_anew_in_its_folder(rig: Rig) -> None:
    """Its process and the answers that are kept are of the model before, and vectors of two models must not mix."""
    folder = rig.home / "trained"
    folder.mkdir()
    (folder / "weights").write_text("1")
    (rig.home / "models.yaml").write_text(
        "upstreams: {here: {type: local}}\n"
        f"models: {{vectors: {{serves: embeddings, targets: [{{upstream: here, model: {folder}}}]}}}}\n"
    )
    for _ in range(2):
        await rig.serve()
    assert len(rig.ray.served) == 1
    (folder / "weights").write_text("22")
    await rig.serve()
    assert len(rig.ray.served) == 2


@pytest.mark.parametrize("change", ["another head", "nobody listens", "no record"])
async def test_it_is_served_again_where_it_may_be_gone(rig: Rig, change: str) -> None:
    port = await rig.serve()
    if change == "another head":
        rig.head, rig.ray.serve_runs = 4712, False
        assert LocalGateway(rig.settings).base_url() is None
    elif change == "nobody listens":
        rig.listens = False
    else:
        (rig.home / "gateway.json").write_text("[")
    assert await rig.serve() == port
    assert len(rig.ray.served) == 2


async def test_another_port_is_taken_where_the_first_is_not_free_and_kept(rig: Rig) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", gateway.FIRST_PORT))
        taken.listen()
        port = await rig.serve()
    assert port != gateway.FIRST_PORT
    moved = f"port {gateway.FIRST_PORT} of the model gateway is taken; from now on it is at {port}"
    assert rig.said == [moved]
    rig.head, rig.ray.serve_runs = 4712, False
    assert await rig.serve() == port
    assert rig.said == [moved]


@pytest.mark.parametrize("served_before", [False, True])
async def test_a_start_that_is_cut_off_is_gone_on_with_at_its_port(rig: Rig, served_before: bool) -> None:
    """Serve listens there already, and cannot be told of another one; 8417 is another Callboard's."""
    if served_before:
        await rig.serve()
        rig.head, rig.ray.serve_runs = 4712, False
    with socket.socket() as of_another:
        of_another.bind(("127.0.0.1", gateway.FIRST_PORT))
        of_another.listen()
        rig.ray.fails = True
        with pytest.raises(ServiceUnavailable):
            await rig.serve()
        rig.ray.fails = False
        port = await rig.serve()
    assert rig.ray.served[-1].port == port == rig.ray.tried[-2]
    assert port != gateway.FIRST_PORT


async def test_two_that_start_at_once_have_a_port_each(rig: Rig, tmp_path: Path) -> None:
    """Serve lets two of one account listen at one port, and each would get half of the requests."""
    other = Rig(tmp_path / "other")
    other.home.mkdir()
    ports: list[int] = []

    async def meanwhile() -> None:
        ports.append(await other.serve())

    rig.ray.meanwhile = meanwhile
    ports.append(await rig.serve())
    assert len(set(ports)) == 2
    assert gateway.FIRST_PORT in ports


async def test_one_that_does_not_start_is_not_remembered(rig: Rig) -> None:
    rig.ray.fails = True
    with pytest.raises(ServiceUnavailable):
        await rig.serve()
    assert LocalGateway(rig.settings).base_url() is None
    with pytest.raises(ServiceUnavailable, match="No model gateway was started here"):
        LocalGateway(rig.settings).address()


async def test_nothing_is_served_with_a_wrong_models_yaml(rig: Rig) -> None:
    (rig.home / "models.yaml").write_text("modles: {}\n")
    with pytest.raises(InvalidModelsFile, match="line 1: modles: is not known"):
        LocalGateway(rig.settings).check()
    with pytest.raises(InvalidModelsFile):
        await rig.serve()
    assert rig.ray.served == []


def test_it_is_shown_only_while_the_head_runs_that_it_was_served_in(rig: Rig) -> None:
    record = {"port": FIRST_PORT, "digest": "", "head": 4711}
    (rig.home / "gateway.json").write_text(json.dumps(record))
    assert LocalGateway(rig.settings).base_url() == f"http://127.0.0.1:{FIRST_PORT}/v1"
    rig.head = None
    assert LocalGateway(rig.settings).base_url() is None


async def test_the_doctor_says_of_one_that_was_wanted_and_did_not_start_why_and_how_to_mend_it(
    rig: Rig,
) -> None:
    assert await examine_gateway(rig.settings) == []  # none was wanted
    rig.ray.fails = True
    with pytest.raises(ServiceUnavailable):
        await rig.serve()
    [found] = await examine_gateway(rig.settings)
    assert (found.status, found.detail) == ("warn", "it was to be served, and is not: It does not start.")
    assert "`callboard up --detach` again" in found.mend
    LocalGateway(rig.settings).do_without()
    assert await examine_gateway(rig.settings) == []

    with pytest.raises(ServiceUnavailable):
        await rig.serve()
    rig.ray.fails = False
    await rig.serve()
    [found] = await examine_gateway(rig.settings)
    assert (found.status, found.detail.partition(" ")[2]) == ("good", "answers")
    rig.listens = False
    [found] = await examine_gateway(rig.settings)
    assert (found.status, found.mend) == ("fail", "`callboard up --detach` starts it again.")
    rig.head = None  # with Ray it has gone as well, and is said to be by others
    assert await examine_gateway(rig.settings) == []


async def test_the_doctor_says_which_model_lacks_which_key(rig: Rig) -> None:
    (rig.home / "models.yaml").write_text(
        "upstreams: {claude: {type: anthropic, api_key: ANTHROPIC_API_KEY}}\n"
        "models: {small: {targets: [{upstream: claude, model: claude-haiku-4-5}]}}\n"
    )
    [found] = await examine_gateway(rig.settings)  # also before it is served
    assert (found.check, found.status) == ("model keys", "warn")
    assert found.detail.startswith(
        "small: The upstream claude has no key: The secret ANTHROPIC_API_KEY cannot"
    )
    assert found.mend == f"Write it to {rig.settings.secrets_folder / 'ANTHROPIC_API_KEY'}, with mode 600."
    rig.settings.secrets_folder.mkdir()
    (rig.settings.secrets_folder / "ANTHROPIC_API_KEY").write_text("sk-x")
    assert await examine_gateway(rig.settings) == []


async def test_the_doctor_says_what_is_wrong_with_models_yaml(rig: Rig) -> None:
    (rig.home / "models.yaml").write_text("modles: {}")
    [found] = await examine_gateway(rig.settings)
    assert (found.check, found.status) == ("models.yaml", "fail")
    assert "line 1: modles: is not known" in found.detail
    assert found.mend == "Correct it, and start Callboard again."
