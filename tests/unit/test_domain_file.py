"""What domain.yaml may say, where only its code can tell."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from actors.code_apart import OWN_PACKAGES, code_apart
from actors.domain import DomainSpec, KindSpec, TaskSpec, check_domain, load_domain, read_domain
from actors.event_spec import EventSpec
from bus.errors import InvalidDomainFile
from callboard import Agent, Context, handler, message
from coordinators.equipment import SYSTEM_KINDS

PLACES = ("benchmarks", "callboard/bench", "examples", "tests")


@message("testdomainfile.note.v1")
class Note(BaseModel):
    text: str = ""


@message("testdomainfile.memo.v1")
class Memo(BaseModel):
    about: str = Field(default="", alias="regarding")


@message("testdomainfile.form.v1")
class Form(BaseModel):
    model_config = ConfigDict(extra="allow")


@message("testdomainfile.old_note.v1")
class OldNote(BaseModel):
    text: str = ""

    @model_validator(mode="before")
    @classmethod
    def _of_old(cls, data: Any) -> Any:
        return {"text": data.get("words", "")}


class Clerk(Agent):
    kind = "clerk"
    skills = ("notes",)

    @handler
    async def on_note(self, note: Note | Memo | Form | OldNote, ctx: Context) -> None: ...


def loaded(*events: EventSpec, members: tuple[str, ...] = (), to: str | None = None) -> None:
    kinds = (KindSpec.model_validate({"class": f"{__name__}:Clerk", "members": members}),)
    load_domain(DomainSpec(domain="test", kinds=kinds, events=events, tasks=TaskSpec(to=to)), Path())


def test_an_event_for_two_agents_is_refused_since_only_one_would_get_it() -> None:
    with pytest.raises(InvalidDomainFile, match=r"note of type testdomainfile\.note\.v1 is there twice"):
        loaded(
            *(EventSpec(name="note", type="testdomainfile.note.v1", to=to) for to in ("clerk/a", "clerk/b"))
        )


def test_events_of_one_name_may_have_several_types() -> None:
    types = ("testdomainfile.note.v1", "testdomainfile.memo.v1")
    loaded(*(EventSpec(name="note", type=type_, to="clerk/a") for type_ in types))


@pytest.mark.parametrize(
    ("type_", "to", "words"),
    [
        ("note.v1", "clrk/a", r"note goes to clrk/a, which is no kind of the domain\. Did you mean clerk\?"),
        (
            "testdomainfile.nope.v1",
            "clerk/a",
            r"note has the type testdomainfile\.nope\.v1, for which clerk has no handler\. It has some for "
            r"testdomainfile\.form\.v1, .*\. Did you mean testdomainfile\.note\.v1\?",
        ),
        (
            "testdomainfile.note.v1",
            "clerk/{txt}",
            r"note goes to clerk/\{txt\}, and testdomainfile\.note\.v1 has no field 'txt'\. Did you mean text\?",
        ),
        ("testdomainfile.note.v1", "clerk/{text}-{zone}", r"no field 'zone'\. It has text\."),
        ("testdomainfile.memo.v1", "clerk/{about}", r"no field 'about'\. It has regarding\."),
    ],
)
def test_an_event_that_could_only_become_a_dead_letter_is_refused(type_: str, to: str, words: str) -> None:
    with pytest.raises(InvalidDomainFile, match=words):
        loaded(EventSpec(name="note", type=type_, to=to))


@pytest.mark.parametrize(
    ("type_", "to"),
    [
        ("testdomainfile.note.v1", "clerk/of-{text}"),
        ("testdomainfile.memo.v1", "clerk/{regarding}"),
        ("testdomainfile.form.v1", "clerk/{whatever}"),
        ("testdomainfile.old_note.v1", "clerk/{words}"),
    ],
)
def test_an_event_goes_by_what_its_data_may_hold(type_: str, to: str) -> None:
    loaded(EventSpec(name="note", type=type_, to=to))


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


@pytest.mark.parametrize(
    ("file", "path"),
    [
        ("storage.py", "storage:Keeper"),
        ("storage/keeper.py", "storage.keeper:Keeper"),
        ("serve/__init__.py", "keeper_of_things:Keeper"),  # which would stand before Callboard's on the path
    ],
)
def test_a_module_may_not_have_the_name_of_a_package_of_callboards(
    tmp_path: Path, file: str, path: str
) -> None:
    name = file.partition("/")[0].removesuffix(".py")
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("")
    spec = DomainSpec(domain="test", kinds=(KindSpec.model_validate({"class": path}),))
    with pytest.raises(InvalidDomainFile) as caught:
        check_domain(spec, tmp_path)
    assert str(caught.value) == f"`{name}` is a package of Callboard's. Name the domain's module otherwise."


def test_a_folder_of_such_a_name_without_code_is_no_module(tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()
    check_domain(
        DomainSpec(domain="test", kinds=(KindSpec.model_validate({"class": f"{__name__}:Clerk"}),)), tmp_path
    )


def test_the_names_that_are_taken_are_those_of_all_packages_that_are_installed() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == OWN_PACKAGES
    page = (Path(__file__).parents[2] / "docs" / "domain-yaml.md").read_text()
    [said] = [line for line in page.splitlines() if line.startswith("| `class` |")]
    assert all(f"`{name}`" in said for name in OWN_PACKAGES)


def test_a_class_that_was_misspelt_is_named(tmp_path: Path) -> None:
    (tmp_path / "place_of_typos.py").write_text(
        "from callboard import Agent\n\nclass Greeter(Agent):\n    kind = 'greeter'\n\nGreterish = 1\n"
    )
    spec = DomainSpec(domain="test", kinds=(KindSpec.model_validate({"class": "place_of_typos:Greter"}),))
    with pytest.raises(InvalidDomainFile, match=r"'Greter'\. Did you mean Greeter\? Check `code`"):
        check_domain(spec, tmp_path)


def test_tasks_for_what_is_no_kind_are_told_with_the_file_and_the_kind_that_was_meant(tmp_path: Path) -> None:
    kinds = (KindSpec.model_validate({"class": f"{__name__}:Clerk"}),)
    for to, words in (("clrk/a", "Did you mean clerk?"), ("zebra/a", "It has clerk.")):
        with pytest.raises(InvalidDomainFile) as caught:
            load_domain(
                DomainSpec(domain="test", kinds=kinds, tasks=TaskSpec(to=to)),
                tmp_path,
                system_kinds=SYSTEM_KINDS,
            )
        assert str(caught.value).startswith(f"{tmp_path}/domain.yaml: The tasks go to {to}, which is no kind")
        assert str(caught.value).endswith(words)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("domain: x\nkinds:\n\t- class: a:B\n", "domain.yaml: line 3 begins with a tab. Use spaces."),
        ("domain: x\nkinds:\n  - class: a:B\n  \tmembers: [a]\n", "line 4 begins with a tab. Use spaces."),
        ("domain: x\nkinds: [\n", "domain.yaml is not YAML: while parsing"),
        (
            "domain: x\nkinds: []\nschedules:\n  - catch_up: one\n    name: a\n    catch_up: all\n",
            "domain.yaml: line 6: catch_up stands there twice. Remove one of them.",
        ),
        ("domain: x\nkinds: []\n'domain': y\n", "domain.yaml: line 3: domain stands there twice."),
        (
            "domain: x\nkinds: []\nschedules: [{name: morning, cron: x, to: a/b, message: m.v1}]",
            "schedules.morning.cron: 'x' is not a cron line",
        ),
        ("domain: x\nkinds: []\nschedules: [{name: morning, crn: x}]", "schedules.morning.crn: is not known"),
        ("domain: x\nkinds: []\nevents: [{name: A B, type: a.v1, to: a/b}]", "events.0.name: must be a word"),
        ("domain: x\nkinds: []\nevents: [{type: a.v1, to: a/b}]", "events.0.name: is missing"),
        ("domain: x\nkinds: [3]\n", "kinds.0: "),
    ],
)
def test_what_is_wrong_in_the_file_is_told_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "domain.yaml").write_text(text)
    with pytest.raises(InvalidDomainFile) as caught:
        read_domain(tmp_path)
    assert said in str(caught.value)


def test_the_file_itself_is_answered_with_its_folder(tmp_path: Path) -> None:
    (tmp_path / "domain.yaml").write_text("domain: x\nkinds: []\n")
    with pytest.raises(InvalidDomainFile) as caught:
        read_domain(tmp_path / "domain.yaml")
    assert (
        str(caught.value) == f"{tmp_path}/domain.yaml is a file. Give the folder that it is in: {tmp_path}."
    )


def test_every_domain_of_the_examples_and_tests_can_be_loaded() -> None:
    root = Path(__file__).parents[2]
    files = [found for part in PLACES for found in sorted((root / part).rglob("domain.yaml"))]
    assert len(files) > 20
    for found in files:
        check_domain(read_domain(found.parent), found.parent, system_kinds=SYSTEM_KINDS)
