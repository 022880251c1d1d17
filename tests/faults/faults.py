"""What can be done to a cluster. Each waits until it has happened, and raises Void when it has not."""

from __future__ import annotations

import asyncio
import signal
from random import Random
from typing import Any

import asyncpg

from bus.envelope import new_id
from bus.nats import NatsTransport
from storage.placement import HostRow
from storage.queries import query
from tests.faults.chaos_run import Fault
from tests.faults.cluster import DOMAIN, Cluster, Void
from tests.faults.feed import accept, nudge, outside

TAKEN_OVER_WITHIN_S = 15.0
EXITS_WITHIN_S = 15.0


async def _a_host(cluster: Cluster, rng: Random) -> HostRow:
    """A live host that owns something, once all own their share."""
    hosts = await cluster.settled()
    return rng.choice([host for host in hosts if host.owned])


# -- processes ---------------------------------------------------------------------------------------


async def kill_host(cluster: Cluster, rng: Random) -> None:
    host = await _a_host(cluster, rng)
    cluster.signal_host(host, signal.SIGKILL)
    why = await cluster.ended(host.epoch, TAKEN_OVER_WITHIN_S)
    cluster.note(f"epoch {host.epoch} killed; ended because {why}")


async def kill_all_hosts(cluster: Cluster, rng: Random) -> None:
    for host in await cluster.settled():
        cluster.signal_host(host, signal.SIGKILL)
        cluster.note(f"epoch {host.epoch} killed")
    await cluster.progress(50, timeout_s=45)


async def kill_coordinator(cluster: Cluster, rng: Random) -> None:
    """The hosts go on without it for a while; another one then continues."""
    cluster.kill_coordinator()
    await cluster_progress_without_restart(cluster, 100)
    cluster.start_coordinator()


async def kill_coordinator_and_host(cluster: Cluster, rng: Random) -> None:
    host = await _a_host(cluster, rng)
    cluster.kill_coordinator()
    cluster.signal_host(host, signal.SIGKILL)
    cluster.start_coordinator()
    await cluster.ended(host.epoch, TAKEN_OVER_WITHIN_S)


async def cluster_progress_without_restart(cluster: Cluster, turns: int) -> None:
    kept, cluster.coordinator = cluster.coordinator, None
    try:
        await cluster.progress(turns)
    finally:
        cluster.coordinator = kept


async def stop_host_past_its_takeover(cluster: Cluster, rng: Random) -> None:
    """SIGSTOP, takeover, SIGCONT: it must commit nothing (the audit sees that) and exit by itself."""
    host = await _a_host(cluster, rng)
    cluster.signal_host(host, signal.SIGSTOP)
    why = await cluster.ended(host.epoch, TAKEN_OVER_WITHIN_S)
    await cluster.progress(50)
    cluster.signal_host(host, signal.SIGCONT)
    await cluster.gone(host.pid, EXITS_WITHIN_S)
    cluster.note(f"epoch {host.epoch} stopped ({why}), continued, exited")


async def stop_coordinator(cluster: Cluster, rng: Random) -> None:
    """A frozen coordinator; another one claims the domain, and the first gives up when it wakes."""
    frozen = cluster.coordinator
    assert frozen is not None
    frozen.send_signal(signal.SIGSTOP)
    cluster.start_coordinator()
    host = await _a_host(cluster, rng)
    cluster.signal_host(host, signal.SIGKILL)
    await cluster.ended(host.epoch, TAKEN_OVER_WITHIN_S)
    frozen.send_signal(signal.SIGCONT)
    await cluster.gone(frozen.pid, EXITS_WITHIN_S)
    frozen.wait()


# -- named points ------------------------------------------------------------------------------------


async def _fired(cluster: Cluster, point: str, before: int, timeout_s: float = 30.0) -> None:
    async def look() -> bool:
        return cluster.folder.fired().count(point) > before

    await cluster.until(look, f"the fault at {point} to fire", timeout_s)
    cluster.note(f"{point} fired")


async def _kill_at(cluster: Cluster, rng: Random, point: str) -> None:
    host = await _a_host(cluster, rng)
    before = cluster.folder.fired().count(point)
    await cluster.order(host.pid, faults=f"{point}=kill@{rng.randint(1, 20)}")
    await _fired(cluster, point, before)
    await cluster.ended(host.epoch, TAKEN_OVER_WITHIN_S)


