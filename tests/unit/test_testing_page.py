"""docs/testing.md says what the kit does: each call and each default, and its tests pass."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Awaitable, Callable

import pytest

import callboard.testing
from callboard.testing import GivenModels, TestKit, VirtualClock, views
from tests.unit.reference import (
    DOCS,
    calls,
    defaults,
    first_cells,
    members,
    names,
    run,
    sections,
    shown,
    table,
)

TESTING = (DOCS / "testing.md").read_text()


@pytest.fixture(scope="module")
def testing() -> dict[str, str]:
    return sections(TESTING)


INNER = "What a kit does not show"


def test_every_name_of_the_testing_kit_is_on_its_page() -> None:
    for name in callboard.testing.__all__:
        assert f"`{name}(" in TESTING or f"## {name}\n" in TESTING, name


def test_the_page_of_testing_has_each_call_of_the_kit_as_it_is(testing: dict[str, str]) -> None:
    kit = TestKit([])
    parts = ("Giving it something to do", "Letting it happen", "Looking", "Being somebody else")
    assert set(calls(testing[part] for part in parts)) == {
        shown(name, member) for name, member in members(TestKit).items()
    }
    inner = names(testing[INNER])
    options = {
        f"`{each.name}`": f"`{each.default!r}`"
        for each in [*inspect.signature(TestKit).parameters.values()][1:]
        if each.name not in inner
    }
    assert defaults(testing["The kit"]) == options
    attributes = {name for name in vars(kit) if name[0] != "_"}
    assert first_cells(testing["What a kit has"]) == {f"`{name}`" for name in attributes - inner}
    assert {"store", "transport", "system_kinds"} <= inner


@pytest.mark.parametrize(
    "cls", [views.Step, views.WaitingMessage, views.DeadMessage, views.OpenQuestion, views.TaskState]
)
def test_the_page_of_testing_has_each_field_of_what_is_read(testing: dict[str, str], cls: type) -> None:
    assert [cells[0] for cells in table(testing[cls.__name__])] == [
        f"`{each.name}`" for each in dataclasses.fields(cls)
    ]


def test_the_page_of_testing_has_what_clock_and_models_offer(testing: dict[str, str]) -> None:
    clock = members(VirtualClock)
    assert first_cells(testing["VirtualClock"]) == {shown(name, member) for name, member in clock.items()}
    assert shown("VirtualClock", VirtualClock.__init__) in testing["VirtualClock"]
    assert first_cells(testing["GivenModels"]) == {"`requests`"}
    assert set(members(GivenModels)) <= names(testing["GivenModels"])
    assert shown("GivenModels", GivenModels.__init__) in testing["GivenModels"]


EXAMPLES = {name: example for name, example in run(TESTING).items() if name.startswith("test_")}


@pytest.mark.parametrize("name", EXAMPLES)
async def test_the_tests_of_the_page_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DOCS.parent)
    example: Callable[[], Awaitable[None]] = EXAMPLES[name]
    await example()


def test_the_page_of_testing_has_tests() -> None:
    assert len(EXAMPLES) == TESTING.count("\nasync def test_") >= 6
