"""What domain.yaml may say, where only its code can tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from actors.domain import DomainSpec, EventSpec, KindSpec, TaskSpec, load_domain
from bus.errors import InvalidDomainFile
from callboard import Agent, Context, handler, message


@message("testdomainfile.note.v1")
class Note(BaseModel):
    text: str = ""


class Clerk(Agent):
    kind = "clerk"
    skills = ("notes",)

    @handler
    async def on_note(self, note: Note, ctx: Context) -> None: ...


def loaded(*events: EventSpec, members: tuple[str, ...] = (), to: str | None = None) -> None:
    kinds = (KindSpec.model_validate({"class": f"{__name__}:Clerk", "members": members}),)
    load_domain(DomainSpec(domain="test", kinds=kinds, events=events, tasks=TaskSpec(to=to)), Path())


def test_an_event_for_two_agents_is_refused_since_only_one_would_get_it() -> None:
    with pytest.raises(InvalidDomainFile, match=r"note of type testdomainfile\.note\.v1 is there twice"):
        loaded(
            *(EventSpec(name="note", type="testdomainfile.note.v1", to=to) for to in ("clerk/a", "clerk/b"))
        )


def test_events_of_one_name_may_have_several_types() -> None:
    loaded(*(EventSpec(name="note", type=f"testdomainfile.note.v{n}", to="clerk/a") for n in (1, 2)))


@pytest.mark.parametrize(
    ("to", "words"), [("clark/a", "no kind"), ("clerk", "no kind"), ("clerk/a\0b", "NUL")]
)
def test_a_topic_for_what_is_no_agent_is_refused(to: str, words: str) -> None:
    kinds = (KindSpec.model_validate({"class": f"{__name__}:Clerk"}),)
    spec = DomainSpec(domain="test", kinds=kinds, topics={"news": ("clerk/a", to)})
    with pytest.raises(InvalidDomainFile, match=f"topic news.*{words}"):
        load_domain(spec, Path())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"members": ("a", "")}, "empty key"),
        ({"members": ("a\0b",)}, "NUL"),
        ({"members": ("ü" * 300,)}, "600 bytes"),
        ({"to": "clerk/" + "x" * 3_000}, "3000 bytes"),
    ],
)
def test_whoever_can_be_no_agent_is_given_no_tasks(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidDomainFile, match=words):
        loaded(**given)


def test_the_agents_that_tasks_may_go_to_are_any_text() -> None:
    loaded(members=("größe/ü b", "a"), to="clerk/{task}")
