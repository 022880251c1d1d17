"""Blocks that wait for people: who decides, what is carried out, and what the report says of it."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from secops import tools
from secops.blocklist import configured
from secops.nft import read
from secops.policy import load_policy
from secops.rulebook import POLICY_NAME

from bus.envelope import new_id
from callboard import Asked, Happened, NotHappened
from storage.ledger import CallStatus
from tests.unit.secops.triage_run import EXAMPLE, SAMPLE, Triage, reference, task_id

ONE, TWO = task_id(1), task_id(2)
HIGH = ("203.0.113.200", "203.0.113.45")  # of the sample; a block of these is to be approved
MEDIUM = ("2001:db8:51a:1::9", "2001:db8:bad::17")


@asynccontextmanager
async def asked(*tasks: str, deadline: float | None = None) -> AsyncIterator[Triage]:
    """The sample judged, and nobody has decided yet."""
    async with Triage() as triage:
        for task in tasks or (ONE,):
            given = await triage.feed(SAMPLE, task)
            wait = None if deadline is None else triage.kit.clock.now() + deadline
            await triage.submit(task, given, deadline=wait)
        await triage.kit.quiet()
        yield triage


def questions(triage: Triage, task: str = ONE) -> dict[str, str]:
    """The open approvals of a task: the address that each is about, and its id."""
    return {
        each.details["details"]["address"]: each.id
        for each in triage.kit.approvals()
        if each.address.endswith(f"/{task}")
    }


def responses(triage: Triage, task: str = ONE) -> dict[str, Any]:
    return {each["address"]: each["response"] for each in triage.report(task)["addresses"]}


def response_to(triage: Triage, address: str, task: str) -> dict[str, Any]:
    """The response whole, with times."""
    [report] = triage.completions(task)
    [found] = [each["response"] for each in report["addresses"] if each["address"] == address]
    return dict(found)


def blocked() -> set[str]:
    try:
        return {each.address for each in read(configured().path.read_text()) or ()}
    except FileNotFoundError:
        return set()


def calls(triage: Triage) -> dict[str, tuple[str, int]]:
    return {
        re.findall(r'"address":"([^"]+)"', call.arguments or "")[0]: (call.status, call.attempts)
        for call in triage.kit.ledger()
    }


async def test_a_block_above_the_policys_severity_waits_and_the_others_do_not() -> None:
    async with asked() as triage:
        assert set(questions(triage)) == set(HIGH)
        assert blocked() == set(MEDIUM)
        await triage.kit.advance(days=30)  # as long as it takes
        assert set(questions(triage)) == set(HIGH)
        assert triage.failures(ONE) == []
        assert "24 sources judged, 4 blocks proposed, 2 to be approved" in triage.notes(ONE)


async def test_the_report_says_who_has_decided_what() -> None:
    async with asked() as triage:
        ids = questions(triage)
        assert await triage.kit.approve(ids[HIGH[0]], by="alice", comment="known | scanner")
        assert triage.completions(ONE) == []
        assert await triage.kit.deny(ids[HIGH[1]], by="bob", comment="our own test")
        found = responses(triage)
        assert found[HIGH[0]] | {"outcome": "executed", "decided_by": "alice"} == found[HIGH[0]]
        assert found[HIGH[0]]["comment"] == "known | scanner"
        assert found[HIGH[1]] | {"outcome": "denied", "decided_by": "bob"} == found[HIGH[1]]
        assert found[MEDIUM[0]] | {"outcome": "executed", "needed_approval": False} == found[MEDIUM[0]]
        assert found["203.0.113.99"]["outcome"] == "proposed"
        assert blocked() == {HIGH[0], *MEDIUM}
        counts = triage.report(ONE)["responses"]
        assert counts == {
            "executed": 3,
            "already_blocked": 0,
            "denied": 1,
            "timed_out": 0,
            "failed": 0,
            "proposed": 12,
        }
        page = triage.completions(ONE)[0]["markdown"]
        assert r"approved by `alice` at 2" in page
        assert r"`known \| scanner`; **executed**, until" in page
        assert "denied by `bob` at 2" in page
        assert "`our own test`; **not executed**" in page
        assert calls(triage)[HIGH[1]] == (CallStatus.DENIED, 0)
        assert calls(triage)[HIGH[0]] == (CallStatus.SUCCEEDED, 1)


async def test_a_refused_block_of_an_address_that_an_earlier_task_blocks_is_said_to_stand() -> None:
    async with asked() as triage:
        await triage.decided()
        until = response_to(triage, HIGH[0], ONE)["blocked_until"]
        await triage.submit(TWO, await triage.feed(SAMPLE, TWO))
        await triage.kit.quiet()
        ids = questions(triage, TWO)
        assert await triage.kit.deny(ids[HIGH[0]], by="bob")
        assert await triage.kit.deny(ids[HIGH[1]], by="bob")
        found = response_to(triage, HIGH[0], TWO)
        assert (found["outcome"], found["blocked_until"]) == ("denied", until)
        page = triage.completions(TWO)[0]["markdown"]
        when = datetime.fromisoformat(until).strftime("%Y-%m-%d %H:%M:%SZ")
        assert f"**not executed**; **blocked by an earlier task** until {when}" in page


async def test_of_two_decisions_at_once_one_counts() -> None:
    async with asked() as triage:
        id_ = questions(triage)[HIGH[0]]
        won = await asyncio.gather(
            triage.kit.approve(id_, by="alice"),
            triage.kit.deny(id_, by="bob"),
            triage.kit.approve(id_, by="carol"),
        )
        assert list(won) == [True, False, False]
        await triage.decided()
        assert responses(triage)[HIGH[0]]["decided_by"] == "alice"
        assert calls(triage)[HIGH[0]] == (CallStatus.SUCCEEDED, 1)


async def test_an_approval_after_the_tasks_deadline_blocks_nothing() -> None:
    async with asked(deadline=3600) as triage:
        ids = questions(triage)
        await triage.kit.advance(hours=1)
        assert not await triage.kit.approve(ids[HIGH[0]], by="alice")
        assert questions(triage) == {}
        assert blocked() == set(MEDIUM)
        assert calls(triage).keys() == set(MEDIUM)
        assert triage.kit.dead_letters() == []


async def test_an_approval_after_the_policys_time_blocks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secops.agents.responder.block_address", with_timeout(hours=48))
    async with asked() as triage:
        ids = questions(triage)
        await triage.kit.advance(hours=47)
        assert await triage.kit.approve(ids[HIGH[0]], by="alice")
        await triage.kit.advance(hours=2)
        assert not await triage.kit.approve(ids[HIGH[1]], by="alice")
        found = responses(triage)
        assert (found[HIGH[0]]["outcome"], found[HIGH[1]]["outcome"]) == ("executed", "timed_out")
        assert found[HIGH[1]]["decided_by"] is None
        assert blocked() == {HIGH[0], *MEDIUM}
        assert "**timed out**: nobody decided in time" in triage.completions(ONE)[0]["markdown"]


def with_timeout(*, hours: float) -> Any:
    """The tool as a policy with `approval: {hours: ...}` declares it."""
    import dataclasses

    return dataclasses.replace(tools.block_address, approval_timeout_s=hours * 3600)


async def test_each_task_asks_for_itself_and_an_address_stands_there_once() -> None:
    async with asked(ONE, TWO) as triage:
        for id_ in questions(triage, TWO).values():
            assert await triage.kit.approve(id_, by="alice")
        assert set(questions(triage, ONE)) == set(HIGH)  # one task's wait holds no other up
        for id_ in questions(triage, ONE).values():
            assert await triage.kit.deny(id_, by="bob")
        assert responses(triage, TWO)[HIGH[0]]["outcome"] == "executed"
        assert responses(triage, ONE)[HIGH[0]]["outcome"] == "denied"
        assert blocked() == {*HIGH, *MEDIUM}


async def test_a_cancelled_task_waits_for_nobody_and_the_other_goes_on() -> None:
    async with asked(ONE, TWO) as triage:
        await triage.kit.cancel_task(ONE, "not wanted")
        await triage.kit.advance(seconds=5)
        assert questions(triage, ONE) == {}
        await triage.decided()
        assert triage.report(TWO) == reference(SAMPLE)


@pytest.mark.parametrize("acted", [True, False])
async def test_a_host_that_dies_in_the_midst_of_a_block_leaves_it_done_once(
    acted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file says whether it has acted."""
    add, begun, is_gone = configured().add, asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    written: list[str] = []

    def die(address: str, *rest: Any) -> Any:
        written.append(address)
        if acted:
            add(address, *rest)
        loop.call_soon_threadsafe(begun.set)
        is_gone.wait(10)
        raise OSError("nobody hears of this any more")

    async with asked() as triage:
        with monkeypatch.context() as patch:
            patch.setattr("secops.blocklist.Blocklist.add", lambda self, *rest: die(*rest))
            id_ = questions(triage)[HIGH[0]]
            deciding = asyncio.create_task(triage.kit.approve(id_, by="alice"))
            await begun.wait()
            for host in range(2):
                await triage.kit.crash(host)
            is_gone.set()
        await triage.kit.recover()
        await deciding
        await triage.decided()
        assert written == [HIGH[0]]
        assert triage.report(ONE)["responses"]["executed"] == 4
        assert blocked() == {*HIGH, *MEDIUM}
        assert calls(triage)[HIGH[0]] == (CallStatus.SUCCEEDED, 1 if acted else 2)


