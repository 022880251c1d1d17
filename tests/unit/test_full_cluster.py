"""Which host with older code makes room in a cluster that is full, and when none does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import ray
from ray.autoscaler.v2.schema import (
    ClusterStatus,
    LaunchRequest,
    NodeInfo,
    NodeUsage,
    PlacementGroupResourceDemand,
    RayTaskActorDemand,
    ResourceDemandSummary,
    ResourceRequestByCount,
    ResourceUsage,
)

from actors.domain import DomainSpec, HostSpec
from actors.ray_host import mark_of
from coordinators import ray_actors
from coordinators.ray_room import count
from coordinators.room import OTHERS_LEAVE_WITHIN_S, TOLD_WITHIN_S, Room, Waiting
from storage.domains import DomainRow
from storage.lack import Lack
from storage.placement import HostRow


class Cluster:
    """A queue and a clock that stand where they are put."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waiting = Waiting()
        self.asked = 0
        self.room = Room(self._queue, lambda: self.now)

    async def _queue(self) -> Waiting:
        self.asked += 1
        return self.waiting

    async def told(self, *, hosts: int, others: int = 0, after_s: float = TOLD_WITHIN_S) -> Room:
        self.now += after_s
        self.waiting = Waiting(hosts=hosts, others=others)
        self.room.look(coming=1)
        await asyncio.sleep(0)
        return self.room


NONE: Any = None


def host(epoch: int, *, ready: bool = True, owned: int = 1) -> HostRow:
    return HostRow(
        epoch=epoch, host=f"h-{epoch}", node="", pid=1, code="", release="", owned=frozenset(range(owned)),
        wanted=frozenset(), suspect=frozenset(), draining=False, ready=ready, age_s=0.0, silent_s=0.0, beat_at=None,
        lag_ms=None, blocked_by=None, backlog=0, agents=0, turns=0, rss_bytes=0,
    )  # fmt: skip


OLDER = [host(1, owned=5), host(2, owned=4), host(3, owned=4)]


async def test_the_host_that_owns_least_leaves() -> None:
    room = await Cluster().told(hosts=3)
    assert room.made_by([], OLDER, 3) is OLDER[1]
    idle = host(4, ready=False, owned=9)
    assert room.made_by([], [*OLDER, idle], 3) is idle


async def test_nobody_leaves_while_one_that_comes_has_room() -> None:
    room = await Cluster().told(hosts=2)
    assert room.made_by([], OLDER, 3) is None
    assert room.made_by([host(9, ready=False)], OLDER, 2) is None
    assert room.made_by([host(9)], OLDER, 2) is not None
    assert room.made_by([host(9)], [], 2) is None
    assert room.made_by([host(9)], OLDER, 0) is None


async def test_nobody_leaves_before_it_is_told_who_has_got_the_room_of_the_last() -> None:
    cluster = Cluster()
    room = await cluster.told(hosts=2)
    assert room.is_lacking(2)
    room.forget()
    assert not room.is_lacking(2)
    await cluster.told(hosts=2, after_s=TOLD_WITHIN_S - 0.1)
    assert room.made_by([], OLDER, 2) is None
    await cluster.told(hosts=2, after_s=1.0)
    assert room.made_by([], OLDER, 2) is not None


async def test_that_a_host_has_waited_once_is_nothing_to_a_later_one() -> None:
    """Ray tells late that it has got room; once it has come, nobody asks again."""
    cluster = Cluster()
    room = await cluster.told(hosts=1)
    room.look(0)
    cluster.now += 3600.0
    assert room.made_by([], OLDER, 1) is None
    await cluster.told(hosts=1)
    assert room.made_by([], OLDER, 1) is not None


async def test_nobody_leaves_for_room_that_others_wait_for(caplog: pytest.LogCaptureFixture) -> None:
    """Told once, and only where they do not leave, as other domains do for one that replaces its hosts."""
    cluster = Cluster()
    room = await cluster.told(hosts=2, others=1)
    assert room.made_by([], OLDER, 2) is None
    assert not caplog.records
    for _ in range(2):
        cluster.now += OTHERS_LEAVE_WITHIN_S
        assert room.made_by([], OLDER, 2) is None
    assert [record.getMessage() for record in caplog.records] == [
        "no room is made for a host with newer code: 1 others wait in the cluster, and might take it"
    ]
    await cluster.told(hosts=2)
    assert room.made_by([], OLDER, 2) is not None


async def test_nobody_leaves_for_a_host_that_no_node_is_large_enough_for() -> None:
    cluster = Cluster()
    cluster.waiting = Waiting(too_large=2, cpus=3.0, free=0.5, largest=2.0, others=1)
    cluster.now += TOLD_WITHIN_S
    cluster.room.look(coming=2)
    await asyncio.sleep(0)
    assert cluster.room.is_lacking(2)
    assert cluster.room.is_too_small
    assert cluster.room.made_by([], OLDER, 2) is None
    assert cluster.room.lack(2, "other") == Lack(
        hosts=2, cpus=3.0, free=0.5, largest=2.0, others=1, behind="other"
    )


