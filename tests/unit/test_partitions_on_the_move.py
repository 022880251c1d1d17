"""Partitions that move between hosts, are lost, or are read anew: nothing of them is lost, doubled or held up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from actors import inbound
from bus import subjects
from bus.address import parse_address, partition_of
from bus.wire import Parcel
from callboard.testing import TestKit
from storage.records import Attempt, Fence
from tests.unit.agents import Forward, Keeper, Note
from tests.unit.held_work import AT, SINK, Work, Worker
from tests.unit.waiter import until

pytestmark = pytest.mark.usefixtures("no_work")


def split_of(kit: TestKit) -> tuple[frozenset[int], frozenset[int]]:
    return kit._running[0].partitions, kit._running[1].partitions


async def hand_over(kit: TestKit, giver: int, taker: int, partitions: frozenset[int]) -> None:
    """What a coordinator does: ask for partitions back, and grant them once they are released."""
    fence = kit._running[giver].host.fence
    row = kit.store.hosts[("test", fence.epoch)]
    kit.store.set_wanted(fence, row.wanted - partitions)
    kit.transport.publish(subjects.placement("test"), b"changed")
    await until(lambda: not row.owned & partitions)
    kit.store.grant(kit._running[taker].host.fence, partitions)
    kit.transport.publish(subjects.placement("test"), b"changed")
    taken = kit._running[taker].host.holdings
    await until(lambda: partitions <= set(taken.open_partitions()))


@pytest.mark.parametrize("lossy", [False, True])
async def test_partitions_handed_back_and_forth_under_load_keep_order_and_lose_nothing(lossy: bool) -> None:
    async with TestKit([Keeper], hosts=2) as kit:
        first = kit._running[0].partitions
        kit.transport.lose = lambda subject: lossy and subject.startswith("callboard.agents")
        for round_ in range(4):
            for number in range(round_ * 10, round_ * 10 + 10):
                for sender in ("a", "b", "c"):
                    await kit.send(
                        f"test/keeper/from-{sender}", Forward(to="test/keeper/to", text=f"{sender}{number}")
                    )
            await hand_over(kit, round_ % 2, 1 - round_ % 2, first)
        kit.transport.lose = lambda subject: False
        for _ in range(2 * 8):
            await kit.advance(seconds=0.2)
        notes = kit.state("test/keeper/to").notes
        for sender in ("a", "b", "c"):
            assert [note for note in notes if note[0] == sender] == [f"{sender}{n}" for n in range(40)]


async def held(times: int) -> None:
    """Wait until the work that is held up was begun so many times."""
    await until(lambda: Worker.begun.get("hold") == times)


async def test_a_head_that_is_tried_alone_and_takes_long_does_not_hold_up_its_neighbours() -> None:
    async with TestKit([Worker, Keeper], partitions=1) as kit:
        await kit.send(AT, Work(name="hold"))
        recoveries = []
        for tries in (1, 2, 3):
            await held(tries)
            if tries < 3:
                await kit.crash()
                recoveries.append(asyncio.create_task(kit.recover()))
        assert [row.trials for row in kit.store.mail.boxes[("test", "default", 0, "worker/w")].values()] == [
            2
        ]
        await kit.send("test/keeper/k", Note(text="next"))
        await until(lambda: kit.state("test/keeper/k").notes == ["next"])
        Worker.hold.set()
        await asyncio.gather(*recoveries)
        assert (kit.state(AT).done, Worker.begun["hold"]) == (["hold"], 3)
        assert kit._running[0].host.trials.is_at_rest(lambda activation: False)


async def test_a_turn_that_outlasts_the_hand_over_runs_again_at_the_new_owner() -> None:
    async with TestKit([Worker, Keeper], hosts=2) as kit:
        partition = kit._partition(parse_address(AT))
        giver = 0 if partition in kit._running[0].partitions else 1
        await kit.send(AT, Work(name="hold"))
        await until(lambda: Worker.begun.get("hold"))
        fence = kit._running[giver].host.fence
        row = kit.store.hosts[("test", fence.epoch)]
        released = asyncio.Event()
        await kit.transport.subscribe(
            subjects.placement("test"),
            lambda data: released.set() if data == b"released" else None,
            lambda: None,
        )
        kit.store.set_wanted(fence, row.wanted - {partition})
        kit.transport.publish(subjects.placement("test"), b"changed")
        await released.wait()
        assert partition not in row.owned
        kit.store.grant(kit._running[1 - giver].host.fence, {partition})
        kit.transport.publish(subjects.placement("test"), b"changed")
        await until(lambda: Worker.begun["hold"] == 2)
        Worker.hold.set()
        await kit.quiet()
        assert (kit.state(AT).done, kit.state(SINK).notes) == (["hold"], ["hold"])


async def test_a_partition_that_was_away_and_is_back_before_its_host_looks_is_taken_up_anew() -> None:
    async with TestKit([Worker, Keeper], hosts=2) as kit:
        partition = kit._partition(parse_address(AT))
        first = 0 if partition in kit._running[0].partitions else 1
        blocked, other = kit._running[first].host, kit._running[1 - first].host
        async with blocked.holdings._look:  # as long as something holds its event loop
            await kit.store.take_back(blocked.fence, [partition])
            kit.transport.lose = lambda subject: subject.startswith("callboard.agents")
            await kit.send(AT, Work(name="hold"))
            kit.store.grant(other.fence, {partition})
            await other.holdings.refresh()
            await until(lambda: Worker.begun.get("hold"))
            await kit.crash(1 - first)
            kit.store.end_host(other.fence, "it crashed")
            everything = {partition} | kit._running[1 - first].partitions
            kit.store.grant(blocked.fence, everything, everything)
        await until(lambda: Worker.begun["hold"] == 2)
        assert [
            row.trials for row in kit.store.mail.boxes[("test", "default", partition, "worker/w")].values()
        ] == [1]
        Worker.hold.set()
        await until(lambda: kit.state(AT).done == ["hold"])
        await until(lambda: not kit.store.hosts[("test", blocked.fence.epoch)].suspect)


async def test_what_is_committed_for_a_partition_on_its_way_out_travels_on() -> None:
    async with TestKit([Keeper], hosts=2) as kit:
        giver = kit._running[0].host
        leaving = min(kit._running[0].partitions)
        asked, answer, release = asyncio.Event(), asyncio.Event(), kit.store.release

        async def slowly(fence: Fence, partitions: Sequence[int], attempts: Sequence[Attempt] = ()) -> None:
            await release(fence, partitions, attempts)
            asked.set()
            await answer.wait()

        kit.store.release = slowly  # type: ignore[method-assign]
        parcel = Parcel(giver.fence.epoch, leaving, 1, [])
        assert giver.holdings.take(parcel)
        kit.store.set_wanted(giver.fence, kit._running[0].partitions - {leaving})
        await giver.holdings.refresh()
        await asked.wait()
        assert not giver.holdings.take(parcel)
        answer.set()
        await until(lambda: not giver.holdings.owns(leaving))


async def test_partitions_that_leave_while_they_open_do_not_keep_the_others_from_opening() -> None:
    async with TestKit([Keeper], hosts=2) as kit:
        first, second = split_of(kit)
        leaver, taker = kit._running[0].host, kit._running[1].host
        kit.store.set_wanted(leaver.fence, frozenset())
        await leaver.holdings.refresh()
        await until(lambda: not kit.store.hosts[("test", leaver.fence.epoch)].owned)
        reading = asyncio.Event()
        load_partition = kit.store.load_partition

        async def slowly(*arguments: object, **more: object) -> object:
            reading.set()
            for _ in range(5):
                await asyncio.sleep(0)
            return await load_partition(*arguments, **more)  # type: ignore[arg-type]

        kit.store.load_partition = slowly  # type: ignore[method-assign,assignment]
        kit.store.grant(taker.fence, first)
        await taker.holdings.refresh()
        await reading.wait()
        lost = min(first)
        row = kit.store.hosts[("test", taker.fence.epoch)]
        row.owned -= {lost}
        row.wanted -= {lost}
        await taker.holdings.refresh()
        await until(lambda: set(taker.holdings.open_partitions()) == (first | second) - {lost})


async def test_a_partition_that_cannot_be_read_for_a_bug_as_it_is_opened_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither does it end the host, which another would only follow into the same."""
    monkeypatch.setattr(inbound, "_RETRY_LATER_S", 0.0)
    async with TestKit([Keeper], partitions=16) as kit:
        names = [f"keeper/{number}" for number in range(60)]
        broken = partition_of("default", names[0], 16)
        kit_load, is_mended = kit.store.load_partition, False

        async def load_partition(domain: str, partition: int, **more: Any) -> Any:
            if partition == broken and not is_mended:
                raise ValueError("a bug")
            return await kit_load(domain, partition, **more)

        monkeypatch.setattr(kit.store, "load_partition", load_partition)
        await kit.crash()
        for name in names:
            await kit.send(f"test/{name}", Note(text="x"))
        recovering = asyncio.create_task(kit.recover())
        others = [name for name in names if partition_of("default", name, 16) != broken]
        await until(lambda: all(kit.state(f"test/{name}").notes == ["x"] for name in others))
        assert kit.state(f"test/{names[0]}").notes == []
        assert not kit._running[0].host.has_ended
        is_mended = True
        await recovering
        await until(lambda: kit.state(f"test/{names[0]}").notes == ["x"])
