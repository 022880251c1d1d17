"""What domain.yaml may say, where only its code can tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from actors.code_apart import code_apart
from actors.domain import DomainSpec, EventSpec, KindSpec, TaskSpec, check_domain, load_domain
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


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'."),
        ("raise SystemExit(3)", "SystemExit: 3."),
        ("if True print", "SyntaxError: invalid syntax."),
        ("callboard.message('No Wire Name')(object)", "'No Wire Name' is not a wire name."),
        ("class Thing(callboard.Agent): ...", "no attribute 'kind'."),
        (
            "class Thing(callboard.Agent):\n    kind = 'x'\n    @callboard.handler\n    async def on(self, n: int): ...",
            "Thing.on",
        ),
        (
            "class Thing(callboard.Agent):\n    kind = 'x'\n    class State(callboard.Agent.State): since: str",
            "Thing.State has no default for: since.",
        ),
    ],
)
def test_an_error_in_a_domains_code_is_told_with_its_file_and_line(
    tmp_path: Path, line: str, words: str
) -> None:
    package = tmp_path / "place_of_errors"
    package.mkdir()
    (package / "first.py").write_text(
        "import place_of_errors.second\nfrom place_of_errors.second import Thing\n"
    )
    (package / "second.py").write_text(f"import callboard\n\n{line}\n")
    spec = DomainSpec(
        domain="test", kinds=(KindSpec.model_validate({"class": "place_of_errors.first:Thing"}),)
    )
    with pytest.raises(InvalidDomainFile) as caught, code_apart():
        check_domain(spec, tmp_path)
    assert f"{package}/second.py:3" in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "domain.yaml" not in str(caught.value)  # which is right


def test_a_class_that_is_not_there_is_looked_for_in_domain_yaml(tmp_path: Path) -> None:
    spec = DomainSpec(domain="test", kinds=(KindSpec.model_validate({"class": "no_such_module:Thing"}),))
    with pytest.raises(InvalidDomainFile, match=r"no_such_module:Thing cannot be imported.*domain\.yaml"):
        check_domain(spec, tmp_path)
