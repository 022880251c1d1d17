"""Which domains there are, how many partitions each has, and which kinds."""

from __future__ import annotations

import msgspec

from bus.errors import UnknownDomain, UnknownKind


class DomainEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What a sender must know of a domain. An empty `kinds` means that any kind is accepted."""

    partitions: int
    kinds: frozenset[str] = frozenset()


class Directory:
    """The domains known here; refreshed by whoever owns it."""

    def __init__(self, entries: dict[str, DomainEntry] | None = None) -> None:
        self._entries = dict(entries or {})

    def replace(self, entries: dict[str, DomainEntry]) -> None:
        self._entries = dict(entries)

    def partitions(self, domain: str, kind: str) -> int:
        """The domain's partition count; raises UnknownDomain or UnknownKind."""
        entry = self._entries.get(domain)
        if entry is None:
            raise UnknownDomain(f"There is no domain {domain!r}.")
        if entry.kinds and kind not in entry.kinds:
            raise UnknownKind(f"The domain {domain!r} has no agent kind {kind!r}.")
        return entry.partitions
