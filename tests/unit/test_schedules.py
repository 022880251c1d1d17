"""Schedules: each occurrence is sent once, by database time, whatever the clock, the hosts and the code do."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from cronsim import CronSim
from pydantic import BaseModel, ValidationError

from actors.domain import DomainSpec, KindSpec, load_domain, read_domain
from actors.schedule import GRACE_S, MOST_CAUGHT_UP, ScheduleSpec
from bus.errors import CallboardError, InvalidDomainFile
from callboard import Agent, Context, handler, message
from callboard.testing import TestKit
from coordinators.equipment import SYSTEM_KINDS

DAY = 86_400.0


@message("schedules.tick.v1")
class Tick(BaseModel):
    text: str = "tick"
    count: int = 1


class Clockwork(Agent):
    kind = "clockwork"

    class State(BaseModel):
        ticks: list[float] = []
        senders: list[str] = []
        texts: list[str] = []

    state: State

    @handler
    async def on_tick(self, tick: Tick, ctx: Context) -> None:
        self.state.ticks.append(ctx.header.sent_at)
        self.state.senders.append(ctx.sender)
        self.state.texts.append(tick.text)


def spec(**more: Any) -> ScheduleSpec:
    values = {"name": "daily", "cron": "0 6 * * *", "to": "clockwork/c", "message": "schedules.tick.v1"}
    return ScheduleSpec.model_validate({**values, **more})


def utc(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


AT = "test/clockwork/c"
START = utc("2026-01-01T00:00")


def ticks(kit: TestKit) -> list[str]:
    return [datetime.fromtimestamp(at, UTC).strftime("%d %H:%M") for at in kit.state(AT).ticks]


# -- firing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hosts", [1, 2])
async def test_a_schedule_fires_when_the_clock_is_moved(hosts: int) -> None:
    given = spec(payload={"text": "hello"})
    async with TestKit([Clockwork], schedules=[given], hosts=hosts) as kit:
        await kit.advance(hours=5)
        assert ticks(kit) == []
        await kit.advance(days=2)
        assert ticks(kit) == ["01 06:00", "02 06:00"]
        assert kit.state(AT).senders == ["external/schedules/daily"] * 2
        assert kit.state(AT).texts == ["hello"] * 2


@pytest.mark.parametrize(
    ("catch_up", "made_up"),
    [("none", []), ("one", ["02 20:00"]), ("all", [f"02 {hour:02}:00" for hour in range(0, 24, 4)])],
)
async def test_what_passed_while_no_host_ran(catch_up: str, made_up: list[str]) -> None:
    given = spec(cron="0 */4 * * *", catch_up=catch_up)
    async with TestKit([Clockwork], schedules=[given]) as kit:
        await kit.advance(hours=21)
        before = ticks(kit)
        assert before == [f"01 {hour:02}:00" for hour in range(4, 24, 4)]
        await kit.crash()
        kit.clock.move_to(START + 2 * DAY - 3 * 3600)
        await kit.recover()
        assert ticks(kit)[len(before) :] == made_up
        await kit.advance(hours=4)
        assert ticks(kit)[-1] == "03 00:00"
        assert len(ticks(kit)) == len(before) + len(made_up) + 1


async def test_all_that_passed_is_bounded_to_the_newest() -> None:
    async with TestKit([Clockwork], schedules=[spec(cron="* * * * *", catch_up="all")]) as kit:
        await kit.crash()
        kit.clock.move_to(START + DAY + 30)
        await kit.recover()
        await kit.quiet()
        assert len(ticks(kit)) == MOST_CAUGHT_UP
        assert ticks(kit)[-1] == "02 00:00"


ZONES = ("UTC", "Europe/Berlin", "America/Sao_Paulo", "Australia/Lord_Howe")
LINES = (
    "* * * * *", "*/7 * * * *", "30 2 * * *", "0,15,45 1-3 * * *", "0 */4 * * *", "0 0 * * 1", "0 6 1 * *", "59 23 31 12 *",
)  # fmt: skip


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("line", LINES)
def test_what_is_made_up_for_is_what_a_walk_through_all_that_passed_would_give(line: str, zone: str) -> None:
    chance = random.Random(f"{line} {zone}")
    for summer in ("2017-10-15", "2018-02-18", "2026-03-29", "2026-10-25", "2026-04-05", "2026-10-04"):
        now = utc(f"{summer}T00:00") + chance.uniform(-DAY, 2 * DAY)
        some = spec(cron=line, timezone=zone)
        first = some.after(now - chance.choice((0.01, 0.5, 3, 20, 400 if " 1" in line else 20)) * DAY)
        if first > now:
            continue
        passed = [first]
        for moment in CronSim(line, datetime.fromtimestamp(first, ZoneInfo(zone))):
            coming = moment.timestamp()
            if coming > now:
                break
            passed.append(coming)
        for catch_up, made_up in (
            ("none", [at for at in passed[-100:] if at >= now - GRACE_S]),
            ("one", passed[-1:]),
            ("all", passed[-100:]),
        ):
            assert spec(cron=line, timezone=zone, catch_up=catch_up).due(first, now) == (made_up, coming)


@pytest.mark.parametrize("catch_up", ["none", "one", "all"])
def test_a_year_that_was_missed_is_not_walked_through(catch_up: str, monkeypatch: pytest.MonkeyPatch) -> None:
    walked = 0
    step = CronSim.__next__

    def counted(self: CronSim) -> datetime:
        nonlocal walked
        walked += 1
        return step(self)

    some = spec(cron="* * * * *", catch_up=catch_up)
    monkeypatch.setattr(CronSim, "__next__", counted)
    some.due(START, START + 365 * DAY)
    assert walked < 1_000  # of half a million, which take seconds


async def test_a_host_that_dies_on_either_side_of_a_firing_sends_it_once() -> None:
    async with TestKit([Clockwork], schedules=[spec(catch_up="one")]) as kit:
        for _ in range(3):
            await kit.advance(hours=12)
            await kit.crash()
            await kit.recover()
        await kit.advance(hours=12)
        assert ticks(kit) == ["01 06:00", "02 06:00"]


async def test_an_occurrence_that_somebody_else_has_sent_is_not_sent_again() -> None:
    async with TestKit([Clockwork], schedules=[spec()]) as kit:
        await kit.advance(hours=7)
        [(place, row)] = kit.store.schedules.rows.items()
        kit.store.schedules.rows[place] = msgspec.structs.replace(row, next_at=START + 6 * 3600)
        await kit.advance(hours=1)
        assert ticks(kit) == ["01 06:00"]


# -- new code ----------------------------------------------------------------------------------------


async def renewed(kit: TestKit, *schedules: ScheduleSpec) -> None:
    """The hosts are replaced by those of new code."""
    kit._scope.schedules = tuple(schedules)
    await kit.crash()
    await kit.recover()


async def test_new_code_changes_removes_and_renames_schedules() -> None:
    async with TestKit([Clockwork], schedules=[spec(catch_up="all")]) as kit:
        await kit.advance(hours=7)
        await renewed(kit, spec(catch_up="all", payload={"text": "new"}))  # same times: nothing is lost
        await kit.advance(days=1)
        assert kit.state(AT).texts == ["tick", "new"]
        await renewed(kit, spec(catch_up="all", cron="0 8 * * *"))  # other times: from now on
        await kit.advance(hours=3)
        assert ticks(kit)[2:] == ["02 08:00"]
        await renewed(kit, spec(name="renamed", catch_up="all", cron="0 8 * * *"))  # a new one
        await kit.advance(days=1)
        assert kit.state(AT).senders[3:] == ["external/schedules/renamed"]
        assert [name for _, name in kit.store.schedules.rows] == ["renamed"]
        await renewed(kit)
        await kit.advance(days=3)
        assert len(ticks(kit)) == 4
        assert kit.store.schedules.rows == {}


# -- times -------------------------------------------------------------------------------------------


def moments(given: ScheduleSpec, after: str, count: int) -> list[str]:
    found, at = [], utc(after)
    for _ in range(count):
        at = given.after(at)
        found.append(datetime.fromtimestamp(at, UTC).strftime("%d %H:%M"))
    return found


def test_when_the_clocks_go_forward_a_time_that_is_not_there_comes_as_soon_as_it_can() -> None:
    given = spec(cron="30 2 * * *", timezone="Europe/Berlin")
    assert moments(given, "2026-03-27T12:00", 3) == ["28 01:30", "29 01:00", "30 00:30"]
    hourly = spec(cron="30 * * * *", timezone="Europe/Berlin")
    assert moments(hourly, "2026-03-29T00:00", 3) == ["29 00:30", "29 01:30", "29 02:30"]


def test_when_the_clocks_go_back_a_time_that_is_there_twice_comes_once_and_an_hour_twice() -> None:
    given = spec(cron="30 2 * * *", timezone="Europe/Berlin")
    assert moments(given, "2026-10-24T12:00", 2) == ["25 00:30", "26 01:30"]
    hourly = spec(cron="30 * * * *", timezone="Europe/Berlin")
    assert moments(hourly, "2026-10-24T23:45", 3) == ["25 00:30", "25 01:30", "25 02:30"]


def test_a_schedule_that_begins_when_an_hour_comes_the_second_time_begins_with_none_that_has_passed() -> None:
    given = spec(cron="30 2 * * *", timezone="Europe/Berlin")
    assert moments(given, "2026-10-25T01:05", 2) == ["26 01:30", "27 01:30"]


def test_due_in_the_hour_that_is_there_twice_goes_on_where_it_was() -> None:
    given = spec(cron="30 2 * * *", timezone="Europe/Berlin", catch_up="all")
    sent, following = given.due(utc("2026-10-25T00:30"), utc("2026-10-25T01:45"))
    assert (sent, following) == ([utc("2026-10-25T00:30")], utc("2026-10-26T01:30"))


# -- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"cron": "61 * * * *"}, "Bad minute"),
        ({"cron": "0 6 * *"}, "write minute, hour, day, month and weekday"),
        ({"cron": "* * * * * *"}, "write minute, hour, day, month and weekday"),
        ({"cron": "0 0 31 2 *"}, "'0 0 31 2 *'"),
        ({"cron": "0 0 30 2 *"}, "'0 0 30 2 *'"),
        ({"timezone": "Mars/Olympus"}, "no time zone"),
        ({"timezone": "../etc/passwd"}, "no time zone"),
        ({"timezone": "Europe"}, "no time zone"),
        ({"name": "A b"}, "cannot name"),
        ({"catch_up": "some"}, "catch_up"),
        ({"priority": "urgent"}, "priority"),
        ({"at": "noon"}, "Extra inputs"),
    ],
)
def test_what_cannot_be_a_schedule_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words.replace("*", r"\*")):
        spec(**fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"to": "nobody/x"}, "'nobody/x', which is no agent"),
        ({"to": "clockwork"}, "no agent"),
        ({"message": "schedules.unknown.v1"}, "for which clockwork has no handler"),
        ({"payload": {"count": "many"}}, "count"),
        (
            {"payload": {"cuont": 2}},
            r"schedules\.tick\.v1 has no field 'cuont'\. Did you mean count\?",
        ),
        ({"payload": {"count": math.inf}}, "JSON"),
        ({"payload": {"count": 1, "text": "a\0b"}}, "NUL"),
        ({"payload": {"count": 1, "text": datetime(2026, 1, 1, tzinfo=UTC)}}, "JSON"),
        (
            {"to": "clockwork/a\0b"},
            "NUL",
        ),  # Postgres refuses it when it is due, and the host that keeps it would end
        ({"to": "clockwork/" + "x" * 600}, "512"),
    ],
)
def test_what_its_recipient_would_not_understand_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidDomainFile, match=words):
        loaded(spec(**fields))


def test_two_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidDomainFile, match="daily is there twice"):
        loaded(spec(), spec())


def loaded(*schedules: ScheduleSpec) -> None:
    kinds = (KindSpec.model_validate({"class": f"{__name__}:Clockwork"}),)
    load_domain(
        DomainSpec(domain="test", kinds=kinds, schedules=schedules), Path(), system_kinds=SYSTEM_KINDS
    )


def test_domain_yaml_names_the_line_that_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "domain.yaml").write_text(
        "domain: test\nkinds: [{class: 'x:Y'}]\nschedules:\n"
        "  - {name: a, cron: '0 6 31 4 *', to: k/x, message: m.v1}\n"
    )
    with pytest.raises(CallboardError, match=r"schedules\.a\.cron.*0 6 31 4"):
        read_domain(tmp_path)


@pytest.mark.parametrize("line", ["* *", "61 * * * *"])
def test_what_is_not_a_cron_line_is_refused_in_words(line: str) -> None:
    with pytest.raises(ValidationError, match="is not a cron line"):
        spec(cron=line)
