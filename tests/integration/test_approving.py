"""`--approve`: who decides what a followed task asks, on the secops example and on a guard with named approvers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

from actors.approval import Ruling
from actors.domain import DomainSpec
from bus.address import parse_address
from bus.envelope import new_id
from bus.errors import InvalidTask
from bus.task_ref import task_ref
from callboard.cli.approving import Approving, Mode, by_people, check_mode, decider
from callboard.cli.asked import login_name
from callboard.cli.follow import Snapshot, snapshots
from callboard.cli.following import _Lines
from callboard.cli.run import _say_if_asked
from callboard.services import Endpoints
from storage.decisions import Waiting, waiting_of_task
from storage.intake import Incoming, accept
from tests.acceptance.program import PROGRAM
from tests.integration.cli import Cli, until
from tests.integration.deployment import Deployment
from tests.integration.vigil_at_work import GUARD, has_turn
from tests.unit.secops.triage_run import EXAMPLE, SAMPLE

HIGH = ("203.0.113.200", "203.0.113.45")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("CALLBOARD_HOME", str(home))
    return Cli(capsys)


@pytest.fixture
async def secops(
    services: Endpoints, database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncIterator[Deployment]:
    monkeypatch.setenv("CALLBOARD_POSTGRES_URL", database)
    monkeypatch.setenv("CALLBOARD_NATS_URL", services.nats_url)
    monkeypatch.setenv("SECOPS_BLOCKLIST", str(tmp_path / "blocklist.nft"))
    async with Deployment.open(EXAMPLE, database, services.nats_url) as secops:
        await secops.coordinate()
        yield secops


class Followed:
    """A task of the sample, followed as `callboard run --approve` does."""

    def __init__(self, at: Deployment, mode: Mode) -> None:
        self._at = at
        self.mode = mode
        self.task = new_id()

    async def begin(self) -> None:
        from secops.feed import batches
        from secops.lines import open_log
        from secops.messages import LogEnded
        from secops.places import reader

        with open_log(str(SAMPLE)) as log:
            events: list[BaseModel] = list(batches(log.digest, log))
            lines = sum(1 for _ in log)
        events.append(LogEnded(log=log.digest, lines=lines))
        to = parse_address(reader(log.digest))
        await accept(self._at.pool, self._at.transport, [Incoming(to=to, message=event) for event in events])
        given = {"log": log.digest, "name": log.name, "lines": lines}
        await self._at.submit(given, task_id=self.task)

    async def waits(self) -> dict[str, str]:
        """Wait until both grave blocks are asked for; return the address of each, and the approval's id."""

        async def both() -> list[Waiting]:
            found = await waiting_of_task(self._at.pool, task_ref(self.task, "secops"), tenant="default")
            return found if len(found) == len(HIGH) else []

        found = await until(both)
        return {json.loads(each.details)["details"]["address"]: each.id for each in found}

    async def until_end(self, show: Any = lambda snapshot: None) -> dict[str, Any]:
        """Follow it to its end; return the report."""
        decide = decider(self.mode, self._at.domain.spec, cluster_of(self._at), task_ref(self.task, "secops"))
        async for snapshot in self._snapshots():
            snapshot.asked = await decide(snapshot.asked)
            show(snapshot)
        report: dict[str, Any] = json.loads(snapshot.task.result or "null")
        return report

    def _snapshots(self) -> AsyncIterator[Snapshot]:
        async def none(domain: str, *, now: bool) -> int:
            return 0

        at = self._at
        return snapshots(
            at.pool, at.transport, "secops", self.task, "default", gone=lambda: None, waiting=none
        )


def cluster_of(at: Deployment) -> Any:
    """As much of a cluster as a decider needs."""
    return SimpleNamespace(
        postgres=at.pool, transport=at.transport, settings=SimpleNamespace(tenant="default")
    )


