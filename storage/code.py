"""A domain's code in Postgres: what hosts on every machine run, whatever their own disks hold."""

from __future__ import annotations

import asyncio
import io
import zipfile
from pathlib import Path

from bus.errors import InvalidDomainFile, UnknownDomain
from storage.boundary import translated
from storage.code_cache import CodeCache, ContentDigest, contents_of, files_of
from storage.domains import Connection
from storage.queries import query

# Each host hashes it when it starts, and each backup holds every version of a day. Code and what it reads are far below.
MAX_CODE_BYTES = 16 * 2**20
_EPOCH = (1980, 1, 1, 0, 0, 0)


def pack(folder: Path) -> tuple[str, bytes]:
    """The digest (sha256, hex) of the folder's files, and a zip of them: the same bytes for the same files, whenever and
    wherever they are packed. It is not compressed: other releases of zlib make other bytes, and Postgres compresses.

    Raises InvalidDomainFile when they have more than 16 MiB, when one cannot be read, or its name not written as UTF-8.
    """
    buffer = io.BytesIO()
    digest = ContentDigest()
    try:
        files = files_of(folder)
        _require_small(folder, files)
        with zipfile.ZipFile(buffer, "w") as bundle:
            for name, content in contents_of(folder, files):
                digest.add(name, content)
                bundle.writestr(zipfile.ZipInfo(name, _EPOCH), content)
    except UnicodeEncodeError as error:
        raise InvalidDomainFile(
            f"The folder {folder} holds a file whose name is not UTF-8: {error.object!a}.", fix="Rename it."
        ) from None
    except OSError as error:
        raise InvalidDomainFile(f"{error.filename} cannot be read: {error.strerror}.") from None
    return digest.hex(), buffer.getvalue()


def _require_small(folder: Path, files: list[Path]) -> None:
    sizes = {path: path.stat().st_size for path in files}
    if sum(sizes.values()) <= MAX_CODE_BYTES:
        return
    largest = ", ".join(
        f"{str(path.relative_to(folder))!r} ({_size(sizes[path])})"
        for path in sorted(files, key=sizes.__getitem__, reverse=True)[:3]
    )
    raise InvalidDomainFile(
        f"The folder {folder} holds more than {MAX_CODE_BYTES // 2**20} MiB, the most that is stored as a domain's code."
        f" The largest of its {len(files)} files: {largest}.",
        fix="Keep data and output outside the domain's folder.",
    )


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{-(-count // 2**10)} KiB"


async def put_code(db: Connection, domain: str, digest: str, bundle: bytes) -> None:
    with translated():
        await db.execute(query("put_code"), domain, digest, bundle)


async def fetch_code(db: Connection, domain: str, digest: str) -> Path:
    """The folder of a domain's code on this machine, which stays as long as this process lives.

    Raises UnknownDomain when Postgres holds no such bundle, StorageError when it holds a damaged one, and
    DataFolderError when there is no place on this machine where only this user can write.
    """
    cache = await asyncio.to_thread(CodeCache.open)
    folder = await asyncio.to_thread(cache.find, digest)
    if folder is not None:
        return folder
    with translated():
        bundle = await db.fetchval(query("get_code"), domain, digest)
    if bundle is None:
        raise UnknownDomain(f"Postgres holds no code {digest[:12]}... of the domain {domain!r}.")
    return await asyncio.to_thread(cache.add, digest, bundle)
