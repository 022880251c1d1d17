"""A schedule in domain.yaml: a message that an agent gets again and again, by cron."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Literal
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import BaseModel, ConfigDict, Field, field_validator

from actors.agent import AgentType
from actors.targets import require_fields, require_handler
from bus.address import DEFAULT_TENANT, parse_address, require_word
from bus.envelope import Priority
from bus.errors import CallboardError, InvalidAddress, InvalidDomainFile
from bus.registry import decode_payload, encode_json

CatchUp = Literal["none", "one", "all"]

GRACE_S = 60.0  # what is no later than this was not missed
MOST_CAUGHT_UP = 100  # occurrences of one schedule, the newest ones
_WANTED: dict[CatchUp, int] = {"none": 0, "one": 1, "all": MOST_CAUGHT_UP}
_FURTHER_BACK = 1.25  # a year of minutes takes seconds to walk, so it is looked back only as far as is needed
_FIELDS = 5


class ScheduleSpec(BaseModel):
    """When which agent gets which message. `to` is kind/key.

    Occurrences that passed while no host ran are left out (`none`), made up for by one message (`one`), or sent all,
    the newest hundred at most (`all`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    cron: str
    timezone: str = "UTC"
    to: str
    message: str
    payload: dict[str, Any] = Field(default_factory=dict)
    catch_up: CatchUp = "none"
    tenant: str = DEFAULT_TENANT
    priority: Literal["low", "normal", "high"] = "normal"

    @field_validator("name", "tenant")
    @classmethod
    def _is_a_word(cls, value: str) -> str:
        try:
            return require_word(value, "schedule or tenant")
        except InvalidAddress as error:
            raise ValueError(error.message.rstrip(".")) from None

    @field_validator("cron")
    @classmethod
    def _is_a_cron_line(cls, value: str) -> str:
        if len(value.split()) != _FIELDS:
            raise ValueError(f"{value!r} is not a cron line: write minute, hour, day, month and weekday")
        try:
            next(CronSim(value, datetime(2026, 1, 1, tzinfo=UTC)))
        except CronSimError as error:
            raise ValueError(f"{value!r} is not a cron line: {error}") from None
        except StopIteration:
            raise ValueError(f"{value!r} never comes: there is no such day") from None
        return value

    @field_validator("timezone")
    @classmethod
    def _is_a_timezone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):  # unknown, a path that leads out, or a folder
            raise ValueError(f"{value!r} is no time zone; write it as Europe/Berlin") from None
        return value

    @property
    def rank(self) -> int:
        return int(Priority[self.priority.upper()])

    @property
    def payload_json(self) -> str:
        return json.dumps(self.payload, ensure_ascii=False, separators=(",", ":"))

    def after(self, moment: float) -> float:
        """The first occurrence after a moment, seconds since 1970, UTC."""
        start = datetime.fromtimestamp(moment, ZoneInfo(self.timezone))
        # In an hour that comes twice it begins with what has been in the first.
        return next(at for found in CronSim(self.cron, start) if (at := found.timestamp()) > moment)

    def due(self, first: float, now: float) -> tuple[list[float], float]:
        """Of the occurrences from `first` until now those to be sent, and the one after them."""
        wanted = _WANTED[self.catch_up]
        back = 2 * GRACE_S
        while True:
            since = max(first, now - back)
            passed, coming = self._passed(since, now)
            if since == first or len(passed) >= wanted:
                break
            back *= _FURTHER_BACK
        passed = [at for at in passed if at > first]
        if since == first:
            passed.insert(0, first)
        if self.catch_up == "none":
            return [at for at in passed if at >= now - GRACE_S], coming
        return passed[-wanted:], coming

    def _passed(self, since: float, now: float) -> tuple[list[float], float]:
        """The occurrences after a moment until now, and the one after them."""
        start = datetime.fromtimestamp(since, ZoneInfo(self.timezone))
        passed: list[float] = []
        for moment in CronSim(self.cron, start):
            coming = moment.timestamp()
            if coming > now:
                return passed, coming
            passed.append(coming)
        raise AssertionError("a cron line that never comes is refused when it is read")


def check_schedules(
    schedules: tuple[ScheduleSpec, ...], kinds: dict[str, AgentType], claim_check_bytes: int
) -> None:
    """Raise InvalidDomainFile for a schedule whose message its recipient would not understand."""
    seen: set[str] = set()
    for schedule in schedules:
        what = f"The schedule {schedule.name}"
        if schedule.name in seen:
            raise InvalidDomainFile(f"{what} is there twice.", fix="Give each a name of its own.")
        seen.add(schedule.name)
        kind, slash, key = schedule.to.partition("/")
        if not (slash and key) or kind not in kinds:
            raise InvalidDomainFile(
                f"{what} goes to {schedule.to!r}, which is no agent of the domain.",
                fix="Write it as KIND/KEY.",
            )
        require_handler(f"{what} sends", schedule.message, kinds[kind])
        require_fields(f"{what} has a payload", schedule.message, kinds[kind], schedule.payload)
        try:
            parse_address(f"any/{schedule.to}")
            encode_json(schedule.payload)
            decode_payload(schedule.message, schedule.payload_json)
        except CallboardError as error:
            raise InvalidDomainFile(f"{what}: {error.message}", fix=error.fix) from None
        if len(schedule.payload_json.encode()) > claim_check_bytes:
            raise InvalidDomainFile(
                f"{what} has a payload above {claim_check_bytes} bytes.",
                fix="Store it, and send a reference.",
            )
