"""The agents together: their report is the one that the rules give in one process, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from secops.agents import reader, roster, watchman
from secops.feed import batches
from secops.lines import open_log
from secops.messages import LogEnded, SshLines

from tests.unit.secops.test_triage import REAL
from tests.unit.secops.triage_run import EXAMPLE, SAMPLE, Triage, real_log, reference, task_id

ONE, TWO, THREE = (task_id(number) for number in (1, 2, 3))


@pytest.fixture(scope="module", params=["auth.log", "auth-iso.log.gz", "real"])
def log(request: pytest.FixtureRequest) -> Path:
    if request.param == "real":
        return real_log() or SAMPLE  # a lone clone has only its own samples
    return EXAMPLE / "sample" / str(request.param)


def many_sources(path: Path, count: int) -> Path:
    """A log in which so many addresses fail, spread over networks, in an order of its own."""
    rng = random.Random(1)
    sources = [f"203.{n // 4 % 256}.{n // 1024}.{n % 4 + 1}" for n in range(count)]
    lines = [
        f"Dec 10 {n // 3600 % 24:02}:{n // 60 % 60:02}:{n % 60:02} gate sshd[{n}]: "
        f"Failed password for u{n % 7} from {source} port 22 ssh2\n"
        for n, source in enumerate(rng.choices(sources, k=count * 2))
    ]
    path.write_text("".join(lines), "utf-8")
    return path


async def test_the_report_is_that_of_the_rules_alone(log: Path) -> None:
    async with Triage() as triage:
        await triage.run(log, ONE)
        assert triage.report(ONE) == reference(log)
        assert triage.kit.dead_letters() == []
        assert triage.completions(ONE)[0]["id"] == ONE
        assert "# SSH incident report" in triage.completions(ONE)[0]["markdown"]


async def test_on_the_real_log_the_accused_are_those_that_fail2ban_finds() -> None:
    path = real_log() or SAMPLE
    async with Triage() as triage:
        await triage.run(path, ONE)
        addresses = triage.report(ONE)["addresses"]
    accused = [each["address"] for each in addresses if each["failures"]]
    if path == SAMPLE:
        assert len(accused) > 15
    else:
        assert sorted(accused) == sorted(REAL.split())
    assert all(each["verdict"] == "clean" for each in addresses if not each["failures"])


async def test_a_file_fed_twice_gives_the_same_report(log: Path) -> None:
    async with Triage() as triage:
        await triage.run(log, ONE)
        turns = len(triage.kit.history(f"secops/reader/{triage.report(ONE)['log']['digest']}"))
        await triage.run(log, TWO)
        assert triage.report(TWO) == triage.report(ONE) == reference(log)
        again = triage.kit.history(f"secops/reader/{triage.report(ONE)['log']['digest']}")
        assert len(again) == turns + 1  # the second task's request, and no line


async def test_two_tasks_at_once_on_one_file_each_get_the_whole_report() -> None:
    async with Triage() as triage:
        given = await asyncio.gather(triage.feed(SAMPLE, ONE), triage.feed(SAMPLE, TWO))
        for task, each in zip((ONE, TWO), given, strict=True):
            await triage.submit(task, each)
        await triage.run(SAMPLE, THREE)
        assert triage.report(ONE) == triage.report(TWO) == triage.report(THREE) == reference(SAMPLE)


async def test_a_task_submitted_before_its_lines_hears_how_far_they_are(tmp_path: Path) -> None:
    path = many_sources(tmp_path / "log", 500)
    with open_log(path) as log:
        given = {"log": log.digest, "name": log.name, "lines": 1000}
    async with Triage() as triage:
        await triage.submit(ONE, given)
        await triage.kit.quiet()
        await triage.feed(path, TWO)
        await triage.decided()
        assert triage.report(ONE) == reference(path)
        assert triage.notes(ONE)[:2] == ["100 of 1,000 lines read", "200 of 1,000 lines read"]
        assert "all 1,000 lines read, judging their sources" in triage.notes(ONE)
        assert triage.fractions(ONE) == sorted(triage.fractions(ONE))
        assert len(triage.notes(ONE)) < 30


@pytest.mark.parametrize("seed", range(8))
async def test_hosts_killed_at_any_moment_change_nothing(seed: int) -> None:
    async with Triage() as triage:
        crashes = asyncio.create_task(triage.crash_at_random(seed, times=12))
        for task in (ONE, TWO):
            await triage.submit(task, await triage.feed(SAMPLE, task))
        assert await crashes > 0, "no crash hit a host at work: the run proves nothing"
        await triage.kit.advance(minutes=5)
        await triage.decided()
        assert _whoever_was_first(triage.report(ONE)) == reference(SAMPLE)
        assert _whoever_was_first(triage.report(TWO)) == reference(SAMPLE)
        assert triage.kit.dead_letters() == []


def _whoever_was_first(report: dict[str, Any]) -> dict[str, Any]:
    """Both tasks block the same addresses. A call that was cut off, and is made after all within the second in which the
    other task's was made in its place, finds the address blocked for as long already."""
    stood = report["responses"]["already_blocked"]
    report["responses"] |= {"already_blocked": 0, "executed": report["responses"]["executed"] + stood}
    for each in report["addresses"]:
        if each["response"] and each["response"]["outcome"] == "already_blocked":
            each["response"]["outcome"] = "executed"
    return report


