"""Answers of models that gateways share: a cache with a time for each answer, bounded in their number and bytes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from storage.connect import close_pool, create_pool
from storage.pooled import Pooled
from storage.queries import query

ROW_BYTES = 512  # of an answer, beside its body
_CONNECTIONS = 4
_GONE_AT_ONCE = 10_000  # answers that make room in one statement
_LONGEST_S = 10 * 365 * 86_400.0  # what a date of Postgres has room for in any case


class AnswerKey(msgspec.Struct, frozen=True):
    """`request` and `revision` (of the model) are digests: nothing of what was asked is in them."""

    tenant: str
    request: bytes
    revision: bytes


class StoredAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`target`: its place among the model's; `made_for`: the digest of an Idempotency-Key; `body` is JSON."""

    target: int
    made_for: bytes | None
    body: bytes

    @property
    def size(self) -> int:
        """Bytes, as the bound counts them."""
        return len(self.body) + ROW_BYTES


class AnswerBounds(msgspec.Struct, frozen=True, kw_only=True):
    """How long an answer holds, how long it stays after that, and how much there may be of all of them."""

    holds_s: float
    stays_s: float
    answers: int
    bytes: int


class PostgresAnswers(Pooled):
    """Times are those of the database's clock."""

    @classmethod
    async def open(cls, url: str) -> PostgresAnswers:
        """Raises StorageUnavailable, SettingsError."""
        return cls(await create_pool(url, application="callboard-gateway", size=_CONNECTIONS, by_key=True))

    async def find(self, key: AnswerKey, *, old: bool = False) -> tuple[StoredAnswer, float] | None:
        """It, and for how many seconds it holds, which is below 0 for an `old` one. Raises StorageError."""
        async with self.reader() as connection:
            row = await connection.fetchrow(query("find_answer"), key.tenant, key.request, key.revision, old)
        if row is None:
            return None
        found = StoredAnswer(target=row["target"], made_for=row["made_for"], body=row["body"])
        return found, row["holds_s"]

    async def keep(self, answers: Sequence[tuple[AnswerKey, StoredAnswer]], bounds: AnswerBounds) -> None:
        """Of each tenant and request once. Raises StorageError; then none of them is kept."""
        await self.execute(
            "keep_answers",
            [key.tenant for key, _ in answers],
            [key.request for key, _ in answers],
            [key.revision for key, _ in answers],
            [answer.target for _, answer in answers],
            [answer.made_for for _, answer in answers],
            [answer.body for _, answer in answers],
            [answer.size for _, answer in answers],
            min(bounds.holds_s, _LONGEST_S),
            min(bounds.stays_s, _LONGEST_S),
            bounds.answers,
            bounds.bytes,
            _GONE_AT_ONCE,
        )

    async def close(self) -> None:
        await close_pool(self._pool)
