"""The hash chain: whatever is edited, taken out or put in is found, and the version is named."""

from __future__ import annotations

from hashlib import sha256

import msgspec
import pytest

from bus.errors import BrokenChain
from callboard.testing import TestKit
from storage.chain import Transition, verify_chain
from storage.records import GENESIS, StoredState
from tests.unit.agents import Keeper, Note

ADDRESS = "test/keeper/k"


async def history(turns: int = 5) -> tuple[list[Transition], StoredState]:
    async with TestKit([Keeper]) as kit:
        for index in range(turns):
            await kit.send(ADDRESS, Note(text=f"n{index}"))
        await kit.quiet()
        key = ("test", "default", "keeper/k")
        return kit.store.agents.transitions[key], kit.store.agents.states[key]


def rehashed(transition: Transition, body: str) -> Transition:
    return msgspec.structs.replace(
        transition, body=body, hash=sha256(transition.prev + body.encode()).digest()
    )


async def test_what_the_turn_loop_writes_verifies() -> None:
    transitions, newest = await history()
    assert [t.version for t in transitions] == [1, 2, 3, 4, 5]
    assert transitions[0].prev == GENESIS
    verify_chain(ADDRESS, transitions, newest)
    verify_chain(ADDRESS, [], None)
    verify_chain(ADDRESS, transitions[2:], newest)  # retention has dropped the first two


@pytest.mark.parametrize(
    ("broken", "edit"),
    [
        (3, lambda h: h.__setitem__(2, msgspec.structs.replace(h[2], body=h[2].body.replace("n2", "n9")))),
        (4, lambda h: h.__setitem__(2, rehashed(h[2], h[2].body.replace("n2", "n9")))),
        (3, lambda h: h.__setitem__(2, msgspec.structs.replace(h[2], hash=bytes(32)))),
        (3, lambda h: h.__setitem__(2, msgspec.structs.replace(h[2], prev=bytes(32)))),
        (3, lambda h: h.pop(2)),
        (5, lambda h: h.pop()),
        (3, lambda h: h.insert(2, h[1])),
        (2, lambda h: h.__setitem__(slice(1, 3), [h[2], h[1]])),
        (1, lambda h: h.__setitem__(0, msgspec.structs.replace(h[0], prev=bytes(31) + b"\1"))),
        (5, lambda h: h.__setitem__(4, rehashed(h[4], h[4].body.replace("n4", "n9")))),
    ],
    ids=["edited", "edited and hashed anew", "hash changed", "prev changed", "taken out", "tail cut off",
         "doubled", "swapped", "another beginning", "last one edited and hashed anew"],
)  # fmt: skip
async def test_an_edit_is_found_and_its_version_named(broken: int, edit: object) -> None:
    transitions, newest = await history()
    edited = list(transitions)
    edit(edited)  # type: ignore[operator]
    with pytest.raises(BrokenChain) as caught:
        verify_chain(ADDRESS, edited, newest)
    assert caught.value.version == broken
    assert f"version {broken} " in caught.value.message


async def test_a_state_that_was_edited_is_found() -> None:
    transitions, newest = await history()
    edited = msgspec.structs.replace(newest, state='{"notes":[],"senders":[]}')
    with pytest.raises(BrokenChain, match="does not hash to the state"):
        verify_chain(ADDRESS, transitions, edited)


async def test_history_of_the_kit_is_verified_as_it_is_read() -> None:
    async with TestKit([Keeper]) as kit:
        await kit.send(ADDRESS, Note(text="a"))
        await kit.quiet()
        key = ("test", "default", "keeper/k")
        [only] = kit.store.agents.transitions[key]
        kit.store.agents.transitions[key] = [
            msgspec.structs.replace(only, body=only.body.replace('"a"', '"b"'))
        ]
        with pytest.raises(BrokenChain):
            kit.history(ADDRESS)
