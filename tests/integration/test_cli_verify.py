"""`verify`: whoever edits a history, a state or a recorded value is found, wherever that stands."""

from __future__ import annotations

from collections.abc import AsyncIterator
from hashlib import sha256

import pytest

from callboard.services import Endpoints
from storage.inspect import verify_all
from storage.inspect.rows import in_index_order
from storage.inspect.verify import AgentVerdict, Place, Walk
from storage.queries import query
from tests.integration.cli import Cli, desk_at_work, note, until
from tests.integration.deployment import Deployment
from tests.integration.vigil_at_work import ORACLE, RUNNER, has_turn, send, vigil_at_work, waits_for


@pytest.fixture
async def desk(
    services: Endpoints, database: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Deployment]:
    """Five clerks with five turns each."""
    async with desk_at_work(services, database, monkeypatch) as desk:
        for key in "abcde":
            await note(desk, key, *(f"{key}{n}" for n in range(5)))
        await until(
            lambda: desk.fetch("select from agents group by version having version = 5 and count(*) = 5")
        )
        yield desk


@pytest.fixture
async def vigil(
    services: Endpoints, database: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Deployment]:
    """A runner that has computed, asked and ended."""
    async with vigil_at_work(services, database, monkeypatch) as vigil:
        from vigil.agents import Errand, Speak

        await send(vigil, RUNNER, Errand())
        await waits_for(vigil, "ask")
        await send(vigil, ORACLE, Speak())
        await has_turn(vigil, RUNNER, 1)
        yield vigil


