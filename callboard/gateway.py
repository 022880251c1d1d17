"""The model gateway of a home: what it is served with, where it answers, and with which key."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from actors.model_gateway import KEY, RECORD, GatewayAddress, base_url, read_key, read_record
from bus.errors import CallboardError, ServiceUnavailable
from callboard.port import own_port
from callboard.ray_head import RayHead
from callboard.services import lock
from callboard.services.home import write_private
from storage.release import release

if TYPE_CHECKING:
    from callboard.cluster import Progress
    from callboard.ray_process import RayProcess
    from callboard.settings import Settings
    from serve.gateway import ServedGateway
    from serve.gateway.secret import MissingKey

LOCK_TIMEOUT_S = 180.0  # another command is serving it, and waits for what the one before has under way
_LOOK_TIMEOUT_S = 2.0
FIRST_PORT = 8417  # while it is free, also of another Callboard on this machine


@dataclass(frozen=True)
class LocalGateway:
    """Files in the data folder: `gateway.key`, and `gateway.json` with the port, the head of Ray that it was served in, and
    the digest of what it was started with, while that is known; `gateway.failed.json` while it is wanted and does not run."""

    settings: Settings

    def check(self) -> None:
        """Raise InvalidModelsFile for what is wrong with models.yaml, before anything is started."""
        from serve.gateway.models_file import read_models

        read_models(self.settings.models_path)

    def missing_keys(self) -> list[MissingKey]:
        """Of the models that models.yaml has now, served or not. Raises InvalidModelsFile."""
        from actors.secret import SecretFolder
        from serve.gateway.models_file import parse_models, read_models
        from serve.gateway.secret import missing_keys

        path = self.settings.models_path
        file = parse_models(read_models(path), str(path))
        return missing_keys(file, SecretFolder(self.settings.secrets_folder))

    def address(self) -> GatewayAddress:
        """Of the one that was served last, whether it runs or not. Raises ServiceUnavailable, DataFolderError."""
        record = read_record(self.settings.home)
        if "head" not in record:  # nor one that did not come to the end of its first start
            raise ServiceUnavailable(
                "No model gateway was started here.", fix="Start one with `callboard up --detach`."
            )
        return GatewayAddress(port=record["port"], key=read_key(self.key_path))

    def base_url(self) -> str | None:
        """Where the gateway answers that was served in the Ray that runs here; None where none was."""
        record = read_record(self.settings.home)
        head = self._head.running()
        return (
            base_url(record["port"]) if record and head is not None and record.get("head") == head else None
        )

    async def serve(self, ray: RayProcess, postgres_url: str | None, progress: Progress) -> GatewayAddress:
        """Serve it in the Ray that the process has joined; one that runs is replaced if it was started differently, and
        `progress` is told so.

        With a Postgres its answers are also kept there.
        Raises ServiceUnavailable, InvalidModelsFile, DataFolderError.
        """
        from serve.gateway import make_key, read_models

        path = self.settings.models_path
        key = make_key(self.key_path)
        async with lock.exclusive(self.settings.home / "gateway.lock", timeout_s=LOCK_TIMEOUT_S):
            self._fail("its start has not come to an end")
            try:
                address = await self._serve(ray, key, read_models(path), postgres_url, progress)
            except CallboardError as error:
                self._fail(str(error))
                raise
            self.do_without()
            return address

    def failure(self) -> str | None:
        """Why the gateway that was to be served in the Ray that runs here is not; None where it is, or none was wanted."""
        try:
            found = json.loads(self._failure_path.read_text())
        except (OSError, ValueError):
            return None
        head = self._head.running()
        return str(found["why"]) if head is not None and found["head"] == head else None

    def do_without(self) -> None:
        """No gateway is missing."""
        self._failure_path.unlink(missing_ok=True)

    async def answers(self) -> bool:
        """Whether anything listens where the gateway was served last."""
        record = read_record(self.settings.home)
        return bool(record) and await _listens(record["port"])

    def _fail(self, why: str) -> None:
        write_private(self._failure_path, json.dumps({"head": self._head.running(), "why": why}))

    async def _serve(
        self, ray: RayProcess, key: str, models: str, postgres_url: str | None, progress: Progress
    ) -> GatewayAddress:
        from serve.gateway import GatewaySettings, ServedGateway

        record = read_record(self.settings.home)
        served = ServedGateway(
            settings=GatewaySettings(
                key=key,
                postgres_url=postgres_url,
                models=models,
                models_path=str(self.settings.models_path),
            ),
            secrets=str(self.settings.secrets_folder),
            log_level=self.settings.log_level,
            port=record.get("port", FIRST_PORT),
        )
        digest, head, of_models = _digest(served), self._head.running(), _sha256(models)
        if record.get("head") == head and record.get("digest") not in (None, digest):
            changed = record.get("models") != of_models
            what = (
                "models.yaml"
                if changed
                else "what it is started with, a model's folder, or Callboard's release,"
            )
            progress(f"{what} has changed: the model gateway is served anew")
        if (record.get("digest"), record.get("head")) != (digest, head) or not await _listens(served.port):
            with contextlib.ExitStack() as stack:
                if not await ray.call("serve_runs"):
                    served = replace(served, port=stack.enter_context(own_port(wanted := served.port)))
                    if served.port != wanted:
                        progress(
                            f"port {wanted} of the model gateway is taken; from now on it is at {served.port}"
                        )
                # Where this does not come to its end, nobody knows what is served, but where it is: Serve keeps its port.
                write_private(self._record_path, json.dumps({**record, "port": served.port, "digest": None}))
                await ray.call("serve_gateway", served=served)
            found = {"port": served.port, "digest": digest, "models": of_models, "head": head}
            write_private(self._record_path, json.dumps(found))
        return GatewayAddress(port=served.port, key=key)

    @property
    def key_path(self) -> Path:
        return self.settings.home / KEY

    @property
    def _head(self) -> RayHead:
        return RayHead(folder=self.settings.home / "ray")

    @property
    def _record_path(self) -> Path:
        return self.settings.home / RECORD

    @property
    def _failure_path(self) -> Path:
        return self.settings.home / "gateway.failed.json"


def _digest(served: ServedGateway) -> str:
    """Of all that it answers by, the release and the files of its models included: what it has in memory is of these."""
    from serve.gateway import parse_models
    from serve.gateway.revision import revision_of

    settings = served.settings
    file = parse_models(settings.models)
    parts = [
        release(),
        [revision_of(model, file.upstreams).hex() for model in file.models.values()],
        settings.key,
        settings.postgres_url,
        settings.models,
        settings.models_path,
        served.secrets,
        served.log_level,
    ]
    return _sha256(json.dumps(parts))


def _sha256(text: str) -> str:
    return sha256(text.encode()).hexdigest()


async def _listens(port: int) -> bool:
    try:
        async with asyncio.timeout(_LOOK_TIMEOUT_S):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