@pytest.mark.parametrize("seed", range(10))
async def test_a_bus_that_loses_messages_changes_nothing(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    (tmp_path / "earlier.log").write_text(SAMPLE.read_text("utf-8") + "x\n", "utf-8")
    async with Triage() as triage:
        # Once hosts know each other's streams, they no longer read a mailbox at its first message.
        await triage.run(tmp_path / "earlier.log", ONE)
        lost = triage.lose_deliveries(rng, share=(0.3, 0.9)[seed % 2])
        await triage.submit(TWO, await triage.feed(SAMPLE, TWO))
        await triage.until_reported(TWO)
        assert lost, "nothing was lost: the run proves nothing"
        assert triage.report(TWO) == reference(SAMPLE)


async def test_many_sources_are_reported_and_the_reader_stays_small(tmp_path: Path) -> None:
    path = many_sources(tmp_path / "log", 800)
    async with Triage() as triage:
        await triage.run(path, ONE)
        expected = reference(path)
        assert triage.report(ONE) == expected
        assert len(expected["addresses"]) > 500
        state = triage.kit.state(f"secops/reader/{expected['log']['digest']}")
        assert len(state.model_dump_json()) < 10_000


async def test_a_file_is_reported_again_although_its_watchmen_have_forgotten_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watchman, "MAX_JUDGED", 0)
    async with Triage() as triage:
        await triage.run(SAMPLE, ONE, TWO)
        # With other rules the sources are asked again; what they have forgotten stands as it was found.
        monkeypatch.setattr(roster, "VERSION", "other")
        await triage.run(SAMPLE, THREE)
        assert triage.report(ONE) == triage.report(TWO) == triage.report(THREE) == reference(SAMPLE)


async def test_other_rules_have_every_source_judged_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Triage() as triage:
        await triage.run(SAMPLE, ONE)
        log = triage.report(ONE)["log"]["digest"]
        source = triage.report(ONE)["addresses"][0]["address"]
        monkeypatch.setattr(roster, "VERSION", "other")
        await triage.run(SAMPLE, TWO)
        assert triage.report(TWO) == reference(SAMPLE)
        assert len(triage.kit.history(f"secops/responder/{source}/{log}")) == 2


def cut(path: Path) -> Iterator[SshLines]:
    with open_log(path) as log:
        yield from batches(log.digest, log)


async def test_lines_that_come_before_the_ones_that_precede_them_wait() -> None:
    events = list(cut(SAMPLE))
    assert len(events) > 3
    events[1:4] = events[3:0:-1]
    lines = sum(len(each.texts) for each in events)
    async with Triage() as triage:
        await triage.publish("sshd", LogEnded(log=events[0].log, lines=lines))
        for event in events:
            await triage.publish("sshd", event)
        await triage.submit(ONE, {"log": events[0].log, "name": "auth.log", "lines": lines})
        await triage.kit.advance(minutes=3)
        await triage.decided()
        assert triage.report(ONE) == reference(SAMPLE)
        assert triage.kit.dead_letters() == []


async def test_lines_cut_another_way_the_second_time_count_once() -> None:
    events = list(cut(SAMPLE))
    middle = events[1].model_copy(update={"first": 51, "texts": (*events[0].texts[50:], *events[1].texts)})
    lines = sum(len(each.texts) for each in events)
    async with Triage() as triage:
        for event in (events[0], events[0], middle, *events[1:]):
            await triage.publish("sshd", event)
        await triage.publish("sshd", LogEnded(log=middle.log, lines=lines))
        await triage.submit(ONE, {"log": middle.log, "name": "auth.log", "lines": lines})
        await triage.kit.quiet()
        await triage.decided()
        assert triage.report(ONE) == reference(SAMPLE)


async def test_a_log_that_accuses_nobody_is_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("hello\nworld\n", "utf-8")
    async with Triage() as triage:
        await triage.run(tmp_path / "log", ONE)
        assert triage.report(ONE) == reference(tmp_path / "log")
        assert triage.report(ONE)["addresses"] == []


