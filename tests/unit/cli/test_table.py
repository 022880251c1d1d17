"""What is to be copied stands whole in every table, however narrow the terminal is."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from callboard.cli.table import Beside, table
from callboard.cli.terminal import plain

ADDRESS = "secops/responder/2001:db8:51a:1::9/01a1fe04-308e-769c-b5fd-8f2553559a6a"
ID = "01a1fe04-373b-76f9-8809-fed42c37a67c"


def lines(shown: Any, width: int) -> list[str]:
    text = io.StringIO()
    Console(file=text, width=width, markup=False, highlight=False).print(shown)
    return [line.rstrip() for line in text.getvalue().splitlines()]


def calls(words: str) -> Any:
    row = (ID, "3 min", ADDRESS, "block_address", words)
    return table(
        ("call", "age", "agent", "tool", "argu-\nments"), [row, row], right=("age",), whole=("call", "agent")
    )


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("words", ["", "few", "many " * 60])
def test_where_a_table_does_not_fit_each_row_has_lines_of_its_own(width: int, words: str) -> None:
    shown = lines(calls(words), width)
    assert max(map(len, shown)) <= width
    assert sum(line.startswith(ID) for line in shown) == 2
    if width >= 80:
        assert sum(ADDRESS in line for line in shown) == 2
    assert "argu-" not in "".join(shown)
    assert any("arguments" in line for line in shown) is bool(words)


def test_a_row_whose_first_column_is_a_number_says_what_it_is() -> None:
    shown = lines(
        table(("id", "recipient", "error"), [(1, ADDRESS, "ValueError: no")], right=("id",), whole=("recipient",)),
        80,
    )  # fmt: skip
    assert shown == [f"id 1   {ADDRESS}", "  error ValueError: no"]


def test_where_it_fits_it_is_a_table_and_text_is_folded() -> None:
    shown = lines(calls("many " * 60), 170)
    assert shown[0].split() == ["argu-"]
    assert shown[1].split() == ["call", "age", "agent", "tool", "ments"]
    assert sum(ADDRESS in line and ID in line for line in shown) == 2


def test_facts_without_headings_have_no_line_above_them() -> None:
    assert lines(table(("", ""), [("id", ID), ("for", ADDRESS)]), 100)[0].split() == ["id", ID]


def test_words_stay_beside_their_head_unless_one_needs_the_whole_width() -> None:
    assert lines(Beside(plain("head  "), plain("one two three")), 14) == ["head  one two", "      three"]
    assert lines(Beside(plain("head  "), plain(f"to {ADDRESS}")), 74)[1] == ADDRESS
