"""vLLM on this machine: in a Ray of its own, so that an engine that takes everything takes nothing from the agents."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from actors.secret import SecretFolder
from bus.errors import DataFolderError, ServiceUnavailable
from callboard.port import own_port
from callboard.ray_head import RayHead
from callboard.ray_process import RayProcess
from callboard.services import Home, lock
from callboard.services.home import write_private
from serve.gateway.key import PREFIX

if TYPE_CHECKING:
    from callboard.settings import Settings
    from serve.vllm.settings import VllmFile

NAMESPACE = "callboard-vllm"
_OBJECT_STORE_BYTES = 1024 * 1024 * 1024  # what a model's workers pass to each other
_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",  # it would tell its makers what runs here
    # The engine is made and driven beside the replica's own loop, as Ray does it.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "1",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1",
}


def require_vllm() -> None:
    """Raises ServiceUnavailable in an environment without it."""
    if importlib.util.find_spec("vllm") is None:
        raise ServiceUnavailable(
            "vLLM is not installed in this environment.",
            fix="It has one of its own: `make vllm`, then `.venv-vllm/bin/callboard vllm`.",
        )


@contextlib.asynccontextmanager
async def running_vllm(settings: Settings, file: VllmFile, text: str, path: Path) -> AsyncIterator[RayHead]:
    """Serves for the length of the block; what is under way at its end has as long as the file says.

    Raises ServiceUnavailable, InvalidModelsFile, DataFolderError.
    """
    from serve.vllm.deployment import ServedVllm

    Home(settings.home).create()
    folder = settings.home / "vllm"
    folder.mkdir(mode=0o700, exist_ok=True)
    served = ServedVllm(text=text, path=str(path), key=make_key(settings.secrets_folder, file.api_key))
    async with _alone(folder):
        head = _head(folder, file)
        await head.stop()  # one whose command was killed
        with own_port(file.port) as port:
            if port != file.port:
                raise ServiceUnavailable(
                    f"Somebody listens on port {file.port} of 127.0.0.1.",
                    fix="Set another `port` in vllm.yaml.",
                )
        try:
            address = await head.start()
            async with await RayProcess.start() as ray:
                await ray.call("join", address=address, namespace=NAMESPACE)
                await head.while_running(ray.call("serve_vllm", served=served))
                try:
                    yield head
                finally:
                    if head.running() is not None:
                        await head.while_running(ray.call("end_vllm"))
        finally:
            await head.stop()


def make_key(folder: Path, name: str) -> str:
    """The secret of that name, made if there is none. Raises DataFolderError, MissingSecret."""
    path = folder / name
    try:
        if not path.exists():
            folder.mkdir(mode=0o700, exist_ok=True)
            write_private(path, PREFIX + secrets.token_urlsafe(32))
    except OSError as error:
        raise DataFolderError(f"The secret {path} cannot be made: {error.strerror}.") from error
    key = SecretFolder(folder).read(name)
    if len(key) < 16 or not key.isascii() or not key.isprintable():
        raise DataFolderError(
            f"The secret {path} is no key: it must have 16 or more ASCII characters.",
            fix="Remove it; the next `callboard vllm` makes another.",
        )
    return key


def _head(folder: Path, file: VllmFile) -> RayHead:
    timeout = {"RAY_SERVE_LLM_ROUTER_HTTP_TIMEOUT": f"{file.answer_s:g}"}
    return RayHead(folder=folder, object_store_bytes=_OBJECT_STORE_BYTES, environment=_ENVIRONMENT | timeout)


@contextlib.asynccontextmanager
async def _alone(folder: Path) -> AsyncIterator[None]:
    handle = await lock.acquire(folder / "lock", timeout_s=0.0)
    if handle is None:
        raise ServiceUnavailable(
            "vLLM runs already with this data folder.",
            fix="End that `callboard vllm`, or set CALLBOARD_HOME.",
        )
    try:
        yield
    finally:
        os.close(handle)