async def test_the_deadline_of_one_task_does_not_stop_the_work_for_another() -> None:
    async with Triage() as triage:
        given = await triage.feed(SAMPLE, ONE)
        await triage.submit(ONE, given, deadline=triage.kit.clock.now() + 1)
        for _ in range(20):
            await asyncio.sleep(0)
        triage.kit.clock.move_to(triage.kit.clock.now() + 2)
        await triage.submit(TWO, given)
        await triage.kit.quiet()
        await triage.decided()
        assert triage.report(TWO) == reference(SAMPLE)


@pytest.mark.parametrize(
    "given", [None, {}, {"log": "x", "name": "a", "lines": 1}, {"log": "0" * 64, "name": "a", "lines": -1}]
)
async def test_a_task_whose_input_is_no_log_fails_with_the_reason(given: object) -> None:
    async with Triage() as triage:
        await triage.submit(ONE, given)
        await triage.kit.advance(hours=1)
        [reason] = triage.failures(ONE)
        assert reason.startswith("The task's input is no log")


async def test_a_log_that_is_never_fed_fails_its_task_in_the_end() -> None:
    async with Triage() as triage:
        await triage.submit(ONE, {"log": "0" * 64, "name": "a", "lines": 9})
        await triage.kit.advance(minutes=9)
        assert triage.failures(ONE) == []
        await triage.kit.advance(minutes=3)
        [reason] = triage.failures(ONE)
        assert "Were all of its lines fed?" in reason


async def test_past_the_limit_of_tasks_on_one_log_the_next_one_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reader, "MAX_FOLLOWERS", 1)
    async with Triage() as triage:
        given = {"log": "0" * 64, "name": "a", "lines": 9}
        await triage.submit(ONE, given)
        await triage.kit.quiet()
        await triage.submit(TWO, given)
        await triage.kit.quiet()
        assert triage.failures(ONE) == []
        assert triage.failures(TWO) == ["1 tasks wait for this log already. Try again when they are done."]


async def test_sources_past_the_limit_are_counted_and_the_page_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(roster, "MAX_SOURCES", 1)
    path = many_sources(tmp_path / "log", 300)
    async with Triage() as triage:
        await triage.run(path, ONE)
        report = triage.report(ONE)
        seen = len(reference(path)["addresses"])
        assert 0 < len(report["addresses"]) <= 128
        assert report["left_out"] >= seen - len(report["addresses"])
        assert "**Left out** at most" in triage.completions(ONE)[0]["markdown"]


async def test_watchmen_forget_the_oldest_judged_logs_first(tmp_path: Path) -> None:
    line = "Dec 10 06:55:4{} gate sshd[7]: Failed password for root from 203.0.113.7 port 22 ssh2\n"
    async with Triage() as triage:
        for number in range(7):
            (tmp_path / str(number)).write_text(line.format(number), "utf-8")
            await triage.run(tmp_path / str(number), task_id(number + 1))
        digests = [triage.report(task_id(number + 1))["log"]["digest"] for number in range(7)]
        kept = triage.kit.state("secops/watchman/203.0.113.7").logs
        assert list(kept) == digests[-watchman.MAX_JUDGED :]


def test_the_readme_lists_what_each_agent_hears() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \|[^|]*\| ([^|]*) \|", (EXAMPLE / "README.md").read_text("utf-8"), re.MULTILINE
    )
    told = {kind: sorted(re.findall(r"`([\w.]+)`", hears)) for kind, hears in rows if ".v1`" in hears}
    kinds = Triage().kit.domain.kinds
    assert told == {name: sorted(kind.handlers) for name, kind in kinds.items() if name != "task"}


@pytest.mark.parametrize("held", ["reader", "watchman"], ids=["while_it_is_read", "while_it_is_judged"])
async def test_a_cancelled_task_takes_nothing_from_another_that_waits_for_the_same_log(held: str) -> None:
    async with Triage() as triage:
        kit, log = triage.kit, log_digest(SAMPLE)
        busy = f"secops/{held}/{log if held == 'reader' else '203.0.113.45'}"
        await kit.pause(busy)
        for task in (ONE, TWO):
            kit.store.tasks.add("secops", "default", task)
            given = await triage.feed(SAMPLE, task)
            await kit.quiet(timeout_s=60)
            await triage.submit(task, given)
        await kit.quiet(timeout_s=60)
        assert kit.mailbox(busy)
        await kit.cancel_task(ONE)
        for _ in range(10):
            await kit.advance(seconds=0.1)
        await kit.resume(busy)
        await triage.decided()
        assert triage.report(TWO) == reference(SAMPLE)
        assert (kit.task(ONE).status, triage.completions(ONE)) == ("cancelled", [])


def log_digest(path: Path) -> str:
    with open_log(str(path)) as log:
        return log.digest
