"""The blobs that turns refer to: payloads, answers and results too large for the commit itself."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from bus.errors import StorageUnavailable


class Blob(NamedTuple):
    """A text that is to be stored: by the domain and tenant of the agent that will read it, which may be another domain's
    than the one that sends it."""

    domain: str
    tenant: str
    digest: str
    data: bytes


class BlobStore(Protocol):
    async def put_blob(self, domain: str, tenant: str, digest: str, data: bytes) -> None: ...

    async def get_blob(self, domain: str, tenant: str, digest: str) -> bytes: ...


class BlobsUnavailable(BaseException):
    """A blob cannot be read or written now: the turn runs again later, which counts as no failure.

    A type of its own, since a handler may raise StorageUnavailable for a storage of its own; and never an author's
    to catch. `journaled` tells whether the turn has a journal to run again from.
    """

    journaled = False


class Blobs:
    """What one domain's turns store and read; an outage of storage is BlobsUnavailable here."""

    def __init__(self, domain: str, storage: BlobStore) -> None:
        self._domain = domain
        self._storage = storage

    async def store(self, blobs: list[Blob]) -> None:
        """Store what a turn has checked in; raises BlobsUnavailable.

        A blob leaves the list once it is stored: whichever branch flushes what refers to it stores it first.
        """
        try:
            while blobs:
                blob = blobs[0]
                await self._storage.put_blob(*blob)
                if blobs and blobs[0] is blob:
                    del blobs[0]
        except StorageUnavailable as error:
            raise BlobsUnavailable(error.message) from error

    async def fetch(self, tenant: str, digest: str) -> str:
        """The text of a blob; raises BlobsUnavailable, or InvalidPayload when there is none."""
        try:
            return (await self._storage.get_blob(self._domain, tenant, digest)).decode()
        except StorageUnavailable as error:
            raise BlobsUnavailable(error.message) from error
