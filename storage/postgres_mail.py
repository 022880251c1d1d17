"""What a host reads of agents from Postgres: mailboxes, states, open turns and their journals, blobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg

from bus.envelope import Envelope, header_from_json
from bus.errors import InvalidPayload
from storage.journal import CLOCK_SLACK_S, JournalEntry, OpenPromise, StoredJournal
from storage.ledger import EarlierCall
from storage.mail_reader import Mailbox, MailReader
from storage.pooled import Pooled
from storage.queries import query
from storage.records import PAGE_AGENTS, PAGE_BYTES, BuriedMessage, MailHead, Share, StoredState
from storage.standing import Standing

_NO_BOUND = 2**63 - 1  # above every message's number


class PostgresMail(Pooled):
    """Implements MailboxStore, JournalReader, LedgerStore and BlobStore."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        super().__init__(pool)
        self._mail = MailReader(self.reader)

    async def load_partition(
        self,
        domain: str,
        partition: int,
        *,
        after: tuple[str, str],
        agents: int,
        each: Share,
        page_bytes: int,
    ) -> tuple[list[Envelope], set[tuple[str, str]], tuple[str, str] | None]:
        async with self.reader() as connection:
            tenants = [row["tenant"] for row in await connection.fetch(query("tenants_with_mail"), domain)]
            for tenant in tenants:
                if tenant < after[0]:
                    continue
                start = after[1] if tenant == after[0] else ""
                rows = await connection.fetch(
                    query("load_mail"),
                    domain, tenant, partition, start, agents, each.messages, each.size, page_bytes,
                )  # fmt: skip
                if not rows:
                    continue
                place: tuple[str, str] | None = None
                if rows[-1]["seq"] is None:
                    place = tenant, rows.pop()["agent"]
                else:
                    later = [t for t in tenants if t > tenant]
                    place = (later[0], "") if later else None
                more = {(tenant, row["agent"]) for row in rows if row["more"]}
                return [_envelope(tenant, row["agent"], row) for row in rows], more, place
        return [], set(), None

    async def load_agent(
        self,
        domain: str,
        partition: int,
        tenant: str,
        agent: str,
        share: Share,
        *,
        control_only: bool = False,
    ) -> tuple[list[Envelope], bool]:
        mailbox = Mailbox(
            domain=domain, tenant=tenant, partition=partition, agent=agent, below=0 if control_only else _NO_BOUND,
            messages=share.messages, size=share.size,
        )  # fmt: skip
        rows = await self._mail.read(mailbox)
        found = [_envelope(tenant, agent, row, open_=row["open"]) for row in rows]
        return found, bool(rows and rows[-1]["more"])

    async def mail_heads(
        self, domain: str, after: tuple[str, int, str], partitions: Sequence[int], limit: int
    ) -> tuple[list[MailHead], tuple[str, int, str] | None]:
        async with self.reader() as connection:
            rows = await connection.fetch(query("mail_heads"), domain, *after, list(partitions), limit)
        place: tuple[str, int, str] | None = None
        if rows and rows[-1]["seq"] is None:
            last = rows.pop()
            place = last["tenant"], last["partition"], last["agent"]
        return [MailHead(**dict(row)) for row in rows], place

    async def load_states(
        self, domain: str, agents: Sequence[tuple[str, str]], *, page_bytes: int = PAGE_BYTES
    ) -> tuple[list[StoredState], int]:
        async with self.reader() as connection:
            rows = await connection.fetch(
                query("load_states"), domain, [tenant for tenant, _ in agents], [agent for _, agent in agents],
                page_bytes,
            )  # fmt: skip
        looked = rows.pop()["n"] if rows and rows[-1]["version"] is None else len(agents)
        return [StoredState(**{k: v for k, v in row.items() if k != "n"}) for row in rows], looked

    async def load_turns(
        self,
        domain: str,
        partition: int,
        *,
        after: tuple[str, str] = ("", ""),
        turns: int = PAGE_AGENTS,
        page_bytes: int = PAGE_BYTES,
    ) -> tuple[list[Envelope], tuple[str, str] | None]:
        async with self.reader() as connection:
            rows = await connection.fetch(query("load_turns"), domain, partition, *after, turns, page_bytes)
        place: tuple[str, str] | None = None
        if rows and rows[-1]["seq"] is None:
            last = rows.pop()
            place = last["tenant"], last["agent"]
        return [_envelope(row["tenant"], row["agent"], row, open_=True) for row in rows], place

    async def load_journal(self, domain: str, tenant: str, agent: str) -> StoredJournal | None:
        async with self.reader() as connection:
            turn = await connection.fetchrow(query("load_turn"), domain, tenant, agent)
            if turn is None:
                return None
            entries = await connection.fetch(
                query("load_journal"), domain, tenant, agent, turn["turn"], turn["began_at"] - CLOCK_SLACK_S
            )
            promises = await connection.fetch(query("load_promises"), domain, tenant, agent, turn["turn"])
        return StoredJournal(
            seq=turn["seq"], turn=turn["turn"], header_json=turn["header"], payload=turn["payload"],
            failures=turn["failures"], trials=turn["trials"], retry_at=turn["retry_at"],
            began_at=turn["began_at"], waiting=turn["waiting"],
            recorded=turn["recorded"], entries=tuple(JournalEntry(**dict(row)) for row in entries),
            promises=tuple(OpenPromise(**dict(row)) for row in promises),
        )  # fmt: skip

    async def promise_standing(self, domain: str, tenant: str, id_: str, by: str) -> Standing | None:
        async with self.reader() as connection:
            row = await connection.fetchrow(query("promise_standing"), domain, tenant, id_, by)
        return None if row is None else Standing(**dict(row))

    async def earlier_calls(self, domain: str, tenant: str, agent: str, message: str) -> list[EarlierCall]:
        async with self.reader() as connection:
            rows = await connection.fetch(query("earlier_calls"), domain, tenant, agent, message)
        return [EarlierCall(**dict(row)) for row in rows]

    async def find_mail(
        self, domain: str, partition: int, tenant: str, agent: str, message: str
    ) -> int | None:
        async with self.reader() as connection:
            seq = await connection.fetchval(query("find_mail"), domain, tenant, partition, agent, message)
        return None if seq is None else int(seq)

    async def put_blob(self, domain: str, tenant: str, digest: str, data: bytes) -> None:
        async with self.reader() as connection:
            await connection.execute(query("put_blob"), domain, tenant, digest, data)

    async def get_blob(self, domain: str, tenant: str, digest: str) -> bytes:
        async with self.reader() as connection:
            data = await connection.fetchval(query("get_blob"), domain, tenant, digest)
        if data is None:
            raise InvalidPayload(
                f"The blob {digest[:12]}... is not in storage.", fix="Restore it from a backup."
            )
        return bytes(data)

    async def read_dead_letter(
        self, domain: str, tenant: str, agent: str, number: int
    ) -> BuriedMessage | None:
        async with self.reader() as connection:
            row = await connection.fetchrow(query("read_dead_letter"), domain, tenant, agent, number)
        return BuriedMessage(**row) if row is not None else None


def _envelope(tenant: str, agent: str, row: Any, *, open_: bool = False) -> Envelope:
    return Envelope(
        seq=row["seq"],
        tenant=tenant,
        agent=agent,
        header=header_from_json(row["header"]),
        header_json=row["header"],
        payload=row["payload"],
        failures=row["failures"],
        trials=row["trials"],
        retry_at=row["retry_at"],
        open=open_,
    )
