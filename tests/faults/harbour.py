"""Keeps voyages under way while a run goes on: submits and cancels them, decides what their sailors ask, and puts the
schedules of the bells back, so that they ring for minutes that have passed."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from random import Random
from typing import Any

from bus import subjects
from bus.address import DEFAULT_TENANT
from bus.errors import AlreadySettled, InvalidMessage, ServiceUnavailable
from bus.nats import NatsTransport
from storage.decisions import Waiting, settle, waiting
from storage.journal import Kind
from tests.faults import judge
from tests.faults.cluster import DOMAIN, Cluster
from tests.faults.voyages import BELLS, Deed, voyage
from tests.faults.watched import POLL_S

AT_SEA = 10
ENOUGH = 60  # voyages of a run, for each kind of thing to happen in them
TRIES = ("decided", "decided again", "decided with another digest", "decided late")
_AT_SEA = "select count(*) from tasks where request_key like 'voyage-%' and finished_at is null and status <> 'stuck'"
_PUT_BACK = """
update schedules set next_at = date_trunc('minute', now()) - make_interval(mins => $2) where name = $1
returning extract(epoch from next_at)::float8
"""
_RINGS_EVERY_S = 3.0
_LOOKS_EVERY_S = 0.1


class Harbour:
    """`run` until `finish`: people decide also what is asked after the last voyage has begun. What they were wrongly
    allowed to do is in `wrongs`."""

    def __init__(self, cluster: Cluster, seed: int, world: str) -> None:
        self._cluster = cluster
        self._seed = seed
        self._world = world
        self._rng = Random(seed)
        self._stopped = asyncio.Event()
        self._finished = asyncio.Event()
        self._late: dict[str, Waiting] = {}
        self.voyages = 0
        self.tried: Counter[str] = Counter()
        self.rang_from: dict[str, float] = {}
        """By schedule: the first minute for which it must ring."""

        self.wrongs: list[str] = []

    def stop(self) -> None:
        """No voyage begins any more."""
        self._stopped.set()

    def finish(self) -> None:
        """All voyages have ended."""
        self._finished.set()

    async def run(self) -> None:
        transport = await NatsTransport.connect(self._cluster.nats_url, name="harbour")
        try:
            async with asyncio.TaskGroup() as group:
                deciding = group.create_task(self._decide())
                ringing = group.create_task(self._ring())
                while not self._stopped.is_set():
                    if await self._cluster.value(_AT_SEA) < AT_SEA:
                        await self._set_out(transport, group)
                    await asyncio.sleep(_LOOKS_EVERY_S)
                ringing.cancel()
                await self._finished.wait()
                deciding.cancel()
            await self._decide_late(everything=True)
        finally:
            await transport.close()

    async def has_enough(self) -> bool:
        return self.voyages >= ENOUGH

    # -- tasks ---------------------------------------------------------------------------------------

    async def _set_out(self, transport: NatsTransport, group: asyncio.TaskGroup) -> None:
        index = self.voyages
        request = {
            "goal": "a voyage",
            "input": {"seed": self._seed, "voyage": index},
            "request_key": f"voyage-{index}",
        }
        task = await self._asked(transport, subjects.task_submit(DOMAIN), request)
        self.voyages += 1
        after_s = voyage(self._seed, index).cancelled_s
        if after_s is not None:
            group.create_task(self._cancel(transport, str(task["id"]), after_s))

    async def _cancel(self, transport: NatsTransport, task: str, after_s: float) -> None:
        await asyncio.sleep(after_s)  # somewhere in the midst of it
        await self._asked(transport, subjects.task_cancel(DOMAIN), {"id": task, "reason": "called back"})

    async def _asked(self, transport: NatsTransport, subject: str, request: dict[str, Any]) -> dict[str, Any]:
        """The answer of whoever takes tasks; one that has ended already is not cancelled any more."""
        while True:
            try:
                data = await transport.ask_until_answered(
                    subject, json.dumps(request).encode(), again_s=0.5, timeout_s=10.0
                )
            except ServiceUnavailable:
                continue
            answer: dict[str, Any] = json.loads(data)
            error = answer.get("error")
            if error is None or error["type"] == "TaskError":
                return answer
            if error["type"] not in ("StorageUnavailable", "RowLocked", "Overloaded"):
                raise AssertionError(f"{subject} {request}: {error}")
            await asyncio.sleep(POLL_S)

    # -- people --------------------------------------------------------------------------------------

    async def _decide(self) -> None:
        while True:
            for promise in await self._asked_for():
                await self._settle_as_drawn(promise)
            await self._decide_late()
            await asyncio.sleep(_LOOKS_EVERY_S)

    async def _asked_for(self) -> list[Waiting]:
        kinds = (Kind.APPROVAL, Kind.OUTCOME) if self._stopped.is_set() else (Kind.APPROVAL,)
        return await self._cluster.retried(lambda db: waiting(db, tenant=DEFAULT_TENANT, kinds=kinds))

    async def _settle_as_drawn(self, promise: Waiting) -> None:
        asked = json.loads(promise.details or "{}")
        if promise.kind == Kind.OUTCOME:  # nobody stands still any more: the world outside knows
            key = asked["arguments"]["key"]
            acted = await asyncio.to_thread(judge.acted, self._world, key)
            said = {"happened": acted, "result": key} if acted else {"happened": False, "again": True}
            await self._settle(promise, "resolved", json.dumps(said))
            return
        deed = self._deed(asked["details"]["key"])
        if deed.permit == "late":
            self._late[promise.id] = promise
            return
        right, wrong = ("approved", "denied") if deed.permit == "granted" else ("denied", "approved")
        if self._rng.random() < 0.3:
            await self._must_fail(promise, wrong, "decided with another digest", digest="0" * 16)
        await asyncio.gather(*(self._settle(promise, right) for _ in range(self._rng.randint(1, 2))))
        self.tried["decided"] += 1
        if self._rng.random() < 0.5:
            await self._must_fail(promise, wrong, "decided again")

    async def _decide_late(self, *, everything: bool = False) -> None:
        """Somebody approves what nobody has approved in time."""
        for id_, promise in list(self._late.items()):
            status = await self._cluster.value("select status from promises where id = $1::uuid", id_)
            if status != "pending" or everything:
                del self._late[id_]
                await self._must_fail(promise, "approved", "decided late")

    async def _must_fail(self, promise: Waiting, status: str, how: str, digest: str | None = None) -> None:
        if await self._settle(promise, status, digest=digest):
            self.wrongs.append(f"{promise.agent}: {promise.id} could be {how}")
        self.tried[how] += 1

    async def _settle(
        self, promise: Waiting, status: str, value: str = '{"comment": ""}', *, digest: str | None = None
    ) -> bool:
        """Whether that was the decision: the first one counts, and one for exactly what is asked."""

        async def once(db: Any) -> bool:
            try:
                await settle(
                    db,
                    promise,
                    tenant=DEFAULT_TENANT,
                    status=status,
                    value=value,
                    by="ada",
                    kind=Kind(promise.kind),
                    digest=digest,
                )
            except (AlreadySettled, InvalidMessage):
                return False
            return True

        return await self._cluster.retried(once)

    def _deed(self, key: str) -> Deed:
        index, leg, deed = (int(number) for number in key.split("-")[1:])
        return voyage(self._seed, index).legs[leg].deeds[deed]

    # -- bells ---------------------------------------------------------------------------------------

    async def _ring(self) -> None:
        """Each bell is put back once: it then rings for every minute since."""
        for number in range(BELLS):
            name = f"bell-{number}"
            first = None
            while first is None:
                first = await self._cluster.value(_PUT_BACK, name, self._rng.randint(5, 60))
                await asyncio.sleep(_RINGS_EVERY_S)
            self.rang_from[name] = float(first)
