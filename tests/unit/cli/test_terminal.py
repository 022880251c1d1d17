"""Text of somebody else's making can neither move the cursor nor break a JSON line."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from callboard.cli import terminal
from callboard.cli.table import table


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x9b2J", "\\x9b2J"),
        ("title\x07", "title\\x07"),
        ("back\b\b", "back\\x08\\x08"),
        ("abc\u202edcba", "abc\\u202edcba"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("two\nlines", "two\\nlines"),
        ("Überwachung 監視 🔒", "Überwachung 監視 🔒"),
    ],
)
def test_control_characters_are_spelled_out(text: str, shown: str) -> None:
    assert terminal.clean(text) == shown


def test_lines_are_kept_where_they_are_wanted() -> None:
    assert terminal.clean("two\nlines\r\x1b", lines=True) == "two\nlines\\x0d\\x1b"


def test_json_keeps_its_values_and_holds_no_control_character(capsys: pytest.CaptureFixture[str]) -> None:
    value = {
        "text": "\x1b[2J\x9b\u202e\x7f ü 監",
        "at": datetime(2026, 1, 2, tzinfo=UTC),
        "hash": b"\x01\xff",
    }
    terminal.emit(value)
    text = capsys.readouterr().out
    assert terminal.clean(text, lines=True) == text
    assert json.loads(text) == {
        "text": value["text"],
        "at": "2026-01-02T00:00:00+00:00",
        "hash": "01ff",
    }


def test_json_has_amounts_as_plain_numbers_with_all_their_digits(capsys: pytest.CaptureFixture[str]) -> None:
    for amount in ("0.00000045", "123456789.000000000001", "0.300", "1E+3", "0"):
        terminal.emit({"cost": Decimal(amount)})
    shown = [line.strip() for line in capsys.readouterr().out.splitlines() if "cost" in line]
    numbers = ["0.00000045", "123456789.000000000001", "0.3", "1000", "0"]
    assert shown == [f'"cost": {number}' for number in numbers]


def test_a_table_shows_markup_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.console().print(table(("name", "count"), [("[red]x[/red]\x1b[1m", 3)], right=("count",)))
    assert "[red]x[/red]\\x1b[1m" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.25, "250 ms"), (5, "5 s"), (89, "89 s"), (600, "10 min"), (7200, "2 h"), (864_000, "10 days")],
)
def test_a_span_of_time_has_one_fitting_unit(seconds: float, shown: str) -> None:
    assert terminal.span(seconds) == shown


def test_ago_counts_from_now() -> None:
    assert terminal.ago(datetime.now(UTC) - timedelta(seconds=30)) == "30 s"
    assert terminal.ago(None) == ""


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 * 1024**3, "5.0 GiB")]
)
def test_sizes(count: int, shown: str) -> None:
    assert terminal.size(count) == shown


def test_numbers_are_shown_as_ranges() -> None:
    assert terminal.spans([3, 0, 1, 2, 7, 9, 10]) == "0-3, 7, 9-10"
    assert terminal.spans([]) == ""