def test_only_a_block_with_its_name_proves_a_call() -> None:
    mine, other = new_id(), new_id()
    call: Any = ("203.0.113.9", 1, "high", "brute_force", "94 failures", mine)
    assert tools.was_blocked(*call) == NotHappened()
    now = datetime.now(UTC)
    configured().add("203.0.113.9", 1, other, "an earlier one", now=now - timedelta(minutes=30))
    assert tools.was_blocked(*call) == NotHappened()
    configured().add("203.0.113.9", 1, mine, "this one", now=now)
    assert isinstance(tools.was_blocked(*call), Happened)


@pytest.mark.parametrize(("hours", "outcome"), [(1, "executed"), (48, "already_blocked")])
async def test_the_report_says_what_became_of_an_earlier_block(hours: int, outcome: str) -> None:
    """The sample's blocks at high are for 24 hours."""
    before = configured().add(HIGH[0], hours, new_id(), "an earlier one").entry.until
    async with asked() as triage:
        await triage.decided()
        found = response_to(triage, HIGH[0], ONE)
        page = triage.completions(ONE)[0]["markdown"]
        when = before.strftime("%Y-%m-%d %H:%M:%SZ")
        assert found["outcome"] == outcome
        if outcome == "executed":
            assert datetime.fromisoformat(found["extended_from"]) == before
            assert datetime.fromisoformat(found["blocked_until"]) > before + timedelta(hours=22)
            assert f"**executed**, extended from {when} until" in page
        else:
            assert (found["extended_from"], datetime.fromisoformat(found["blocked_until"])) == (None, before)
            assert f"**already blocked**, until {when}, which is later" in page
            assert f"approved, and blocked for longer already by {POLICY_NAME}" in " ".join(triage.notes(ONE))