async def kill_before_commit(cluster: Cluster, rng: Random) -> None:
    await _kill_at(cluster, rng, "commit.before")


async def kill_after_commit(cluster: Cluster, rng: Random) -> None:
    await _kill_at(cluster, rng, "commit.after")


async def stop_before_commit(cluster: Cluster, rng: Random) -> None:
    """It wakes as soon as its epoch has ended, with a group of turns ready to be committed."""
    await _stop_past_takeover(cluster, rng, "commit.before")


async def _stop_past_takeover(cluster: Cluster, rng: Random, point: str) -> None:
    host = await _a_host(cluster, rng)
    before = cluster.folder.fired().count(point)
    await cluster.order(host.pid, faults=f"{point}=stop@{rng.randint(1, 10)}")
    await _fired(cluster, point, before)
    why = await cluster.ended(host.epoch, TAKEN_OVER_WITHIN_S)
    cluster.signal_host(host, signal.SIGCONT)
    await cluster.gone(host.pid, EXITS_WITHIN_S)
    cluster.note(f"epoch {host.epoch} stopped at {point} ({why}), continued, exited")


async def stop_between_fence_and_commit(cluster: Cluster, rng: Random) -> None:
    """Its open transaction holds the fence: the takeover must end its backend."""
    point = "commit.between_fence_and_commit"
    host = await _a_host(cluster, rng)
    before = cluster.folder.fired().count(point)
    await cluster.order(host.pid, faults=f"{point}=stop@{rng.randint(1, 10)}")
    await _fired(cluster, point, before)
    why = await cluster.ended(host.epoch, TAKEN_OVER_WITHIN_S)
    await cluster.progress(50)
    cluster.signal_host(host, signal.SIGCONT)
    await cluster.gone(host.pid, EXITS_WITHIN_S)
    cluster.note(f"epoch {host.epoch} stopped inside its commit ({why}), continued, exited")


async def kill_before_flush(cluster: Cluster, rng: Random) -> None:
    await _kill_at(cluster, rng, "flush.before")


async def kill_after_flush(cluster: Cluster, rng: Random) -> None:
    await _kill_at(cluster, rng, "flush.after")


async def kill_when_put_away(cluster: Cluster, rng: Random) -> None:
    """A host dies with turns that are put away in Postgres and still in its memory."""
    await _kill_at(cluster, rng, "park.before_cancel")


async def kill_before_wake(cluster: Cluster, rng: Random) -> None:
    await _kill_at(cluster, rng, "wake.before")


async def stop_before_wake(cluster: Cluster, rng: Random) -> None:
    """It goes on with a wake-up in its hands that another host has used meanwhile."""
    await _stop_past_takeover(cluster, rng, "wake.before")


async def kill_in_handover(cluster: Cluster, rng: Random) -> None:
    """A host dies after it emptied its cache of a partition and before it gave the partition back."""
    host = await _a_host(cluster, rng)
    before = cluster.folder.fired().count("handover.middle")
    await cluster.order(host.pid, faults="handover.middle=kill@1")
    target = await cluster.value("select hosts from domains")
    await cluster.set_hosts(target + 1)
    await _fired(cluster, "handover.middle", before)
    await cluster.ended(host.epoch, TAKEN_OVER_WITHIN_S)
    await cluster.set_hosts(target)


async def kill_in_acquire(cluster: Cluster, rng: Random) -> None:
    """A host takes partitions over, and dies before it has read them."""
    hosts = await cluster.settled()
    victim, heir = rng.sample(hosts, 2)
    before = cluster.folder.fired().count("acquire.middle")
    await cluster.order(heir.pid, faults="acquire.middle=kill@1")
    cluster.signal_host(victim, signal.SIGKILL)
    await _fired(cluster, "acquire.middle", before)
    await cluster.ended(heir.epoch, TAKEN_OVER_WITHIN_S)


async def kill_before_trial(cluster: Cluster, rng: Random) -> None:
    """A host takes suspect partitions over, and dies when it is about to try their first message."""
    hosts = await cluster.settled()
    victim, heir = rng.sample(hosts, 2)
    before = cluster.folder.fired().count("trial.before")
    await cluster.order(heir.pid, faults="trial.before=kill@1")
    cluster.signal_host(victim, signal.SIGKILL)
    await _fired(cluster, "trial.before", before)
    await cluster.ended(heir.epoch, TAKEN_OVER_WITHIN_S)


