"""Paused tasks, in every store: each host reads them until they go on."""

from __future__ import annotations

from bus.address import DEFAULT_TENANT
from bus.envelope import new_id
from storage.records import PauseWrite, TaskEvent
from tests.contract.rig import DOMAIN, Rig, letter, turn


class Leader:
    """A task's agent, which pauses it and lets it go on."""

    def __init__(self, rig: Rig, task: str) -> None:
        self.rig = rig
        self.task = task
        self.version = 0
        self.prev = bytes(32)

    async def write(self, *pauses: bool) -> None:
        """One commit with a turn for each of them."""
        records = []
        for paused in pauses:
            seq = await self.rig.accept(letter(f"task/{self.task}"))
            self.version += 1
            line = TaskEvent(task=self.task, number=self.version + 1, kind="x", body="{}")
            write = PauseWrite(task=self.task, paused=paused, by="external/test", why="a test")
            record = turn(
                seq, self.version, agent=f"task/{self.task}", prev=self.prev, pauses=(write,), task_events=(line,)
            )  # fmt: skip
            self.prev = record.hash
            records.append(record)
        self.fence = getattr(self, "fence", None) or await self.rig.host(0)
        await self.rig.store.commit(self.fence, records, [])

    @property
    def row(self) -> tuple[str, str]:
        return DEFAULT_TENANT, f"{DOMAIN}/{self.task}"


async def test_a_paused_task_is_read_by_the_hosts_of_every_domain_until_it_goes_on(rig: Rig) -> None:
    leader = Leader(rig, new_id())
    assert await rig.store.read_pauses(DOMAIN) == []
    await leader.write(True)
    assert await rig.store.read_pauses(DOMAIN) == [leader.row]
    assert await rig.store.read_pauses("elsewhere") == [leader.row]
    await leader.write(True)
    assert await rig.store.read_pauses(DOMAIN) == [leader.row]
    await leader.write(False)
    assert await rig.store.read_pauses(DOMAIN) == []
    await leader.write(True)
    assert await rig.store.read_pauses(DOMAIN) == [leader.row]


async def test_of_several_changes_in_one_commit_the_last_counts(rig: Rig) -> None:
    leader = Leader(rig, new_id())
    await leader.write(True, False)
    assert await rig.store.read_pauses(DOMAIN) == []
    await leader.write(True)
    await leader.write(False, True)
    assert await rig.store.read_pauses(DOMAIN) == [leader.row]
