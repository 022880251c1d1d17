"""The arguments of a call, as `callboard ledger` lists them."""

from __future__ import annotations

import json

import pytest

from callboard.cli.ledger import _shortened
from callboard.cli.table import table
from tests.unit.cli.test_table import lines

ARGUMENTS = {"address": "203.0.113.99", "hours": 24, "why": "sweep"}


def test_they_are_folded_between_their_parts() -> None:
    shown = table(("arguments",), [(_shortened(json.dumps(ARGUMENTS, separators=(",", ":"))),)])
    assert lines(shown, 32)[2:] == ['{"address": "203.0.113.99",', '"hours": 24, "why": "sweep"}']


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(None, "(large)"), ('{"häuser":1}', '{"häuser": 1}'), (json.dumps(["x" * 99]), '["' + "x" * 57 + "…")],
)
def test_they_are_as_short_as_a_list_wants_them(arguments: str | None, said: str) -> None:
    assert _shortened(arguments) == said