async def kill_in_takeover(cluster: Cluster, rng: Random) -> None:
    """The coordinator dies inside the transaction that names the new owners."""
    host = await _a_host(cluster, rng)
    before = cluster.folder.fired().count("takeover.middle")
    assert cluster.coordinator is not None
    await cluster.order(cluster.coordinator.pid)
    cluster.signal_host(host, signal.SIGKILL)
    await cluster.order(cluster.coordinator.pid, faults="takeover.middle=kill@1")
    await _fired(cluster, "takeover.middle", before)
    await cluster.ended(host.epoch, TAKEN_OVER_WITHIN_S)


async def stop_in_takeover(cluster: Cluster, rng: Random) -> None:
    """The coordinator freezes inside that transaction, with hosts' rows locked; another one claims the domain."""
    host = await _a_host(cluster, rng)
    before = cluster.folder.fired().count("takeover.middle")
    frozen = cluster.coordinator
    assert frozen is not None
    await cluster.order(frozen.pid)
    cluster.signal_host(host, signal.SIGKILL)
    await cluster.order(frozen.pid, faults="takeover.middle=stop@1")
    await _fired(cluster, "takeover.middle", before)
    cluster.start_coordinator()
    await cluster.progress(200)
    frozen.send_signal(signal.SIGCONT)
    await cluster.gone(frozen.pid, EXITS_WITHIN_S)
    frozen.wait()


# -- events and tasks --------------------------------------------------------------------------------


async def _events_go_on(cluster: Cluster) -> None:
    """Wait until another event has become a message."""
    before = await cluster.value("select seq from event_cursors")

    async def look() -> bool:
        return bool(
            await cluster.value("select exists (select from event_cursors where seq > $1)", before or 0)
        )

    await cluster.until(look, "an event to be accepted", 30)


async def _event_reader(cluster: Cluster) -> HostRow:
    """The host that owns the first partition, with the events of the domain."""
    await _events_go_on(cluster)
    return next(host for host in await cluster.settled() if 0 in host.owned)


async def kill_event_reader(cluster: Cluster, rng: Random) -> None:
    host = await _event_reader(cluster)
    cluster.signal_host(host, signal.SIGKILL)
    await cluster.ended(host.epoch, TAKEN_OVER_WITHIN_S)
    await _events_go_on(cluster)


async def stop_event_reader_past_its_takeover(cluster: Cluster, rng: Random) -> None:
    """It wakes with events in its hands that another host has accepted meanwhile."""
    host = await _event_reader(cluster)
    cluster.signal_host(host, signal.SIGSTOP)
    await cluster.ended(host.epoch, TAKEN_OVER_WITHIN_S)
    await _events_go_on(cluster)
    cluster.signal_host(host, signal.SIGCONT)
    await cluster.gone(host.pid, EXITS_WITHIN_S)


async def _kill_at_assignment(cluster: Cluster, point: str, rng: Random) -> None:
    before = cluster.folder.fired().count(point)
    assert cluster.coordinator is not None
    await cluster.order(cluster.coordinator.pid, faults=f"{point}=kill@{rng.randint(1, 3)}")
    await _fired(cluster, point, before)


async def kill_before_assignment(cluster: Cluster, rng: Random) -> None:
    """The coordinator dies with a task marked and its agent told, and nothing of it committed."""
    await _kill_at_assignment(cluster, "assign.before_commit", rng)


async def kill_after_assignment(cluster: Cluster, rng: Random) -> None:
    """The coordinator dies when an assignment is committed and the task's host has not heard of it."""
    await _kill_at_assignment(cluster, "assign.after_commit", rng)


async def stop_in_assignment(cluster: Cluster, rng: Random) -> None:
    """The coordinator freezes with tasks locked; another one leads and assigns them."""
    point = "assign.before_commit"
    before = cluster.folder.fired().count(point)
    frozen = cluster.coordinator
    assert frozen is not None
    await cluster.order(frozen.pid, faults=f"{point}=stop@1")
    await _fired(cluster, point, before)
    waiting = await cluster.sql("select id from tasks where status = 'submitted'")
    if not waiting:
        raise Void("no task was about to be assigned")
    cluster.start_coordinator()

    async def look() -> bool:
        return not await cluster.value(
            "select exists (select from tasks where status = 'submitted' and id = any ($1))",
            [row["id"] for row in waiting],
        )

    await cluster.until(look, "the tasks to be assigned by another coordinator", TAKEN_OVER_WITHIN_S)
    frozen.send_signal(signal.SIGCONT)
    await cluster.gone(frozen.pid, EXITS_WITHIN_S)
    frozen.wait()


