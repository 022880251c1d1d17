"""Wrong values are described in plain words, not in pydantic's."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from actors.agent import agent_type
from actors.domain import read_domain
from bus.errors import InvalidDomainFile, InvalidPayload
from bus.registry import describe_validation, encode_payload
from callboard import Agent


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")

    count: int = Field(default=1, ge=1, le=9)
    share: float = Field(default=0.5, gt=0, lt=1)
    name: str = Field(default="a", min_length=1, max_length=3)
    urgent: bool = False
    kind: Literal["red", "green"] = "red"
    parts: list[int] = Field(default=[1], min_length=1)
    options: dict[str, int] = {}
    at: datetime | None = None
    until: AwareDatetime | None = None
    word: str = "x"

    @field_validator("word")
    @classmethod
    def _is_one(cls, value: str) -> str:
        if " " in value:
            raise ValueError("must be one word")
        return value


class Shelf(Agent):
    kind = "shelf"
    State = Order


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"count": "secret"}, "count must be int, and holds str."),
        ({"options": {"a": "secret\n[field_name='x']"}}, "options must be int, and holds str."),
        ({"parts": "secret"}, "parts must be list, and holds str."),
        ({"at": 3, "name": 7}, "name must be str, and holds int (and 1 more)."),
        ({"until": object()}, "Unable to serialize unknown type: <class 'object'>."),
    ],
)
def test_what_was_assigned_and_does_not_fit_is_named_with_its_field_and_not_shown(
    given: dict[str, Any], said: str
) -> None:
    order = Order().model_copy(update=given)
    with pytest.raises(InvalidPayload) as of_state:
        agent_type(Shelf).dump_state(order)
    assert of_state.value.message == f"The state of Shelf does not fit its model: {said}"
    with pytest.raises(InvalidPayload) as of_message:
        encode_payload(order)
    assert of_message.value.message == f"Order cannot be written as JSON: {said}"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"count": "many"}, "count: must be a whole number"),
        ({"count": 1.5}, "count: must be a whole number"),
        ({"count": 0}, "count: must be at least 1"),
        ({"count": 10}, "count: must be at most 9"),
        ({"share": 0}, "share: must be above 0.0"),
        ({"share": 1}, "share: must be below 1.0"),
        ({"share": "half"}, "share: must be a number"),
        ({"name": 7}, "name: must be text"),
        ({"name": ""}, "name: must be 1 or more characters long"),
        ({"urgent": "perhaps"}, "urgent: must be true or false"),
        ({"kind": "blue"}, "kind: must be 'red' or 'green'"),
        ({"parts": 3}, "parts: must be a list"),
        ({"parts": []}, "parts: must have 1 or more entries"),
        ({"parts": [1, "x"]}, "parts.1: must be a whole number"),
        ({"options": 3}, "options: must be a mapping"),
        ({"at": "soon"}, "at: must be a time such as 2026-01-31T12:00:00Z"),
        (
            {"until": "2026-01-31T12:00:00"},
            "until: must be a time with its zone, such as 2026-01-31T12:00:00Z",
        ),
        ({"word": "two words"}, "word: must be one word"),
        ({"colour": 1}, "colour: there is no such field"),
        ({"count": 0, "name": 7}, "count: must be at least 1 (and 1 more)"),
    ],
)
def test_a_complaint_is_in_plain_words(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Order.model_validate(given)
    assert describe_validation(caught.value) == said


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("domain: x", "kinds: is missing"),
        ("domain: x\nkinds: [{class: nonsense}]", "kinds.0.class: write it as module:Class"),
        ("domain: x\nkinds: []\ninput: nonsense", "input: write it as module:function"),
        ("domain: x\nkinds: []\nhosts: {min: none}", "hosts.min: must be a whole number"),
        ("domain: x\nkinds: []\nhosts: 2", "hosts: must be a mapping"),
        ("domain: x\nkinds: []\nlimits: {turn_s: .inf}", "limits.turn_s: must be a finite number"),
        ("domain: x\nkinds: []\npartitions: 5000", "partitions: must be at most 4096"),
        ("domain: x\nkindz: []", "kindz: is not known (did you mean kinds?)"),
        ("domain: x\nkinds: []\ntasks: {polcy: direct}", "tasks.polcy: is not known (did you mean policy?)"),
        ("domain: x\nkinds: [{clas: a:A}]", "kinds.0.clas: is not known (did you mean class?)"),
        ("domain: x\nkinds: []\ncolour: red", "colour: is not known"),
        (
            "domain: My Domain\nkinds: []",
            "domain: 'My Domain' cannot name a domain: use a-z, 0-9, _ and -, starting with a letter",
        ),
        (
            "domain: x\nkinds: []\nevents: [{name: A B, type: a.v1, to: a/b}]",
            "events.0.name: must be a word of lower-case letters, digits, - and _",
        ),
    ],
)
def test_domain_yaml_is_complained_about_in_plain_words(tmp_path: Path, lines: str, said: str) -> None:
    (tmp_path / "domain.yaml").write_text(lines)
    with pytest.raises(InvalidDomainFile) as caught:
        read_domain(tmp_path)
    assert str(caught.value) == f"{tmp_path}/domain.yaml: {said}."
