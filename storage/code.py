"""A domain's code in Postgres: what hosts on every machine run, whatever their own disks hold."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import tempfile
import zipfile
from hashlib import sha256
from pathlib import Path

from bus.errors import InvalidDomainFile, UnknownDomain
from storage.boundary import translated
from storage.domains import Connection
from storage.queries import query

MAX_BUNDLE_BYTES = 64 * 1024 * 1024
_SKIPPED = {"__pycache__", ".git", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache", "node_modules"}
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same files give the same bundle, whenever they are packed


def pack(folder: Path) -> tuple[str, bytes]:
    """A zip of the folder and its digest (sha256, hex), the same for the same contents.

    Raises InvalidDomainFile when it is larger than 64 MiB: data belongs elsewhere.
    """
    buffer = io.BytesIO()
    size = 0
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        for path in sorted(folder.rglob("*")):
            relative = path.relative_to(folder)
            if _SKIPPED.intersection(relative.parts) or not path.is_file():
                continue
            data = path.read_bytes()
            size += len(data)
            if size > MAX_BUNDLE_BYTES:
                raise InvalidDomainFile(
                    f"The folder {folder} holds more than {MAX_BUNDLE_BYTES // 2**20} MiB.",
                    fix="Keep only the domain's code and settings in it.",
                )
            bundle.writestr(zipfile.ZipInfo(relative.as_posix(), _EPOCH), data)
    data = buffer.getvalue()
    return sha256(data).hexdigest(), data


async def put_code(db: Connection, domain: str, digest: str, bundle: bytes) -> None:
    with translated():
        await db.execute(query("put_code"), domain, digest, bundle)


async def fetch_code(db: Connection, domain: str, digest: str) -> Path:
    """The folder of a domain's code on this machine, unpacked once per digest.

    Raises UnknownDomain when Postgres holds no such bundle.
    """
    folder = Path(tempfile.gettempdir()) / f"callboard-code-{os.getuid()}" / digest[:32]
    if await asyncio.to_thread(folder.is_dir):
        return folder
    with translated():
        bundle = await db.fetchval(query("get_code"), domain, digest)
    if bundle is None:
        raise UnknownDomain(f"Postgres holds no code {digest[:12]}... of the domain {domain!r}.")
    await asyncio.to_thread(_unpack, bundle, folder)
    return folder


def _unpack(bundle: bytes, folder: Path) -> None:
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    if folder.parent.stat().st_uid != os.getuid():
        raise InvalidDomainFile(f"{folder.parent} belongs to somebody else.", fix="Remove it, or set TMPDIR.")
    unpacked = Path(tempfile.mkdtemp(dir=folder.parent))
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        archive.extractall(unpacked)
    try:
        unpacked.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(unpacked)
