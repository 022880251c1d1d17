"""Tasks whose work crosses domains and goes wrong there, on real Postgres and NATS, with real hosts."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors.control import DropDeadLetter, Pause, RetryDeadLetter
from actors.domain import load_domain, read_domain
from bus.address import parse_address
from bus.errors import InvalidTask, TaskError, TaskFailed
from bus.event import TASK_HEADER
from bus.events import EventStream
from callboard.cli import follow, idle
from callboard.cli.approving import by_people
from callboard.cli.following import _follow
from callboard.services import Endpoints
from storage.inspect import (
    DeadLetterView,
    TaskView,
    find_task,
    is_idle,
    list_dead_letters_of_task,
    list_tasks,
    tasks,
)
from storage.intake import Incoming, accept
from tests.integration.cli import until
from tests.integration.deployment import Deployment

ERRANDS = Path(__file__).parent / "errands"
SOON_S = 20.0


@contextlib.asynccontextmanager
async def both(
    services: Endpoints, database: str, **tasks: Any
) -> AsyncIterator[tuple[Deployment, Deployment]]:
    async with (
        Deployment.open(ERRANDS / "office", database, services.nats_url, **tasks) as office,
        Deployment.open(ERRANDS / "depot", database, services.nats_url) as depot,
    ):
        await depot.coordinate()
        yield office, depot


@pytest.fixture
async def office(services: Endpoints, database: str, broken: set[str]) -> AsyncIterator[Deployment]:
    """The office at work, and the depot."""
    async with both(services, database) as (office, _):
        await office.coordinate()
        yield office


@pytest.fixture
def broken() -> set[str]:
    """What the depot cannot fetch."""
    folder = ERRANDS / "depot"
    load_domain(read_domain(folder), folder)  # puts its code on the path
    import errands

    things: set[str] = errands.broken
    things.clear()
    return things


async def status(at: Deployment, task: str, wanted: str) -> None:
    async def is_so() -> bool:
        return (await at.client.find(task)).status == wanted

    await until(is_so)


async def letters(at: Deployment, task: str) -> list[DeadLetterView]:
    return await list_dead_letters_of_task(at.pool, f"office/{task}", tenant="default")


async def mend(at: Deployment, letter: DeadLetterView, message: Any) -> None:
    to = parse_address(letter.address)
    await accept(at.pool, at.transport, [Incoming(to=to, message=message, control=True, any_kind=True)])


async def kinds(at: Deployment, task: str) -> list[str]:
    rows = await at.fetch("select kind from task_events where task = $1::uuid order by number", task)
    return [kind for (kind,) in rows]


async def test_an_agent_of_another_domain_reports_on_the_task_it_works_for(office: Deployment) -> None:
    task = await office.submit(["key"])
    result = await office.client.result(task, timeout_s=SOON_S)
    assert result == {"fetched": "key", "for": f"office/{task}"}
    found = await find_task(office.pool, f"office/{task}", tenant="default")
    assert (found.status, found.id, found.ref) == ("completed", task, f"office/{task}")
    assert await kinds(office, task) == ["submitted", "assigned", "running", "progress", "completed"]
    [(by,)] = await office.fetch("select body ->> 'by' from task_events where kind = 'completed'")
    assert by == "depot/porter/main"
    assert await letters(office, task) == []


async def test_a_dead_letter_in_another_domain_makes_the_task_stuck_and_its_retry_lets_it_end(
    office: Deployment, broken: set[str]
) -> None:
    broken.add("lamp")
    task = await office.submit(["lamp"])
    await status(office, task, "stuck")
    [letter] = await letters(office, task)
    assert (letter.address, letter.task) == ("depot/porter/main", f"office/{task}")
    assert [t.id for t in await list_tasks(office.pool, tenant="default", stuck=True)] == [task]
    broken.clear()
    await mend(office, letter, RetryDeadLetter(id=letter.id))
    assert (await office.client.result(task, timeout_s=SOON_S))["fetched"] == "lamp"
    assert await letters(office, task) == []
    assert await list_tasks(office.pool, tenant="default", stuck=True) == []
    log = await kinds(office, task)
    assert log == ["submitted", "assigned", "running", "stuck", "mended", "running", "progress", "completed"]


async def test_where_the_domain_says_fail_a_dead_letter_in_another_domain_fails_the_task(
    services: Endpoints, database: str, broken: set[str]
) -> None:
    broken.add("lamp")
    async with both(services, database, on_dead_letter="fail") as (office, _):
        await office.coordinate()
        with pytest.raises(TaskFailed, match="the lamp is locked away") as caught:
            await office.client.result(await office.submit(["lamp"]), timeout_s=SOON_S)
        assert caught.value.code == "dead_letter"


async def test_stuck_tasks_keep_no_other_one_waiting(
    services: Endpoints, database: str, broken: set[str]
) -> None:
    broken.add("lamp")
    async with both(services, database, concurrent=1) as (office, _):
        await office.coordinate()
        stuck = await office.submit(["lamp"])
        await status(office, stuck, "stuck")
        assert (await office.client.result(await office.submit(["key"]), timeout_s=SOON_S))[
            "fetched"
        ] == "key"


async def test_an_event_of_a_task_that_no_agent_can_be_given_makes_it_stuck_until_it_is_dropped(
    office: Deployment, broken: set[str]
) -> None:
    broken.add("lamp")
    task = await office.submit(["lamp"])
    await status(office, task, "stuck")
    [first] = await letters(office, task)
    stream = EventStream(office.transport)
    await stream.ensure()
    await stream.publish("depot", "errand", b"no JSON", headers={TASK_HEADER: f"office/{task}"})

    async def are_two() -> bool:
        return len(await letters(office, task)) == 2

    await until(are_two)
    second = (await letters(office, task))[1]
    assert second.address == "depot/events/errand"
    await mend(office, first, DropDeadLetter(id=first.id))

    async def is_mended() -> bool:
        return (await kinds(office, task)).count("mended") == 1

    await until(is_mended)
    assert (await office.client.find(task)).status == "stuck"
    await mend(office, second, DropDeadLetter(id=second.id, reason="no errand"))
    await status(office, task, "running")
    assert (await kinds(office, task))[3:] == ["stuck", "trouble", "mended", "mended", "running"]


# -- an operator -------------------------------------------------------------------------------------


async def test_an_operator_ends_a_stuck_task(office: Deployment, broken: set[str]) -> None:
    broken.add("lamp")
    task = await office.submit(["lamp"])
    await status(office, task, "stuck")
    before = await office.client.fail(task, "nobody needs the lamp")
    assert before.status == "stuck"
    with pytest.raises(TaskFailed, match="nobody needs the lamp") as caught:
        await office.client.result(task, timeout_s=SOON_S)
    assert caught.value.code == "operator"
    with pytest.raises(TaskError, match="has ended already: it is failed"):
        await office.client.fail(task, "again")
    [letter] = await letters(office, task)
    broken.clear()
    await mend(office, letter, RetryDeadLetter(id=letter.id, force=True))  # its task has ended

    async def is_late() -> bool:
        return (await kinds(office, task)).count("late") == 3  # the mend, the progress and the result

    await until(is_late)
    assert (await office.client.find(task)).status == "failed"


async def test_an_operator_ends_a_task_that_nobody_has_assigned(office: Deployment) -> None:
    await office.client.result(await office.submit(["key"]), timeout_s=SOON_S)  # a host is there
    await office.forsake()
    task = await office.submit(["lamp"])
    await office.client.fail(task, "changed my mind")
    await status(office, task, "failed")
    await office.coordinate()
    await office.client.result(await office.submit(["key"]), timeout_s=SOON_S)
    assert await kinds(office, task) == ["submitted", "failed"]


async def test_an_end_by_hand_needs_a_reason(office: Deployment) -> None:
    task = await office.submit(["key"])
    with pytest.raises(InvalidTask, match="reason"):
        await office.client.fail(task, " ")
    assert (await office.client.result(task, timeout_s=SOON_S))["fetched"] == "key"


# -- `callboard run` ---------------------------------------------------------------------------------


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "STUCK_S", 0.5)
    monkeypatch.setattr(tasks, "IDLE_S", 0.1)
    monkeypatch.setattr(idle, "_LOOK_EVERY_S", 0.2)


async def followed(office: Deployment, task: str) -> TaskView:
    """The task as it is when its `run` ends."""
    cluster: Any = SimpleNamespace(
        postgres=office.pool, transport=office.transport, settings=SimpleNamespace(tenant="default")
    )
    async with asyncio.timeout(SOON_S):
        return await _follow(cluster, "office", task, by_people, live=False)


@pytest.mark.usefixtures("soon")
async def test_a_run_ends_when_its_task_is_stuck_and_nothing_else_of_it_goes_on(
    office: Deployment, broken: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    broken.add("lamp")
    found = await followed(office, await office.submit(["lamp"]))
    assert (found.status, found.finished_at) == ("stuck", None)
    assert "could not handle errands.fetch.v1: ValueError: the lamp is locked away" in capsys.readouterr().err


@pytest.mark.usefixtures("soon")
async def test_a_run_goes_on_while_anything_of_its_stuck_task_goes_on(
    office: Deployment, broken: set[str]
) -> None:
    broken.add("lamp")
    found = await followed(office, await office.submit({"lose": "lamp", "sleep_s": 3}))
    assert (found.status, found.result) == ("completed", '"without it"')
    assert (await kinds(office, found.id))[-2:] == ["stuck", "completed"]


@pytest.mark.usefixtures("soon")
async def test_a_run_ends_when_the_rest_of_its_stuck_task_waits_for_a_person(
    office: Deployment, broken: set[str]
) -> None:
    broken.add("lamp")
    found = await followed(office, await office.submit({"lose": "lamp", "approve": True}))
    assert (found.status, found.finished_at) == ("stuck", None)


@pytest.mark.usefixtures("soon")
async def test_a_run_ends_when_the_rest_of_its_stuck_task_is_paused(
    office: Deployment, broken: set[str]
) -> None:
    broken.add("lamp")
    task = await office.submit({"lose": "lamp", "sleep_s": 3_600})
    await status(office, task, "stuck")
    assert not await is_idle(office.pool, await find_task(office.pool, task, tenant="default"))
    clerk = parse_address(f"office/clerk/{task}")
    await accept(office.pool, office.transport, [Incoming(to=clerk, message=Pause(), control=True)])
    assert (await followed(office, task)).status == "stuck"


async def test_an_ask_that_was_given_up_leaves_the_task_to_whoever_was_told(
    office: Deployment, broken: set[str]
) -> None:
    broken.add("lamp")
    task = await office.submit({"ask": "lamp"})
    with pytest.raises(TaskFailed, match="the lamp is locked away") as caught:
        await office.client.result(task, timeout_s=SOON_S)
    assert caught.value.code == "dead_letter"
    assert set(await kinds(office, task)) == {"submitted", "assigned", "running", "trouble", "failed"}
    asked = {letter.address: letter.asked for letter in await letters(office, task)}
    assert asked == {"depot/porter/asked": True, f"office/clerk/{task}": False}


def test_the_policy_is_read_from_domain_yaml(tmp_path: Path) -> None:
    text = (ERRANDS / "office" / "domain.yaml").read_text()
    assert read_domain(ERRANDS / "office").tasks.on_dead_letter == "keep"
    (tmp_path / "domain.yaml").write_text(
        text.replace("  policy: direct\n", "  policy: direct\n  on_dead_letter: fail\n")
    )
    spec = read_domain(tmp_path)
    assert spec.tasks.on_dead_letter == "fail"
    assert json.loads(spec.to_json())["tasks"]["on_dead_letter"] == "fail"