def responses(report: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    found = {each["address"]: each["response"] for each in report["addresses"]}
    return {address: (found[address]["outcome"], found[address]["decided_by"]) for address in HIGH}


async def test_deny_refuses_what_its_own_task_asks_and_nothing_else(secops: Deployment) -> None:
    other, denied = Followed(secops, Mode.ASK), Followed(secops, Mode.DENY)
    await other.begin()
    await other.waits()
    await denied.begin()
    async with asyncio.timeout(30):
        report = await denied.until_end()
    assert responses(report) == dict.fromkeys(HIGH, ("denied", "callboard run --approve deny"))
    assert set(await other.waits()) == set(HIGH)


async def test_the_written_policy_decides_and_stands_there_with_its_version(secops: Deployment) -> None:
    from secops.rulebook import POLICY_NAME

    followed = Followed(secops, Mode.POLICY)
    await followed.begin()
    async with asyncio.timeout(30):
        report = await followed.until_end()
    assert responses(report) == dict.fromkeys(HIGH, ("executed", POLICY_NAME))


async def test_people_are_told_the_command_and_of_two_at_once_one_decides(
    secops: Deployment, cli: Cli
) -> None:
    followed = Followed(secops, Mode.ASK)
    await followed.begin()
    ids = await followed.waits()
    following = asyncio.create_task(followed.until_end(_Lines()))
    said = ""

    async def is_said() -> bool:
        nonlocal said
        said += cli.discard()
        return all(f"    callboard approve {id_}\n" in said for id_ in ids.values())

    await until(is_said)
    await _say_if_asked(cluster_of(secops), "secops")
    assert cli.discard() == "Earlier tasks of secops wait for 2 decisions: `callboard approvals`\n"
    assert f"It waits for a person: call block_address: address {HIGH[0]}, hours 24, severity high" in said
    assert f"    callboard deny {ids[HIGH[0]]} --reason WHY\n" in said

    async def decide(*words: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            PROGRAM, *words, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        _, told = await process.communicate()
        assert process.returncode is not None
        return process.returncode, told.decode()

    both = await asyncio.gather(
        decide("approve", ids[HIGH[0]], "--as", "alice", "--comment", "seen it before"),
        decide("deny", ids[HIGH[0]], "--as", "bob", "--reason", "mine"),
    )
    assert sorted(code for code, _ in both) == [0, 1]
    alice_won = both[0][0] == 0
    (told,) = [told for code, told in both if code == 1]
    assert ("was approved by alice" if alice_won else "was denied by bob") in told
    await cli("approve", ids[HIGH[1]], "--as", "carol")
    async with asyncio.timeout(30):
        report = await following
    outcome = ("executed", "alice") if alice_won else ("denied", "bob")
    assert responses(report) == {HIGH[0]: outcome, HIGH[1]: ("executed", "carol")}
    assert await cli.json("task", followed.task, "--follow") == report
    assert "submitted" not in cli.err  # what has ended needs no cluster


async def asked_by_a_child(vigil: Deployment) -> tuple[str, list[Waiting]]:
    """A task (`vigil/id`), and what its child asks: to open a gate, which alice or bob may."""
    from vigil.agents import Opening

    task, child = f"vigil/{new_id()}", new_id()
    await vigil.pool.execute(
        "insert into tasks (domain, tenant, id, status, goal, input, priority, parent, root)"
        " values ('vigil', 'default', $1::uuid, 'running', '', 'null', 5, $2, $2)",
        child,
        task,
    )
    opening = Incoming(to=parse_address(GUARD), message=Opening(gate="north"), task=child)
    await accept(vigil.pool, vigil.transport, [opening])
    return task, await until(lambda: waiting_of_task(vigil.pool, task, tenant="default"))


async def test_deny_refuses_also_what_names_its_approvers(vigil: Deployment, cli: Cli) -> None:
    task, found = await asked_by_a_child(vigil)
    assert await decider(Mode.DENY, vigil.domain.spec, cluster_of(vigil), task)(found) == []
    await has_turn(vigil, GUARD, 1)
    assert (await cli.json("agent", GUARD))["state"]["log"] == [
        f"open_gate was refused by callboard run --approve deny: {login_name()} has started it so."
    ]


async def test_what_a_policy_may_not_approve_is_left_to_those_who_may(
    vigil: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    task, found = await asked_by_a_child(vigil)
    ruling = Ruling(approved=True, by="rules 1")
    decide = Approving(vigil.pool, vigil.transport, "default", task, lambda asked: ruling)
    assert await decide(found) == found
    assert await decide(found) == found
    assert await waiting_of_task(vigil.pool, task, tenant="default") == found
    told = "Left to people: rules 1 may not approve call open_gate of vigil/guard/a."
    assert capsys.readouterr().err.count(told) == 1


async def test_what_only_agents_may_decide_waits_for_no_person() -> None:
    def approval(*approvers: str) -> Waiting:
        details = json.dumps({"action": "a", "details": None, "approvers": approvers})
        return Waiting(
            id="i", domain="d", agent="k/a", kind="approval", name="n", details=details,
            created_at=datetime.now(UTC), due_at=None, status="pending", settled_by=None, settled_at=None, value=None,
        )  # fmt: skip

    anybody, mixed, agents = approval(), approval("d/judge/j", "alice"), approval("d/judge/j")
    assert await by_people([anybody, mixed, agents]) == [anybody, mixed]


def test_a_domain_without_a_policy_says_so_before_anything_starts() -> None:
    spec = DomainSpec.model_validate({"domain": "d", "kinds": []})
    check_mode(Mode.DENY, spec)
    with pytest.raises(InvalidTask, match="has no written policy"):
        check_mode(Mode.POLICY, spec)