# -- placement ---------------------------------------------------------------------------------------


async def hand_back_and_forth(cluster: Cluster, rng: Random) -> None:
    """Swap what two hosts should own, several times while they work."""
    for _ in range(rng.randint(2, 4)):
        hosts = await cluster.settled()
        one, other = rng.sample(hosts, 2)
        count = rng.randint(1, min(len(one.owned), len(other.owned)))
        here, there = set(rng.sample(sorted(one.owned), count)), set(rng.sample(sorted(other.owned), count))
        await _swap(cluster, one, other, here, there)
        cluster.note(f"{sorted(here)} to epoch {other.epoch}, {sorted(there)} to epoch {one.epoch}")


async def _swap(cluster: Cluster, one: HostRow, other: HostRow, here: set[int], there: set[int]) -> None:
    """Give `here` of one to the other and `there` of the other to the one; wait until the former has arrived."""

    async def swap(db: asyncpg.Connection[Any]) -> None:
        async with db.transaction():
            await db.execute("select from coordinators where name = $1 for update", DOMAIN)
            for host, wanted in ((one, one.owned - here | there), (other, other.owned - there | here)):
                await db.execute(query("set_wanted"), DOMAIN, host.epoch, sorted(wanted), False)

    async def moved() -> bool:
        return any(h.epoch == other.epoch and here <= h.owned for h in await cluster.hosts())

    await cluster.retried(swap)
    await cluster.until(moved, f"partitions {sorted(here)} to reach epoch {other.epoch}", 20)


async def one_more_and_one_less(cluster: Cluster, rng: Random) -> None:
    target = await cluster.value("select hosts from domains")
    for hosts in (target + 1, target):
        await cluster.set_hosts(hosts)
        await cluster.settled()
        cluster.note(f"{hosts} hosts")
        await cluster.progress(rng.randint(50, 200))


# -- agents ------------------------------------------------------------------------------------------


async def pause_and_resume(cluster: Cluster, rng: Random) -> None:
    """Some agents are paused, their partitions move, and they are resumed: what came meanwhile comes in order."""
    known = [r["agent"] for r in await cluster.sql("select agent from agents where agent like 'walker/%'")]
    chosen = rng.sample(sorted(known), min(10, len(known)))
    await _control(cluster, chosen, "callboard.pause.v1", {"reason": "a test"})
    await cluster.until(lambda: _lifecycle(cluster, chosen, "paused"), f"{chosen} to be paused", 30)
    await rng.choice((kill_host, hand_back_and_forth, restart_nats))(cluster, rng)
    await cluster.progress(100)
    await _control(cluster, chosen, "callboard.resume.v1", {})
    await cluster.until(lambda: _lifecycle(cluster, chosen, "running"), f"{chosen} to be resumed", 30)
    cluster.note(f"{chosen} paused and resumed")


async def _control(cluster: Cluster, agents: list[str], type_: str, payload: dict[str, str]) -> None:
    partitions = int(await cluster.value("select partitions from domains"))
    rows = [outside(new_id(), agent, type_, payload, partitions, control=True) for agent in agents]
    await accept(cluster, rows)
    cluster.extra_turns.update(agents)
    transport = await NatsTransport.connect(cluster.nats_url, name="operator")
    nudge(transport, {row[3] for row in rows})
    await transport.flush()
    await transport.close()


async def _lifecycle(cluster: Cluster, agents: list[str], lifecycle: str) -> bool:
    there = await cluster.value(
        "select count(*) from agents where agent = any ($1) and lifecycle = $2", agents, lifecycle
    )
    return bool(there == len(agents))


# -- services ----------------------------------------------------------------------------------------


async def crash_postgres(cluster: Cluster, rng: Random) -> None:
    await cluster.crash_postgres()
    cluster.note("Postgres crashed and is back")
    await cluster.progress(50, timeout_s=45)


