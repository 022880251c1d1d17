"""The hash chain: whatever is edited, taken out or put in is found, and the version is named."""

from __future__ import annotations

from hashlib import sha256

import msgspec
import pytest

from bus.errors import BrokenChain
from callboard.testing import TestKit
from storage.chain import (
    BEGINNING,
    MISSING,
    PREVIOUS,
    Anchor,
    Chain,
    Link,
    Transition,
    verify_chain,
)
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
    verify_chain(ADDRESS, transitions[2:], None, None)  # a part of it


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


def dropped(transition: Transition) -> Anchor:
    return Anchor(version=transition.version, hash=transition.hash)


async def test_what_retention_has_left_follows_its_anchor() -> None:
    transitions, newest = await history()
    verify_chain(ADDRESS, transitions[2:], newest, dropped(transitions[1]))
    verify_chain(
        ADDRESS, transitions[1:], newest, dropped(transitions[2])
    )  # clocks were set: one is left over
    verify_chain(ADDRESS, [], newest, dropped(transitions[-1]))


@pytest.mark.parametrize(
    ("broken", "kept", "anchored"),
    [(1, slice(2, 5), None), (1, slice(5, 5), None), (3, slice(3, 5), 1), (3, slice(5, 5), 1)],
    ids=["beginning cut off", "all gone", "more cut off than dropped", "the rest gone"],
)
async def test_a_beginning_that_somebody_else_has_cut_off_is_found(
    broken: int, kept: slice, anchored: int | None
) -> None:
    transitions, newest = await history()
    anchor = BEGINNING if anchored is None else dropped(transitions[anchored])
    with pytest.raises(BrokenChain) as caught:
        verify_chain(ADDRESS, transitions[kept], newest, anchor)
    assert (caught.value.version, caught.value.what) == (broken, MISSING)


async def test_a_beginning_that_was_made_anew_does_not_follow_the_anchor() -> None:
    transitions, newest = await history()
    kept = [msgspec.structs.replace(transitions[2], prev=bytes(32)), *transitions[3:]]
    kept[0] = rehashed(kept[0], kept[0].body)
    with pytest.raises(BrokenChain) as caught:
        verify_chain(ADDRESS, kept, newest, dropped(transitions[1]))
    assert (caught.value.version, caught.value.what) == (3, PREVIOUS)


async def test_retention_may_drop_a_month_while_its_history_is_read() -> None:
    transitions, newest = await history()
    chain = Chain(ADDRESS)
    follow(chain, transitions[0])
    chain.anchor = dropped(transitions[2])
    assert follow(chain, transitions[3])
    assert follow(chain, transitions[4])
    assert (chain.length, chain.last and chain.last.hash) == (3, newest.hash)


def follow(chain: Chain, t: Transition) -> bool:
    return chain.follow(Link(version=t.version, prev=t.prev, hash=t.hash, is_sound=True))


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
