"""`domains` and `domains remove`: hosts drained, data kept or deleted, other domains undisturbed."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Any

import pytest

from bus.address import parse_address
from bus.errors import DomainBusy, StorageError, UnknownDomain
from bus.events import EventStream
from callboard import removal
from callboard.cli.moved import say_if_moved
from coordinators.master import Master
from storage.domains import (
    DomainRow,
    all_domains,
    delete_domain,
    find_domain,
    put_others_to_sleep,
    register_domain,
    unregister_domain,
    wake_all_domains,
)
from storage.intake import Incoming, accept
from storage.placement import claim_coordinator, live_hosts
from storage.queries import query
from tests.integration.cli import Cli, note, until
from tests.integration.deployment import Deployment, cancelled


async def neighbour(desk: Deployment) -> dict[str, int]:
    """A second domain with a row in every table that the first one has rows in; how many it has in each."""
    await register_domain(desk.pool, desk.row._replace(domain="other"))
    for table in await tables(desk):
        columns = await desk.fetch(
            "select attname from pg_attribute where attrelid = $1::regclass and attnum > 0"
            " and attidentity = '' and not attisdropped and attname <> 'domain'",
            table,
        )
        names = ", ".join(f'"{name}"' for (name,) in columns)
        await desk.pool.execute(
            f"insert into {table} (domain, {names}) select 'other', {names} from {table} where domain = 'desk'"  # noqa: S608
        )
    return await rows_of(desk, "other")


async def tables(desk: Deployment) -> list[str]:
    """Every table with rows of domains, but for domains itself."""
    rows = await desk.fetch(
        "select c.relname from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'domain'"
        " where c.relnamespace = 'callboard'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition"
        " and c.relname <> 'domains' order by 1"
    )
    return [name for (name,) in rows]


async def rows_of(desk: Deployment, domain: str) -> dict[str, int]:
    """How many rows a domain has in each table; hosts beat, so those two are left out."""
    found = {}
    for table in await tables(desk):
        if table not in ("hosts", "heartbeats"):
            ((count,),) = await desk.fetch(f"select count(*) from {table} where domain = $1", domain)  # noqa: S608
            found[table] = count
    return found


async def at_work(desk: Deployment) -> None:
    """The desk has an agent with history, a dead letter, a finished task, and what else a domain gathers."""
    await note(desk, "a", "first", "poison")
    await until(lambda: desk.fetch("select from dead_letters"))
    await desk.client.wait(await desk.submit({"lines": 0}), timeout_s=20)
    await until(lambda: desk.fetch("select from agents where agent = 'clerk/a' and version = 2"))
    await desk.pool.execute(
        "insert into timers (domain, tenant, partition, agent, seq, due_at, id, header, payload)"
        " values ('desk', 'default', 0, 'clerk/a', 9, now() + interval '1 day', gen_random_uuid(), '{}', '{}')"
    )
    await desk.pool.execute("insert into blobs values ('desk', 'default', 'digest', 'x')")
    await desk.pool.execute("insert into domain_code values ('desk', 'digest', 'x')")


async def test_domains_are_listed_with_kinds_and_code(cli: Cli, desk: Deployment) -> None:
    await note(desk, "a", "first")
    await until(lambda: desk.fetch("select from agents"))
    await desk.forsake()  # no host of the code to come is there
    await desk.pool.execute("update domains set code = repeat('ab', 32)")
    (domain,) = (await cli.json("domains"))["domains"]
    assert (domain["domain"], domain["state"], domain["partitions"], domain["agents"]) == (
        "desk",
        "active",
        4,
        1,
    )
    assert (domain["hosts"], domain["kinds"], domain["code"]) == (1, ["clerk"], "ab" * 32)
    text = await cli("domains")
    assert "abababababab" in text
    assert "ab" * 7 not in text


async def test_a_removed_domain_keeps_its_data_and_comes_back_with_it(cli: Cli, desk: Deployment) -> None:
    await note(desk, "a", "first")
    await until(lambda: desk.fetch("select from agents where version = 1"))
    done = await cli.json("domains", "remove", "desk", "--yes")
    assert (done["hosts_drained"], done["hosts_fenced"], done["data_deleted"]) == (1, 0, False)
    assert await desk.fetch("select ended_why, owned from hosts") == [("drained", [])]
    assert await desk.fetch("select suspect from domains") == [([],)]
    with pytest.raises(UnknownDomain):
        await note(desk, "a", "refused")
    with pytest.raises(UnknownDomain):
        await desk.submit({"lines": 0})
    with pytest.raises(UnknownDomain, match="was removed"):
        await find_domain(desk.pool, "desk")
    assert [row["address"] for row in (await cli.json("agents", "desk"))["agents"]] == ["desk/clerk/a"]
    assert (await cli.json("agent", "desk/clerk/a"))["chain"]["intact"] is True
    assert [d["state"] for d in (await cli.json("domains"))["domains"]] == ["removed"]
    assert (await cli.json("status"))["domains"] == []
    assert (await cli.json("doctor"))["healthy"] is True

    await register_domain(desk.pool, desk.row)
    await desk.pool.execute(query("set_host_target"), "desk", 1)
    await note(desk, "a", "second")
    await until(lambda: desk.fetch("select from agents where version = 2"))
    assert (await cli.json("agent", "desk/clerk/a"))["state"]["notes"] == ["first", "second"]


async def test_a_domain_with_unfinished_tasks_is_not_removed_without_force(
    cli: Cli, desk: Deployment
) -> None:
    task = await desk.submit({"lines": 1})
    await until(lambda: desk.fetch("select from tasks where status = 'running'"))
    said = await cli.error("domains", "remove", "desk", "--yes")
    assert "has tasks that have not ended. `callboard tasks --domain desk --open` lists them" in said
    assert [row.state for row in await all_domains(desk.pool)] == ["active"]
    await cli("domains", "remove", "desk", "--yes", "--force")
    assert await all_domains(desk.pool) == []
    assert (await cli.json("task", task))["status"] == "running"


async def test_nobody_is_asked_where_nobody_can_answer(
    cli: Cli, desk: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Give --yes" in await cli.error("domains", "remove", "desk")
    assert "There is no domain 'other'" in await cli.error("domains", "remove", "other", "--yes")
    asked: list[str] = []

    def answer(yes: bool) -> None:
        def confirm(question: str, *, err: bool) -> bool:
            asked.append(question)
            return yes

        monkeypatch.setattr("sys.stdin.isatty", lambda: True)
        monkeypatch.setattr("typer.confirm", confirm)

    answer(False)
    await cli("domains", "remove", "desk", "--delete-data", code=1)
    assert cli.err.endswith("Nothing was changed.\n")
    assert asked[0].startswith("Delete the domain desk for good, with its history (0 agents")
    assert len(await all_domains(desk.pool)) == 1
    answer(True)
    assert "Its data stays" in await cli("domains", "remove", "desk")


async def test_deleting_takes_every_row_of_the_domain_and_none_of_another(cli: Cli, desk: Deployment) -> None:
    await at_work(desk)
    before = await neighbour(desk)
    for table in ("agents", "dead_letters", "tasks", "task_events", "timers", "transitions", "blobs", "seen"):
        assert before.get(table) or table == "seen", table
    await desk.pool.execute("update hosts set ended_at = now() where domain = 'other'")
    done = await cli.json("domains", "remove", "desk", "--yes", "--delete-data")
    assert done["deleted"]["transitions"] >= 3
    assert set((await rows_of(desk, "desk")).values()) == {0}
    assert await desk.fetch("select from hosts where domain = 'desk'") == []
    assert await desk.fetch("select name from coordinators") == []
    assert await rows_of(desk, "other") == before
    assert [row.domain for row in await all_domains(desk.pool, removed=True)] == ["other"]


async def test_a_deleted_domain_begins_anew_and_hears_no_old_event(cli: Cli, desk: Deployment) -> None:
    stream, key = EventStream(desk.transport), secrets.token_hex(4)
    await stream.ensure()  # the host that does so may be yet to come
    event = f'{{"task": "{key}", "number": 1, "text": "old"}}'.encode()
    await stream.publish("desk", "note", event, message_id=key)
    await until(lambda: desk.fetch("select from agents where agent = $1", f"clerk/{key}"))
    await cli("domains", "remove", "desk", "--yes", "--delete-data")
    await desk.forsake()
    # Other agents may have had messages for it on their way, which are not for the one that has its name next.
    await desk.pool.execute(
        "insert into mailbox (domain, tenant, partition, agent, seq, id, header, payload)"
        " values ('desk', 'default', 99, 'clerk/a', 9, gen_random_uuid(), '{}', '{}')"
    )
    await register_domain(desk.pool, desk.row)
    assert await desk.fetch("select from mailbox") == []
    await desk.coordinate()
    # The same event, under the same key, is a new one here.
    await stream.publish("desk", "note", event.replace(b"old", b"new"), message_id=key)
    mine = "select state ->> 'notes' from agents where agent = $1"
    assert await until(lambda: desk.fetch(mine, f"clerk/{key}")) == [('["new"]',)]


async def test_a_deletion_that_was_cut_off_goes_on_and_nothing_is_registered_meanwhile(
    cli: Cli, desk: Deployment
) -> None:
    await at_work(desk)
    await cli("domains", "remove", "desk", "--yes")

    def cut(table: str, rows: int) -> None:
        raise ConnectionResetError

    with pytest.raises(StorageError):
        await delete_domain(desk.pool, "desk", cut)
    assert (await find_domain(desk.pool, "desk", removed=True)).state == "deleting"
    with pytest.raises(StorageError, match="is being deleted"):
        await register_domain(desk.pool, desk.row)
    await cli("domains", "remove", "desk", "--yes", "--delete-data")
    assert set((await rows_of(desk, "desk")).values()) == {0}
    await register_domain(desk.pool, desk.row)


async def test_nothing_is_deleted_of_a_domain_that_is_registered_again_while_it_is_removed(
    desk: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    await at_work(desk)
    await desk.forsake()
    end_hosts, stream = removal._end_hosts, EventStream(desk.transport)
    before: dict[str, int] = {}

    async def ended(*given: Any) -> tuple[int, int]:
        done = await end_hosts(*given)
        await register_domain(desk.pool, desk.row)
        await stream.publish("desk", "note", b"unread")
        before.update(await rows_of(desk, "desk"))
        return done

    monkeypatch.setattr(removal, "DRAINED_WITHIN_S", 0.5)
    monkeypatch.setattr(removal, "_end_hosts", ended)
    with pytest.raises(DomainBusy, match="registered again"):
        await removal.remove_domain(desk.pool, desk.transport, "desk", delete_data=True)
    assert await rows_of(desk, "desk") == before
    assert (await stream.subjects())["callboard.events.desk.note"] > 0
    assert (await find_domain(desk.pool, "desk")).state == "active"


async def test_a_task_that_was_on_its_way_in_when_its_domain_was_removed_is_not_deleted(
    desk: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_hosts = removal._end_hosts
    task = "0190aaaa-0000-7000-8000-000000000001"

    async def ended(*given: Any) -> tuple[int, int]:
        await desk.pool.execute(
            "insert into tasks (domain, tenant, id, status, goal, input, priority)"
            " values ('desk', 'default', $1, 'submitted', 'go', 'null', 5) on conflict do nothing",
            task,
        )
        return await end_hosts(*given)

    monkeypatch.setattr(removal, "_end_hosts", ended)
    with pytest.raises(DomainBusy, match="tasks that have not ended"):
        await removal.remove_domain(desk.pool, desk.transport, "desk", delete_data=True)
    assert (await find_domain(desk.pool, "desk", removed=True)).state == "removed"
    assert (await desk.client.find(task)).status == "submitted"
    done = await removal.remove_domain(desk.pool, desk.transport, "desk", delete_data=True, force=True)
    assert done.deleted["tasks"] == 1


async def test_hosts_that_nobody_drains_are_fenced_off(
    cli: Cli, desk: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    await until(lambda: desk.fetch("select from hosts where cardinality(owned) = 4 and ready_at is not null"))
    await desk.forsake()  # no coordinator drains it
    monkeypatch.setattr(removal, "DRAINED_WITHIN_S", 0.5)
    done = await cli.json("domains", "remove", "desk", "--yes")
    assert (done["hosts_drained"], done["hosts_fenced"]) == (0, 1)
    assert await live_hosts(desk.pool, "desk") == []
    assert await desk.fetch("select suspect from domains") == [([0, 1, 2, 3],)]


class Leaders:
    """Implements coordinators.launcher.Leaders, and remembers."""

    def __init__(self, *led: str) -> None:
        self.domains = set(led)

    async def lead(self, domain: str) -> None:
        self.domains.add(domain)

    async def led(self) -> set[str]:
        return set(self.domains)

    async def end(self, domain: str) -> None:
        self.domains.remove(domain)


async def test_the_master_ends_the_coordinator_of_a_removed_domain_once_its_hosts_are_gone(
    desk: Deployment,
) -> None:
    await register_domain(desk.pool, desk.row._replace(domain="other"))
    await until(lambda: live_hosts(desk.pool, "desk"))
    await desk.forsake()
    leaders = Leaders("desk", "gone")
    await unregister_domain(desk.pool, "desk")
    master = asyncio.create_task(
        Master(desk.pool, await claim_coordinator(desk.pool, "master", "test"), leaders).run()
    )
    try:

        async def has_ended(domain: str) -> bool:
            return domain not in leaders.domains

        await until(lambda: has_ended("gone"))
        assert leaders.domains == {"desk", "other"}  # a host of it is there to be drained
        await desk.pool.execute("update hosts set ended_at = now(), owned = '{}' where domain = 'desk'")
        await until(lambda: has_ended("desk"))
        assert await until(lambda: desk.fetch("select hosts from domains where domain = 'other'")) == [(1,)]
        assert await desk.fetch("select from coordinators where name = 'desk'") == []
    finally:
        await cancelled(master)


async def test_a_domain_that_is_asleep_wakes_when_it_is_sent_a_message(desk: Deployment) -> None:
    other = DomainRow("other", 4, desk.row.spec, desk.row.kinds, desk.row.home, "")
    await register_domain(desk.pool, other)
    await send(desk, "other")  # what waited before is no reason to wake
    await put_others_to_sleep(desk.pool, "desk")
    leaders = Leaders()
    master = asyncio.create_task(
        Master(desk.pool, await claim_coordinator(desk.pool, "master", "test"), leaders).run()
    )
    try:

        async def is_led(domain: str) -> bool:
            return domain in leaders.domains

        await until(lambda: is_led("desk"))
        await asyncio.sleep(1.5)  # longer than it takes to look once
        assert leaders.domains == {"desk"}
        assert await desk.fetch("select state, hosts from domains where domain = 'other'") == [("asleep", 0)]
        await send(desk, "other")
        await until(lambda: is_led("other"))
        assert await desk.fetch("select state from domains where domain = 'other'") == [("active",)]
    finally:
        await cancelled(master)


async def send(desk: Deployment, domain: str) -> None:
    from desk.agents import Note

    message = Incoming(to=parse_address(f"{domain}/clerk/a"), message=Note(task="a", number=1, text="x"))
    await accept(desk.pool, desk.transport, [message])


async def test_a_task_wakes_its_domain_and_so_does_up(desk: Deployment) -> None:
    await put_others_to_sleep(desk.pool, "somebody")
    assert [row.state for row in await all_domains(desk.pool)] == ["asleep"]
    await desk.submit({"lines": 0})
    assert [row.state for row in await all_domains(desk.pool)] == ["active"]
    await put_others_to_sleep(desk.pool, "somebody")
    await wake_all_domains(desk.pool)
    assert [row.state for row in await all_domains(desk.pool)] == ["active"]


async def test_removing_is_refused_by_a_task_that_is_stuck_or_waits(desk: Deployment) -> None:
    await desk.forsake()
    await desk.submit({"lines": 0})
    with pytest.raises(DomainBusy):
        await unregister_domain(desk.pool, "desk")
    await desk.pool.execute("update tasks set finished_at = now(), status = 'completed'")
    await unregister_domain(desk.pool, "desk")
    await unregister_domain(desk.pool, "desk")  # once more changes nothing


async def test_a_domain_that_comes_from_another_folder_is_named_with_both(
    cli: Cli, desk: Deployment, tmp_path: Path
) -> None:
    cli.discard()
    await say_if_moved(desk.pool, "desk", Path(desk.row.home))
    await say_if_moved(desk.pool, "unheard_of", tmp_path)
    assert cli.discard() == ""
    await say_if_moved(desk.pool, "desk", tmp_path)
    assert cli.discard() == f"the domain desk now comes from {tmp_path} (before: {desk.row.home})\n"