async def test_a_cluster_that_cannot_be_asked_makes_nobody_leave(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster()
    await cluster.told(hosts=2)

    async def fail() -> Waiting:
        raise OSError("away")

    cluster.room._queue = fail
    room = await cluster.told(hosts=2)
    assert room.made_by([], OLDER, 2) is None
    assert "cannot be told" in caplog.text


async def test_it_is_asked_now_and_then_and_once_at_a_time() -> None:
    cluster = Cluster()
    for _ in range(3):
        cluster.room.look(coming=1)
    await asyncio.sleep(0)
    assert cluster.asked == 1
    await cluster.told(hosts=0, after_s=0.9)
    assert cluster.asked == 1
    await cluster.told(hosts=0, after_s=0.1)
    assert cluster.asked == 2


# -- what Ray says -------------------------------------------------------------------------------------


def status(
    *demands: tuple[dict[str, float], int], groups: Sequence[Sequence[dict[str, float]]] = (), **more: Any
) -> ClusterStatus:
    node = NodeInfo(
        instance_type_name="", ray_node_type_name="", instance_id="", ip_address="",
        resource_usage=NodeUsage(usage=[ResourceUsage("CPU", 2.0, 1.75), ResourceUsage("GPU", 1.0, 0.0)], idle_time_ms=0),
    )  # fmt: skip
    return ClusterStatus(
        active_nodes=[node],
        resource_demands=ResourceDemandSummary(
            ray_task_actor_demand=[
                RayTaskActorDemand(bundles_by_count=[ResourceRequestByCount(bundle=bundle, count=count)])
                for bundle, count in demands
            ],
            placement_group_demand=[
                PlacementGroupResourceDemand(
                    bundles_by_count=[ResourceRequestByCount(bundle=bundle, count=1) for bundle in group],
                    details="",
                )
                for group in groups
            ],
        ),
        **more,
    )


OURS, THEIRS = mark_of("callboard-1", "shop"), mark_of("callboard-1", "shop-a")


def test_hosts_of_a_domain_are_known_by_its_mark() -> None:
    told = status(
        ({"CPU": 0.3, OURS: 0.0001}, 2), ({"CPU": 0.3, THEIRS: 0.0001}, 3), ({"CPU": 0.3, "GPU": 1.0}, 1)
    )
    assert count(told, OURS, 0.3) == Waiting(hosts=2, others=4, cpus=0.3, free=0.25, largest=2.0)
    assert count(status(), OURS, 0.3) == Waiting(cpus=0.3, free=0.25, largest=2.0)


def test_what_no_node_is_large_enough_for_takes_no_room() -> None:
    told = status(
        ({"CPU": 3.0, OURS: 0.0001}, 2), ({"CPU": 3.0, THEIRS: 0.0001}, 2), ({"TPU": 1.0}, 1),
        groups=[[{"CPU": 1.0}, {"CPU": 4.0}], [{"CPU": 1.0}]],
    )  # fmt: skip
    assert count(told, OURS, 3.0) == Waiting(too_large=2, others=1, cpus=3.0, free=0.25, largest=2.0)


def test_nobody_waits_where_more_nodes_are_coming() -> None:
    coming = LaunchRequest("", "", 1, LaunchRequest.Status.PENDING, 0)
    assert count(status(({"CPU": 1.0, OURS: 0.0001}, 1), pending_launches=[coming]), OURS, 1.0) == Waiting()


def test_a_coordinator_takes_away_what_another_has_left_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[str] = []
    actors = ["host:shop-11111111", "host:shop-22222222", "host:shop-a-33333333", "coordinator:shop"]
    monkeypatch.setattr(ray_actors, "list_named_actors", lambda: actors)
    monkeypatch.setattr(ray, "get_actor", lambda name: name)
    monkeypatch.setattr(ray, "kill", lambda name, no_restart: killed.append(name))
    launcher = ray_actors.RayLauncher(
        ray_actors.ClusterSettings(postgres_url="", nats_url="", namespace="n"), NONE, "shop"
    )
    asyncio.run(launcher.end_strays("shop", ["shop-22222222"]))
    assert killed == ["host:shop-11111111"]


async def test_a_host_gets_the_cpus_that_the_domain_asks_for_when_it_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[float] = []
    row = DomainRow("shop", 4, "", [], "", "")

    async def found(*given: object, **more: object) -> DomainRow:
        return row

    class Started:
        @staticmethod
        def remote(*settings: object) -> None: ...

    def remote_host(name: str, *, cpus: float, mark: str) -> type[Started]:
        assert mark == mark_of("n", "shop")
        asked.append(cpus)
        return Started

    monkeypatch.setattr(ray_actors, "find_domain", found)
    monkeypatch.setattr(ray_actors, "remote_host", remote_host)
    monkeypatch.setattr(ray_actors, "_node", lambda: "node")
    launcher = ray_actors.RayLauncher(
        ray_actors.ClusterSettings(postgres_url="", nats_url="", namespace="n"), NONE, "shop"
    )
    for cpus in (0.5, 2.0):
        spec = DomainSpec(domain="shop", partitions=4, kinds=(), hosts=HostSpec(cpus=cpus))
        row = row._replace(spec=spec.to_json())
        await launcher.start("shop", "shop-1")
    assert asked == [0.5, 2.0]
