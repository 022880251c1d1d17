"""The rows of hosts in memory, for tests: who owns which partitions under which epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence

from bus.errors import Fenced
from storage.memory_rows import HostRow
from storage.records import Attempt, Fence, Ownership


class MemoryHosts:
    """Implements OwnershipStore, and what the coordinator does in production."""

    def __init__(self, end_attempts: Callable[[str, Sequence[Attempt]], None]) -> None:
        self._end_attempts = end_attempts
        self.hosts: dict[tuple[str, int], HostRow] = {}
        self.suspect: dict[str, frozenset[int]] = {}  # by domain, of partitions that nobody owns

    async def read_ownership(self, fence: Fence) -> Ownership:
        row = self.hosts.get((fence.domain, fence.epoch))
        if row is None:
            raise Fenced(f"Epoch {fence.epoch} of {fence.domain} is unknown.")
        return Ownership(
            owned=row.owned, wanted=row.wanted, kept=row.kept, suspect=row.suspect, taken=row.taken,
            draining=row.draining, ended=not row.is_live, ended_why=row.ended_why,
        )  # fmt: skip

    async def release(
        self, fence: Fence, partitions: Sequence[int], attempts: Sequence[Attempt] = ()
    ) -> None:
        row = self.hosts[(fence.domain, fence.epoch)]
        if row.is_live:
            self._end_attempts(fence.domain, attempts)
            untried = self.suspect.get(fence.domain, frozenset()) | (row.suspect & frozenset(partitions))
            self.suspect[fence.domain] = untried
            row.owned -= frozenset(partitions)
            row.suspect -= frozenset(partitions)

    async def keep(self, fence: Fence, partitions: Sequence[int]) -> None:
        row = self.hosts[(fence.domain, fence.epoch)]
        if row.is_live:
            row.kept = frozenset(partitions)

    async def clear_suspects(self, fence: Fence, partitions: Sequence[int]) -> None:
        row = self.hosts[(fence.domain, fence.epoch)]
        if row.is_live:
            row.suspect -= frozenset(partitions)

    async def ready(self, fence: Fence) -> None:
        self.hosts[(fence.domain, fence.epoch)].ready = True

    def register_host(self, domain: str) -> Fence:
        """A new incarnation, which owns nothing yet."""
        epoch = 1 + max((epoch for _, epoch in self.hosts), default=0)
        self.hosts[(domain, epoch)] = HostRow()
        return Fence(domain=domain, epoch=epoch)

    def grant(self, fence: Fence, partitions: Collection[int], suspect: Collection[int] = ()) -> None:
        """Give partitions that no living host owns; those that left a host untried are suspect in any case."""
        row = self.hosts[(fence.domain, fence.epoch)]
        given = frozenset(partitions)
        for (domain, epoch), other in self.hosts.items():
            if domain == fence.domain and epoch != fence.epoch and other.is_live and other.owned & given:
                raise Fenced(f"Epoch {epoch} still owns {sorted(other.owned & given)}.")
        untried = self.suspect.get(fence.domain, frozenset())
        row.owned |= given
        row.wanted |= given
        row.suspect |= frozenset(suspect) | (untried & given)
        self.suspect[fence.domain] = untried - given

    async def take_back(self, fence: Fence, partitions: Sequence[int]) -> None:
        """Take partitions from a host that does not give them back by itself."""
        await self.release(fence, partitions)
        row = self.hosts[(fence.domain, fence.epoch)]
        taken = Counter(partitions) + Counter(dict(enumerate(row.taken)))
        row.taken = tuple(taken[partition] for partition in range(max(taken) + 1))

    def set_wanted(self, fence: Fence, partitions: Collection[int]) -> None:
        """What a host should keep; it gives the rest back by itself."""
        self.hosts[(fence.domain, fence.epoch)].wanted = frozenset(partitions)

    def end_host(self, fence: Fence, why: str, *, gone: bool = False) -> None:
        """End an epoch: from now on it writes nothing. `gone` says that its process is known to have ended."""
        self.hosts[(fence.domain, fence.epoch)] = HostRow(ended_why=why, gone=gone)

    def _require_fence(self, fence: Fence, partitions: Collection[int]) -> None:
        row = self.hosts.get((fence.domain, fence.epoch))
        if row is None or not row.is_live or not row.owned.issuperset(partitions):
            raise Fenced(f"Epoch {fence.epoch} of {fence.domain} no longer owns all of {sorted(partitions)}.")