async def kill_host_while_postgres_is_away(cluster: Cluster, rng: Random) -> None:
    host = await _a_host(cluster, rng)
    await cluster.stop_postgres()
    cluster.signal_host(host, signal.SIGKILL)
    await cluster.postgres.start()
    await cluster.ended(host.epoch, TAKEN_OVER_WITHIN_S)
    cluster.note(f"epoch {host.epoch} killed while Postgres was away")


async def kill_host_while_nats_is_away(cluster: Cluster, rng: Random) -> None:
    """The takeover and its aftermath go without the bus; the new host cannot start before it is back."""
    host = await _a_host(cluster, rng)
    await cluster.kill_nats()
    cluster.signal_host(host, signal.SIGKILL)
    await cluster.ended(host.epoch, TAKEN_OVER_WITHIN_S)
    await cluster.progress(50)
    await cluster.start_nats()
    cluster.note(f"epoch {host.epoch} killed while NATS was away")


async def lose_answers(cluster: Cluster, rng: Random) -> None:
    """Some commits are not written, others are, and their host gets no answer either way."""
    host = await _a_host(cluster, rng)
    before = cluster.folder.fired().count("lost")
    await cluster.order(host.pid, lose=rng.getrandbits(32))
    await cluster.until(lambda: _more_fired(cluster, "lost", before + 10), "ten answers to be lost", 30)
    await cluster.order(host.pid)
    cluster.note(f"epoch {host.epoch} got no answers for a while")


async def _more_fired(cluster: Cluster, fault: str, than: int) -> bool:
    return cluster.folder.fired().count(fault) > than


async def cut_connections(cluster: Cluster, rng: Random) -> None:
    """End the backends of hosts in the middle of their commits, again and again."""
    cut = 0
    for _ in range(rng.randint(15, 30)):

        async def strike() -> int:
            return int(
                await cluster.value(
                    "select count(pg_terminate_backend(pid)) from pg_stat_activity"
                    " where application_name like 'callboard-host %' and datname = current_database()"
                    " and state = 'active' and query like '%select commit_%'"
                )
            )

        cut += await cluster.until(strike, "a commit to be cut off", 20, poll_s=0.002)
        await asyncio.sleep(rng.uniform(0, 0.05))
    cluster.note(f"{cut} commits cut off")


async def restart_nats(cluster: Cluster, rng: Random) -> None:
    await cluster.kill_nats()
    await cluster.progress(20)
    await cluster.start_nats()
    cluster.note("NATS killed and started")


async def drop_deliveries(cluster: Cluster, rng: Random) -> None:
    """Nothing that NATS delivers reaches some hosts for a while, and nothing tells them."""
    hosts = await cluster.settled()
    deaf = [host for host in hosts if rng.random() < 0.7] or hosts
    for host in deaf:
        await cluster.order(host.pid, drop=True)
    await cluster.progress(rng.randint(50, 200))
    before = cluster.folder.fired().count("dropped")
    for host in deaf:
        await cluster.order(host.pid, drop=False)

    async def look() -> bool:
        return cluster.folder.fired().count("dropped") == before + len(deaf)

    await cluster.until(look, "the hosts to hear again", 10)
    if cluster.folder.dropped() == 0:
        raise Void("no delivery was dropped")
    cluster.note(f"epochs {[h.epoch for h in deaf]} were deaf")


ALL: tuple[Fault, ...] = (
    kill_host, kill_all_hosts, kill_coordinator, kill_coordinator_and_host, stop_host_past_its_takeover,
    stop_coordinator, kill_before_commit, kill_after_commit, stop_before_commit, stop_between_fence_and_commit, kill_in_handover,
    kill_in_acquire, kill_before_trial, kill_in_takeover, stop_in_takeover, hand_back_and_forth,
    one_more_and_one_less, pause_and_resume, kill_host_while_postgres_is_away, kill_host_while_nats_is_away,
    lose_answers, crash_postgres, cut_connections, restart_nats, drop_deliveries, kill_event_reader,
    stop_event_reader_past_its_takeover, kill_before_flush, kill_after_flush, kill_when_put_away, kill_before_wake,
    stop_before_wake, kill_before_assignment, kill_after_assignment, stop_in_assignment,
)  # fmt: skip
BY_NAME: dict[str, Fault] = {fault.__name__: fault for fault in ALL}
