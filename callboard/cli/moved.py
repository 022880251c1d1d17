"""Whether a domain's code comes from another folder than before: said, since two folders may share a name by chance."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from callboard.cli.terminal import note

if TYPE_CHECKING:
    from storage.domains import Connection


async def say_if_moved(db: Connection, domain: str, folder: Path) -> None:
    """Say it on standard error before the domain of that name is replaced by the folder's."""
    from storage.domains import all_domains

    new = str(await asyncio.to_thread(folder.resolve))
    for row in await all_domains(db, removed=True):
        if row.domain == domain and row.home not in ("", new):
            note(f"the domain {domain} now comes from {new} (before: {row.home})")
