"""A NATS server of one test's own, which can lose what it has acknowledged."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from callboard.services.account import service_account
from callboard.services.home import Home
from callboard.services.nats import EmbeddedNats


class ForgetfulNats:
    """A server that can forget all that came after a moment."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.server = EmbeddedNats(home=Home(home), account=service_account(home / "nats"))
        self._kept = home / "kept"

    async def remember(self) -> None:
        await self.server.stop()
        shutil.rmtree(self._kept, ignore_errors=True)
        _copy(self.server.data, self._kept)
        await self.server.start()

    async def forget(self) -> None:
        """As after a crash: the events since `remember` were acknowledged and not synced."""
        await self.server.stop()
        shutil.rmtree(self.server.data)
        _copy(self._kept, self.server.data)
        await self.server.start()


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target)
    for path in (source, *source.rglob("*")):
        owner = path.stat()
        copy = target / path.relative_to(source)
        shutil.chown(copy, owner.st_uid, owner.st_gid)


@asynccontextmanager
async def forgetful_nats(home: Path) -> AsyncIterator[ForgetfulNats]:
    """One that runs."""
    Home(home).create()
    Home(home).make_credentials()
    nats = ForgetfulNats(home)
    await nats.server.start()
    yield nats
    await nats.server.stop()