CLERK_C = "agent = 'clerk/c'"
EDITS = {
    "a body": ("update transitions set body = replace(body::text, 'c2', 'c9')::json", "version = 3", 3, "body hash"),
    "a body and its hash": (
        "update transitions set body = replace(body::text, 'c2', 'c9')::json,"
        " hash = sha256(prev || convert_to(replace(body::text, 'c2', 'c9'), 'UTF8'))",
        "version = 3", 4, "previous hash",
    ),
    "a row": ("delete from transitions", "version = 3", 3, "missing version"),
    "two swapped": ("update transitions set version = 7 - version", "version in (3, 4)", 3, "previous hash"),
    "the newest row": ("delete from transitions", "version = 5", 5, "missing version"),
    "the beginning": ("delete from transitions", "version < 3", 1, "missing version"),
    "all rows": ("delete from transitions", "true", 1, "missing version"),
    "more than was dropped": (
        "with gone as (delete from transitions where agent = 'clerk/c' and version < 3 returning *)"
        " insert into history_anchors select domain, tenant, agent, version, hash, now() from gone",
        "version = 1", 2, "missing version",
    ),
    "one twice": (
        "insert into transitions select domain, tenant, agent, version, at, body, prev, hash from transitions",
        "version = 3", 4, "missing version",
    ),
    "a state": ("update agents set state = '{\"expected\":-1,\"notes\":[]}'", "true", 5, "state hash"),
    "the task beside a body": ("update transitions set task = 'desk/other'", "version = 4", 4, "task"),
    "an older version": ("update agents set version = 4", "true", 5, "newest hash"),
    "the agent's row": ("delete from agents", "true", 5, "newest hash"),
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
async def test_an_edit_is_found_wherever_a_page_ends(desk: Deployment, edit: str) -> None:
    statement, where, version, what = EDITS[edit]
    pages = (2, 3, 5, 7, 5_000)
    for page in pages:
        before = await verify_all(desk.pool, page=page)
        assert (before.is_intact, before.agents, before.transitions) == (True, 5, 25), page
    await desk.pool.execute(f"{statement} where {CLERK_C} and {where}")
    for page in pages:
        found = await verify_all(desk.pool, page=page)
        assert [(b.address, b.version, b.what) for b in found.broken] == [("desk/clerk/c", version, what)], (
            page
        )
        assert (found.agents, found.broken_agents, found.is_intact) == (5, 1, False), page


async def test_the_command_names_what_is_broken_and_fails(cli: Cli, desk: Deployment) -> None:
    assert "✓ every chain is intact: 5 agents with 25 transitions, in 1 domain" in await cli("verify")
    assert (await cli.json("verify", "--domain", "desk"))["intact"] is True
    await desk.pool.execute("delete from transitions where agent = 'clerk/b' and version = 2")
    await desk.pool.execute("update agents set state = '{}' where agent = 'clerk/d'")
    text = await cli("verify", code=1)
    assert "✗ 2 histories broken, of 5 agents" in text
    assert "compare with a backup" in cli.err
    shown = await cli.json("verify", code=1)
    assert [(b["address"], b["version"], b["what"]) for b in shown["broken"]] == [
        ("desk/clerk/b", 2, "missing version"),
        ("desk/clerk/d", 5, "state hash"),
    ]
    assert "There is no domain 'other'" in await cli.error("verify", "--domain", "other")


JOURNAL_EDITS = {
    "a value": ("update journal set value = '99' where kind = 'step' and ok", "has otherwise"),
    "an outcome": ("update journal set ok = not ok where kind = 'step'", "has otherwise"),
    "a name": ("update journal set name = 'other' where kind = 'ask'", "has otherwise"),
    "an answer": (
        "update journal set value = replace(value::text, 'yes', 'no')::json where kind = 'ask'",
        "has otherwise",
    ),
    "a value in a blob that is gone": (
        "update journal set value = 'null', blob = encode(sha256(convert_to(value::text, 'UTF8')), 'hex')"
        " where kind = 'step' and ok",
        "has otherwise",
    ),
    "a row": ("delete from journal where kind = 'ask'", "lacks"),
}


@pytest.mark.parametrize("edit", JOURNAL_EDITS)
async def test_a_journal_that_was_edited_is_found(cli: Cli, vigil: Deployment, edit: str) -> None:
    statement, says = JOURNAL_EDITS[edit]
    assert (await verify_all(vigil.pool)).is_intact
    assert (await vigil.pool.execute(statement)) != "UPDATE 0"
    [broken] = (await verify_all(vigil.pool)).broken
    assert (broken.address, broken.version, broken.what) == (RUNNER, 1, "journal value")
    assert says in broken.detail
    assert "✗ The history of vigil/runner/a is broken: version 1 has a call at" in await cli(
        "agent", RUNNER, code=1
    )


async def test_a_journal_that_retention_has_dropped_is_not_missed(vigil: Deployment) -> None:
    await vigil.pool.execute("delete from journal")
    [(month,)] = await vigil.fetch("select to_char(now(), 'YYYYMM')")
    await vigil.pool.execute(f"drop table journal_{month}")
    assert (await verify_all(vigil.pool)).is_intact


async def test_an_edited_blob_is_found(cli: Cli, desk: Deployment) -> None:
    await desk.pool.execute(
        "insert into blobs select 'desk', 'default', encode(sha256(b), 'hex'), b"
        " from (select convert_to(n::text, 'UTF8') as b from generate_series(1, 200) n) x"
    )
    found = await verify_all(desk.pool)
    assert (found.blobs, found.broken_blobs) == (200, [])
    digest = sha256(b"77").hexdigest()
    await desk.pool.execute("update blobs set bytes = 'edited' where digest = $1", digest)
    assert (await verify_all(desk.pool)).broken_blobs == [digest]
    assert f"The blob {digest} does not hash to its name." in await cli("verify", code=1)


async def test_a_payload_whose_blob_is_gone_is_found(desk: Deployment) -> None:
    large = "x" * 300_000
    await note(desk, "c", large)
    await until(lambda: desk.fetch("select from agents where agent = 'clerk/c' and version = 6"))
    assert (await verify_all(desk.pool)).is_intact
    kept = await desk.pool.fetch("delete from blobs returning *")
    assert len(kept) == 1
    [broken] = (await verify_all(desk.pool)).broken
    assert (broken.address, broken.version, broken.what) == ("desk/clerk/c", 6, "payload")


async def test_agents_that_go_on_meanwhile_are_no_broken_ones(desk: Deployment) -> None:
    """Each page has a snapshot of its own; between them every agent has further turns."""
    walk = Walk(desk.pool, "desk", Place("", "", None), ("\U0010ffff", ""), 3)
    seen: list[AgentVerdict] = []
    async for agents in walk.pages():
        seen += agents
        [(before,)] = await desk.fetch("select min(version) from agents")
        for key in "abcde":
            await note(desk, key, f"meanwhile {before}")

        async def have_gone_on(version: int = before) -> bool:
            return bool((await desk.fetch("select min(version) from agents"))[0][0] > version)

        if len(seen) < 4:
            await until(have_gone_on)
    assert [agent.broken for agent in seen] == [None] * 5
    assert sum(agent.length for agent in seen) > 25


async def test_a_page_is_read_along_the_index_whatever_the_statistics_say(desk: Deployment) -> None:
    """Sorting what is left of the history for each page would take the square of its length."""
    await desk.pool.execute("analyze transitions")  # they will say 25
    await desk.pool.execute(
        "insert into transitions (domain, tenant, agent, version, body, prev, hash)"
        " select 'desk', 'default', 'clerk/' || n % 100, n, '{}', '', '' from generate_series(1, 20000) n"
    )
    sql = query("verify_links")
    for place, value in enumerate(("'desk'", "''", "''", "0", "'z'", "''", "100"), start=1):
        sql = sql.replace(f"${place}", value)
    async with in_index_order(desk.pool) as db:
        plan = "\n".join(row[0] for row in await db.fetch(f"explain {sql}"))
    assert "Merge Append" in plan
    assert "Seq Scan on transitions" not in plan
