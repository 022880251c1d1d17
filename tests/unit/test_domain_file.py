"""What domain.yaml may say, where only its code can tell."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from actors.domain import DomainSpec, EventSpec, KindSpec, load_domain
from bus.errors import InvalidDomainFile
from callboard import Agent, Context, handler, message


@message("testdomainfile.note.v1")
class Note(BaseModel):
    text: str = ""


class Clerk(Agent):
    kind = "clerk"

    @handler
    async def on_note(self, note: Note, ctx: Context) -> None: ...


def loaded(*events: EventSpec) -> None:
    kinds = (KindSpec.model_validate({"class": f"{__name__}:Clerk"}),)
    load_domain(DomainSpec(domain="test", kinds=kinds, events=events), Path())


def test_an_event_for_two_agents_is_refused_since_only_one_would_get_it() -> None:
    with pytest.raises(InvalidDomainFile, match=r"note of type testdomainfile\.note\.v1 is there twice"):
        loaded(
            *(EventSpec(name="note", type="testdomainfile.note.v1", to=to) for to in ("clerk/a", "clerk/b"))
        )


def test_events_of_one_name_may_have_several_types() -> None:
    loaded(*(EventSpec(name="note", type=f"testdomainfile.note.v{n}", to="clerk/a") for n in (1, 2)))
