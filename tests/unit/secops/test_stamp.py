"""Times: with a year, without one, and over new year."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from secops.stamp import NOMINAL_YEAR, Timeline, read_iso, read_syslog


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-12-10T06:55:46Z", datetime(2024, 12, 10, 6, 55, 46, tzinfo=UTC)),
        ("2024-12-10T06:55:46.5+01:00", datetime(2024, 12, 10, 5, 55, 46, 500000, tzinfo=UTC)),
        ("2024-12-10T06:55:46-0530", datetime(2024, 12, 10, 12, 25, 46, tzinfo=UTC)),
        ("2024-12-10T06:55:46,123456789", datetime(2024, 12, 10, 6, 55, 46, 123456, tzinfo=UTC)),
    ],
)
def test_iso_times_come_out_in_utc(text: str, expected: datetime) -> None:
    stamp = read_iso(text)
    assert stamp is not None
    assert (stamp.at, stamp.has_year) == (expected, True)


@pytest.mark.parametrize(
    "text", ["Dec 32 00:00:00", "Foo 10 06:55:46", "Feb 30 00:00:00", "Dec 10 25:00:00", ""]
)
def test_a_time_that_does_not_exist_is_none(text: str) -> None:
    assert read_syslog(text) is None


@pytest.mark.parametrize("text", ["2024-13-10T06:55:46Z", "0001-01-01T00:00:00+14:00", "2024-12-10", ""])
def test_an_iso_time_that_does_not_exist_is_none(text: str) -> None:
    assert read_iso(text) is None


def place(timeline: Timeline, text: str) -> datetime:
    at = timeline.place(read_syslog(text) or read_iso(text))
    assert at is not None
    return at


def test_new_year_goes_forward() -> None:
    timeline = Timeline()
    before = place(timeline, "Dec 31 23:59:58")
    after = place(timeline, "Jan  1 00:00:03")
    assert (after - before).total_seconds() == 5
    assert before.year == NOMINAL_YEAR


def test_a_line_written_late_over_new_year_goes_back() -> None:
    timeline = Timeline()
    before = place(timeline, "Dec 31 23:59:58")
    place(timeline, "Jan  1 00:00:03")
    assert place(timeline, "Dec 31 23:59:58") == before


def test_a_leap_day_is_read_in_any_year() -> None:
    timeline = Timeline()
    for text in ("Nov  1 00:00:00", "Feb 29 12:00:00"):
        at = place(timeline, text)
    assert at == datetime(NOMINAL_YEAR + 1, 3, 1, 12, tzinfo=UTC)
    assert place(Timeline(), "Feb 29 12:00:00").day == 29


def test_a_year_seen_before_holds_for_lines_without_one() -> None:
    timeline = Timeline()
    place(timeline, "2024-12-10T06:55:46Z")
    assert place(timeline, "Dec 10 06:55:47") == datetime(2024, 12, 10, 6, 55, 47, tzinfo=UTC)
    assert not timeline.has_years


def test_a_line_without_a_time_takes_the_latest() -> None:
    timeline = Timeline()
    assert timeline.place(None) is None
    at = place(timeline, "Dec 10 06:55:46")
    assert timeline.place(None) == at


@pytest.mark.parametrize(("text", "year"), [("0001-01-01T00:00:00Z", 1), ("9999-12-31T23:59:59Z", 9999)])
@pytest.mark.parametrize("later", ["Jan  1 00:00:00", "Jul  1 00:00:00", "Dec 31 23:59:59"])
def test_a_year_is_found_beside_the_first_and_the_last_time_there_is(
    text: str, year: int, later: str
) -> None:
    timeline = Timeline()  # programs write the first one where they know no time
    place(timeline, text)
    assert place(timeline, later).year == year


@given(st.lists(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)), max_size=8), st.booleans())
def test_any_times_are_placed_without_an_error(times: list[datetime], with_year: bool) -> None:
    timeline = Timeline()
    for each in times:
        text = f"{each:%b} {each.day:2d} {each:%H:%M:%S}"
        timeline.place(read_iso(each.isoformat()) if with_year and each.second % 2 else read_syslog(text))
    assert Timeline.model_validate_json(timeline.model_dump_json()) == timeline