@pytest.fixture
def foreign(blocklist: Path) -> Iterator[None]:
    """A file of somebody else's, which stays as it is."""
    blocklist.parent.mkdir()
    blocklist.write_text("flush ruleset\n")
    yield
    assert blocklist.read_text() == "flush ruleset\n"


@pytest.mark.usefixtures("foreign")
async def test_a_file_that_cannot_be_written_is_a_block_that_failed() -> None:
    async with asked() as triage:
        await triage.decided()
        found = responses(triage)[HIGH[0]]
        assert found["outcome"] == "failed"
        assert "was not written by this example" in found["error"]
        assert found["decided_by"] == POLICY_NAME
        assert "**failed**: " in triage.completions(ONE)[0]["markdown"]


@pytest.mark.parametrize(
    ("changed", "approved"),
    [
        ({}, True),
        ({"address": "192.168.0.7"}, False),
        ({"address": "192.0.2.9"}, False),
        ({"severity": "critical"}, None),
        ({"hours": 25}, None),
    ],
)
def test_the_written_policy_decides_what_it_names_and_leaves_the_rest(
    changed: dict[str, Any], approved: bool | None
) -> None:
    from secops.approving import decide

    block = {"address": "203.0.113.9", "hours": 24, "severity": "high", "verdict": "brute_force", "why": "w"}
    ruling = decide(
        Asked(id="i", address="a", task="t", action="call block_address", details={**block, **changed})
    )
    assert (None if ruling is None else ruling.approved) is approved
    if ruling is not None:
        assert ruling.by == POLICY_NAME
    assert decide(Asked(id="i", address="a", task="t", action="call something_else", details={})) is None


async def test_what_the_policy_protects_is_never_blocked_whoever_approves_it() -> None:
    from secops.errors import NotBlocked
    from secops.verdict import Severity, Verdict

    with pytest.raises(NotBlocked, match="is protected"):
        tools.block_address("10.0.0.1", 1, Severity.HIGH, Verdict.BRUTE_FORCE, "w", new_id())
    assert blocked() == set()


@pytest.mark.parametrize("more", ["", "  hours: 48\n", "  approvers: [alice]\n"])
def test_the_policy_names_from_where_on_approval_is_needed(tmp_path: Path, more: str) -> None:
    from secops.verdict import Severity

    text = (EXAMPLE / "policy.yaml").read_text("utf-8").replace("  approvers: []\n", more)
    (tmp_path / "policy.yaml").write_text(text.replace("from: high", "from: medium"), "utf-8")
    approval = load_policy(tmp_path / "policy.yaml").approval
    assert [approval.is_needed(each) for each in Severity] == [False, True, True, True]
    assert approval.timeout_s == (48 * 3600 if "48" in more else None)
